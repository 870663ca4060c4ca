"""The pictures of each page. Reads: facts. Writes: SVG, drawn by the module that reports use.

A picture is an address of its own: drawing takes longer than everything else of a page, so a page
names its pictures and the browser fetches them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from adc_features.html_page import page_style

COLOURS = ("blue", "orange", "green", "red", "grey", "ink")
MOST_LINES = len(COLOURS)
ROOM = 40
"""Pixels that a file of its own has more, of both sides together."""


@dataclass(frozen=True)
class Picture:
    """A picture that a page has. alt: what it shows, for who cannot see it. draw: makes the SVG."""

    title: str
    alt: str
    note: str
    height: int
    draw: Callable[[], str]


def pictures_of(page: str, facts: Mapping[str, Any]) -> dict[str, Picture]:
    """The pictures of a page by name; none where there is nothing to draw."""
    has_any = page in _PICTURES and not facts.get("missing")
    made = _PICTURES[page](facts) if has_any else {}
    return {name: one for name, one in made.items() if one is not None}


def standalone(svg: str) -> str:
    """An SVG element as a file of its own, with the colours of the pages, light and dark."""
    style = f"<style>{_colours()}svg {{ font-family: sans-serif; }}</style>"
    return _roomier(str(svg)).replace(">", f">{style}", 1)


def _roomier(svg: str) -> str:
    """With room at both sides: a browser's letters are wider than the renderer believes, and a file
    of its own shows nothing beyond its edge.
    """

    def wider(found: re.Match[str]) -> str:
        left, top, width, height = (float(part) for part in found[1].split())
        return f'viewBox="{left - ROOM / 2:g} {top:g} {width + ROOM:g} {height:g}"'

    head, end, rest = svg.partition(">")
    head = re.sub(r'viewBox="([^"]+)"', wider, head, count=1)
    head = re.sub(
        r' width="(\d+)"', lambda found: f' width="{int(found[1]) + ROOM}"', head, count=1
    )
    return head + end + rest


@cache
def _colours() -> str:
    """The variables of the pages' style, which stand before everything else in it."""
    return re.split(r"^\* ", page_style(), maxsplit=1, flags=re.MULTILINE)[0]


def _day(time: Any) -> str:
    return str(time)[:10]


def _lines(
    title: str,
    note: str,
    series: Mapping[str, Sequence[float | None]],
    *,
    ticks: Sequence[str],
    x_title: str,
    y_title: str,
) -> Picture | None:
    """Lines over ordered groups; None where no line has a value."""
    shown = dict(list(series.items())[:MOST_LINES])
    points = [
        {"group": n, "series": name, "value": value}
        for name, values in shown.items()
        for n, value in enumerate(values)
        if value is not None
    ]
    if not points:
        return None
    ends = [
        f"{name or y_title} {_number(known[0])} to {_number(known[-1])}"
        for name, values in shown.items()
        if (known := [v for v in values if v is not None])
    ]
    left = len(series) - len(shown)
    more = f" {left} more lines are in the JSON." if left else ""
    alt = f"{title}, {ticks[0]} to {ticks[-1]}: {'; '.join(ends)}"

    def draw() -> str:
        from adc_features.plots import lines

        colours = {name: f"var(--{c})" for name, c in zip(shown, COLOURS, strict=False)}
        return lines(
            points, ticks=ticks, series=colours, x_title=x_title, y_title=y_title, alt_text=alt
        )

    return Picture(title, alt, note + more, 220, draw)


def _number(value: float) -> str:
    return f"{value:.4g}"


