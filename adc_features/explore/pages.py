"""Which pages there are. Reads: an index and parameters of an address. Writes: facts."""

import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from adc_features.errors import InputError, RequestError
from adc_features.explore.changes import changes
from adc_features.explore.code_pages import code, codes, collisions
from adc_features.explore.deciding import Deciding
from adc_features.explore.decision import decision
from adc_features.explore.find import find, item
from adc_features.explore.health import Health
from adc_features.explore.index import Index
from adc_features.explore.place import Place

NOT_YET = "Not published yet"
"""The title of a page about codes, where there are none."""
LONGEST = 20_000
"""Characters of all parameters of one address: ids of 10,000 characters are found too."""


class Explorer:
    """What pages are made of. served_log: of `adc serve --log`, to find requests by their ids."""

    def __init__(self, index: Index, served_log: Path | None = None) -> None:
        self.index = index
        self.deciding = Deciding(index.place, served_log)
        self.health = Health(index, self.deciding)

    def begin(self) -> None:
        """Open rankers, with Feast, and look after the health, on a thread beside the pages."""
        threading.Thread(target=self._begun, name="explore", daemon=True).start()

    def _begun(self) -> None:
        self.deciding.warm()
        self.health.look()


@dataclass(frozen=True)
class Page:
    """A page. title: of its facts; menu: its words there, or None. commands: the library's own
    commands on what it shows, as (name, *arguments). lasting: its facts follow from the index and
    its state and the address alone, so that what is made of them may be kept.
    """

    facts: Callable[["Explorer", Mapping[str, str]], dict[str, Any]]
    title: Callable[[Mapping[str, Any]], str]
    menu: str | None = None
    commands: Callable[[Mapping[str, Any]], list[tuple[str, ...]]] = lambda facts: []
    lasting: bool = False


def _of_index(
    facts: Callable[[Index, Mapping[str, str]], dict[str, Any]],
    title: Callable[[Mapping[str, Any]], str],
    menu: str | None = None,
    commands: Callable[[Mapping[str, Any]], list[tuple[str, ...]]] = lambda facts: [],
) -> Page:
    return Page(
        lambda explorer, asked: facts(explorer.index, asked), title, menu, commands, lasting=True
    )


def _of_codes(
    facts: Callable[[Index, Mapping[str, str]], dict[str, Any]],
    title: Callable[[Mapping[str, Any]], str],
    menu: str | None = None,
    commands: Callable[[Mapping[str, Any]], list[tuple[str, ...]]] = lambda facts: [],
) -> Page:
    """A page about codes; where none are published, what is missing and how to make it."""

    def of(index: Index, asked: Mapping[str, str]) -> dict[str, Any]:
        return facts(index, asked) if index.generations else {"missing": _making_codes(index.place)}

    return _of_index(
        of,
        lambda f: NOT_YET if f.get("missing") else title(f),
        menu,
        lambda f: [] if f.get("missing") else commands(f),
    )


def _making_codes(place: Place) -> list[str]:
    """The commands that publish codes at a place."""
    if place.run is not None:
        return [place.command("publish")]
    vectors = [word for one in place.vectors or ("VIEW__FEATURE",) for word in ("--vectors", one)]
    return [place.command("tokenize", *vectors, "--apply")]


def _ranked(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The commands that rank the same; none for a logged request, before one was asked, and for
    rankers that `adc rank` does not take because they are not promoted.
    """
    if not facts["sides"] or facts["request"]:
        return []
    fields = [word for field in facts["fields"] for word in ("--field", field)]
    now = ("--now", facts["now"].isoformat())
    return [
        ("rank", *side["by"], "--explain", *now, *fields, "--", facts["user"], *facts["items"])
        for side in facts["sides"]
        if side["by"] is not None
    ]


PAGES: dict[str, Page] = {
    "find": _of_index(find, lambda f: f["q"] or "Items", "Find"),
    "item": _of_index(
        item,
        lambda f: f"Item {f['id']}",
        None,
        lambda f: [("lookup", "--", str(f["id"]))] if f.get("generation") else [],
    ),
    "codes": _of_codes(codes, lambda f: "Code book", "Codes", lambda f: [("quality",)]),
    "code": _of_codes(code, lambda f: f"Code {f['code']} at {f['name']}"),
    "collisions": _of_codes(collisions, lambda f: "Items that share all their codes"),
    "decision": Page(
        lambda explorer, asked: decision(explorer.index, explorer.deciding, asked),
        lambda f: "Decision",
        "Decision",
        _ranked,
    ),
    "changes": _of_codes(changes, lambda f: "Changes", "Compare"),
    "health": Page(lambda e, asked: e.health.facts(asked), lambda f: "Health", "Health"),
}
RUN_ONLY = ("lookup", "quality")
"""Commands that take `--run` alone."""


def facts_of(explorer: Explorer, page: str, asked: Mapping[str, str]) -> dict[str, Any]:
    """The facts of a page. Raises RequestError for parameters that mean nothing."""
    return PAGES[page].facts(explorer, asked)


def address(page: str, asked: Mapping[str, Any]) -> str:
    """Where the service has a page; parameters without a value are left out."""
    # hundreds of codes stand on a page, and the same ones on the next
    return (_kept if page == "code" else _address)(page, *asked.items())


def _address(page: str, *asked: tuple[str, Any]) -> str:
    given = urlencode([(k, v) for k, v in asked if v not in (None, "")])
    return f"/{'' if page == 'find' else page}{'?' if given else ''}{given}"


_kept = lru_cache(maxsize=1 << 14)(_address)


def parsed(text: str) -> tuple[str, dict[str, str]]:
    """The page and the parameters of an address such as `/item?id=b42`.

    Raises InputError for one that names no page.
    """
    parts = urlsplit(text)
    page = parts.path.strip("/") or "find"
    if page not in PAGES:
        raise InputError(
            f"{text[:80]!r} is no page; expected one of"
            f" {', '.join('/' + p for p in PAGES)} with its parameters, as a browser shows them"
        )
    return page, checked_parameters(parts.query)


def checked_parameters(query: str) -> dict[str, str]:
    """The parameters of an address; of repeated ones the last counts. Raises RequestError."""
    if len(query) > 3 * LONGEST:
        raise RequestError(f"the address has {len(query)} characters; at most {3 * LONGEST}")
    found = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=50, errors="replace"))
    if sum(map(len, found.values())) > LONGEST:
        raise RequestError(f"the parameters are longer than {LONGEST} characters; shorten them")
    return found


def commands_of(explorer: Explorer, page: str, asked: Mapping[str, Any], facts: Any) -> list[str]:
    """The commands that give the same: the library's own, and this page as JSON."""
    place = explorer.index.place
    show = shlex.join(["--show", address(page, asked), "--json", "-"])
    own = [
        place.command(*words)
        for words in PAGES[page].commands(facts)
        if place.run is not None or words[0] not in RUN_ONLY
    ]
    if page == "health":
        own = [shlex.join(["adc", "doctor", str(place.run or place.repo)])]
    served_log = explorer.deciding.served_log
    log = [] if served_log is None else ["--log", str(served_log)]
    return [*own, f"{place.command('explore', *log)} {show}"]
