"""The commands that make a dataset directory and turn items into vectors."""

from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, RunOption, progress, report
from adc_features.cli.engines import EngineOption, EngineSetOption, chosen_engine
from adc_features.cli.runs import (
    CompleteOption,
    DataOption,
    DeviceOption,
    FinalOption,
    OptionalRunOption,
    SeedOption,
    build,
)
from adc_features.errors import InputError

data = typer.Typer(no_args_is_help=True, help="Make a dataset directory.")


embed = typer.Typer(no_args_is_help=True, help="Turn items into vectors.")


OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The dataset directory to write.")
]


@data.command("synthetic")
def data_synthetic(
    out: OutOption,
    seed: int = 0,
    items: int = 2000,
    users: int = 2500,
    interactions: int = 40_000,
    json: JsonOption = None,
) -> None:
    """Generate a long-tail catalogue whose truth is known."""
    from adc_features.data.dataset import write_dataset
    from adc_features.data.synthetic import synthetic, write_truth

    made = synthetic(seed=seed, items=items, users=users, interactions=interactions)
    write_dataset(made.dataset, out)
    write_truth(made.truth, out.with_name(out.name + "-truth.npz"))
    _dataset_report(made.dataset, out, json)


@data.command("beauty")
def data_beauty(
    source: Annotated[
        Path,
        typer.Option(
            "--source", metavar="DIR", help="Directory of the Parquet or published files."
        ),
    ],
    out: OutOption,
    json: JsonOption = None,
) -> None:
    """Read Amazon Reviews 2014, category Beauty, 5-core."""
    from adc_features.data.beauty import beauty
    from adc_features.data.dataset import write_dataset

    dataset = beauty(source)
    write_dataset(dataset, out)
    _dataset_report(dataset, out, json)


@data.command("tables")
def data_tables(
    items: Annotated[
        str,
        typer.Option(
            help=(
                "Parquet path or '<SQLAlchemy URL>#<table>' with item_id and vector_<modality>"
                " columns."
            )
        ),
    ],
    interactions: Annotated[
        str,
        typer.Option(
            help="Parquet path or '<SQLAlchemy URL>#<table>' with user_id, item_id, time and label."
        ),
    ],
    out: OutOption,
    text: Annotated[
        list[str] | None,
        typer.Option(help="modality=column[,column...]: item text to embed; repeatable."),
    ] = None,
    validation_start: Annotated[
        str | None,
        typer.Option(help="First time of the validation window; default: the 80 % row's day."),
    ] = None,
    test_start: Annotated[
        str | None, typer.Option(help="First time of the test rows; default: the 90 % row's day.")
    ] = None,
    complete_through: CompleteOption = None,
    json: JsonOption = None,
) -> None:
    """Read your own items and interactions."""
    from adc_features.clock import parse_utc
    from adc_features.data.dataset import dataset_from_tables, read_table, write_dataset

    complete = parse_utc(complete_through, name="--complete-through") if complete_through else None
    dataset = dataset_from_tables(
        out.name,
        read_table(items),
        read_table(interactions),
        text_views=_text_views(text or []),
        windows=_windows(validation_start, test_start),
        complete_through=complete,
    )
    write_dataset(dataset, out)
    _dataset_report(dataset, out, json)


def _windows(validation_start: str | None, test_start: str | None) -> Any:
    """The windows that the options name; None where neither is given."""
    from adc_features.clock import parse_utc
    from adc_features.data.dataset import Windows

    if not (validation_start or test_start):
        return None
    if not (validation_start and test_start):
        raise InputError(
            "only one of --validation-start and --test-start is given; give both or neither"
        )
    end = parse_utc(test_start, name="--test-start")
    return Windows(parse_utc(validation_start, name="--validation-start"), end, end)


def _text_views(options: list[str]) -> dict[str, tuple[str, ...]]:
    """The columns of each modality that `--text` names."""
    views = {}
    for view in options:
        modality, equals, columns = view.partition("=")
        if not (modality and equals and columns):
            raise InputError(
                f"--text is {view!r}; expected modality=column[,column...], for example title=title"
            )
        views[modality] = tuple(columns.split(","))
    return views


