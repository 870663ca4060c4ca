"""Results of commands as lines of text. Reads: results. Writes: nothing."""

from collections.abc import Mapping
from typing import Any

from adc_features.cli.console import table
from training.evaluation.covers import of_run


def retrieval_lines(result: Mapping[str, Any]) -> str:
    """Scores of the retrievers, and their paired differences."""
    metrics = {
        f"{name}_at_{k}": f"{short}@{k}"
        for name, short in (("recall", "R"), ("ndcg", "N"))
        for k in (5, 10, 50, 100)
    }
    retrievers = [
        {"": name, **{short: f"{result[name][m]:.4f}" for m, short in metrics.items()}}
        for name in result["retrievers"]
    ]
    paired = _intervals(result["paired"], {"recall_at_10": "R@10", "ndcg_at_10": "N@10"})
    return "\n".join(
        [
            f"{result['part']} items of {result['users']} users among {result['catalogue']}",
            "",
            table(retrievers),
            "",
            "paired differences, 95 % intervals",
            table(paired),
        ]
    )


def run_lines(result: Mapping[str, Any]) -> str:
    """Scores of the recipes, their paired differences, parity, and where the report is."""
    window = "test rows" if result["final"] else "validation window"
    scores = {"auc": "AUC", "gauc": "GAUC"}
    lines = [
        "",
        (
            f"{result['rows_in']} rows in, {result['rows_out']} rows out; {result['scored_rows']}"
            f" scored on the {window}"
        ),
        f"stages built: {len(result['built'])}, reused: {len(result['reused'])}",
        "",
        "95 % intervals",
        table(_intervals(result["recipes"], scores)),
        "",
        "paired differences, 95 % intervals",
        table(_intervals(result["paired"], scores)),
        of_run(result.get("seeds")),
    ]
    parity = result["parity"]
    lines += [
        "",
        (
            f"online equals offline: {parity['items']} items and {parity['users']} users compared,"
            f" {parity['different']} different"
        ),
    ]
    lines += [f"report: {result['report']}", f"next: {result['next']}"]
    return "\n".join(lines)


def _intervals(
    estimates: Mapping[str, Mapping[str, Mapping[str, float]]], shown: Mapping[str, str]
) -> list[dict[str, str]]:
    """Rows of a table: a name, and each metric of `shown` under its heading."""
    return [
        {"": name, **{title: _interval(row[metric]) for metric, title in shown.items()}}
        for name, row in estimates.items()
    ]


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:.4f}  [{estimate['low']:.4f}, {estimate['high']:.4f}]"
