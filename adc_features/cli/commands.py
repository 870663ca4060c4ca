"""Library commands. Each is one call of one stage; `adc_features.cli.main` adds the others to the
same app.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from adc_features.cli.console import JsonOption, RunOption, progress, report
from adc_features.errors import InputError
from adc_features.pipeline.run import Run, RunSettings, Stage

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reliability-aware semantic IDs as Feast features for ranking.",
)
data = typer.Typer(no_args_is_help=True, help="Make a dataset directory.")
embed = typer.Typer(no_args_is_help=True, help="Turn items into vectors.")
app.add_typer(data, name="data")
app.add_typer(embed, name="embed")

OutOption = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="The dataset directory to write.")
]
DataOption = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR|synthetic",
        help="Data source; needed for the first command of a run.",
    ),
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything random.")]
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


def open_run(directory: Path, source: str | None, notify: Any, **changes: Any) -> Run:
    """Start a run when `source` is given, open it otherwise."""
    changes = {k: v for k, v in changes.items() if v is not None}
    if source is not None and Path(source).is_dir():
        source = str(Path(source).resolve())  # the next command may run elsewhere
    if source is None:
        return Run.open(directory, progress=notify, **changes)
    if (directory / "run.json").is_file():
        return Run.open(directory, progress=notify, source=source, **changes)
    return Run.start(directory, RunSettings(source=source, **changes), progress=notify)


def build(
    directory: Path, *stages: Stage, json: str | None, source: str | None = None, **changes: Any
) -> None:
    """Build or reuse these stages and report the last one's manifest facts."""
    with progress() as notify:
        run = open_run(directory, source, notify, **changes)
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
    from adc_features.data.dataset import Windows, dataset_from_tables, read_table, write_dataset

    windows = None
    if validation_start or test_start:
        if not (validation_start and test_start):
            raise InputError(
                "only one of --validation-start and --test-start is given; give both or neither"
            )
        end = parse_utc(test_start, name="--test-start")
        windows = Windows(parse_utc(validation_start, name="--validation-start"), end, end)
    views = {}
    for view in text or []:
        modality, equals, columns = view.partition("=")
        if not (modality and equals and columns):
            raise InputError(
                f"--text is {view!r}; expected modality=column[,column...], for example title=title"
            )
        views[modality] = tuple(columns.split(","))
    complete = parse_utc(complete_through, name="--complete-through") if complete_through else None
    dataset = dataset_from_tables(
        out.name,
        read_table(items),
        read_table(interactions),
        text_views=views,
        windows=windows,
        complete_through=complete,
    )
    write_dataset(dataset, out)
    _dataset_report(dataset, out, json)


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
    run: RunOption,
    data: DataOption = None,
    model: Annotated[str | None, typer.Option(help="sentence-transformers name or path.")] = None,
    seed: SeedOption = None,
    final: FinalOption = None,
    json: JsonOption = None,
) -> None:
    """Embed the text views of the items; vectors are cached by content."""
    from adc_features.pipeline.stages import DATA, TEXT

    build(run, DATA, TEXT, json=json, source=data, text_model=model, seed=seed, final=final)


@embed.command("behavior")
def embed_behavior(
    run: RunOption,
    data: DataOption = None,
    recipe: Annotated[str | None, typer.Option(help="full_softmax or norm_rising.")] = None,
    snapshots: Annotated[
        int | None, typer.Option(help="Past cut-offs besides the split's.")
    ] = None,
    seed: SeedOption = None,
    final: FinalOption = None,
    json: JsonOption = None,
) -> None:
    """Train SASRec up to each cut-off and export its item vectors."""
    from adc_features.pipeline.stages import BEHAVIOR_STAGE, DATA

    build(
        run,
        DATA,
        BEHAVIOR_STAGE,
        json=json,
        source=data,
        behavior=recipe,
        snapshots=snapshots,
        seed=seed,
        final=final,
    )


