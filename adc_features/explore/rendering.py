"""Facts as HTML. Reads: facts, the templates of this package. Writes: pages as text.

Every text is escaped and stands in an element of its own direction (`bdi`): ids and titles are
other people's. No page has a style, a script or a handler inside it, so that the content security
policy allows none.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from adc_features.artifact import json_text
from adc_features.explore.pictures import pictures_of
from adc_features.html_page import template_environment

if TYPE_CHECKING:
    import jinja2

Link = Callable[..., str | None]
"""(page, **parameters) -> its address, or None where there is none."""
SHADES = 9
NONE = "\u2013"
"""What stands where there is nothing."""


def count(number: int | None) -> str:
    """A whole number with separators; a dash where there is none."""
    return NONE if number is None else f"{number:,}"


def value(found: Any) -> str:
    """Any value of a table, in few characters."""
    if isinstance(found, list | tuple):
        return ", ".join(value(one) for one in found)
    if isinstance(found, bool):
        return "yes" if found else "no"
    kinds: tuple[tuple[type, Callable[[Any], str]], ...]
    kinds = (int, count), (float, "{:.4g}".format), (datetime, moment_text), (type(None), count)
    return next(
        (text(found) for kind, text in kinds if isinstance(found, kind)), str(found) or NONE
    )


def moment_text(time: Any) -> str:
    """A time in UTC to the minute, midnight as the day alone; a dash where there is none."""
    if time is None:
        return NONE
    text = time.isoformat() if isinstance(time, datetime) else str(time)
    day, _, clock = text.partition("T")
    return day if clock[:8] in ("", "00:00:00") else f"{day} {clock[:5]}Z"


def age(seconds: float | None) -> str:
    """A duration in its largest unit; a dash where there is none."""
    if seconds is None:
        return NONE
    units = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
    size, unit = next((u for u in units if abs(seconds) >= u[0]), units[-1])
    return f"{seconds / size:.1f} {unit}"


def cells(book: Mapping[str, Any], generation: str, link: Link) -> Markup:
    """One position of a code book as cells, each a link to its code.

    Made here: a template would take ten times as long for thousands of them.
    """
    most, parts = max(book["items"], default=0), []
    for code, items in enumerate(book["items"]):
        shade = "dead" if not items else f"u{round(SHADES * (items / most) ** 0.5)}"
        name = f"code {code}: {items:,} items" if items else f"code {code}: dead"
        to = link("code", generation=generation, position=book["position"], code=code)
        tag = f'a href="{escape(to)}"' if to else "span"
        end = "a" if to else "span"
        parts.append(f'<{tag} class="{shade}" title="{name}" aria-label="{name}">{code}</{end}>')
    return Markup("".join(parts))


def codes_of(sid: Sequence[int], generation: str, link: Link) -> Markup:
    """The codes of an item, each a link to what it means; made here as `cells` are."""
    parts = []
    for position, code in enumerate(sid):
        if code < 0:
            parts.append(f'<span class="muted">{NONE}</span> ')
        elif to := link("code", generation=generation, position=position, code=code):
            parts.append(f'<a href="{escape(to)}">{code}</a> ')
        else:
            parts.append(f"{code} ")
    return Markup(f'<span class="codes">{"".join(parts)}</span>')


def rendered(template: str, facts: Mapping[str, Any], *, link: Link, **values: Any) -> str:
    """The page that a template makes of facts."""
    return (
        _environment()
        .get_template(f"{template}.html.jinja")
        .render(
            facts=facts,
            link=link,
            cells=lambda book, generation: cells(book, generation, link),
            codes_of=lambda sid, generation: codes_of(sid, generation, link),
            **values,
        )
    )


@cache
def _environment() -> "jinja2.Environment":
    filters = {
        "count": count,
        "decimals": lambda v: NONE if v is None else f"{v:.3f}",
        "short": lambda v: f"{v:.2f}".removesuffix(".00"),
        "value": value,
        "percent": lambda v: NONE if v is None else f"{100 * v:.1f} %",
        "time": moment_text,
        "age": age,
        "iso": lambda v: v.isoformat() if isinstance(v, datetime) else v or "",
        "brief": lambda v: text if len(text := str(v)) <= 80 else f"{text[:79]}…",
    }
    return template_environment("adc_features.explore", "templates", filters)


def charts_shown(
    page: str, facts: Mapping[str, Any], address: Callable[[str], str]
) -> dict[str, dict[str, Any]]:
    """What a template needs of a page's pictures. address: name -> where it is."""
    return {
        name: {
            "title": one.title,
            "alt": one.alt,
            "note": one.note,
            "height": one.height,
            "url": address(name),
        }
        for name, one in pictures_of(page, facts).items()
    }


def as_json(facts: Mapping[str, Any]) -> str:
    """The facts of a page as JSON."""
    return json_text(facts) + "\n"
