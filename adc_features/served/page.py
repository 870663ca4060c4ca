"""The report of `adc audit --served` as a page. Reads: SkewReport. Writes: one HTML file."""

from __future__ import annotations

from pathlib import Path

from adc_features.html_page import write_html_page
from adc_features.served.audit import SkewReport, skew_rows


def write_page(path: Path, report: SkewReport) -> None:
    """Write the page: a verdict, every feature, and examples of what differs."""
    verdict = (
        f"{report.different:,} served values are not what history says."
        if report.different
        else "Every served value is what history says, bit for bit."
    )
    gone = f" No longer offered: {', '.join(report.gone)}." if report.gone else ""
    examples = {  # as texts: an id has no thousands
        f"Examples of differences: {one.feature}": [
            {name: str(value) for name, value in row.items()} for row in one.examples
        ]
        for one in report.features.values()
        if one.examples
    }
    write_html_page(
        path,
        "Served features against history",
        verdict=f"{verdict} Compared: {report.requests:,} requests, {report.candidates:,}"
        f" candidates.{gone}",
        tables={"Features": skew_rows(report), **examples},
    )
