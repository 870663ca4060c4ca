"""The commands of training on a feature service of the user's own. Each is one call into
`training.ranker`; `train`, `evaluate` and `promote` come here when they are given --repo.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.errors import InputError
from adc_features.extras import in_words

log = logging.getLogger(__name__)

RankersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--ranker",
        metavar="NAME",
        help="With --repo: a ranker that its files declare; repeatable. Default: all.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        metavar="FILE|URL",
        help="With --repo: the label log, Parquet (s3:// too) or a database's SQLAlchemy URL.",
    ),
]
LabelsQueryOption = Annotated[
    str | None,
    typer.Option(
        "--labels-query", metavar="SQL", help="A table or a SELECT, where --labels is a URL."
    ),
]
LoggedOption = Annotated[
    bool,
    typer.Option(
        "--logged-values",
        help="With --repo: learn from served values, of `adc dataset --from-log`.",
    ),
]
RowsInFilesOption = Annotated[
    bool,
    typer.Option(
        "--rows-in-files",
        help=(
            "With --repo: join and encode the rows into files and learn from them, a buffer at a"
            " time; for networks on logs that memory does not hold."
        ),
    ),
]
ServiceOption = Annotated[
    str | None,
    typer.Option(
        "--service",
        help="With --repo: a feature service, every feature of it by rule, in place of --ranker.",
    ),
]
TaskOption = Annotated[
    list[str] | None,
    typer.Option("--task", metavar="NAME", help="With --service: a label column; repeatable."),
]
UserOption = Annotated[
    list[str] | None,
    typer.Option("--user", metavar="KEY", help="With --service: a join key of the user."),
]
ItemOption = Annotated[
    list[str] | None,
    typer.Option("--item", metavar="KEY", help="With --service: a join key of the candidate."),
]
RequestOption = Annotated[
    str | None,
    typer.Option("--request", metavar="COLUMN", help="With --service: names a row's request."),
]
ImportanceOption = Annotated[
    bool,
    typer.Option(
        "--importance/--no-importance",
        help=(
            "With --repo: also what each ranker leans on, which may take longer than training; `adc"
            " explain` says it of one."
        ),
    ),
]
ValidationOption = Annotated[
    str | None,
    typer.Option(
        "--validation-start",
        metavar="TIME",
        help="With --repo: where validation rows begin; default the day of the 80 % row.",
    ),
]
TestOption = Annotated[
    str | None,
    typer.Option(
        "--test-start",
        metavar="TIME",
        help="With --repo: where test rows begin; default the day of the 90 % row.",
    ),
]


RefreshOption = Annotated[
    list[str] | None,
    typer.Option(
        "--refresh",
        metavar="VIEW=SCHEDULE",
        help=(
            "Read what would have been online: how a view is refreshed, such as"
            " user_activity=1d@03:00+20m; repeatable. Default: what the repository says, else"
            " fresh."
        ),
    ),
]


def refresh_texts(options: Sequence[str] | None) -> dict[str, str] | None:
    """View -> schedule of --refresh; None without one. Raises InputError."""
    from adc_features.store.refresh import parse_refreshes

    return parse_refreshes(options) if options else None


def label_source(labels: str | None, query: str | None) -> Any:
    """The label log that options name. Raises InputError."""
    from adc_features.uris import is_address
    from training.ranker.label_sources import SqlLabels

    if labels is None:
        raise InputError("no label log; give --labels FILE, or --labels URL --labels-query SQL")
    if "://" in labels and not is_address(labels):
        if query is None:
            raise InputError("--labels is the URL of a database; give a table, --labels-query SQL")
        return SqlLabels(labels, query)
    if query is not None:
        raise InputError(f"--labels-query needs the URL of a database; --labels is {labels!r}")
    return labels if is_address(labels) else Path(labels)


def chosen_rankers(
    repo: Path,
    names: Sequence[str] | None,
    *,
    service: str | None,
    tasks: Sequence[str] | None,
    user: Sequence[str] | None,
    item: Sequence[str] | None,
    request: str | None,
) -> dict[str, Any]:
    """The declared rankers of these names (all of them without one), or one that options
    declare."""
    from adc_features.inputs.declaration import Ranker, Task
    from adc_features.inputs.references import near
    from adc_features.store.services.schema import declared_rankers

    if service is not None:
        if names and len(names) > 1:
            raise InputError("--service declares one ranker; give at most one --ranker, its name")
        if not tasks:
            raise InputError("--service needs a label: --task NAME, a column of the label log")
        name = names[0] if names else service
        declared = Ranker(
            service=service,
            tasks=[Task(task) for task in tasks],
            name=name,
            user=user or (),
            item=item or (),
            request=request,
        )
        return {name: declared}
    found = declared_rankers(repo)
    if not found:
        raise InputError(
            f"no Python file of {repo} declares a ranker; `adc inputs --repo {repo} --service NAME"
            " --write FILE.py` writes one, or give --service and --task"
        )
    if unknown := [name for name in names or () if name not in found]:
        raise InputError(
            f"{repo} declares no ranker {unknown[0]!r}{near(unknown[0], found)}; it declares"
            f" {', '.join(found)}"
        )
    return {name: found[name] for name in names or found}


def period_of(start: str | None, test: str | None) -> Any:
    """The period that --validation-start and --test-start tell."""
    from adc_features.clock import parse_utc
    from adc_features.data.windows import Windows
    from training.ranker.workflow import Period

    if (start is None) != (test is None):
        raise InputError("give both --validation-start and --test-start, or neither")
    if start is None or test is None:
        return Period()
    begin, end = (
        parse_utc(start, name="--validation-start"),
        parse_utc(test, name="--test-start"),
    )
    return Period(windows=Windows(begin, end, end))


def train_on_service(
    repo: Path,
    rankers: Mapping[str, Any],
    source: Any,
    *,
    seeds: int | None,
    quick: bool,
    final: bool,
    keep_negatives: float,
    period: Any,
    importance: bool,
    refresh: Mapping[str, str] | None = None,
    logged: bool = False,
    rows_in_files: bool = False,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train and judge; what the command prints."""
    from adc_features.cli.console import progress
    from training.ranker.fitting import TrainSettings
    from training.ranker.workflow import train_rankers

    if seeds is None:
        seeds = 1 if quick else TrainSettings().seeds
    settings = TrainSettings(seeds=seeds, quick=quick, keep_negatives=keep_negatives, device=device)
    with progress() as told:
        judged = train_rankers(
            repo,
            rankers,
            source,
            at=datetime.now(UTC),
            settings=settings,
            period=period,
            final=final,
            refresh=refresh,
            importance=importance,
            logged=logged,
            rows_in_files=rows_in_files,
            progress=told,
        )
    return _reported(repo, judged)


