"""The commands that join labels and features, and that look for what should not be among them. Each
is one call of one stage.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from adc_features.cli.console import DIFFERENT, JsonOption, report
from adc_features.cli.runs import OptionalRunOption, RepoOption, build
from adc_features.errors import InputError
from training.cli.ranker_deployment import ServedOption, audit_on_service, served_ranker
from training.cli.rankers import LabelsOption, LabelsQueryOption, label_source

if TYPE_CHECKING:
    from adc_features.served.dataset_settings import DatasetSettings
    from adc_features.served.outcomes import Target

EventsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE|URL",
        help="With --from-log: events with request id, item and time; Parquet or a database.",
    ),
]
LogOption = Annotated[
    Path | None,
    typer.Option(
        "--from-log", metavar="DIR", help="In place of --run: join labels to what was served."
    ),
]
NamedTaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="Without --repo: a task; repeatable."),
]
WindowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--window",
        metavar="TASK=DURATION",
        help="The attribution window of a task; default its delay, else 30min. Repeatable.",
    ),
]
NegativesOption = Annotated[
    str,
    typer.Option(metavar="shown|ranked:M|all", help="Which candidates are negatives."),
]
UntilOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Labels are complete up to it; default the last one."),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to an app."""
    for command in (dataset, audit):
        app.command()(command)


