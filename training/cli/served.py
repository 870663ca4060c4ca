"""What came of what was served, variant by variant: `adc evaluate --from-log` comes here. Reads: a
served log, events. Writes: what the command prints, a page.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import report
from adc_features.errors import InputError
from training.cli.datasets import asked_of_log
from training.cli.rankers import interval_text
from training.evaluation.covers import VARIANTS

PageOption = Annotated[
    Path | None,
    typer.Option(
        "--page", metavar="FILE.html", help="With --from-log: write the comparison as a page."
    ),
]


def evaluate_log(
    log: Path,
    source: Any,
    *,
    named: tuple[Path | None, Sequence[str] | None, Sequence[str], Sequence[str]],
    page: Path | None,
    json: str | None,
    **chosen: Any,
) -> None:
    """Compare the variants of a served log, and print it.

    named: --repo, --ranker, --task and --window. chosen: of `asked_of_log`.
    """
    from training.ranker.served_variants import compare_served

    repo, rankers, tasks, windows = named
    if rankers and len(rankers) > 1:
        raise InputError("--from-log compares variants of one ranker; give at most one --ranker")
    ranker = rankers[0] if rankers else None
    asked = asked_of_log(source, named=(repo, ranker, tasks, windows), **chosen)
    found = compare_served(
        log,
        asked.events,
        asked.targets,
        ranker=asked.ranker,
        settings=asked.settings,
        deployment=None if repo is None else _serving(repo, asked.ranker),
    )
    if page is not None:
        _write_page(page, found)
        found["page"] = str(page)
    report(found, json, text=variants_text)


def _serving(repo: Path, ranker: str | None) -> Any:
    """What the promotion file of a ranker names; None where it has none any more."""
    from adc_features.serving.variants import read_deployment
    from adc_features.serving.workspace import Workspace

    place = Workspace(repo, ranker or "").promotion
    return read_deployment(place) if place.is_file() else None


def variants_text(found: Mapping[str, Any]) -> str:
    """A table for each task and variant, and what it says."""
    from adc_features.cli.console import table

    lines = [f"variants of {found['ranker']}, with 95 % intervals over users"]
    for heading, rows in _tables(found).items():
        lines += ["", heading, table(rows)]
    lines += ["", *_said(found), VARIANTS]
    if "page" in found:
        lines.append(f"page: {found['page']}")
    return "\n".join(lines)


def _write_page(path: Path, found: Mapping[str, Any]) -> None:
    from adc_features.html_page import write_html_page

    write_html_page(
        path,
        f"Variants of {found['ranker']} on what they served",
        verdict=" ".join([*(f"{line}." for line in _said(found)), VARIANTS]),
        tables=_tables(found),
    )


def _said(found: Mapping[str, Any]) -> list[str]:
    from training.ranker.served_variants import verdicts

    log = found["log"]
    shown = "impression events" if log["shown"] == "impressions" else "an assumption"
    return [
        *verdicts(found),
        *(
            f"{task}: {name} is not compared, {why}"
            for task, of in found["not_compared"].items()
            for name, why in of.items()
        ),
        f"what was seen is known from {shown}; {log['immature_requests']} of {log['requests']}"
        f" requests are too young to count",
    ]


def _tables(found: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """A heading -> rows for each task and variant: the variant, the pair, their difference."""
    return {
        f"{task}, {one['since']} to {one['until']}": [
            _side(name, one["variant"], one["stated_share"]),
            _side("promoted", one["promoted"], None),
            _side("difference", one["difference"], None),
        ]
        for task, variants in found["tasks"].items()
        for name, one in variants.items()
    }


def _side(name: str, side: Mapping[str, Any], stated: float | None) -> dict[str, Any]:
    return {
        "": name,
        "share of users": f"{side['share']:.4f}" if "share" in side else "",
        "stated": "" if stated is None else f"{stated:g}",
        **{of: str(side.get(of, "")) for of in ("requests", "users", "rows")},
        "mean label": interval_text(side["label"]),
        "GAUC": interval_text(side["gauc"]),
        "pairs": ", ".join(side.get("pairs", ())),
    }
