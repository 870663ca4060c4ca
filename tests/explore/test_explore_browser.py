"""The explorer in a real browser, Chromium of the system without a window. Reads:
adc_features.explore.
"""

import json
import shutil
import socket
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from adc_features.explore.app import LOOPBACK, server
from adc_features.explore.export import export_site
from adc_features.explore.pages import facts_of, parsed

CHROMIUM = next((p for n in ("chromium", "chromium-browser") if (p := shutil.which(n))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed; apt install chromium"),
]
PAGES = {
    "/": "Items, the most popular first",
    "/item?id=b&generation=g1": "Green soap",
    "/code?generation=g1&position=2&code=4": "Code 4 at position 2",
    "/codes?generation=g1": "The code book of g1",
    "/collisions?generation=g1": "Items that share all their codes",
    "/changes?before=g1%400&after=g1%401": "What changed from g1@0 to g1@1",
    "/decision": "A decision",
    "/health?wait=1": "Freshness and health",
}


@contextmanager
def served(explorer):
    """The address of a running explorer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = server(explorer, token=None, hosts=LOOPBACK)
        thread = threading.Thread(target=made.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            made.should_exit = True
            thread.join(30)


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def address(explorer):
    with served(explorer) as url:
        yield url


@pytest.fixture
def opened(browser):
    """A page of a width and what went wrong on it: errors, and requests to other machines."""
    contexts = []

    def made(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.set_default_timeout(120_000)
        page.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "request",
            lambda r: (
                None
                if urlsplit(r.url).hostname == "127.0.0.1" or r.url.startswith("data:")
                else wrong.append(r.url)
            ),
        )
        return page, wrong

    yield made
    for context in contexts:
        context.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_each_page_loads_without_an_error_and_fits_its_window(opened, address, width, scheme):
    """Its heading is there, its pictures are drawn, and no request leaves the machine."""
    page, wrong = opened(width, scheme)
    for path, heading in PAGES.items():
        page.goto(address + path, wait_until="load")
        assert heading in page.inner_text("h1")
        broken = "[...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0, path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert wrong == []


def test_a_search_leads_to_an_item_whose_numbers_are_the_librarys(opened, address, explorer):
    """By keys alone: `/`, the words, Enter, the first hit."""
    page, wrong = opened()
    page.goto(address)
    page.keyboard.press("/")
    page.keyboard.type("green soap")
    page.keyboard.press("Enter")
    page.wait_for_url("**/?q=*")
    page.click("main table a")
    page.wait_for_selector("#codes")
    assert page.inner_text("h1") == "Green soap"
    codes = facts_of(explorer, "item", {"id": "b"})["codes"]
    rows = page.locator("#codes tbody tr")
    assert rows.count() == len(codes)
    for n, code in enumerate(codes):
        cells = rows.nth(n).locator("td")
        assert cells.nth(0).inner_text() == str(code["code"])
        assert cells.nth(1).inner_text().strip() == f"{code['weight']:.3f}"
    page.locator("#codes tbody a").first.click()
    page.wait_for_url("**/code?*")
    assert page.inner_text("h1").startswith(f"Code {codes[0]['code']} at position 0")
    page.keyboard.press("g")
    page.keyboard.press("s")
    page.wait_for_url("**/changes")
    assert wrong == []


def test_a_picture_leads_to_its_command_and_its_numbers(opened, address):
    """The command is shown, though it stands in a part of the page that is closed."""
    page, wrong = opened(390)
    page.goto(f"{address}/item?id=b&generation=g1")
    page.locator("figure a", has_text="the command").first.click()
    page.locator("#behind pre", has_text="--show").wait_for(state="visible")
    page.locator("figure a", has_text="The numbers").first.click()
    page.wait_for_url("**format=json")
    assert '"timeline"' in page.inner_text("body")
    assert wrong == []


@pytest.mark.parametrize(
    ("path", "numbers"),
    [
        ("/", lambda f: [f["items"][0]["id"], f["items"][0]["events"]]),
        ("/code?generation=g1&position=2&code=4", lambda f: [f["items"], f"{f['label_rate']:.3f}"]),
        ("/codes?generation=g1", lambda f: [f"{b['entropy']:.3f}" for b in f["books"]]),
        (
            "/changes?before=g1%400&after=g1%401",
            lambda f: [f"{100 * p['changed']:.1f} %" for p in f["by_position"]],
        ),
        ("/health?wait=1", lambda f: [one["what"] for one in f["findings"][:3]]),
    ],
)
def test_a_page_shows_the_numbers_that_the_library_gives(opened, address, explorer, path, numbers):
    """Each is a text of the page, as its template writes numbers."""
    page, wrong = opened()
    page.goto(address + path)
    shown = page.inner_text("main")
    for one in numbers(facts_of(explorer, *parsed(path))):
        assert str(one) in shown
    assert wrong == []


@pytest.fixture(scope="module")
def site(explorer, tmp_path_factory):
    """An exported site, to be opened as files."""
    directory = tmp_path_factory.mktemp("exported") / "site"
    export_site(explorer, directory, items=6)
    return directory


@pytest.mark.parametrize("words", ["green", "te", "tea green", "e", "BLACK", "mug nothing", "b"])
def test_an_export_is_searched_without_a_server(opened, site, explorer, words):
    """As files, by the form of any page, and it finds what the service finds."""
    page, wrong = opened(390)
    page.goto((site / "index.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=*")
    page.wait_for_function("document.querySelector('#said').textContent")
    expected = facts_of(explorer, "find", {"q": words})["items"]
    assert page.locator("#found a").all_inner_texts() == [one["title"] for one in expected]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if expected:
        page.locator("#found a").first.click()
        page.wait_for_selector("#codes")
        assert page.inner_text("h1") == expected[0]["title"]
    assert [one for one in wrong if not one.startswith("file:")] == []


def test_texts_of_an_exported_search_are_texts(opened, site):
    """Whatever an id or a title holds: nothing of it becomes an element or a script."""
    hostile = ["</script><b>x", "<img src=x onerror=alert(1)>", "\u202egnp", None]
    (site / "items-0.js").write_text(f"adcItems({json.dumps([hostile])});", encoding="ascii")
    page, wrong = opened()
    page.goto((site / "search.html").as_uri() + "?q=onerror")
    page.wait_for_selector("#found li")
    assert hostile[1] in page.inner_text("#found")
    assert page.locator("#found img, #found b, #found script").count() == 0
    assert [one for one in wrong if not one.startswith("file:")] == []


def contrast(page):
    """The least WCAG contrast of the elements with texts of their own on what lies behind them."""
    return page.evaluate(
        """() => {
          const canvas = document.createElement('canvas').getContext('2d', {
            willReadFrequently: true });
          const rgb = colour => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data]; };
          const light = ([r, g, b]) => { const l = [r, g, b].map(v => v / 255).map(
            v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
          const behind = one => { for (let e = one; e; e = e.parentElement) {
            const found = rgb(getComputedStyle(e).backgroundColor);
            if (found[3] === 255) return found; } return [255, 255, 255]; };
          const written = one => [...one.childNodes].some(
            n => n.nodeType === Node.TEXT_NODE && n.data.trim()) && !one.closest('.skip, noscript');
          const texts = [...document.body.querySelectorAll('*')].filter(written);
          return Math.min(...texts.map(one => {
            const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))];
            return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); }"""
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_the_contrast_of_wcag_aa(opened, address, scheme):
    """At least 4.5 to 1, of every element that has words, in light and dark."""
    page, _ = opened(scheme=scheme)
    for path in PAGES:
        page.goto(address + path)
        assert contrast(page) >= 4.5, path
