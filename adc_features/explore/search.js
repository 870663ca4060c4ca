// The search of exported pages: in the browser, from pieces of a list beside this file.
"use strict";
(() => {
  const SHOWN = 50;
  const place = document.querySelector("#found");
  const said = document.querySelector("#said");
  const text = (new URLSearchParams(location.search).get("q") || "").trim();
  const wordsOf = (of) => of.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase()
    .match(/[\p{L}\p{N}]+/gu) || [];
  const wanted = wordsOf(text).slice(0, 8);
  const last = wanted.at(-1);
  const begins = last && [...last].length > 1;
  const found = [];
  let exact = null;
  document.querySelector("#q").value = text;

  const has = ([id, title, about]) => {
    const words = wordsOf(`${title || ""} ${about || ""} ${id}`);
    return wanted.every((one, n) => words.some((word) =>
      n === wanted.length - 1 && begins ? word.startsWith(one) : word === one));
  };
  const show = (one) => {
    const [id, title, about, file] = one;
    const row = document.createElement("li");
    const name = document.createElement(file ? "a" : "span");
    if (file) name.href = file;
    const part = (tag, words, to) => {
      const made = document.createElement(tag);
      made.textContent = words;
      to.append(made);
    };
    part("bdi", title || id, name);
    row.append(name);
    for (const words of [title ? id : "", about]) {
      if (words) {
        row.append(" ");
        const small = document.createElement("small");
        part("bdi", words, small);
        row.append(small);
      }
    }
    place.append(row);
  };
  const finish = () => {
    const all = exact ? [exact, ...found.filter((one) => one !== exact)] : found;
    all.slice(0, SHOWN).forEach(show);
    if (!text) said.textContent = "Write an id or words into the field above.";
    else if (!all.length) said.textContent = "No exported item has these words.";
    else if (all.length > SHOWN) said.textContent = `The first ${SHOWN}; add a word for fewer.`;
    else said.textContent = `${all.length} found, the most popular first.`;
  };
  // an id that stands in a later piece counts before all words: every piece is looked through
  const load = (number) => {
    if (!text || number >= Number(place.dataset.pieces)) return finish();
    const script = document.createElement("script");
    script.src = `items-${number}.js`;
    script.onload = () => load(number + 1);
    script.onerror = () => { said.textContent = `${script.src} is missing.`; };
    document.head.append(script);
  };
  window.adcItems = (items) => {
    for (const one of items) {
      if (one[0] === text) exact = one;
      if (found.length <= SHOWN && wanted.length && has(one)) found.push(one);
    }
  };
  load(0);
})();
