"""The options that commands of a run share, and how one is opened and built."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.cli.console import progress, report

if TYPE_CHECKING:  # numpy and pyarrow would make every `adc --help` wait
    from adc_features.pipeline.run import Run, Stage

DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|synthetic",
        help="Data source; needed for the first command of a run.",
    ),
]


OptionalRunOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="A run directory.")
]


RepoOption = Annotated[
    Path | None,
    typer.Option("--repo", metavar="DIR", help="A Feast repository, in place of --run."),
]


SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]


DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="cpu|cuda|auto",
        help="Where fits compute; auto is cuda where there is one. Default: cpu.",
    ),
]


CompleteOption = Annotated[
    str | None,
    typer.Option(
        "--complete-through",
        metavar="TIME",
        help=(
            "Every event before this time is in the data; default what the data says, else the end"
            " of its last event's day."
        ),
    ),
]


FinalOption = Annotated[
    bool | None,
    typer.Option(
        "--final/--validation", help="Score the test rows instead of the validation window."
    ),
]


def one_of(run: Path | None, repo: Path | None) -> None:
    """Raise BadParameter unless exactly one of --run and --repo was given."""
    if (run is None) == (repo is None):
        raise typer.BadParameter("give --run or --repo")


def open_run(
    directory: Path, source: str | None, notify: Any, *, fits: bool = True, **changes: Any
) -> "Run":
    """Start a run when `source` is given, open it otherwise. fits: its generation will be built,
    which is refused before any work, and before the new settings are kept, where other codes would
    take the id of a published one.
    """
    from adc_features.pipeline.run import Run, RunSettings

    changes = {k: v for k, v in changes.items() if v is not None}
    if source is not None and Path(source).is_dir():
        source = str(Path(source).resolve())  # the next command may run elsewhere
    if source is None or (directory / "run.json").is_file():
        check: Callable[[Run], None] | None = None
        if fits:
            from adc_features.pipeline.code_stages import refuse_refit

            check = refuse_refit
        return Run.open(directory, progress=notify, check=check, source=source, **changes)
    return Run.start(directory, RunSettings(source=source, **changes), progress=notify)


def build(
    directory: Path, *stages: "Stage", json: str | None, source: str | None = None, **changes: Any
) -> None:
    """Build or reuse these stages and report the last one's manifest facts."""
    with progress() as notify:
        run = open_run(
            directory, source, notify, fits="generation" in (s.name for s in stages), **changes
        )
        for stage in stages:
            manifest = run.ensure(stage)
    report(
        {
            "stage": manifest["stage"],
            "reused": stages[-1].name in run.reused,
            "seconds": manifest["seconds"],
            **manifest["facts"],
        },
        json,
    )
