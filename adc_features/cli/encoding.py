"""`adc encode`: codes of a catalogue from files to files, on one machine or many. Reads: items in
Parquet, a generation. Writes: codes in Parquet.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, progress, report
from adc_features.cli.engines import EngineOption, EngineSetOption, chosen_engine
from adc_features.cli.runs import OptionalRunOption


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(encode)


def encode(
    items: Annotated[
        str,
        typer.Option(
            "--items",
            metavar="URI",
            help="Parquet file or folder: item_id, interaction_count, vector_<modality>.",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", metavar="URI", help="The folder to write; every worker sees it.")
    ],
    generation: Annotated[
        Path | None,
        typer.Option("--generation", metavar="DIR", help="The frozen tokenizer's directory."),
    ] = None,
    run: OptionalRunOption = None,
    engine: EngineOption = "local",
    engine_set: EngineSetOption = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            "--as-of", metavar="TIME", help="Cut-off of the items, where the files do not say it."
        ),
    ] = None,
    previous: Annotated[
        Path | None,
        typer.Option(
            "--previous",
            metavar="FILE",
            help="Packed snapshot whose codes are held; with --run the published one before.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Encode items of any number from Parquet to Parquet, in bounded memory; stopped, the same
    command goes on where it was.
    """
    from adc_features.clock import parse_utc
    from adc_features.encoding import encode_files

    frozen, held = _tokenizer(generation, run, previous)
    with progress() as notify:
        made = encode_files(
            items,
            out,
            frozen,
            engine=chosen_engine(engine, engine_set),
            as_of=parse_utc(as_of, name="--as-of") if as_of else None,
            previous=held,
            progress=notify,
        )
    facts = {k: v for k, v in made.manifest.items() if k in _SHOWN}
    report({"out": out, "engine": engine, **facts}, json)


_SHOWN = (
    "generation",
    "as_of",
    "items",
    "cold_items",
    "distinct_codes",
    "largest_collision",
)


def _tokenizer(generation: Path | None, run: Path | None, previous: Path | None) -> Any:
    """The generation's directory, and the snapshot to hold on to or what tells it."""
    if run is None and generation is not None:
        return generation, previous
    if run is None or generation is not None:
        raise typer.BadParameter("give --generation or --run")
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.snapshots import snapshot_before

    opened = Run.open(run)

    def before(as_of: datetime) -> Path | None:
        return snapshot_before(opened, as_of)

    return opened.output("generation") / "generation", previous or before
