"""Library commands. Each is one call of one stage; `adc_features.cli.main` adds the others to the
same app.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, RunOption, progress, report
from adc_features.cli.data import data, embed
from adc_features.cli.runs import (
    CompleteOption,
    DataOption,
    DeviceOption,
    FinalOption,
    OptionalRunOption,
    RepoOption,
    SeedOption,
    build,
    one_of,
    open_run,
)
from adc_features.errors import InputError

__all__ = [
    "CompleteOption",
    "DataOption",
    "DeviceOption",
    "FinalOption",
    "SeedOption",
    "app",
    "build",
    "open_run",
]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Reliability-aware semantic IDs as Feast features for ranking.",
)
app.add_typer(data, name="data")
app.add_typer(embed, name="embed")


@app.command()
def fit(
    run: RunOption,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help=(
                "Recipe: adc, an ablation of it, or posterior, posterior_experts, posterior_second,"
                " rq_vae, rq_kmeans, rq_kmeans_balanced, qarm, opq, letter, das, mm_rq_vae, mmq,"
                " unisid, etegrec_parallel, diger, unisid_e2e (hours on a large catalogue)."
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
    device: DeviceOption = None,
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
        device=device,
    )


@app.command()
def quality(run: RunOption, json: JsonOption = None) -> None:
    """Show the quality report of the run's generation."""
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import generation_of

    report(generation_of(Run.open(run)).quality, json)


@app.command()
def publish(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    codes: Annotated[
        str | None,
        typer.Option(
            "--codes", metavar="URI", help="What adc encode wrote, to publish as a snapshot."
        ),
    ] = None,
    publish_lag_hours: Annotated[
        int | None, typer.Option(help="Hours from a cut-off until its codes could be served.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Encode every cut-off with the frozen generation and publish codes and statistics into the
    run's Feast repository; or publish --codes into that of a run or your own.
    """
    from adc_features.pipeline.stages import CODES, PUBLICATION

    one_of(run, repo)
    if codes is not None:
        report(_published(codes, run, repo, publish_lag_hours), json)
        return
    if run is None:
        raise InputError("a repository has no items of its own to encode; give --codes or --run")
    build(run, CODES, PUBLICATION, json=json, publish_lag_hours=publish_lag_hours)


def _published(
    codes: str, run: Path | None, repo: Path | None, lag_hours: int | None
) -> dict[str, Any]:
    from adc_features.encoding import open_encoded
    from adc_features.encoding.publishing import publish_encoded

    encoded = open_encoded(codes)
    if run is None:
        assert repo is not None
        lag = timedelta(hours=lag_hours or 0)
        return publish_encoded(repo, encoded, lag=lag, computed_at=datetime.now(UTC))
    if lag_hours is not None:
        raise InputError("a run keeps its own lag; leave --publish-lag-hours out")
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.snapshots import publish_codes

    with progress() as notify:
        return publish_codes(Run.open(run, progress=notify), encoded)


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
    from adc_features.pipeline.run import Run
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
    from adc_features.pipeline.run import Run
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
    from adc_features.pipeline.run import Run
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
    import numpy as np

    from adc_features.pipeline.run import Run
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
