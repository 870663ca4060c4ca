"""Drift of codes in a deployment's traffic. Reads: a run, its traffic, a baseline profile. Writes:
`monitor/baseline_<generation>.json`, a page.
"""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import write_json
from adc_features.codes.drift import DriftThresholds
from adc_features.pipeline.run import Run
from adc_features.pipeline.traffic import baseline_path, traffic_drift


def monitor(
    run: Run,
    *,
    traffic: str | None = None,
    as_of: datetime | None = None,
    days: int = 30,
    baseline: Path | None = None,
    keep: bool = False,
    thresholds: DriftThresholds | None = None,
) -> dict[str, Any]:
    """Compare traffic with the baseline, as `traffic_drift` does. keep: the new profile becomes the
    kept baseline.
    """
    result = traffic_drift(
        run, traffic=traffic, as_of=as_of, days=days, baseline=baseline, thresholds=thresholds
    )
    if keep:
        kept = baseline_path(run, result["generation"])
        kept.parent.mkdir(exist_ok=True)
        write_json(kept, result["now"])
    return result


def monitor_page(result: Mapping[str, Any]) -> str:
    """One HTML page: what moved beyond its limit, and the usage of the codes then and now by
    position.
    """
    from adc_features.plots import interval_rows
    from training.reports.pages import render

    rows = [
        {
            "label": f"position {p}",
            "number": f"{d:.3f}",
            "mean": d,
            "low": d,
            "high": d,
            "colour": "var(--red)" if d > result["drift"][name]["limit"] else "var(--blue)",
            "hollow": False,
            "part": name,
        }
        for name in ("usage", "weight")
        for p, d in enumerate(result["drift"][name]["by_position"])
    ]
    charts = {
        name: interval_rows(
            [r for r in rows if r["part"] == name],
            zero=True,
            alt_text=f"Distance of {name} by position",
        )
        for name in ("usage", "weight")
        if rows
    }
    return render(
        "monitor.html.jinja", {"four": lambda value: f"{value:.4f}"}, result=result, charts=charts
    )
