"""`adc freshness`: what a ranker loses when its features get online later."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, progress, report, table
from adc_features.cli.runs import OptionalRunOption, RepoOption, one_of
from adc_features.errors import InputError
from training.cli.rankers import (
    LabelsOption,
    LabelsQueryOption,
    TestOption,
    ValidationOption,
    label_source,
    page_written,
    period_of,
)

PAGE = "freshness.html"


# as long as its options
def freshness(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    recipe: Annotated[
        str, typer.Option(help="With --run: the recipe that is trained.")
    ] = "xgboost_no_sid",
    ranker: Annotated[
        str | None,
        typer.Option(
            "--ranker",
            metavar="NAME",
            help="With --repo: a ranker that its files declare; default the only one.",
        ),
    ] = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="VIEW", help="A view that gets older; default: all."),
    ] = None,
    intervals: Annotated[
        str,
        typer.Option(help="From one refresh to the next, comma-separated."),
    ] = "0,1s,1m,10m,1h,6h,1d,7d",
    retrain: Annotated[
        bool,
        typer.Option(
            "--retrain/--no-retrain", help="Also train a ranker on rows as stale as those scored."
        ),
    ] = True,
    validation_start: ValidationOption = None,
    test_start: TestOption = None,
    final: Annotated[
        bool, typer.Option("--final", help="With --repo: judge on test rows, once, at the end.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="With --repo: one round of each model.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Models of each ranker.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE", help=f"The page; default {PAGE} in the run or repository."
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Score a ranker by how often its views are refreshed online: what streaming would earn.

    Each view alone gets older, from seconds to a week, then all together; one ranker is trained on
    fresh rows, one on rows as old as those that it scores.
    """
    from adc_features.store.durations import parse_duration

    one_of(run, repo)
    steps = [parse_duration(text) for text in intervals.split(",")]
    with progress() as told:
        if repo is not None:
            found = _of_service(
                repo,
                ranker,
                label_source(labels, labels_query),
                period=period_of(validation_start, test_start),
                final=final,
                settings={"seeds": seeds, "quick": quick},
                views=view,
                steps=steps,
                retrain=retrain,
                progress=told,
            )
        else:
            assert run is not None
            found = _of_run(
                run, recipe, seeds=seeds, views=view, steps=steps, retrain=retrain, progress=told
            )
    facts = found.to_dict()

    def page() -> str:
        from training.reports.freshness_page import freshness_page

        return freshness_page(facts)

    place = out or (repo or run or Path()) / PAGE
    report(facts | page_written("page", place, page), json, text=freshness_text)


def _of_service(
    repo: Path,
    name: str | None,
    source: Any,
    *,
    period: Any,
    final: bool,
    settings: Mapping[str, Any],
    views: list[str] | None,
    steps: list[Any],
    retrain: bool,
    progress: Any,
) -> Any:
    from adc_features.store.freshness import check_views, declared_refresh, snapshot_gap
    from adc_features.store.services.schema import declared_rankers
    from training.freshness.curve import freshness_curve
    from training.freshness.subjects import ServiceSubject
    from training.ranker.fitting import TrainSettings
    from training.ranker.refresh import stored_views

    declared = declared_rankers(repo)
    if name is None and len(declared) == 1:
        name = next(iter(declared))
    if name not in declared:
        raise InputError(
            f"{repo} declares the rankers {sorted(declared)}; name one of them, --ranker NAME"
        )
    subject = ServiceSubject(
        repo,
        declared[name],
        source,
        settings=TrainSettings(**settings),
        period=period,
        final=final,
        progress=progress,
    )
    known = {v: g for v, g in stored_views(subject.schema).items() if v in subject.views}
    check_views(views or (), known)
    return freshness_curve(
        subject,
        views or sorted(known),
        intervals=steps,
        like=declared_refresh(repo, known),
        least={v: snapshot_gap(repo, g) for v, g in known.items() if g is not None},
        retrain=retrain,
        progress=progress,
    )


def _of_run(
    directory: Path,
    recipe: str,
    *,
    seeds: int,
    views: list[str] | None,
    steps: list[Any],
    retrain: bool,
    progress: Any,
) -> Any:
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.run_refresh import refresh_of, views_of
    from adc_features.pipeline.stages import repository_of
    from adc_features.ranking.recipes import recipe as recipe_named
    from adc_features.store.freshness import check_views, snapshot_gap
    from training.freshness.curve import freshness_curve
    from training.freshness.subjects import run_subject

    reads_codes = recipe_named(recipe).codes != "none"
    run = Run.open(directory)
    known = views_of(run.settings)
    if not reads_codes:
        known = {view: generation for view, generation in known.items() if generation is None}
    check_views(views or (), known)
    repo = repository_of(run)
    return freshness_curve(
        run_subject(run, recipe, seeds=seeds),
        views or sorted(known),
        intervals=steps,
        like=refresh_of(repo, run.settings),
        least={v: snapshot_gap(repo, g) for v, g in known.items() if g is not None},
        retrain=retrain,
        progress=progress,
    )


def freshness_text(facts: Mapping[str, Any]) -> str:
    """AUC by refresh interval, a table for each view, and how old what is read is."""
    lines = [f"{facts['name']}: {facts['rows']} rows of the {facts['window']} window"]
    for name, points in facts["curves"].items():
        rows = []
        for point in points:
            lost, gained = point["lost_fresh"]["auc"], point["gained"]
            row = {"refresh": point["interval"], "rows changed": _share(point["changed"])}
            row["AUC, trained fresh"] = f"{point['fresh']['auc']['mean']:.4f}"
            row["difference"] = _difference(lost)
            if point["stale"] is not None:
                row["AUC, trained so"] = f"{point['stale']['auc']['mean']:.4f}"
                row["earned"] = _difference(gained["auc"])
            rows.append(row)
        lines += ["", f"{name} gets older", table(rows)]
        if name in facts["left_out"]:
            lines.append(facts["left_out"][name])
    for view, found in facts["ages"].items():
        shares = ", ".join(f"{_share(s)} within {step}" for step, s in found["younger"].items())
        lines += ["", f"fresh rows read of {view}: {shares}; {_share(found['nothing'])} nothing"]
    if "page" in facts:
        lines += ["", f"page: {facts['page']}"]
    return "\n".join(lines)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _difference(found: Mapping[str, float]) -> str:
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
