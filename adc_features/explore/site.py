"""Pages as the service and an export have them. Reads: an explorer. Writes: texts.

What differs between the two are addresses: `Site` makes a page with the links that it is given.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.errors import RequestError
from adc_features.explore.pages import PAGES, Explorer, address, commands_of, facts_of
from adc_features.explore.pictures import pictures_of, standalone
from adc_features.explore.rendering import Link, as_json, charts_shown, rendered
from adc_features.html_page import page_style

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:;"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script, style or handler inside a page, and nothing from another machine."""
SVG_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_HERE = Path(__file__).parent


class Addresses(NamedTuple):
    """Where things are. page: (name, **parameters); chart: (page, parameters, name); json: (page,
    parameters); asset: file name. search: where words are asked for. policy: for a page that no
    server gives one to.
    """

    page: Link
    chart: Callable[[str, Mapping[str, Any], str], str]
    json: Callable[[str, Mapping[str, Any]], str | None]
    asset: Callable[[str], str]
    search: str
    policy: str | None = None


def served_addresses() -> Addresses:
    """Those of the service."""

    def link(page: str, **asked: Any) -> str | None:
        return address(page, asked) if page in PAGES else None

    return Addresses(
        page=link,
        chart=lambda page, asked, name: address("chart", {"page": page, "chart": name, **asked}),
        json=lambda page, asked: address(page, {**asked, "format": "json"}),
        asset=lambda name: f"/{name}",
        search="/",
    )


def page_html(
    explorer: Explorer,
    page: str,
    asked: Mapping[str, str],
    to: Addresses,
    *,
    facts: Mapping[str, Any] | None = None,
    stale: bool = False,
) -> str:
    """A page of the explorer."""
    facts = facts_of(explorer, page, asked) if facts is None else facts
    return rendered(
        "missing" if facts.get("missing") else page,
        facts,
        link=to.page,
        title=PAGES[page].title(facts)[:100],
        current=page,
        charts=charts_shown(page, facts, lambda name: to.chart(page, asked, name)),
        commands=commands_of(explorer, page, asked, facts),
        json_url=to.json(page, asked),
        q=facts.get("q"),
        stale=stale,
        catalogue=explorer.index.items,
        asked=asked,
        run=explorer.index.place.run is not None,
        **_frame(explorer, to),
    )


def error_html(explorer: Explorer, status: int, message: str, to: Addresses) -> str:
    """What a person sees of a page that cannot be shown."""
    title = "There is no such page" if status == 404 else "This cannot be shown"
    return rendered(
        "error",
        {"title": title, "error": message},
        link=to.page,
        title=title,
        **_frame(explorer, to),
    )


def search_html(explorer: Explorer, to: Addresses, facts: Mapping[str, Any]) -> str:
    """The page that searches exported items. facts: `pieces` and `items`, how many there are."""
    frame = _frame(explorer, to)
    return rendered("search", facts, link=to.page, title="Search", **frame)


def _frame(explorer: Explorer, to: Addresses) -> dict[str, Any]:
    """What every page has around its content."""
    return {
        "asset": to.asset,
        "policy": to.policy,
        "menu": [(name, page.menu) for name, page in PAGES.items() if page.menu],
        "search": to.search,
        "static": to.policy is not None,
        "vectors_command": explorer.index.place.command("explore", "--vectors", "VIEW__FEATURE"),
        "place": f"{explorer.index.place.option.lstrip('-')} {explorer.index.place.given}",
    }


def page_json(explorer: Explorer, page: str, asked: Mapping[str, str]) -> str:
    """The facts of a page as JSON."""
    return as_json(facts_of(explorer, page, asked))


def chart_svg(page: str, facts: Mapping[str, Any], name: str) -> str:
    """A picture of a page as a file of its own. Raises RequestError where there is none."""
    if name not in (made := pictures_of(page, facts)):
        raise RequestError(f"page {page!r} has no picture {name[:40]!r}; it has {sorted(made)}")
    return standalone(made[name].draw())


def assets() -> dict[str, tuple[str, str]]:
    """File name -> its content and media type."""
    style = page_style() + (_HERE / "explore.css").read_text(encoding="utf-8")
    script = (_HERE / "explore.js").read_text(encoding="utf-8")
    return {"style.css": (style, "text/css"), "explore.js": (script, "text/javascript")}


def search_script() -> str:
    """What an export has beside the assets of the service."""
    return (_HERE / "search.js").read_text(encoding="utf-8")
