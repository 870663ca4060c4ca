"""A report as a page of its own, and the style and the template environment of every page. Reads:
texts, rows, templates of other packages. Writes: one HTML file.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adc_features.artifact import write_atomically

if TYPE_CHECKING:
    import jinja2

STYLE = Path(__file__).with_name("style.css")
"""The look of every page: of reports, of the explorer and of these. Its first rules name the
colours, light and dark.
"""


@cache
def page_style() -> str:
    """The style as text."""
    return STYLE.read_text(encoding="utf-8")


def template_environment(
    package: str, folder: str, filters: Mapping[str, Callable[..., Any]]
) -> "jinja2.Environment":
    """The templates of a package's folder, with `style.css` beside them: text is escaped.

    Keep it: a template is compiled once an environment.
    """
    import jinja2

    style = jinja2.FunctionLoader(lambda name: page_style() if name == STYLE.name else None)
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, folder), style]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= dict(filters)
    return made


def write_html_page(
    path: Path, title: str, *, verdict: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write a title, a verdict, and tables under their headings; all are texts, not HTML."""
    body = "".join(f"<h2>{escape(name)}</h2>{_table(rows)}" for name, rows in tables.items())
    write_atomically(
        path,
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{page_style()}</style>"
        f"<header><h1>{escape(title)}</h1><p>{escape(verdict)}</p></header>"
        f"<main>{body}</main></html>\n",
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The columns are those of the first row; counts stand at the right."""
    if not rows:
        return "<p>None.</p>"
    names, values = rows[0].keys(), rows[0].values()
    head = "".join(f"<th{_side(v)}>{escape(n)}</th>" for n, v in zip(names, values, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    return (
        f'<div class="card scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(value: object) -> str:
    side = _side(value)
    return f"<td{side}>{escape(f'{value:,}' if side else str(value))}</td>"


def _side(value: object) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return ' class="number"' if number else ""
