"""The pictures of the run's page, by name. Reads: comparisons, recipes, Pictures. Writes: SVG
elements as safe markup, one a picture.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from adc_features.plots import (
    grouped_intervals,
    histogram,
    interval_rows,
    lines,
    small_multiples,
)
from training.reports.pictures import Pictures
from training.reports.values import (
    COLOURS,
    LABELS,
    count_text,
    interval,
    label,
    leaks,
    mapping,
    number,
    ordered,
    signed,
    tone,
)

MAX_POINTS = 200


def charts(
    pairs: Sequence[Mapping[str, Any]], recipes: Mapping[str, Mapping[str, Any]], pictures: Pictures
) -> dict[str, Markup]:
    """Every picture that the run has values for, by name."""
    drawn = {f"paired_{m}": _paired_chart(pairs, m) for m in ("auc", "gauc")}
    drawn |= {m: _score_chart(recipes, m) for m in ("auc", "gauc")}
    drawn["deciles"], drawn["slices"] = _decile_chart(recipes), _slice_chart(recipes)
    weights = {
        "reliability": ("reliability x", "var(--grey)"),
        "alignment": ("alignment w", "var(--blue)"),
        "behavioral_weight": ("behavioural weight", "var(--orange)"),
    }
    drawn["weights"] = _lines_chart(pictures.code_deciles, weights, "weight")
    drawn["zero_weights"] = _lines_chart(
        pictures.code_deciles,
        {"zero_weights": ("share of zero weights", "var(--blue)")},
        "share of zero weights",
    )
    drawn["norm"] = _lines_chart(
        pictures.behavior_deciles, {"norm": ("norm", "var(--blue)")}, "mean norm"
    )
    drawn["half_agreement"] = _lines_chart(
        pictures.behavior_deciles,
        {"half_agreement": ("agreement", "var(--blue)")},
        "agreement of two halves",
    )
    drawn |= _histograms(pictures)
    drawn |= _curves(pictures)
    return {name: chart for name, chart in drawn.items() if chart}


def _paired_chart(pairs: Sequence[Mapping[str, Any]], measure: str) -> Markup | None:
    colour = {"good": "var(--green)", "bad": "var(--red)", "chance": "var(--grey)"}
    rows = [
        {
            "label": pair["versus"],
            "number": signed(found.mean),
            **found._asdict(),
            "colour": (
                "var(--red)" if pair["leak"] and tone(found) != "chance" else colour[tone(found)]
            ),
            "hollow": tone(found) == "chance" or pair["leak"],
        }
        for pair in pairs
        if (found := pair[measure])
    ]
    said = "; ".join(f"{r['label']} {r['number']}" for r in rows)
    return (
        interval_rows(
            rows,
            zero=True,
            alt_text=f"Paired differences in {measure.upper()} with intervals: {said}",
        )
        if rows
        else None
    )


def _score_chart(recipes: Mapping[str, Mapping[str, Any]], measure: str) -> Markup | None:
    rows = [
        {
            "label": label(r),
            "number": f"{found.mean:.4f}",
            **found._asdict(),
            "colour": COLOURS.get(r, "var(--ink)"),
            "hollow": leaks(r),
        }
        for r, scores in recipes.items()
        if (found := interval(scores.get(measure)))
    ]
    said = "; ".join(f"{r['label']} {r['number']}" for r in rows)
    return (
        interval_rows(
            rows, zero=False, alt_text=f"{measure.upper()} of every recipe with intervals: {said}"
        )
        if rows
        else None
    )


def _drawn(recipes: Mapping[str, Mapping[str, Any]], part: str) -> dict[str, str]:
    """The recipes compared by popularity, with their colours: the plain ladder where it was run,
    else the first three.
    """
    have = [r for r in recipes if recipes[r].get(part)]
    chosen = [r for r in ("no_sid", "codes", "codes_weights") if r in have] or have[:3]
    return dict(zip(chosen, ("var(--grey)", "var(--blue)", "var(--orange)"), strict=False))


def _decile_chart(recipes: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    drawn = _drawn(recipes, "deciles")
    points: list[dict[str, Any]] = []
    ticks: list[str] = []
    for recipe in drawn:
        groups = sorted(
            recipes[recipe]["deciles"], key=lambda d: number(d.get("interactions")) or 0.0
        )
        ticks = max(ticks, [count_text(d.get("interactions")) for d in groups], key=len)
        points += [
            {"group": i, "series": label(recipe), **found._asdict()}
            for i, d in enumerate(groups)
            if (found := interval(d.get("auc")))
        ]
    return _grouped(
        drawn,
        points,
        ticks,
        "interactions of the item, rarest tenth to most seen",
        "AUC by popularity decile",
    )


def _slice_chart(recipes: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    drawn, names = _drawn(recipes, "slices"), ["head", "middle", "tail", "cold"]
    found = {
        (r, i): interval(mapping(recipes[r], "slices", name).get("auc"))
        for r in drawn
        for i, name in enumerate(names)
    }
    points = [
        {"group": i, "series": label(r), **auc._asdict()} for (r, i), auc in found.items() if auc
    ]
    return _grouped(drawn, points, names, "items, most seen to never seen", "AUC by slice")


def _grouped(
    drawn: Mapping[str, str], points: list[dict], ticks: list[str], x_title: str, what: str
) -> Markup | None:
    series = {label(r): colour for r, colour in drawn.items()}
    return (
        grouped_intervals(
            points,
            ticks=ticks,
            series=series,
            x_title=x_title,
            y_title="AUC",
            alt_text=f"{what}: {', '.join(series)}",
        )
        if points
        else None
    )


def _lines_chart(
    deciles: Sequence[Mapping[str, Any]], drawn: Mapping[str, tuple[str, str]], y_title: str
) -> Markup | None:
    points = [
        {"group": i, "series": drawn[k][0], "value": v}
        for k in drawn
        for i, d in enumerate(deciles)
        if (v := number(d.get(k))) is not None
    ]
    ticks, said = (
        [count_text(d.get("interactions")) for d in deciles],
        f"{y_title} by popularity decile, rarest first",
    )
    return (
        lines(
            points,
            ticks=ticks,
            series=dict(drawn.values()),
            x_title="interactions of the item, by tenths",
            y_title=y_title,
            alt_text=said,
        )
        if points
        else None
    )


def _histograms(pictures: Pictures) -> dict[str, Markup]:
    signal, norms = (np.asarray(v, np.float64).ravel() for v in (pictures.signal, pictures.norms))
    signal, norms = signal[np.isfinite(signal)], norms[np.isfinite(norms)]
    charts = {}
    if len(signal):
        x = np.linspace(0.0, 1.0, 101)
        w = (1 + np.exp(pictures.beta - pictures.alpha)) / (
            1 + np.exp(pictures.beta - pictures.alpha * x)
        )
        said = f"Items by reliability x, with the alignment weight w rising from {w[0]:.2f} to 1"
        charts["alignment"] = histogram(
            signal,
            x_title="reliability x",
            curve=(x, w),
            curve_title="alignment weight w",
            alt_text=said,
        )
    if len(norms):
        said = f"Norms of behaviour vectors, median {np.median(norms):.3g}"
        charts["norms"] = histogram(norms, x_title="norm of the behaviour vector", alt_text=said)
    return charts


def _curves(pictures: Pictures) -> dict[str, Any]:
    points = _curve_points({"": pictures.tokenizer_curve}, by_term=True)
    charts = {}
    if points:
        charts["tokenizer_curve"] = small_multiples(
            points,
            series={"": ""},
            x_title="step",
            shared_y=False,
            alt_text="Loss terms of the tokenizer by step",
        )
    curves = {LABELS.get(r, r): pictures.ranker_curves[r] for r in ordered(pictures.ranker_curves)}
    if points := _curve_points(curves, by_term=False):
        series = {"train loss": "var(--grey)", "holdout loss": "var(--orange)"}
        x_title = (
            "step" if any("step" in row for rows in curves.values() for row in rows) else "epoch"
        )
        charts["ranker_curves"] = small_multiples(
            points,
            series=series,
            x_title=x_title,
            shared_y=True,
            alt_text="Training and holdout loss of every ranker",
        )
    return charts


def _curve_points(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], *, by_term: bool
) -> list[dict[str, Any]]:
    """At most MAX_POINTS of every curve; a panel a term, or a panel a curve with its terms as
    series.
    """
    points = []
    for name, rows in curves.items():
        for row in rows[:: max(1, -(-len(rows) // MAX_POINTS))]:
            x = number(row.get("step", row.get("epoch")))
            terms = {
                k.replace("_", " "): v
                for k, given in row.items()
                if k not in ("step", "epoch") and (v := number(given)) is not None
            }
            points += [
                {"panel": term if by_term else name, "series": term, "x": x, "value": v}
                for term, v in terms.items()
                if x is not None
            ]
    return points
