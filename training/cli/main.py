"""The commands that train and judge, added to the library's. Each is one call of one stage."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.commands import DataOption, FinalOption, SeedOption, build, open_run
from adc_features.cli.console import JsonOption, progress, report
from adc_features.cli.runs import DeviceOption, OptionalRunOption, RepoOption, one_of
from training.cli import compare as compare_cli
from training.cli import datasets as datasets_cli
from training.cli import deployment as deployment_cli
from training.cli import freshness as freshness_cli
from training.cli import rankers as rankers_cli
from training.cli import retraining as retraining_cli
from training.cli import retrieval as retrieval_cli
from training.cli import served as served_cli
from training.cli import tokenizing as tokenizing_cli
from training.cli.datasets import (
    LogOption,
    NamedTaskOption,
    NegativesOption,
    UntilOption,
    WindowOption,
)
from training.cli.lines import run_lines
from training.cli.rankers import (
    ImportanceOption,
    ItemOption,
    LabelsOption,
    LabelsQueryOption,
    LoggedOption,
    RankersOption,
    RefreshOption,
    RequestOption,
    RowsInFilesOption,
    ServiceOption,
    TaskOption,
    TestOption,
    UserOption,
    ValidationOption,
)
from training.cli.served import PageOption


def add_to(app: typer.Typer) -> None:
    """Add the commands that train, judge and deploy to the library's; called by `adc` through the
    entry point that we declare.
    """
    datasets_cli.add_to(app)
    for command in (train, evaluate, explain):
        app.command()(command)
    app.command("run")(run_all)
    app.add_typer(retrieval_cli.retrieve, name="retrieve")
    app.command()(freshness_cli.freshness)
    compare_cli.add_to(app)
    deployment_cli.add_to(app)
    retraining_cli.add_to(app)
    tokenizing_cli.add_to(app)


# as long as its options
def train(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Recipe to train; repeatable. Default: all.")
    ] = None,
    ranker: RankersOption = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    service: ServiceOption = None,
    task: TaskOption = None,
    user: UserOption = None,
    item: ItemOption = None,
    request: RequestOption = None,
    validation_start: ValidationOption = None,
    test_start: TestOption = None,
    final: Annotated[
        bool,
        typer.Option("--final", help="With --repo: train before the test, judge on test rows."),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="With --repo: one round and, by default, one seed."),
    ] = False,
    keep_negatives: Annotated[
        float,
        typer.Option(min=0, max=1, help="With --repo: share of rows without a positive to keep."),
    ] = 1.0,
    logged_values: LoggedOption = False,
    rows_in_files: RowsInFilesOption = False,
    seeds: Annotated[int | None, typer.Option(help="Models of each ranker.")] = None,
    importance: ImportanceOption = True,
    refresh: RefreshOption = None,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Train rankers on labelled rows and the features known at their time, and judge them.

    On a run (--run), or on a feature service of a Feast repository of your own (--repo).
    """
    one_of(run, repo)
    if repo is not None:
        source = rankers_cli.label_source(labels, labels_query)
        declared = rankers_cli.chosen_rankers(
            repo, ranker, service=service, tasks=task, user=user, item=item, request=request
        )
        facts = rankers_cli.train_on_service(
            repo,
            declared,
            source,
            seeds=seeds,
            quick=quick,
            final=final,
            keep_negatives=keep_negatives,
            period=rankers_cli.period_of(validation_start, test_start),
            importance=importance,
            refresh=rankers_cli.refresh_texts(refresh),
            logged=logged_values,
            rows_in_files=rows_in_files,
            device=device or "cpu",
        )
        report(facts, json, text=rankers_cli.scores_text)
        return
    from adc_features.store.refresh import setting_of
    from training.stages import DATASET, RANKERS, asked_recipes

    assert run is not None
    rankers = [RANKERS[name] for name in asked_recipes(recipe)]
    texts = rankers_cli.refresh_texts(refresh)
    setting, joined = (None, []) if texts is None else (setting_of(texts), [DATASET])
    build(run, *joined, *rankers, json=json, seeds=seeds, refresh=setting, device=device)


def evaluate(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: RankersOption = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    validation_start: ValidationOption = None,
    test_start: TestOption = None,
    final: Annotated[
        bool, typer.Option("--final", help="With --repo: judge on test rows, once, at the end.")
    ] = False,
    importance: ImportanceOption = True,
    refresh: RefreshOption = None,
    from_log: LogOption = None,
    task: NamedTaskOption = None,
    window: WindowOption = None,
    negatives: NegativesOption = "shown",
    until: UntilOption = None,
    page: PageOption = None,
    json: JsonOption = None,
) -> None:
    """Score what is trained, with intervals and paired differences.

    Of a run (--run), the recipes that were trained on what it now holds. With --from-log, compare
    the variants that served with the promoted pair, on the events of --labels.
    """
    if from_log is not None:
        if run is not None:
            raise typer.BadParameter("--from-log compares what was served; leave --run out")
        served_cli.evaluate_log(
            from_log,
            rankers_cli.label_source(labels, labels_query),
            named=(repo, ranker, task or [], window or []),
            until=until,
            negatives=negatives,
            page=page,
            json=json,
        )
        return
    if task or window or until or page or negatives != "shown":
        raise typer.BadParameter("--task, --window, --until, --page, --negatives need --from-log")
    one_of(run, repo)
    if repo is not None:
        facts = rankers_cli.evaluate_on_service(
            repo,
            ranker,
            rankers_cli.label_source(labels, labels_query),
            final=final,
            period=rankers_cli.period_of(validation_start, test_start),
            importance=importance,
            refresh=rankers_cli.refresh_texts(refresh),
        )
        report(facts, json, text=rankers_cli.scores_text)
        return
    from adc_features.pipeline.run import Run
    from training.stages import scores_stage, trained_recipes

    assert run is not None
    if (texts := rankers_cli.refresh_texts(refresh)) is not None:
        from training.freshness.under_schedules import evaluate_refreshed

        report(evaluate_refreshed(Run.open(run), texts), json)
        return
    build(run, scores_stage(trained_recipes(Run.open(run))), json=json)


