"""The page of a freshness curve: what a ranker loses when its features get online later. Reads: the
facts of a FreshnessCurve. Writes: one HTML file that needs no network.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from training.reports.pages import render
from training.reports.values import (
    CHANCE,
    MINUS,
    decimals,
    interval,
    mapping,
    percent,
    signed,
    tone,
    value_text,
)

METRICS = {"auc": "AUC", "gauc": "GAUC"}
SERIES = {"trained on fresh rows": "var(--orange)", "trained on such rows": "var(--blue)"}


def freshness_page(facts: Mapping[str, Any]) -> str:
    """The page. facts: `FreshnessCurve.to_dict`."""
    return render(
        "freshness.html.jinja",
        {"percent": percent, "value": value_text, "decimals": decimals},
        facts=facts,
        metrics=METRICS,
        curves={name: _curve(name, points) for name, points in facts["curves"].items()},
        answer=_answer(facts),
        chance=CHANCE,
        minus=MINUS,
    )


def _answer(facts: Mapping[str, Any]) -> str:
    """The last curve's longest interval in words."""
    name, points = list(facts["curves"].items())[-1]
    last = points[-1]
    lost = interval(mapping(last, "lost_fresh", "auc"))
    if lost is None:
        return "The scores have no interval here."
    said = (
        f"With {name} refreshed every {last['interval']}, a ranker that was trained on fresh rows"
        f" has {signed(lost.mean)} AUC ({signed(lost.low)} to {signed(lost.high)})"
    )
    earned = interval(mapping(last, "gained", "auc"))
    if earned is None:
        return f"{said}."
    return f"{said}; one that was trained on rows as old has {signed(earned.mean)} more."


def _curve(name: str, points: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "charts": {title: _chart(name, points, m, title) for m, title in METRICS.items()},
        "rows": [_row(point) for point in points],
        "retrained": points[0]["stale"] is not None,
    }


def _chart(
    name: str, points: Sequence[Mapping[str, Any]], metric: str, title: str
) -> Markup | None:
    from adc_features.plots import grouped_intervals

    shown = [
        {"group": n, "series": series, **found._asdict()}
        for n, point in enumerate(points)
        for series, part in zip(SERIES, ("fresh", "stale"), strict=True)
        if (found := interval(mapping(point, part, metric)))
    ]
    if not shown:
        return None
    said = "; ".join(f"{p['series']} {p['mean']:.4f}" for p in shown)
    return grouped_intervals(
        shown,
        ticks=[str(point["interval"]) for point in points],
        series=SERIES,
        x_title="from one refresh to the next",
        y_title=title,
        alt_text=f"{title} by refresh interval of {name}: {said}",
    )


def _row(point: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "interval": point["interval"],
        "schedule": ", ".join(f"{v} {s}" for v, s in point["schedule"].items()),
        "changed": point["changed"],
        "fresh": {m: interval(mapping(point, "fresh", m)) for m in METRICS},
        "stale": {m: interval(mapping(point, "stale", m)) for m in METRICS},
        "lost_fresh": {m: _difference(mapping(point, "lost_fresh", m)) for m in METRICS},
        "gained": {m: _difference(mapping(point, "gained", m)) for m in METRICS},
    }


def _difference(found: Mapping[str, Any]) -> dict[str, Any] | None:
    known = interval(found)
    if known is None:
        return None
    return {"text": signed(known.mean), "range": known, "style": tone(known)}
