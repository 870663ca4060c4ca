"""The report of `adc verify online` as a page. Reads: a report. Writes: one HTML file."""

from __future__ import annotations

from html import escape
from pathlib import Path

from adc_features.artifact import write_atomically
from adc_features.clock import moment
from adc_features.live.verify import OnlineReport

_STYLE = (
    "body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.2rem .6rem;text-align:left;"
    "border-bottom:1px solid #ddd}.n{text-align:right;font-variant-numeric:tabular-nums}"
    "div{overflow-x:auto}"
)


def write_page(path: Path, report: OnlineReport) -> None:
    """Write the page: a verdict, states and features compared, examples of what differs."""
    import numpy as np

    at = "never" if report.published is None else moment(np.datetime64(report.published, "us"))
    events = ", ".join(f"{n:,} of {name}" for name, n in report.events.items()) or "none"
    verdict = (
        "Everything that was compared is equal, bit for bit."
        if not report.different
        else f"{report.different:,} states or values differ."
    )
    states = _table(
        ["View or ledger", "Keys", "Different states"],
        [[name, one["keys"], one["different"]] for name, one in report.states.items()],
    )
    features = _table(
        ["View", "Feature", "Keys", "Different"],
        [[one.view, one.feature, one.keys, one.different] for one in report.features],
    )
    examples = _table(
        ["Feature", "Key", "Served", "Computed"],
        [
            [f"{one.view}:{one.feature}", e["key"], e["served"], e["computed"]]
            for one in report.features
            for e in one.examples
        ],
    )
    write_atomically(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Online features against'
        f" accepted events</title><style>{_STYLE}</style><h1>Online features against accepted"
        f" events</h1><p>{verdict} Compared as of the last commit, {escape(str(at))}; accepted"
        f" events: {escape(events)}.</p><h2>States</h2><p>VIEW@COLUMNS holds the sums of"
        f" other keys that the view's residuals and means read; VIEW@ those of everybody.</p>"
        f"{states}<h2>Features</h2>{features}<h2>Examples of differences</h2>{examples}</html>\n",
    )


def _table(names: list[str], rows: list[list[object]]) -> str:
    if not rows:
        return "<p>None.</p>"
    numbers = [isinstance(value, int) for value in rows[0]]
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if number else f"<th>{escape(name)}</th>"
        for name, number in zip(names, numbers, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="n">{value:,}</td>'
            if isinstance(value, int)
            else f"<td>{escape(str(value))}</td>"
            for value in row
        )
        + "</tr>"
        for row in rows
    )
    return f"<div><table><tr>{head}</tr>{body}</table></div>"