@app.command()
def fit(
    run: RunOption,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help=(
                "Recipe: adc, an ablation of it, or rq_vae, rq_kmeans, opq, letter, das, mm_rq_vae,"
                " mmq, unisid."
            )
        ),
    ] = None,
    reliability: Annotated[
        str | None, typer.Option(help="log_count, norm or norm_quantile.")
    ] = None,
    codebook_size: Annotated[int | None, typer.Option(help="K, codes per position.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    generation: Annotated[
        str | None, typer.Option(help="Id of the new generation, for example g2.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Fit the tokenizer on the embeddings of all cut-offs and freeze it as a generation."""
    from adc_features.pipeline.stages import GENERATION

    build(
        run,
        GENERATION,
        json=json,
        tokenizer=tokenizer,
        reliability=reliability,
        codebook_size=codebook_size,
        steps=steps,
        generation=generation,
    )


@app.command()
def quality(run: RunOption, json: JsonOption = None) -> None:
    """Show the quality report of the run's generation."""
    from adc_features.pipeline.stages import generation_of

    report(generation_of(Run.open(run)).quality, json)


@app.command()
def publish(
    run: RunOption,
    publish_lag_hours: Annotated[
        int | None, typer.Option(help="Hours from a cut-off until its codes could be served.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Encode every cut-off with the frozen generation and publish codes and statistics into the
    run's Feast repository.
    """
    from adc_features.pipeline.stages import CODES, PUBLICATION

    build(run, CODES, PUBLICATION, json=json, publish_lag_hours=publish_lag_hours)


@app.command()
def snapshot(
    run: RunOption,
    as_of: Annotated[
        str,
        typer.Option(
            "--as-of", metavar="TIME", help="Cut-off, exclusive; a bare date means midnight UTC."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Newer data than the run's own: its items and interactions from the start on.",
        ),
    ] = None,
    backfill: Annotated[
        bool,
        typer.Option("--backfill", help="Allow a cut-off that the generation has seen beyond."),
    ] = False,
    complete_through: CompleteOption = None,
    json: JsonOption = None,
) -> None:
    """Encode every item as of a later cut-off with the run's frozen generation, and publish the
    rows that changed.
    """
    from adc_features.clock import parse_utc
    from adc_features.pipeline.snapshots import snapshot as make_snapshot

    with progress() as notify:
        made = make_snapshot(
            Run.open(run, progress=notify),
            parse_utc(as_of, name="as-of"),
            source=data,
            backfill=backfill,
            complete_through=(
                parse_utc(complete_through, name="--complete-through") if complete_through else None
            ),
        )
    report(made, json)


@app.command()
def backfill(
    run: RunOption,
    start: Annotated[str, typer.Option("--from", metavar="TIME", help="First cut-off.")],
    end: Annotated[str, typer.Option("--to", metavar="TIME", help="No cut-off after this one.")],
    every: Annotated[
        str, typer.Option("--every", metavar="30d|2w|1mo", help="From one cut-off to the next.")
    ] = "1mo",
    json: JsonOption = None,
) -> None:
    """Build history: codes as of past cut-offs, behaviour of each trained on events before
    it only.
    """
    from adc_features.clock import parse_utc
    from adc_features.pipeline.snapshots import backfill_times
    from adc_features.pipeline.snapshots import snapshot as make_snapshot

    times = backfill_times(parse_utc(start, name="from"), parse_utc(end, name="to"), every)
    with progress() as notify:
        opened = Run.open(run, progress=notify)
        made = [make_snapshot(opened, at, backfill=True) for at in times]
    report({"snapshots": made}, json)


@app.command()
def renew(
    run: RunOption,
    generation: Annotated[
        str,
        typer.Option(
            "--generation", metavar="ID", help="Id of the new generation, for example g2."
        ),
    ],
    anew: Annotated[
        bool,
        typer.Option("--anew", help="Fit from scratch and only name the codes after the old ones."),
    ] = False,
    churn_budget: Annotated[
        float | None,
        typer.Option(help="Share of codes that may change, 0 to 1; over it nothing is written."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Fit a further generation on newer snapshots so that codes keep their meaning, and publish it
    beside the old one.
    """
    from adc_features.pipeline.snapshots import renew as make_generation

    with progress() as notify:
        made = make_generation(
            Run.open(run, progress=notify), generation, warm=not anew, churn_budget=churn_budget
        )
    report(made, json)


@app.command()
def materialize(run: RunOption, json: JsonOption = None) -> None:
    """Load the newest feature values into the online store."""
    from adc_features.pipeline.stages import ONLINE

    build(run, ONLINE, json=json)


@app.command()
def lookup(
    items: Annotated[list[str], typer.Argument(metavar="ITEM...", help="Item ids.")],
    run: RunOption,
    json: JsonOption = None,
) -> None:
    """Read codes and weights of items from the published snapshots, as a ranker would."""
    from adc_features.pipeline.stages import repository_of
    from adc_features.store import lookup as read_online
    from adc_features.store.repository import live_generation

    opened = Run.open(run)
    opened.output("online")
    repo, generation = repository_of(opened), opened.settings.generation
    try:
        ids = np.array(
            items, np.int64 if live_generation(repo, generation).id_type == "int64" else np.str_
        )
    except ValueError as error:
        raise InputError(
            f"items are {items}; this catalogue's ids are integers, give integers"
        ) from error
    sids = read_online(repo, generation, ids)
    rows = [
        {"item_id": i, "found": f, "sid": s, "sid_weight": w, "reliability": r, "is_cold": c}
        for i, f, s, w, r, c in zip(
            sids.item_ids.tolist(),
            sids.found.tolist(),
            sids.sid.tolist(),
            sids.sid_weight.tolist(),
            sids.reliability.tolist(),
            sids.is_cold.tolist(),
            strict=True,
        )
    ]
    report({"generation": sids.generation, "as_of": sids.as_of, "items": rows}, json)