# as long as its options
def dataset(
    run: OptionalRunOption = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help=(
                "Prove that the joined rows are those of the retrieval manifest, on disk and joined"
                " anew."
            ),
        ),
    ] = False,
    from_log: LogOption = None,
    labels: EventsOption = None,
    labels_query: LabelsQueryOption = None,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    task: NamedTaskOption = None,
    window: WindowOption = None,
    negatives: NegativesOption = "shown",
    until: UntilOption = None,
    logged_values: Annotated[
        bool,
        typer.Option("--logged-values", help="Put the values that were scored beside the labels."),
    ] = False,
    rank_as: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Write the place in the answer, from 0."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.parquet", help="With --from-log: the label log.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Join the labelled rows with the features that were knowable at their time.

    With --from-log: make a label log of what was served, for `adc train --repo`.
    """
    if (run is None) == (from_log is None):
        raise typer.BadParameter("give one of --run and --from-log")
    if from_log is not None:
        if out is None:
            raise typer.BadParameter("--from-log needs --out FILE.parquet")
        made = dataset_of_log(
            from_log,
            label_source(labels, labels_query),
            named=(repo, ranker, task or [], window or []),
            until=until,
            out=out,
            negatives=negatives,
            logged_values=logged_values,
            rank_as=rank_as,
        )
        report(made, json)
        return
    assert run is not None
    from adc_features.pipeline.run import Run
    from training.stages import DATASET, verify_dataset

    if verify:
        report({"equal": True, **verify_dataset(Run.open(run))}, json)
    else:
        build(run, DATASET, json=json)


def audit(
    frame: Annotated[
        Path | None, typer.Argument(metavar="[FRAME]", help="A Parquet frame, of any origin.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Audit the joined rows of a run.")
    ] = None,
    row_time: Annotated[
        str, typer.Option(metavar="COLUMN", help="The time of each row.")
    ] = "event_timestamp",
    feature_time: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW=COLUMN",
            help=(
                "When a view's feature became valid; repeatable. Default: the columns of our"
                " frames."
            ),
        ),
    ] = None,
    label_time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="When the label happened; default the row's time."),
    ] = None,
    close: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="A feature this near before the label is counted as suspicious.",
        ),
    ] = 0.0,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    online: Annotated[
        bool,
        typer.Option(help="With --repo: compare the online store with the offline one, too."),
    ] = True,
    served: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With --repo: compare a log of `adc serve --log` with history."
        ),
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="With --served: so many requests; default all."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="With --served: write the report as a page."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """How old each view's features are at their rows; fails when any is from the future.

    With --repo and --labels: join a sample of the log, and find each value in its source.
    With --repo and --served: compare what was served with the point-in-time join; exits with 10
    where anything differs.
    """
    if served is not None:
        if repo is None:
            raise typer.BadParameter("--served compares a log with history; give --repo")
        audit_of_log(served, repo, sample=sample, seed=seed, page=page, json=json)
        return
    if repo is not None:
        if frame is not None or run is not None:
            raise typer.BadParameter("give one of a Parquet frame, --run and --repo")
        source = (labels, labels_query)
        audit_on_service(repo, ranker, source, close=close, online=online, json=json)
        return
    from adc_features.pipeline.audit import audit as audit_frame
    from adc_features.pipeline.run import Run
    from training.stages import DATASET, FRAME

    if (frame is None) == (run is None):
        raise typer.BadParameter("give a Parquet frame, --run or --repo")
    if wrong := [named for named in feature_time or [] if not all(named.partition("="))]:
        raise typer.BadParameter(f"--feature-time {wrong[0]!r} is not VIEW=COLUMN")
    columns = dict(named.split("=", 1) for named in feature_time) if feature_time else None
    path = frame if run is None else Run.open(run).output(DATASET) / FRAME
    assert path is not None
    found = audit_frame(
        path,
        row_time=row_time,
        feature_times=columns,
        label_time=label_time,
        close=timedelta(seconds=close),
    )
    report(asdict(found), json)
    found.require_clean()


class Asked(NamedTuple):
    """What options say of a log that labels are joined to."""

    ranker: str | None
    events: Any
    targets: "list[Target]"
    settings: "DatasetSettings"


def asked_of_log(
    source: Any,
    *,
    named: tuple[Path | None, str | None, Sequence[str], Sequence[str]],
    until: str | None,
    **chosen: Any,
) -> Asked:
    """Events, tasks and settings, read and checked. Raises InputError.

    named: --repo, --ranker, --task and --window. chosen: of DatasetSettings.
    """
    import pyarrow.dataset as ds

    from adc_features.clock import parse_utc
    from adc_features.served.dataset_settings import DatasetSettings
    from adc_features.store.services.schema import declared_rankers
    from training.ranker.label_sources import open_labels

    repo, ranker, tasks, windows = named
    declared: Any = None
    if repo is not None:
        if tasks:
            raise InputError("the ranker of --repo declares the tasks; leave --task out")
        ranker, found = served_ranker(repo, ranker), declared_rankers(repo)
        if ranker not in found:
            raise InputError(
                f"{repo} declares no ranker {ranker!r}; it declares {', '.join(found) or 'none'}"
            )
        declared = found[ranker]
        chosen |= {"request": declared.request or "request_id", "weight": declared.sample_weight}
    settings = DatasetSettings(until=parse_utc(until, name="--until") if until else None, **chosen)
    targets = targets_of(declared.tasks if declared else tasks, windows)
    opened = open_labels(source).whole
    events = opened.to_table() if isinstance(opened, ds.Dataset) else opened
    return Asked(ranker, events, targets, settings)


def dataset_of_log(log: Path, source: Any, *, out: Path, **chosen: Any) -> dict[str, Any]:
    """Write the label log of what was served; what the command prints.

    chosen: of `asked_of_log`.
    """
    from adc_features.artifact import fresh_file
    from adc_features.parquet_files import write_table
    from adc_features.served.dataset import served_dataset

    asked = asked_of_log(source, **chosen)
    table, told = served_dataset(
        log, asked.events, asked.targets, ranker=asked.ranker, settings=asked.settings
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(out) as file:
        write_table(table, file, compression="zstd")
    return {"labels": str(out), **told.to_dict()}


def targets_of(tasks: Sequence[Any], windows: Sequence[str]) -> "list[Target]":
    """Tasks, declared or by name, with their attribution windows. Raises InputError.

    windows: TASK=DURATION each; other tasks have their delay, else 30 minutes.
    """
    from adc_features.inputs.declaration import Task
    from adc_features.served.outcomes import DEFAULT_WINDOW, Target
    from training.ranker.ripening import parse_duration

    declared = [Task(task) if isinstance(task, str) else task for task in tasks]
    given = {}
    for text in windows:
        name, equals, duration = text.partition("=")
        if not equals or name not in {task.name for task in declared}:
            raise InputError(
                f"--window {text!r}; expected TASK=DURATION such as click=30min, of"
                f" {', '.join(task.name for task in declared) or 'a task that is named'}"
            )
        given[name] = parse_duration(duration, name=f"--window {name}")
    return [
        Target(
            task.name,
            given.get(task.name)
            or (parse_duration(task.delay, name=task.name) if task.delay else DEFAULT_WINDOW),
            task.column or task.name,
            task.known_at,
        )
        for task in declared
    ]


def audit_of_log(
    log: Path, repo: Path, *, sample: int | None, seed: int, page: Path | None, json: Any
) -> None:
    """Compare, print, and exit with 10 where a served value is not what history says."""
    from adc_features.cli.console import table
    from adc_features.served.audit import served_skew, skew_rows
    from adc_features.served.page import write_page

    found = served_skew(log, repo, sample=sample, seed=seed)
    if page is not None:
        write_page(page, found)

    def text(told: Any) -> str:
        gone = f"\nno longer offered: {', '.join(found.gone)}" if found.gone else ""
        return (
            f"{told['requests']} requests, {told['candidates']} candidates,"
            f" {told['different']} values differ{gone}\n{table(skew_rows(found))}"
        )

    report(found.to_dict(), json, text=text)
    if found.different or found.gone:
        sys.exit(DIFFERENT)