def evaluate_on_service(
    repo: Path,
    names: Sequence[str] | None,
    source: Any,
    *,
    final: bool,
    period: Any,
    importance: bool,
    refresh: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Judge the newest versions; what the command prints."""
    from adc_features.cli.console import progress
    from adc_features.serving.workspace import trained_names
    from training.ranker.workflow import evaluate_trained

    with progress() as told:
        judged = evaluate_trained(
            repo,
            names or trained_names(repo),
            source,
            period=period,
            final=final,
            refresh=refresh,
            importance=importance,
            progress=told,
        )
    return _reported(repo, judged)


def _reported(repo: Path, judged: Any) -> dict[str, Any]:
    """What was judged, also as the page <repo>/rankers/report.html where the extra `report` is
    installed."""
    from adc_features.serving.workspace import report_path
    from training.ranker.workflow import best_ranker

    facts = judged.to_dict()
    if judged.window == "validation":
        found = best_ranker(repo)
        choice = {"name": found.name, "why": found.why}
    else:
        choice = {"name": "", "why": "these are test rows, on which no ranker is chosen"}
    facts["choice"] = choice

    def page() -> str:
        from training.reports.rankers_page import rankers_page

        return rankers_page(facts, choice=choice)

    return facts | page_written("report", report_path(repo), page)


def page_written(name: str, path: Path, page: Callable[[], str]) -> dict[str, str]:
    """Write a page where the extra `report` is installed: {name: path}, else nothing."""
    try:
        from training.reports.pages import write_page

        write_page(path, page())
    except ModuleNotFoundError as error:
        if (missing := in_words(error)) is None:
            raise
        log.warning("stage=report error=%s: no %s is written", missing, path.name)
        return {}
    return {name: str(path)}


def explain_on_service(
    repo: Path,
    name: str | None,
    source: Any,
    *,
    task: str | None,
    permutations: int,
    final: bool,
    period: Any,
) -> dict[str, Any]:
    """What a trained ranker leans on; what the command prints."""
    from adc_features.cli.console import progress
    from adc_features.serving.workspace import trained_names
    from training.ranker.explain import explain_ranker

    if name is None:
        names = trained_names(repo)
        if len(names) != 1:
            raise InputError(
                f"trained in {repo} are {', '.join(names) or 'no rankers'}; "
                + (
                    "name one, --ranker NAME"
                    if names
                    else f"run `adc train --repo {repo} --labels FILE` first"
                )
            )
        name = names[0]
    with progress() as told:
        found = explain_ranker(
            repo,
            name,
            source,
            task=task,
            windows=period.windows,
            final=final,
            permutations=permutations,
            progress=told,
        )
    return found.to_dict()


def scores_text(facts: Mapping[str, Any]) -> str:
    """The metrics of every ranker and task with their 95 % intervals, and paired differences."""
    from adc_features.cli.console import table
    from training.evaluation.covers import RANKERS
    from training.ranker.codes_help import codes_help

    lines = [f"judged on the {facts['window']} window"]
    if facts["window"] == "validation":
        lines.append("(training calibrates on it too: only later rows tell how well calibrated)")
    about: Mapping[str, Any] = facts.get("about") or {}
    first: Mapping[str, Any] = next(iter(about.values()), {})
    if judged := (first.get("refresh") or {}).get("judged"):
        said = ", ".join(f"{view} {one['schedule']}" for view, one in judged.items())
        lines.append(f"(rows read what would have been online: {said})")
    for task, found in facts["tasks"].items():
        users = "no users" if found["users"] is None else f"{found['users']} users with both"
        lines.append(f"\ntask {task}: {found['rows']} rows, {found['positives']} positive, {users}")
        rows = [
            {"ranker": name, **{metric: interval_text(scores[metric]) for metric in _shown(found)}}
            for part in ("rankers", "paired")
            for name, scores in found[part].items()
        ]
        lines.append(table(rows))
    lines += ["", *codes_help(facts), RANKERS]
    if facts.get("choice", {}).get("name"):
        lines.append(f"\n`adc promote` would take {facts['choice']['name']}:")
        lines.append(facts["choice"]["why"])
    if "report" in facts:
        lines.append(f"report: {facts['report']}")
    return "\n".join(lines)


def _shown(task: Mapping[str, Any]) -> list[str]:
    gauc = [] if task["users"] is None else ["gauc"]
    names = ["auc", *gauc, "logloss", "calibration"]
    return names if task["requests"] is None else [*names, "request_gauc", "ndcg", "mrr"]


def interval_text(found: Mapping[str, Any] | None) -> str:
    """A metric with its 95 % interval; "-" where it is not defined."""
    if not found or found["mean"] is None or found["mean"] != found["mean"]:
        return "-"
    return f"{found['mean']:.4f} [{found['low']:.4f}, {found['high']:.4f}]"
