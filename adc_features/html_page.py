"""A report as a page of its own. Reads: texts, rows. Writes: one HTML file."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from adc_features.artifact import write_atomically

_STYLE = (
    "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:64rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}div{overflow-x:auto}"
)


def write_html_page(
    path: Path, title: str, *, verdict: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write a title, a verdict, and tables under their headings; all are texts, not HTML."""
    body = "".join(f"<h2>{escape(name)}</h2>{_table(rows)}" for name, rows in tables.items())
    write_atomically(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1><p>{escape(verdict)}</p>{body}</html>\n",
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The columns are those of the first row; counts stand at the right."""
    if not rows:
        return "<p>None.</p>"
    names, values = rows[0].keys(), rows[0].values()
    head = "".join(f"<th{_side(v)}>{escape(n)}</th>" for n, v in zip(names, values, strict=True))
    body = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    return f"<div><table><tr>{head}</tr>{body}</table></div>"


def _cell(value: object) -> str:
    side = _side(value)
    return f"<td{side}>{escape(f'{value:,}' if side else str(value))}</td>"


def _side(value: object) -> str:
    number = isinstance(value, int) and not isinstance(value, bool)
    return ' class="n"' if number else ""
