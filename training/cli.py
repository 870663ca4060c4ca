"""The `adc` command: the library's commands and those that train. Each is one call of one stage."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli import DataOption, FinalOption, SeedOption, app, build, open_run
from adc_features.console import JsonOption, RunOption, progress, report, run_app


@app.command()
def dataset(run: RunOption, json: JsonOption = None) -> None:
    """Join the labelled rows with the features that were knowable at their time."""
    from training.stages import DATASET

    build(run, DATASET, json=json)


@app.command()
def train(
    run: RunOption,
    recipe: Annotated[list[str] | None, typer.Option(help="Recipe to train; repeatable. Default: all.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Rankers per recipe.")] = None,
    json: JsonOption = None,
) -> None:
    """Train rankers on the joined rows and score the evaluated window."""
    from adc_features.errors import InputError
    from training.stages import RANKERS

    if unknown := [r for r in recipe or [] if r not in RANKERS]:
        raise InputError(f"there is no recipe {unknown[0]!r}; choose from {', '.join(RANKERS)}")
    build(run, *(RANKERS[r] for r in recipe or RANKERS), json=json, seeds=seeds)


@app.command()
def evaluate(run: RunOption, json: JsonOption = None) -> None:
    """Score every recipe with intervals and paired differences."""
    from training.stages import SCORES

    build(run, SCORES, json=json)


@app.command("run")
def run_all(
    data: DataOption = None,
    run: Annotated[Path | None, typer.Option("--run", metavar="DIR", help="Run directory; default runs/<name of the data>[-final].")] = None,
    final: FinalOption = None,
    seed: SeedOption = None,
    seeds: Annotated[int | None, typer.Option(help="Rankers per recipe.")] = None,
    snapshots: Annotated[int | None, typer.Option(help="Past cut-offs at which codes are published.")] = None,
    text_model: Annotated[str | None, typer.Option(help="sentence-transformers name or path.")] = None,
    behavior: Annotated[str | None, typer.Option(help="SASRec recipe: full_softmax or norm_rising.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Tokenizer recipe: adc, or one of its ablations.")] = None,
    reliability: Annotated[str | None, typer.Option(help="log_count, norm or norm_quantile.")] = None,
    codebook_size: Annotated[int | None, typer.Option(help="K, codes per position.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of the tokenizer.")] = None,
    json: JsonOption = None,
) -> None:
    """Do it all: load, embed, fit, publish, materialize, join, train, evaluate, compare online with offline, report."""
    from adc_features.stages import dataset_of
    from training.stages import ALL_STAGES, write_outputs

    if data is None and run is None:
        raise typer.BadParameter("give --data for a new run or --run for one that was begun")
    directory = run or Path("runs") / (Path(data or "").resolve().name + ("-final" if final else ""))
    settings = {"final": final, "seed": seed, "seeds": seeds, "snapshots": snapshots, "text_model": text_model, "behavior": behavior}
    settings |= {"tokenizer": tokenizer, "reliability": reliability, "codebook_size": codebook_size, "steps": steps}
    with progress() as notify:
        opened = open_run(directory, data, notify, **settings)
        for stage in ALL_STAGES:
            opened.ensure(stage)
        metrics = write_outputs(opened)
        example = dataset_of(opened).items["item_id"][0].as_py()
    result = {**metrics, "run": str(directory), "report": str(directory / "report.html"), "built": opened.built, "reused": opened.reused}
    result["next"] = f"{sys.argv[0]} lookup {example} --run {directory}"
    report(result, json, text=_summary)


def _summary(result: Mapping[str, Any]) -> str:
    window = "test rows" if result["final"] else "validation window"
    lines = [
        "",
        f"{result['rows_in']} rows in, {result['rows_out']} rows out; {result['scored_rows']} scored on the {window}",
        f"stages built: {len(result['built'])}, reused: {len(result['reused'])}",
        "",
        f"{'':28}{'AUC':>8}  {'95 % interval':18}{'GAUC':>8}  {'95 % interval':18}",
    ]
    lines += [f"{name:28}{_interval(r['auc'])}{_interval(r['gauc'])}" for name, r in result["recipes"].items()]
    lines += ["", "paired differences"]
    lines += [f"{name:48}{_interval(r['auc'])}{_interval(r['gauc'])}" for name, r in result["paired"].items()]
    parity = result["parity"]
    lines += ["", f"online equals offline: {parity['items']} items and {parity['users']} users compared, {parity['different']} different"]
    lines += [f"report: {result['report']}", f"next: {result['next']}"]
    return "\n".join(lines)


def _interval(estimate: Mapping[str, float]) -> str:
    return f"{estimate['mean']:8.4f}  [{estimate['low']:.4f}, {estimate['high']:.4f}]  ".ljust(28)


def main() -> None:
    """Entry point of the console script."""
    run_app(app)
