"""The report's pictures. Reads: comparisons, recipes, Pictures. Writes: SVG elements as safe
markup, one a picture.

Every picture is drawn 330 px wide, the width of a phone, and scales up. Colours are CSS variables
(`var(--ink)`), so that the page decides between light and dark; `series` maps a name to its colour.
No picture clips, because clip ids of two SVGs on one page would clash.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import vl_convert
from markupsafe import Markup, escape

from training.reports.values import (
    COLOURS,
    LABELS,
    Pictures,
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

WIDTH = 330
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
        _grouped_intervals(
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
        _lines(
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
        charts["alignment"] = _histogram(
            signal,
            x_title="reliability x",
            curve=(x, w),
            curve_title="alignment weight w",
            alt_text=said,
        )
    if len(norms):
        said = f"Norms of behaviour vectors, median {np.median(norms):.3g}"
        charts["norms"] = _histogram(norms, x_title="norm of the behaviour vector", alt_text=said)
    return charts


def _curves(pictures: Pictures) -> dict[str, Any]:
    points = _curve_points({"": pictures.tokenizer_curve}, by_term=True)
    charts = {}
    if points:
        charts["tokenizer_curve"] = _small_multiples(
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
        charts["ranker_curves"] = _small_multiples(
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


# ---- kinds of pictures


def interval_rows(rows: Sequence[Mapping[str, Any]], *, zero: bool, alt_text: str) -> Markup:
    """One entry a row: the label, and under it point, interval and number; `zero` adds the zero
    line.

    rows: {label, number, mean, low, high, colour, hollow}, drawn in their order.
    """
    data = [{**row, "row": i} for i, row in enumerate(rows)]
    line = alt.Y("row:O", axis=None)
    base = alt.Chart(alt.Data(values=data)).encode(y=line)
    x_axis = alt.Axis(
        tickCount=4,
        labelOverlap="greedy",
        labelSeparation=6,
        labelExpr=(
            "datum.value == 0 ? '0' : format(datum.value, '+.3~f')"
            if zero
            else "format(datum.value, '.3~f')"
        ),
    )
    x = alt.X(
        "mean:Q",
        title=None,
        axis=x_axis,
        scale=alt.Scale(zero=zero, padding=6, range=[0, WIDTH - 64]),
    )
    colour = alt.Color("colour:N", scale=None)
    layers = [
        base.mark_rule(strokeWidth=3, strokeCap="round", yOffset=8).encode(
            x=alt.X("low:Q", title=None), x2="high:Q", color=colour
        ),
        base.mark_point(size=70, strokeWidth=2, opacity=1, yOffset=8).encode(
            x=x,
            stroke=colour,
            fill=alt.condition(
                "datum.hollow", alt.value("var(--card)"), alt.Color("colour:N", scale=None)
            ),
        ),
        base.mark_text(align="left", dy=-8, fontSize=12, color="var(--ink)").encode(
            x=alt.value(0), text="label:N"
        ),
        base.mark_text(align="right", dy=8, fontSize=11, color="var(--muted)").encode(
            x=alt.value("width"), text="number:N"
        ),
    ]
    if zero:
        # A short tick at each interval, below the label: one line over the whole height would run
        # through the labels.
        layers.insert(
            0,
            base.mark_tick(color="var(--ink)", thickness=1, size=10, yOffset=8, opacity=1).encode(
                x=alt.XDatum(0)
            ),
        )
    return _svg(alt.layer(*layers), height=40 * len(rows) + 28, alt_text=alt_text)


def _grouped_intervals(
    points: Sequence[Mapping[str, Any]],
    *,
    ticks: Sequence[str],
    series: Mapping[str, str],
    x_title: str,
    y_title: str,
    alt_text: str,
) -> Markup:
    """Points with intervals of several series beside each other; points: {group (0-based), series,
    mean, low, high}.
    """
    base = alt.Chart(alt.Data(values=list(points))).encode(
        x=_group_axis(ticks, x_title),
        xOffset=alt.XOffset("series:N", sort=list(series)),
        color=_series_colour(series),
    )
    y = alt.Y("mean:Q", title=y_title, scale=alt.Scale(zero=False, padding=4))
    chart = alt.layer(
        base.mark_rule(strokeWidth=1.5, opacity=0.75).encode(
            y=alt.Y("low:Q", title=y_title), y2="high:Q"
        ),
        base.mark_circle(size=32, opacity=1).encode(y=y),
    )
    return _svg(chart, height=250, alt_text=alt_text)


def _lines(
    points: Sequence[Mapping[str, Any]],
    *,
    ticks: Sequence[str],
    series: Mapping[str, str],
    x_title: str,
    y_title: str,
    alt_text: str,
) -> Markup:
    """Lines with points over ordered groups; points: {group (0-based), series, value}."""
    chart = (
        alt.Chart(alt.Data(values=list(points)))
        .mark_line(point=alt.OverlayMarkDef(size=28), strokeWidth=2)
        .encode(
            x=_group_axis(ticks, x_title),
            y=alt.Y("value:Q", title=y_title),
            color=_series_colour(series) if len(series) > 1 else alt.value("var(--blue)"),
        )
    )
    return _svg(chart, height=220, alt_text=alt_text)


def _histogram(
    values: np.ndarray,
    *,
    x_title: str,
    alt_text: str,
    curve: tuple[np.ndarray, np.ndarray] | None = None,
    curve_title: str = "",
) -> Markup:
    """Counts of `values` [N] in 30 bins; `curve` (x, y in [0, 1]) is drawn over them on an axis of
    its own.
    """
    counts, edges = np.histogram(values, bins=30, range=(0.0, 1.0) if curve else None)
    bins = [
        {"from": a, "to": b, "items": n}
        for a, b, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    ]
    x_scale = alt.Scale(domain=[float(edges[0]), float(edges[-1])], nice=False)
    bars = (
        alt.Chart(alt.Data(values=bins))
        .mark_rect(color="var(--soft)", stroke="var(--card)", strokeWidth=1)
        .encode(
            x=alt.X("from:Q", title=x_title, scale=x_scale, axis=alt.Axis(tickCount=5, grid=False)),
            x2="to:Q",
            y=alt.Y("items:Q", title="items", axis=alt.Axis(tickCount=4)),
            y2=alt.datum(0),
        )
    )
    if curve is None:
        return _svg(bars, height=200, alt_text=alt_text)
    path = [{"x": float(a), "w": float(b)} for a, b in zip(*curve, strict=True)]
    line = (
        alt.Chart(alt.Data(values=path))
        .mark_line(color="var(--orange)", strokeWidth=2.5)
        .encode(
            x=alt.X("x:Q", title=x_title, scale=x_scale),
            y=alt.Y(
                "w:Q",
                title=curve_title,
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(tickCount=4, grid=False, titleColor="var(--orange)"),
            ),
        )
    )
    return _svg(alt.layer(bars, line).resolve_scale(y="independent"), height=200, alt_text=alt_text)


def usage_spark(counts: np.ndarray, *, alt_text: str) -> Markup:
    """How often each code of one codebook is used, most used first: counts int [K]."""
    rows = [{"rank": i, "items": n} for i, n in enumerate(np.sort(counts)[::-1].tolist())]
    chart = (
        alt.Chart(alt.Data(values=rows))
        .mark_area(
            color="var(--soft)",
            line=alt.OverlayMarkDef(color="var(--blue)", strokeWidth=1.5),
            interpolate="step",
        )
        .encode(
            x=alt.X("rank:Q", axis=None, scale=alt.Scale(nice=False)), y=alt.Y("items:Q", axis=None)
        )
    )
    return _svg(chart, width=120, height=30, alt_text=alt_text)


def _small_multiples(
    points: Sequence[Mapping[str, Any]],
    *,
    series: Mapping[str, str],
    x_title: str,
    shared_y: bool,
    alt_text: str,
) -> Markup:
    """One small line picture a panel, two beside each other; points: {panel, series, x, value}."""
    panels = list(dict.fromkeys(str(p["panel"]) for p in points))
    between = 16 if shared_y else 44
    width = (WIDTH - 36 - between) // 2 if len(panels) > 1 else WIDTH - 46
    chart = (
        alt.Chart(alt.Data(values=list(points)), width=width, height=80)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X(
                "x:Q",
                title=x_title,
                axis=alt.Axis(
                    tickCount=3,
                    grid=False,
                    labelExpr="datum.value < 1000 ? datum.value : format(datum.value, '~s')",
                    labelOverlap="greedy",
                    labelSeparation=6,
                ),
            ),
            y=alt.Y(
                "value:Q",
                title=None,
                scale=alt.Scale(zero=False),
                axis=alt.Axis(tickCount=3, format="~g"),
            ),
            color=_series_colour(series) if len(series) > 1 else alt.value("var(--blue)"),
        )
        .facet(
            facet=alt.Facet(
                "panel:N", sort=panels, title=None, header=alt.Header(labelLimit=width)
            ),
            columns=2,
            bounds="flush",
        )
        .properties(spacing={"row": 66, "column": between})
        .resolve_scale(x="independent", y="shared" if shared_y else "independent")
    )
    return _svg(chart, alt_text=alt_text)


def _group_axis(ticks: Sequence[str], title: str) -> alt.X:
    """Groups 0, 1, ... labelled with `ticks`, which may repeat."""
    return alt.X(
        "group:O",
        title=title,
        axis=alt.Axis(
            labelExpr=f"{json.dumps(list(ticks))}[datum.value]",
            labelAngle=0,
            labelOverlap="greedy",
            labelSeparation=6,
        ),
    )


def _series_colour(series: Mapping[str, str]) -> alt.Color:
    legend = alt.Legend(orient="top", title=None, columns=2, symbolType="circle", symbolSize=70)
    return alt.Color(
        "series:N",
        sort=list(series),
        scale=alt.Scale(domain=list(series), range=list(series.values())),
        legend=legend,
    )


def _svg(chart: Any, *, alt_text: str, width: int = WIDTH, height: int | None = None) -> Markup:
    """The chart as one accessible SVG element, `width` px wide unless it is faceted."""
    if height is not None:
        chart = chart.properties(
            width=width, height=height, autosize=alt.AutoSizeParams(type="fit", contains="padding")
        )
    chart = chart.configure(aria=False, background="transparent", font="sans-serif", padding=2)
    chart = chart.configure_view(stroke=None).configure_header(
        labelColor="var(--ink)", labelFontSize=11, labelAnchor="start"
    )
    chart = chart.configure_axis(
        gridColor="var(--line)",
        domain=False,
        ticks=False,
        labelColor="var(--muted)",
        titleColor="var(--muted)",
        titleFontWeight="normal",
        titleFontSize=11,
        labelFontSize=11,
    ).configure_legend(labelColor="var(--ink)", labelLimit=150, labelFontSize=11)
    version = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    # validating costs as much as drawing; the tests draw every kind
    svg = vl_convert.vegalite_to_svg(chart.to_dict(validate=False), vl_version=version)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt_text)}" ', 1))
