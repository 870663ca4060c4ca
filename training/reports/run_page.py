"""The run's page: what was run, does it help, on which items, can it be trusted. Reads: metrics,
Pictures. Writes: one HTML file.

The page carries everything in itself: no network, no JavaScript. A part that the run did not
produce is left out, or named as missing where a reader would look for it. Every string is escaped:
titles and names are user data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation.covers import of_run
from training.reports.checks import checks
from training.reports.pages import render, write_page
from training.reports.pictures import Pictures
from training.reports.values import (
    CHANCE,
    LABELS,
    MINUS,
    QUESTIONS,
    Interval,
    decimals,
    duration,
    interval,
    label,
    leaks,
    mapping,
    number,
    ordered,
    percent,
    says,
    signed,
    tone,
    value_text,
)

HEADLINES = (
    ("codes_weights", "no_sid"),
    ("codes", "no_sid"),
    ("xgboost_codes_weights", "xgboost_no_sid"),
)
SCORES = {"auc": "AUC", "gauc": "GAUC", "logloss": "log loss, nats", "tail_auc": "tail AUC"}
BASELINES = {
    "item_mean": "item's mean label",
    "popularity": "item's interactions",
    "user_mean": "user's mean label",
    "user_item_means": "both means, log odds summed",
}
SLICES = {"head": "head", "middle": "middle", "tail": "tail", "cold": "cold (never seen)"}


def report_html(metrics: Mapping[str, Any], pictures: Pictures) -> str:
    """The page. metrics: the content of metrics.json; any part of it may be missing."""
    from training.reports.charts import charts

    filters = {
        "value": value_text,
        "decimals": decimals,
        "percent": percent,
        "label": label,
        "words": lambda name: str(name).replace("_", " "),
    }
    recipes = {
        r: metrics["recipes"][r]
        for r in ordered(mapping(metrics, "recipes"))
        if mapping(metrics, "recipes", r)
    }
    pairs, window = _pairs(metrics), _window(metrics)
    return render(
        "run.html.jinja",
        filters,
        dataset=mapping(metrics, "dataset"),
        window=window,
        headline=_headline(pairs),
        tiles=_tiles(metrics),
        retroactive=any(leaks(r) for r in recipes),
        point_in_time=any("codes" in r and not leaks(r) for r in recipes),
        pairs=pairs,
        chance=CHANCE,
        recipes=recipes,
        scores=_scores(recipes),
        slices=_slices(recipes),
        baselines=[
            (BASELINES.get(n, n), interval(b.get("auc")), interval(b.get("gauc")))
            for n, b in mapping(metrics, "baselines").items()
        ],
        covers=of_run(number(metrics.get("seeds"))),
        checks=checks(metrics, pairs, openings=window["openings"], final=window["final"]),
        coverage={part: mapping(facts) for part, facts in mapping(metrics, "coverage").items()},
        codebooks=_codebooks(metrics, pictures),
        quality=_quality(mapping(metrics, "quality")),
        titles=pictures.titles,
        stages=_stages(mapping(metrics, "stage_seconds")),
        charts=charts(pairs, recipes, pictures),
    )


def write_report(path: Path, metrics: Mapping[str, Any], pictures: Pictures) -> None:
    """Write the page to `path`: a reader sees the old page or the new one, never a half."""
    write_page(path, report_html(metrics, pictures))


def _window(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Which rows were scored, and what kind of data they are."""
    dataset = mapping(metrics, "dataset")
    openings = metrics.get("test_openings")
    openings = len(openings) if isinstance(openings, list | tuple) else openings
    split = dataset.get("split")
    start, end, train_end = (
        str(mapping(split).get(k) or "")[:10] for k in ("eval_start", "eval_end", "train_end")
    )
    if start and train_end:
        split = (
            f"trained on rows before {train_end}, scored from {start}"
            f" {f'to {end}' if end else 'on'}"
        )
    generated = bool(dataset.get("generated", str(dataset.get("name", "")).startswith("synthetic")))
    return {
        "final": bool(metrics.get("final")),
        "openings": openings,
        "split": value_text(split) if split else "",
        "generated": generated,
    }