def _item(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    told = [one for one in facts["timeline"] if one["generation"] == facts["generation"]]
    if not told:
        return {}
    ticks = [_day(one["as_of"]) for one in told]
    varying = [
        p
        for p in range(len(told[0]["sid"]))
        if len({one["sid_weight"][p] for one in told if one["found"]}) > 1
    ]
    names = {one["position"]: one["name"] for one in facts["codes"]}
    return {
        "events": _lines(
            "Events before each snapshot",
            "As the published statistics have them.",
            {"": [one["events"] for one in told]},
            ticks=ticks,
            x_title="snapshot",
            y_title="events",
        ),
        "weights": _lines(
            "Weights that moved",
            "Positions whose weight differs between snapshots.",
            {names[p]: [one["sid_weight"][p] for one in told] for p in varying},
            ticks=ticks,
            x_title="snapshot",
            y_title="weight",
        ),
    }


def _code(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    return {
        "use": _lines(
            "Items with this code",
            "In each snapshot of the generation.",
            {"": [one["items"] for one in facts["timeline"]]},
            ticks=[_day(one["as_of"]) for one in facts["timeline"]],
            x_title="snapshot",
            y_title="items",
        )
    }


def _codes(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    series = {
        book["name"]: [one["by_position"][n] for one in facts["entropy"]]
        for n, book in enumerate(facts["books"])
    }
    return {
        "entropy": _lines(
            "Entropy of each position",
            "In nats; at most the logarithm of the number of codes.",
            series,
            ticks=[_day(one["as_of"]) for one in facts["entropy"]],
            x_title="snapshot",
            y_title="entropy",
        )
    }


def _changes(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    by = facts["by_popularity"]
    ticks = [str(n + 1) for n in range(len(by))]
    if by and by[0]["mean_events"] is not None:
        ticks = [_number(one["mean_events"]) for one in by]
    return {
        "by_position": _lines(
            "Share of codes that changed, by position",
            "Of the items with a code there in both.",
            {"": [one["changed"] for one in facts["by_position"]]},
            ticks=[str(one["position"]) for one in facts["by_position"]],
            x_title="position",
            y_title="changed",
        ),
        "by_popularity": _lines(
            "Share of codes that changed, by popularity",
            "Tenths of the items, the rarest first.",
            {"": [one["changed"] for one in by]},
            ticks=ticks,
            x_title="mean events of the item, by tenths",
            y_title="changed",
        ),
    }


def _decision(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    return {
        f"groups{n}": _contributions(side)
        for n, side in enumerate(facts["sides"])
        if side["groups"]
    }


def _contributions(side: Mapping[str, Any]) -> Picture:
    """What each group adds to the score, as points beside zero."""
    rows = [
        {
            "label": one["group"],
            "number": f"{one['score']:+.4f}",
            **dict.fromkeys(("mean", "low", "high"), one["score"]),
            "colour": f"var(--{'green' if one['score'] >= 0 else 'red'})",
            "hollow": False,
        }
        for one in side["groups"]
    ]
    alt = "Contributions to the score: " + "; ".join(f"{r['label']} {r['number']}" for r in rows)

    def draw() -> str:
        from adc_features.plots import interval_rows

        return interval_rows(rows, zero=True, alt_text=alt)

    return Picture(
        "Contributions to the score", alt, "Of each by itself.", 40 * len(rows) + 28, draw
    )


def _health(facts: Mapping[str, Any]) -> dict[str, Picture | None]:
    if facts["at_work"]:
        return {}
    told = facts["coverage"] or []
    made: dict[str, Picture | None] = {}
    if told:
        made["coverage"] = _lines(
            "Share of known items with a code",
            "In each snapshot of each generation.",
            {"": [one["coverage"] for one in told]},
            ticks=[f"{one['generation']} {_day(one['as_of'])}" for one in told],
            x_title="snapshot",
            y_title="coverage",
        )
    for generation, moved in (facts["use"] or {}).items():
        by = zip(*(one["by_position"] for one in moved), strict=True)
        made[f"use_{generation}"] = _lines(
            f"How far the use of {generation}'s codes moved",
            "Distance from the first snapshot, 0 to 1, by position.",
            {f"position {p}": list(values) for p, values in enumerate(by)},
            ticks=[_day(one["as_of"]) for one in moved],
            x_title="snapshot",
            y_title="distance",
        )
    return made


_PICTURES: dict[str, Callable[[Mapping[str, Any]], dict[str, Picture | None]]] = {
    "item": _item,
    "code": _code,
    "codes": _codes,
    "changes": _changes,
    "decision": _decision,
    "health": _health,
}
