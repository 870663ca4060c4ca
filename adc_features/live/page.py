"""The report of `adc verify online` as a page. Reads: a report. Writes: one HTML file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adc_features.clock import moment
from adc_features.html_page import write_html_page
from adc_features.live.verify import OnlineReport


def write_page(path: Path, report: OnlineReport) -> None:
    """Write the page: a verdict, states and features compared, examples of what differs."""
    at = "never" if report.published is None else moment(np.datetime64(report.published, "us"))
    events = ", ".join(f"{n:,} of {name}" for name, n in report.events.items()) or "none"
    verdict = (
        "Everything that was compared is equal, bit for bit."
        if not report.different
        else f"{report.different:,} states or values differ."
    )
    behind = "".join(
        f" {keys:,} keys of {view} were not compared: their rows were on their way to its store."
        for view, keys in report.behind.items()
        if keys
    )
    states = [
        {"View or ledger": name, "Keys": one["keys"], "Different states": one["different"]}
        for name, one in report.states.items()
    ]
    features = [
        {"View": one.view, "Feature": one.feature, "Keys": one.keys, "Different": one.different}
        for one in report.features
    ]
    examples = [
        {
            "Feature": f"{one.view}:{one.feature}",
            "Key": example["key"],
            "Served": example["served"],
            "Computed": example["computed"],
        }
        for one in report.features
        for example in one.examples
    ]
    write_html_page(
        path,
        "Online features against accepted events",
        verdict=f"{verdict} Compared as of the last commit, {at}; accepted events: {events}."
        f"{behind} Under States, VIEW@COLUMNS holds the sums of other keys that the view's"
        " residuals and means read; VIEW@ those of everybody.",
        tables={"States": states, "Features": features, "Examples of differences": examples},
    )