def _pairs(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The paired comparisons, the known questions first and in their order."""
    found: list[dict[str, Any]] = []
    for name, scores in mapping(metrics, "paired").items():
        a, minus, b = name.partition("_minus_")
        measures = {m: interval(mapping(scores).get(m)) for m in ("auc", "gauc")}
        if minus and any(measures.values()):
            leak = leaks(a) or leaks(b)
            versus = (
                f"{LABELS.get(a, a.replace('_', ' '))} {MINUS} {LABELS.get(b, b.replace('_', ' '))}"
            )
            words = {
                "question": QUESTIONS.get((a, b), f"{versus}?"),
                "versus": versus,
                "answers": _answers(measures, leak=leak),
            }
            found.append({"pair": (a, b), "leak": leak, **words, **measures})
    order = list(QUESTIONS)
    return sorted(found, key=lambda p: order.index(p["pair"]) if p["pair"] in order else len(order))


def _answers(measures: Mapping[str, Interval | None], *, leak: bool) -> list[tuple[str, str, str]]:
    """(measures, what they say, style), measures that say the same together; what a leak wins is no
    merit.
    """
    told: dict[tuple[str, str], list[str]] = {}
    for measure, found in measures.items():
        if found is not None:
            said = (
                ("higher by reading the future", "bad")
                if leak and found.low > 0
                else (says(found), tone(found))
            )
            told.setdefault(said, []).append(measure.upper())
    return [(", ".join(names), *said) for said, names in told.items()]


def _headline(pairs: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The comparison a reader came for, in one sentence a measure."""
    by_pair = {p["pair"]: p for p in pairs}
    pair = next((by_pair[p] for p in HEADLINES if p in by_pair), None)
    if pair is None:
        return None
    sentences = []
    for measure in ("auc", "gauc"):
        if (found := pair[measure]) is not None:
            span = f"{signed(found.low)} to {signed(found.high)}"
            sentences.append(
                {
                    "measure": measure.upper(),
                    "change": signed(found.mean),
                    "range": span,
                    "says": says(found),
                    "tone": tone(found),
                }
            )
    return {"a": label(pair["pair"][0]), "b": label(pair["pair"][1]), "sentences": sentences}


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The facts of the run, each with its name."""
    dataset, seconds = mapping(metrics, "dataset"), mapping(metrics, "stage_seconds")
    tiles = [
        (name, value_text(dataset[name]))
        for name in ("items", "users", "interactions")
        if dataset.get(name) is not None
    ]
    if metrics.get("rows_in") is not None:
        tiles.append(
            (
                "rows in → out",
                f"{value_text(metrics['rows_in'])} → {value_text(metrics.get('rows_out'))}",
            )
        )
    if (rate := number(metrics.get("label_rate"))) is not None:
        tiles.append(("positive, scored rows", percent(rate)))
    if metrics.get("gauc_users") is not None:
        tiles.append(
            (
                "GAUC rests on",
                (
                    f"{value_text(metrics['gauc_users'])} users,"
                    f" {value_text(metrics.get('gauc_rows'))} rows"
                ),
            )
        )
    if metrics.get("seeds") is not None:
        tiles.append(("seeds a recipe", value_text(metrics["seeds"])))
    if total := sum(filter(None, map(number, seconds.values()))):
        tiles.append(("run time", duration(total)))
    if (peak := number(metrics.get("peak_memory_bytes"))) is not None:
        tiles.append(("peak memory", f"{peak / 2**30:.1f} GiB"))
    if size := mapping(metrics, "bytes_per_item"):
        tiles.append(
            (
                "bytes an item",
                ", ".join(f"{label(name)} {value_text(count)}" for name, count in size.items()),
            )
        )
    return tiles


def _scores(recipes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every recipe's scores over the whole window; a calibration of several figures gives a column
    for each.
    """
    rows = {}
    for recipe, scores in recipes.items():
        found: dict[str, Interval | float | None] = {
            words: interval(scores.get(name)) for name, words in SCORES.items()
        }
        calibration = scores.get("calibration")
        parts = (
            mapping(calibration)
            if interval(calibration) is None
            else {"calibration (predicted over observed)": calibration}
        )
        rows[recipe] = found | {
            str(k).replace("_", " "): interval(v) or number(v) for k, v in parts.items()
        }
    columns = dict.fromkeys(
        c for found in rows.values() for c, score in found.items() if score is not None
    )
    return {"columns": list(columns), "rows": rows}


def _slices(recipes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Head, middle, tail and cold: rows scored and the AUC of every recipe."""
    table = []
    for name, words in SLICES.items():
        found = {
            r: mapping(s, "slices", name) for r, s in recipes.items() if mapping(s, "slices", name)
        }
        if found:
            rows = next((f["rows"] for f in found.values() if f.get("rows") is not None), None)
            table.append(
                {
                    "name": words,
                    "rows": rows,
                    "auc": {r: interval(f.get("auc")) for r, f in found.items()},
                }
            )
    return table


def _codebooks(metrics: Mapping[str, Any], pictures: Pictures) -> list[dict[str, Any]]:
    """One row a position: its name, what the quality report says, and its usage picture."""
    from adc_features.plots import usage_spark

    said = mapping(metrics, "quality").get("codebooks") or []
    names = pictures.positions or [c.get("modality") or c.get("kind") or "shared" for c in said]
    rows = []
    for i, name in enumerate(names):
        row = {"name": name, "number": i, **(said[i] if i < len(said) else {})}
        if i < len(pictures.usage) and np.size(pictures.usage[i]):
            row["spark"] = usage_spark(
                np.asarray(pictures.usage[i]),
                alt_text=f"Items a code at position {name}, most used code first",
            )
        rows.append(row)
    return rows


def _quality(quality: Mapping[str, Any]) -> dict[str, Any]:
    """The single figures of the quality report, by name."""
    return {name: value for name, value in quality.items() if number(value) is not None}


def _stages(seconds: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = {name: value for name, given in seconds.items() if (value := number(given)) is not None}
    longest = max(known.values(), default=0.0) or 1.0
    return [
        {"name": name, "seconds": duration(value), "share": 100 * value / longest}
        for name, value in known.items()
    ]
