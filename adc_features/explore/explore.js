// Keys of the explorer; every page works without them.
"use strict";
(() => {
  const places = { f: "find", c: "codes", d: "decision", s: "changes", h: "health" };
  const menu = [...document.querySelectorAll("header nav a")];
  let went = 0;
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey || typing) return;
    const search = document.querySelector("#q");
    if (event.key === "/" && search) {
      event.preventDefault();
      search.focus();
      search.select();
    } else if (event.key === "g") {
      went = event.timeStamp;
      return;
    } else if (places[event.key] && event.timeStamp - went < 1500) {
      const to = menu.find((one) => one.dataset.page === places[event.key]);
      if (to) to.click();
    } else if (event.key === "n") {
      const next = [...document.querySelectorAll(".pager a")].pop();
      if (next) next.click();
    }
    went = 0;
  });
})();