def _dataset_report(dataset: Any, out: Path, json: str | None) -> None:
    facts = {
        "dataset": str(out),
        "items": len(dataset.items),
        "interactions": len(dataset.interactions),
        "resolution_seconds": dataset.resolution.total_seconds(),
    }
    report(
        {
            **facts,
            "modalities": [*dataset.vector_modalities, *dataset.text_views],
            "next": f"adc run --data {out}",
        },
        json,
    )


@embed.command("text")
def embed_text(
    run: OptionalRunOption = None,
    data: DataOption = None,
    model: Annotated[str | None, typer.Option(help="sentence-transformers name or path.")] = None,
    items: Annotated[
        str | None,
        typer.Option(metavar="URI", help="In place of a run: Parquet items of any number."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(metavar="MODALITY=COLUMN[,COLUMN...]", help="Of --items; repeatable."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="URI", help="The folder to write.")] = None,
    engine: EngineOption = "local",
    engine_set: EngineSetOption = None,
    seed: SeedOption = None,
    final: FinalOption = None,
    json: JsonOption = None,
) -> None:
    """Embed the text views of the items of a run, vectors cached by content; or those of items in
    files (--items), on one machine or many.
    """
    if items is not None:
        if run is not None or out is None or not text or model is None:
            raise typer.BadParameter("--items needs --text, --model and --out, and no --run")
        from adc_features.encoding import embed_files

        with progress() as notify:
            made = embed_files(
                items,
                out,
                _text_views(text),
                model=model,
                engine=chosen_engine(engine, engine_set),
                progress=notify,
            )
        report({"out": out, "engine": engine, "items": made["items"]}, json)
        return
    if run is None or text or out is not None:
        raise typer.BadParameter("give --run, or --items with --text, --model and --out")
    from adc_features.pipeline.stages import DATA, TEXT

    build(run, DATA, TEXT, json=json, source=data, text_model=model, seed=seed, final=final)


@embed.command("unisid")
def embed_unisid(
    generation: Annotated[
        Path, typer.Option(metavar="DIR", help="A generation of unisid_e2e.", exists=True)
    ],
    items: Annotated[Path, typer.Option(metavar="FILE", help="Item table, with titles.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The Parquet file to write.")],
    json: JsonOption = None,
) -> None:
    """Write an item table with the EMB vectors of a unisid_e2e generation as `vector_unisid`: a
    modality of any other tokenizer, and a vector for a ranker.
    """
    from adc_features.codes.generation import open_generation
    from adc_features.codes.raw_items import RawItems
    from adc_features.data.dataset import read_table
    from adc_features.data.raw_items import raw_items
    from adc_features.parquet_files import write_table
    from adc_features.tokenizer.item_vectors import raw_vectors

    table = read_table(str(items))
    raw: RawItems = raw_items(table, folder=items.parent)
    vectors = raw_vectors(raw, open_generation(generation))
    if "vector_unisid" in table.column_names:
        table = table.drop_columns("vector_unisid")
    write_table(table.append_column("vector_unisid", vectors), out)
    report({"items": len(table), "without": vectors.null_count, "file": str(out)}, json)


@embed.command("behavior")
def embed_behavior(
    run: RunOption,
    data: DataOption = None,
    encoder: Annotated[
        str | None, typer.Option(help="sasrec (the default), sasrec_content or wmf_content.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Of sasrec: full_softmax, sampled_softmax or norm_rising.")
    ] = None,
    snapshots: Annotated[
        int | None, typer.Option(help="Past cut-offs besides the split's.")
    ] = None,
    seed: SeedOption = None,
    final: FinalOption = None,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Learn item vectors from the events up to each cut-off."""
    from adc_features.pipeline.recipes import behavior_recipe
    from adc_features.pipeline.stages import BEHAVIOR_STAGE, DATA

    build(
        run,
        DATA,
        BEHAVIOR_STAGE,
        json=json,
        source=data,
        behavior=behavior_recipe(encoder, recipe),
        snapshots=snapshots,
        seed=seed,
        final=final,
        device=device,
    )
