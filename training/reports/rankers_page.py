"""The page of the rankers of a Feast repository: how good they are, which one to promote, what they
lean on, what they read and learned from. Reads: the content of evaluation.json. Writes: one HTML
file that needs no network.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from markupsafe import Markup

from training.evaluation.covers import EXCHANGES, RANKERS
from training.ranker.codes_help import codes_help
from training.ranker.results import BY
from training.reports.pages import render
from training.reports.values import (
    CHANCE,
    MINUS,
    decimals,
    interval,
    mapping,
    percent,
    says,
    signed,
    tone,
    value_text,
)

METRICS = {
    "auc": "AUC",
    "gauc": "GAUC",
    "logloss": "log loss, nats",
    "calibration": "observed over expected",
    "request_gauc": "GAUC by request",
    "ndcg": "NDCG",
    "mrr": "MRR",
}
_BETTER_LOWER = ("logloss",)
_NO_ORDER = ("calibration",)
COLOURS = ("var(--blue)", "var(--orange)", "var(--green)", "var(--red)", "var(--grey)")
MOST_BARS = 15
"""Inputs that a picture of importance shows; the table has all."""


def rankers_page(judged: Mapping[str, Any], *, choice: Mapping[str, str]) -> str:
    """The page.

    Parameters
    ----------
    judged : mapping
        The content of evaluation.json.
    choice : mapping
        {"name", "why"} of the ranker that is promoted where none is named; "name" is "" where none
        is chosen.
    """
    rankers = list(judged["versions"])
    filters = {"percent": percent, "value": value_text, "decimals": decimals, "says": says}
    about = mapping(judged, "about")
    return render(
        "rankers.html.jinja",
        {**filters, "metric": lambda name: METRICS.get(name, name)},
        judged=judged,
        covers={"rankers": RANKERS, "exchanges": EXCHANGES},
        codes=codes_help(judged),
        choice=choice,
        rankers=rankers,
        tasks={name: _task(task, mapping(about), name) for name, task in judged["tasks"].items()},
        about=about,
        importance={n: _importance(n, one) for n, one in about.items() if one["importance"]},
        inputs=list(dict.fromkeys(chain.from_iterable(a["inputs"] for a in about.values()))),
        chance=CHANCE,
        minus=MINUS,
    )


def _task(task: Mapping[str, Any], about: Mapping[str, Any], name: str) -> dict[str, Any]:
    metrics = _defined(task["rankers"].values())
    return {
        **{k: task[k] for k in ("rows", "positives", "users", "requests", "top")},
        "metrics": metrics,
        **_groups(task),
        "no_gauc": _no_gauc(task) if "gauc" not in metrics else "",
        "rankers": {
            ranker: {m: interval(scores[m]) for m in metrics}
            for ranker, scores in task["rankers"].items()
        },
        "paired": [
            {
                "versus": pair.replace("_minus_", f" {MINUS} "),
                "metrics": {m: _difference(scores[m], m) for m in metrics},
            }
            for pair, scores in task["paired"].items()
        ],
        "charts": {
            METRICS[m]: _scores_chart(task["rankers"], m)
            for m in dict.fromkeys((_main(metrics), "auc"))
        },
        "calibration": {
            ranker: chart
            for ranker, one in about.items()
            if (chart := _calibration_chart(ranker, one["calibration"].get(name, ())))
        },
    }


def _defined(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that are known of one of these."""
    return [m for m in METRICS if any(interval(one.get(m)) for one in scores)]


def _main(metrics: Sequence[str]) -> str:
    """What rankers are ordered by."""
    return next(m for m in BY if m in metrics)


def _groups(task: Mapping[str, Any]) -> dict[str, str]:
    """How many users and requests there are, and what intervals resample."""
    known = {of: task[of] for of in ("users", "requests") if task[of] is not None}
    said = " and ".join(f"{value_text(count)} {of}" for of, count in known.items())
    return {"with_both": said, "resampled": next(iter(known), "rows")}


def _no_gauc(task: Mapping[str, Any]) -> str:
    """Why there is no GAUC by user."""
    if task["users"] is None:
        return "GAUC is left out: no key of the rankers tells the user."
    return "GAUC is left out: no user has rows of both classes."


def _difference(found: Mapping[str, Any], metric: str) -> dict[str, Any] | None:
    """A difference in words, its style by whether more is better."""
    if (known := interval(found)) is None:
        return None
    style = "chance" if metric in _NO_ORDER else tone(known)
    if metric in _BETTER_LOWER:
        style = {"good": "bad", "bad": "good"}.get(style, style)
    return {"text": signed(known.mean), "range": known, "style": style}


def _scores_chart(rankers: Mapping[str, Any], metric: str) -> Markup | None:
    from adc_features.plots import interval_rows

    rows = [
        {
            "label": name,
            "number": decimals(found.mean, 4),
            **found._asdict(),
            "colour": COLOURS[n % len(COLOURS)],
            "hollow": False,
        }
        for n, (name, scores) in enumerate(rankers.items())
        if (found := interval(scores[metric]))
    ]
    said = "; ".join(f"{r['label']} {r['number']}" for r in rows)
    return interval_rows(rows, zero=False, alt_text=f"{METRICS[metric]}: {said}") if rows else None


def _calibration_chart(ranker: str, bins: Sequence[Mapping[str, Any]]) -> Markup | None:
    from adc_features.plots import lines

    series = {"predicted": "var(--grey)", "observed": "var(--blue)"}
    points = [
        {"group": n, "series": name, "value": one[name]}
        for n, one in enumerate(bins)
        for name in series
    ]
    return (
        lines(
            points,
            ticks=[str(n + 1) for n in range(len(bins))],
            series=series,
            x_title="tenths of the rows, least probable first",
            y_title="share of positives",
            alt_text=f"Predicted and observed share of positives of {ranker} by tenths of rows",
        )
        if points
        else None
    )


def _importance(ranker: str, about: Mapping[str, Any]) -> dict[str, Any]:
    found = about["importance"]
    metrics = _defined([found["base"]])
    main = _main(metrics)
    return {
        **{k: found[k] for k in ("task", "rows", "of", "permutations", "seeds")},
        "metrics": metrics,
        "main": main,
        "charts": {
            part: _importance_chart(found[part], main, f"{ranker}, {part}")
            for part in ("groups", "inputs")
        },
        "rows_of": {
            part: [
                {
                    "name": name,
                    "side": one["side"],
                    "kind": one["kind"],
                    "of": len(one["inputs"]),
                    "drop": {m: interval(one["drop"][m]) for m in metrics},
                }
                for name, one in found[part].items()
            ]
            for part in ("groups", "inputs")
        },
    }


def _importance_chart(found: Mapping[str, Any], metric: str, what: str) -> Markup | None:
    from adc_features.plots import interval_rows

    rows = [
        {
            "label": name,
            "number": signed(drop.mean),
            **drop._asdict(),
            "colour": "var(--blue)" if drop.low > 0 else "var(--grey)",
            "hollow": drop.low <= 0,
        }
        for name, one in list(found.items())[:MOST_BARS]
        if (drop := interval(one["drop"][metric]))
    ]
    said = "; ".join(f"{r['label']} {r['number']}" for r in rows)
    text = f"Drop in {METRICS[metric]} when exchanged, {what}: {said}"
    return interval_rows(rows, zero=True, alt_text=text) if rows else None
