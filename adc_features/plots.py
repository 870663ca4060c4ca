"""Kinds of pictures: intervals, lines, histograms. Reads: points. Writes: SVG elements as safe
markup.

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

WIDTH = 330


def interval_rows(rows: Sequence[Mapping[str, Any]], *, zero: bool, alt_text: str) -> Markup:
    """One entry a row: the label, and under it point, interval and number; `zero` adds the zero
    line.

    rows: {label, number, mean, low, high, colour, hollow}, drawn in their order.
    """
    data = [{**row, "row": i} for i, row in enumerate(rows)]
    line = alt.Y("row:O", axis=None)
    base = alt.Chart(alt.Data(values=data)).encode(y=line)
    x_axis = alt.Axis(
        tickCount=3,
        labelOverlap="greedy",
        labelSeparation=16,  # signs and fonts are wider than the renderer believes
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


def grouped_intervals(
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


def lines(
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


def histogram(
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


def small_multiples(
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
