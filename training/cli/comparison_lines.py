"""The result of a comparison as lines of text. Reads: what `training.comparison.significance` says.
Writes: nothing.
"""

from collections.abc import Mapping
from typing import Any

from adc_features.cli.console import table

METRICS = {"auc": "AUC", "gauc": "GAUC", "tail_auc": "tail AUC", "new_auc": "new items' AUC"}


def comparison_lines(result: Mapping[str, Any], *, first: str) -> str:
    """Scores, differences, what intervals cover, costs, and what was left out and why."""
    from training.comparison.verdict import codes_verdict, covers_text

    lines = [
        f"{result['pooled_rows']} rows in {len(result['windows'])} windows",
        covers_text(result),
        *([said] if (said := codes_verdict(result, first=first)) else []),
        "",
        *_compared(result, first=first),
    ]
    if split := result.get("per_user"):
        lines += ["", f"each user's newest rows, {split['rows']} of them"]
        lines += _compared(split, first=first)
    if split := result.get("split_90_10"):
        lines += ["", "the 90/10 split"]
        lines.append(table(_means(split, {"auc": "AUC", "gauc": "GAUC"})))
    costs = [
        {
            "": name,
            "fit s": round(cost.get("fit_seconds", 0), 1),
            "rows/s": round(cost.get("encode_rows_per_second", 0)),
            "bytes": round(cost["bytes_per_item"]),
        }
        for name, cost in result["costs"].items()
    ]
    lines += ["", table(costs)]
    lines += [f"{name}: collapsed, not ranked: {why}" for name, why in result["collapsed"].items()]
    lines += [f"{name}: left out: {why}" for name, why in result["removed"].items()]
    lines += [f"{name}: left out: {why}" for name, why in result["absent"].items()]
    lines += [f"window {name}: left out, its labels have one class" for name in result["left_out"]]
    return "\n".join([*lines, "", f"page: {result['page']}"])


def _compared(result: Mapping[str, Any], *, first: str) -> list[str]:
    """Means of every system, and the paired differences."""
    from training.comparison.significance import paired_title

    lines = [table(_means(result["systems"], METRICS))]
    for key in (k for k in result if k.startswith("paired")):
        differences = [
            {"": name, **{title: _difference(row[m]) for m, title in METRICS.items()}}
            for name, row in result[key].items()
        ]
        lines += ["", f"{paired_title(key, first)} (* survives Holm's correction)"]
        lines.append(table(differences))
    return lines


def _means(
    systems: Mapping[str, Mapping[str, Mapping[str, float]]], shown: Mapping[str, str]
) -> list[dict[str, str]]:
    return [
        {"": name, **{title: f"{row[metric]['mean']:.4f}" for metric, title in shown.items()}}
        for name, row in systems.items()
    ]


def _difference(estimate: Mapping[str, Any]) -> str:
    from training.comparison.verdict import difference_text

    return difference_text(estimate) + ("*" if estimate["survives"] else "")