def explain(
    repo: Annotated[Path, typer.Option("--repo", metavar="DIR", help="A Feast repository.")],
    labels: LabelsOption = None,
    ranker: Annotated[
        str | None,
        typer.Option("--ranker", metavar="NAME", help="Which ranker; default the only trained."),
    ] = None,
    labels_query: LabelsQueryOption = None,
    task: Annotated[str | None, typer.Option(help="Which task; default the first.")] = None,
    permutations: Annotated[
        int, typer.Option(min=1, help="How often each input is exchanged.")
    ] = 5,
    validation_start: ValidationOption = None,
    test_start: TestOption = None,
    final: Annotated[bool, typer.Option("--final", help="On test rows, once, at the end.")] = False,
    json: JsonOption = None,
) -> None:
    """What a ranker leans on: how much worse it ranks when inputs are exchanged among rows."""
    from training.ranker.explain import importance_text

    facts = rankers_cli.explain_on_service(
        repo,
        ranker,
        rankers_cli.label_source(labels, labels_query),
        task=task,
        permutations=permutations,
        final=final,
        period=rankers_cli.period_of(validation_start, test_start),
    )
    report(facts, json, text=importance_text)


# as long as its options
def run_all(
    data: DataOption = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="Run directory; default runs/<name of the data>[-quick][-final].",
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(help="Recipe to train and compare; repeatable. Default: all."),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help=(
                "A first answer: no_sid and codes_weights, one ranker of each and one round of it,"
                " one past cut-off, one epoch of behaviour vectors, 30 steps of the tokenizer. What"
                " is given beside it holds."
            ),
        ),
    ] = False,
    final: FinalOption = None,
    seed: SeedOption = None,
    seeds: Annotated[int | None, typer.Option(help="Rankers per recipe.")] = None,
    snapshots: Annotated[
        int | None, typer.Option(help="Past cut-offs at which codes are published.")
    ] = None,
    text_model: Annotated[
        str | None, typer.Option(help="sentence-transformers name or path.")
    ] = None,
    behavior: Annotated[
        str | None,
        typer.Option(
            help=(
                "Recipe of behaviour vectors: sasrec_content (the default), full_softmax,"
                " sampled_softmax, norm_rising, wmf_content or quick."
            )
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="Tokenizer recipe: adc, an ablation of it, or a baseline, see `adc fit --help`."
        ),
    ] = None,
    reliability: Annotated[
        str | None, typer.Option(help="log_count, norm or norm_quantile.")
    ] = None,
    codebook_size: Annotated[int | None, typer.Option(help="K, codes per position.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps of the tokenizer.")] = None,
    generation: Annotated[
        str | None,
        typer.Option(help="Id of the generation; a published one is never fitted again."),
    ] = None,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Do it all: load, embed, fit, publish, materialize, join, train, evaluate, compare online with
    offline, report.
    """
    from adc_features.extras import require
    from adc_features.pipeline.stages import dataset_of
    from training.outputs import write_outputs
    from training.quick import quick_recipes, quick_settings
    from training.stages import asked_recipes, stages_of

    recipes = asked_recipes(quick_recipes(recipe) if quick else recipe)
    require("torch", "sklearn", "scipy", "xgboost", "altair", "vl_convert")
    if data is None and run is None:
        raise typer.BadParameter("give --data for a new run or --run for one that was begun")
    directory = run or Path("runs") / (
        Path(data or "").resolve().name + ("-quick" if quick else "") + ("-final" if final else "")
    )
    settings: dict[str, Any] = {
        "final": final,
        "seed": seed,
        "seeds": seeds,
        "snapshots": snapshots,
        "text_model": text_model,
        "behavior": behavior,
    }
    settings |= {
        "tokenizer": tokenizer,
        "reliability": reliability,
        "codebook_size": codebook_size,
        "steps": steps,
        "generation": generation,
        "device": device,
    }
    if quick:
        settings = quick_settings(settings)
    with progress() as notify:
        opened = open_run(directory, data, notify, **settings)
        for stage in stages_of(recipes):
            opened.ensure(stage)
        metrics = write_outputs(opened)
        example = dataset_of(opened).items["item_id"][0].as_py()
    result = {
        **metrics,
        "run": str(directory),
        "report": str(directory / "report.html"),
        "built": opened.built,
        "reused": opened.reused,
    }
    result["next"] = f"{sys.argv[0]} lookup {example} --run {directory}"
    report(result, json, text=run_lines)
