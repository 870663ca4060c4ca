"""The report of `adc audit --served` as a page. Reads: SkewReport. Writes: one HTML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from adc_features.artifact import write_atomically
from adc_features.served.audit import SkewReport, skew_rows

_STYLE = (
    "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:64rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd;vertical-align:top}div{overflow-x:auto}"
)


def write_page(path: Path, report: SkewReport) -> None:
    """Write the page: a verdict, every feature, and examples of what differs."""
    verdict = (
        f"{report.different:,} served values are not what history says."
        if report.different
        else "Every served value is what history says, bit for bit."
    )
    gone = f"<p>No longer offered: {escape(', '.join(report.gone))}.</p>" if report.gone else ""
    examples = "".join(
        f"<h3>{escape(one.feature)}</h3>{_table(one.examples)}"
        for one in report.features.values()
        if one.examples
    )
    write_atomically(
        path,
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Served features against'
        f" history</title><style>{_STYLE}</style><h1>Served features against history</h1>"
        f"<p>{verdict} Compared: {report.requests:,} requests, {report.candidates:,}"
        f" candidates.</p>{gone}<h2>Features</h2>{_table(skew_rows(report))}"
        f"<h2>Examples of differences</h2>{examples or '<p>None.</p>'}</html>\n",
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(value))}</td>' for value in row.values())}</tr>"
        for row in rows
    )
    return f"<div><table><tr>{head}</tr>{body}</table></div>"
