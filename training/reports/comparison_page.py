"""The page of a comparison. Reads: the result of `training.comparison.significance`. Writes: one
HTML file that needs no network.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from adc_features.plots import interval_rows
from training.comparison.significance import DECILES, paired_title
from training.comparison.verdict import codes_verdict, covers_text
from training.reports.pages import render
from training.reports.values import signed

SHOWN = {"gauc": "GAUC", "auc": "AUC", "tail_auc": "tail AUC", "new_auc": "AUC of new items"}


def comparison_page(result: Mapping[str, Any], *, title: str, first: str) -> str:
    """The page: pictures of the paired differences, then tables of scores and costs, then what was
    not ranked and why.
    """
    filters = {
        "four": lambda v: f"{v:.4f}",
        "day": _day,
        "whole": lambda v: f"{v:,.0f}" if isinstance(v, float | int) else "-",
    }
    return render(
        "comparison.html.jinja",
        filters,
        title=title,
        result=result,
        metrics=(*SHOWN, "head_auc", "middle_auc", "cold_auc"),
        covers=covers_text(result),
        verdict=codes_verdict(result, first=first),
        pictures=_pictures(result, first),
        of_users=_pictures(result.get("per_user", {}), first),
        strata=_strata(result),
    )


def _pictures(result: Mapping[str, Any], first: str) -> dict[str, dict[str, Any]]:
    """Of every group of paired differences, by its title: one a metric."""
    return {
        paired_title(key, first): {
            name: _picture(result[key], metric, name) for metric, name in SHOWN.items()
        }
        for key in result
        if key.startswith("paired") and result[key]
    }


def _picture(paired: Mapping[str, Any], metric: str, name: str) -> Any:
    rows = []
    for key, facts in paired.items():
        found = facts[metric]
        if not all(math.isfinite(found[k]) for k in ("mean", "low", "high")):
            continue  # as of new items where there are none
        colour = (
            "var(--green)"
            if found["low"] > 0
            else "var(--red)"
            if found["high"] < 0
            else "var(--grey)"
        )
        sure = found["low"] > 0 or found["high"] < 0
        number = (
            signed(found["mean"])
            + (" survives" if found["survives"] else "")
            + f" · won {found['sign_test']['won']} of {found['sign_test']['of']}"
        )
        label = key.partition("_minus_")[2]
        rows.append(
            {
                "label": label,
                "number": number,
                **{k: found[k] for k in ("mean", "low", "high")},
                "colour": colour,
                "hollow": not sure,
            }
        )
    if not rows:
        return "Not defined on these rows."
    said = "; ".join(f"{r['label']} {r['number']}" for r in rows)
    return interval_rows(rows, zero=True, alt_text=f"Paired differences in {name}: {said}")


def _strata(result: Mapping[str, Any]) -> dict[str, Any]:
    """AUC in each popularity decile of rows, a picture a system; only where deciles were
    asked for.
    """
    pictures = {}
    for name, row in result["systems"].items():
        found = [(d, row[f"decile_{d}_auc"]) for d in range(DECILES) if f"decile_{d}_auc" in row]
        rows = [
            {
                "label": f"decile {d + 1} (1: rarest)",
                "number": f"{v['mean']:.4f}",
                **v,
                "colour": "var(--blue)",
                "hollow": False,
            }
            for d, v in found
            if v["mean"] == v["mean"] and v["low"] == v["low"]
        ]
        if rows:
            pictures[name] = interval_rows(
                rows, zero=False, alt_text=f"AUC of {name} by popularity decile"
            )
    return pictures


def _day(at: datetime | str) -> str:
    return str(at)[:10]
