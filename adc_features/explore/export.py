"""The explorer as static files, to be shared. Reads: an explorer. Writes: a directory.

Every page that is exported has a file of HTML, one of JSON and its pictures; a link to a page that
is not becomes text. A file is named after its page and a hash of its parameters, so that an id
never becomes part of a path.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from adc_features.artifact import fresh_directory
from adc_features.errors import InputError
from adc_features.explore.find import PAGE
from adc_features.explore.pages import Explorer, address, facts_of, parsed
from adc_features.explore.pictures import pictures_of
from adc_features.explore.rendering import as_json
from adc_features.explore.site import (
    POLICY,
    Addresses,
    assets,
    chart_svg,
    page_html,
    search_html,
    search_script,
)
from adc_features.explore.static_search import PAGE as SEARCH
from adc_features.explore.static_search import write_pieces

_META = POLICY.replace("; frame-ancestors 'none'", "")
"""As a page's own element may give it: `frame-ancestors` counts in a header alone."""


def export_site(
    explorer: Explorer, directory: Path, *, items: int, pages: Sequence[str] = ()
) -> dict[str, Any]:
    """Write the site into a new directory.

    Parameters
    ----------
    explorer : Explorer
    directory : Path
        Must not exist.
    items : int
        How many of the most popular items have a page.
    pages : sequence of str
        Addresses of further pages, such as `/decision?user=u1&items=a`.

    Returns
    -------
    dict
        `directory`, `index`, and how many `pages` were written.

    Raises
    ------
    InputError
        The directory exists.
    """
    if directory.exists():
        raise InputError(f"{directory} exists; give a new directory to --export")
    chosen = _chosen(explorer, items) + [parsed(text) for text in pages]
    names = {_key(page, asked): _name(page, asked) for page, asked in chosen}
    to = _addresses(names)
    with fresh_directory(directory) as aside:
        for file, (content, _) in assets().items():
            (aside / file).write_text(content, encoding="utf-8")
        for page, asked in chosen:
            _write_page(explorer, aside, page, asked, to)
        _write_search(explorer, aside, min(items, explorer.index.items), to)
    return {"directory": directory, "index": directory / "index.html", "pages": len(names) + 1}


def _write_search(explorer: Explorer, directory: Path, items: int, to: Addresses) -> None:
    """The page that searches the exported items, its script and its pieces."""
    pieces = write_pieces(explorer.index, directory, items, lambda one: to.page("item", id=one))
    html = search_html(explorer, to, {"pieces": pieces, "items": items})
    files = {f"{SEARCH}.html": html, f"{SEARCH}.js": search_script()}
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8", errors="replace")


def _chosen(explorer: Explorer, items: int) -> list[tuple[str, dict[str, str]]]:
    """The pages of a site: lists of the items, the items, every code, code books and items that
    share all their codes in every snapshot, snapshots that follow each other, and the health.
    """
    index = explorer.index
    count = min(items, index.items)
    starts = range(0, max(count, 1), PAGE)
    chosen: list[tuple[str, dict[str, str]]] = [
        ("find", {"from": str(start)} if start else {}) for start in starts
    ]
    for start in starts:
        part = range(start, min(start + PAGE, count))
        chosen += [("item", {"id": str(one.id)}) for one in index.named(part)]
    chosen += [("codes", {}), ("changes", {}), ("health", {"wait": "1"})]
    for codes in index.generations.values():
        own = {"generation": codes.id}
        chosen.append(("codes", own))
        for n, crowded in enumerate(codes.crowded):
            at = {**own, "snapshot": str(n)}
            chosen.append(("codes", at))
            full = [b for b, bucket in enumerate(crowded["buckets"]) if bucket["items"]]
            chosen += [("collisions", {**at, "bucket": str(b)}) for b in full]
        at = {**own, "snapshot": str(len(codes.crowded) - 1)}
        sids = [",".join(map(str, one["sid"])) for one in codes.crowded[-1]["ids"]]
        chosen += [("collisions", {**at, "sid": sid}) for sid in sids]
        for n in range(len(codes.codes) - 1):
            pair = {"before": f"{codes.id}@{n}", "after": f"{codes.id}@{n + 1}"}
            chosen.append(("changes", pair))
        chosen += [
            ("code", {**own, "position": str(p), "code": str(c)})
            for p in range(codes.length)
            for c in range(codes.codebook_size)
            if codes.use[-1, p, c, 0]
        ]
    return chosen


def _key(page: str, asked: Mapping[str, Any]) -> str:
    """What tells one page from another."""
    given = {k: str(v) for k, v in asked.items() if v not in (None, "") and k != "wait"}
    return address(page, dict(sorted(given.items())))


def _name(page: str, asked: Mapping[str, Any]) -> str:
    """The name of a page's files, without a suffix."""
    key = _key(page, asked)
    if key == "/":
        return "index"
    return f"{page}-{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"


def _addresses(names: Mapping[str, str]) -> Addresses:
    def link(page: str, **asked: Any) -> str | None:
        name = names.get(_key(page, asked))
        return None if name is None else f"{name}.html"

    return Addresses(
        page=link,
        chart=lambda page, asked, chart: f"{_name(page, asked)}-{chart}.svg",
        json=lambda page, asked: f"{_name(page, asked)}.json",
        asset=lambda name: name,
        search=f"{SEARCH}.html",
        policy=_META,
    )


def _write_page(
    explorer: Explorer, directory: Path, page: str, asked: Mapping[str, str], to: Addresses
) -> None:
    facts, name = facts_of(explorer, page, asked), _name(page, asked)
    files = {f"{name}.html": page_html(explorer, page, asked, to, facts=facts)}
    files[f"{name}.json"] = as_json(facts)
    for chart in pictures_of(page, facts):
        files[f"{name}-{chart}.svg"] = chart_svg(page, facts, chart)
    for file, content in files.items():
        (directory / file).write_text(content, encoding="utf-8", errors="replace")
