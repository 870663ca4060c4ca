"""`adc aggregate`: declared aggregates over files of events. Reads: a repository's declarations,
events in Parquet. Writes: rows in Parquet.
"""

from pathlib import Path
from typing import Annotated

import typer

from adc_features.cli.console import JsonOption, progress, report


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(aggregate)


def aggregate(
    repo: Annotated[
        Path,
        typer.Option("--repo", metavar="DIR", help="The Feast repository that declares the view."),
    ],
    events: Annotated[
        Path,
        typer.Option("--events", metavar="DIR", help="Parquet files of events, in name order."),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The directory to make; rows in DIR/rows.")
    ],
    view: Annotated[
        str | None, typer.Option(help="Which AggregateView; default the only one.")
    ] = None,
    memory_gb: Annotated[
        float, typer.Option(help="Memory of each job, about; says how many files are made.")
    ] = 2.0,
    jobs: Annotated[
        int, typer.Option(min=1, help="Processes that make rows; they change no row.")
    ] = 1,
    json: JsonOption = None,
) -> None:
    """Aggregate events that memory need not hold into point-in-time rows; stopped, the same command
    goes on where it was, and what is there already is not made again.
    """
    from adc_features.aggregates.event_files import files_of
    from adc_features.aggregates.partitioned import ROWS, write_rows
    from adc_features.live.repository import declared_view

    declared = declared_view(repo, view)
    with progress() as notify:
        rows = write_rows(
            declared,
            files_of(events),
            out,
            memory=int(memory_gb * (1 << 30)),
            jobs=jobs,
            progress=notify,
        )
    report({"view": declared.name, "rows": rows, "directory": str(out / ROWS)}, json)
