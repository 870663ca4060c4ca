"""The commands of a deployment: what there is, what serves, how to change that. Each is one call of
`training.deployment.deployment`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.commands import CompleteOption
from adc_features.cli.console import JsonOption, RunOption, report
from adc_features.cli.serving import PromotionOption

CatalogOption = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="URL",
        help="SQLAlchemy URL of the catalogue; default $ADC_CATALOG, else catalog.db in the run.",
    ),
]

KEPT, DATA_FAULT = 10, 20
"""Exit codes of `adc retrain`, for a scheduler to tell apart; 0 is promoted."""
DRIFT = 10
"""Exit code of `adc monitor` for drift: not 1, which every refusal has, a mistyped path for one."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (promote, rollback, versions, show, gc, retrain, monitor, doctor):
        app.command()(command)


def promote(
    run: RunOption,
    recipe: Annotated[str, typer.Option(help="Which of the run's rankers.")] = "codes_weights",
    ranker: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="A ranker on record instead, by the start of its hash; see `adc versions`.",
        ),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Serve it with this generation: its own, or a later one that keeps its codes.",
        ),
    ] = None,
    to: PromotionOption = None,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Let a ranker serve, on the codes it was trained on; a running service takes it over. Replaces
    a damaged promotion file.
    """
    from adc_features.pipeline import pairs
    from adc_features.serving import promotion
    from training.deployment import deployment

    opened, at = _run(run), datetime.now(UTC)
    if ranker is None and generation is None:
        pair = pairs.promotion_of(opened, recipe=recipe, promoted_at=at)
    else:
        record = deployment.catalog_of(opened, catalog)
        deployment.sync(opened, record, at=at, replacing=True)
        pair = deployment.candidate(
            opened,
            record,
            ranker or pairs.promotion_of(opened, recipe=recipe, promoted_at=at).ranker_hash,
            generation=generation,
            at=at,
        )
    if to is not None:
        promotion.promote(to, pair)
        report({"promotion": str(to), "pair": pair.name, **asdict(pair)}, json)
        return
    number = deployment.deploy(opened, deployment.catalog_of(opened, catalog), pair, at=at)
    report(
        {
            "promotion": str(run / promotion.PROMOTION),
            "number": number,
            "pair": pair.name,
            **asdict(pair),
        },
        json,
    )


def rollback(
    run: RunOption,
    to: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Serve this promotion again; default the one before."),
    ] = None,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Serve an earlier promotion again: a pointer, in seconds."""
    from training.deployment import deployment

    opened = _run(run)
    report(
        deployment.rollback(
            opened, deployment.catalog_of(opened, catalog), at=datetime.now(UTC), to=to
        ),
        json,
    )


def versions(run: RunOption, catalog: CatalogOption = None, json: JsonOption = None) -> None:
    """List generations, rankers and promotions, and what serves."""
    from adc_features.catalog import catalog_to_read
    from training.deployment import deployment, inventory

    opened = _run(run)
    with catalog_to_read(deployment.catalog_url(opened, catalog)) as record:
        report(inventory.versions(opened, record, at=datetime.now(UTC)), json, text=_table)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A generation, the start of a ranker's hash, or a promotion's number.",
        ),
    ],
    run: RunOption,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Show one generation, ranker or promotion, and what happened to it."""
    from adc_features.catalog import catalog_to_read
    from training.deployment import deployment, inventory

    opened = _run(run)
    with catalog_to_read(deployment.catalog_url(opened, catalog)) as record:
        report(inventory.show(opened, record, name, at=datetime.now(UTC)), json)


def gc(
    run: RunOption,
    keep: Annotated[
        int, typer.Option(min=0, help="Promotions before the serving one to keep, for rollback.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")
    ] = False,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Delete rankers and generations that nothing promoted needs any more."""
    from training.deployment import deployment

    opened = _run(run)
    report(
        deployment.collect(
            opened,
            deployment.catalog_of(opened, catalog),
            at=datetime.now(UTC),
            keep=keep,
            dry_run=dry_run,
        ),
        json,
    )


def retrain(
    run: RunOption,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR", help="Newer data than the run's own, from the start on."
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Exclusive end of the labelled window; default just after the last event.",
        ),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help=(
                "Generation for the challenger, for example of `adc renew`; default the champion's."
            ),
        ),
    ] = None,
    window_days: Annotated[
        int, typer.Option(min=1, help="Length of the labelled window that both are judged on.")
    ] = 30,
    min_rows: Annotated[
        int,
        typer.Option(min=1, help="Rows that the window, and the new training rows, need at least."),
    ] = 300,
    every_days: Annotated[
        int, typer.Option(min=1, help="Reason to train: days since the champion's rows ended.")
    ] = 30,
    min_gain: Annotated[float, typer.Option(help="Gate: least GAUC gain.")] = 0.0,
    max_loss: Annotated[
        float, typer.Option(min=0.0, help="Gate: the gain's 95 % bound must lie above minus this.")
    ] = 0.01,
    max_churn: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Gate: share of codes that a new generation may change."
        ),
    ] = 0.2,
    complete_through: CompleteOption = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Train a challenger without a reason, and decide anew; the gates hold."
        ),
    ] = False,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Train the next ranker if there is reason to, and promote it if it is better. Exit code 0
    promoted, 10 kept, 20 unusable data.
    """
    from adc_features.cli.console import progress
    from adc_features.clock import parse_utc
    from adc_features.errors import InputError
    from adc_features.pipeline.run import Run
    from training.deployment import deployment
    from training.deployment.retrain import RetrainSettings
    from training.deployment.retrain import retrain as retrain_run

    with progress() as notify:
        opened = Run.open(run, progress=notify)
        try:
            settings = RetrainSettings(
                window_days=window_days,
                min_rows=min_rows,
                every_days=every_days,
                min_gain=min_gain,
                max_loss=max_loss,
                max_churn=max_churn,
            )
            answer = retrain_run(
                opened,
                deployment.catalog_of(opened, catalog),
                as_of=parse_utc(as_of, name="--as-of") if as_of else None,
                source=data,
                generation=generation,
                settings=settings,
                complete_through=(
                    parse_utc(complete_through, name="--complete-through")
                    if complete_through
                    else None
                ),
                force=force,
                at=datetime.now(UTC),
            )
        except InputError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(DATA_FAULT) from error
    report(answer, json, text=_decision)
    if answer["decision"] == "kept":
        raise typer.Exit(KEPT)


def monitor(
    run: RunOption,
    traffic: Annotated[
        str | None,
        typer.Option(
            help=(
                "Parquet path or '<SQLAlchemy URL>#<table>' with item_id and time of what was"
                " shown; default the run's interactions."
            )
        ),
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Exclusive end of the traffic; default just after the last impression.",
        ),
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, help="Days of traffic, now and in a baseline that is made anew.")
    ] = 30,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=(
                "A profile to compare with; default the kept one, else traffic before the"
                " generation was frozen."
            ),
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep this traffic's profile as the next baseline.")
    ] = False,
    max_usage: Annotated[
        float, typer.Option(help="Limit of the Jensen-Shannon distance of code usage.")
    ] = 0.2,
    max_uncovered: Annotated[
        float, typer.Option(help="Limit of the loss of coverage, and of the rise of unknown items.")
    ] = 0.05,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare code usage, weights, reliability, coverage and unknown items of traffic with a
    baseline. Exit code 10 when any is beyond its limit.
    """
    from adc_features.clock import parse_utc
    from adc_features.codes.drift import DriftThresholds
    from training.deployment import monitor as monitored
    from training.reports.comparison_page import write_page

    limits = DriftThresholds(usage=max_usage, coverage=max_uncovered, unknown=max_uncovered)
    at = parse_utc(as_of, name="--as-of") if as_of else None
    result = monitored.monitor(
        _run(run),
        traffic=traffic,
        as_of=at,
        days=days,
        baseline=baseline,
        keep=keep,
        thresholds=limits,
    )
    if page is not None:
        write_page(page, monitored.monitor_page(result))
    report(result, json, text=_drift)
    if result["beyond"]:
        raise typer.Exit(DRIFT)


def doctor(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Data, run, generation or Feast repository directory."),
    ],
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Say in plain words what is wrong with a directory; exit code 1 when something must be
    repaired.
    """
    from adc_features.catalog import catalog_to_read
    from adc_features.data.table_checks import Finding
    from adc_features.pipeline.checkup import checkup
    from training.deployment import deployment

    findings = checkup(directory)
    if (directory / "run.json").is_file():
        opened = _run(directory)
        if catalog or (directory / deployment.DATABASE).is_file():
            with catalog_to_read(deployment.catalog_url(opened, catalog)) as record:
                findings += [
                    Finding("error", str(directory), problem)
                    for problem in deployment.problems(opened, record)
                ]
    errors = [f for f in findings if f.level == "error"]
    result = {
        "directory": str(directory),
        "errors": len(errors),
        "findings": [f._asdict() for f in findings],
    }
    report(
        result,
        json,
        text=lambda r: "\n".join(f"{f.level:8}{f}" for f in findings) or "nothing to say",
    )
    if errors:
        raise typer.Exit(1)


def _run(directory: Path) -> Any:
    from adc_features.pipeline.run import Run

    return Run.open(directory)


def _decision(answer: Mapping[str, Any]) -> str:
    window = answer["window"]
    lines = [
        f"window {window['start']} to {window['end']}, {window['rows']} labelled rows",
        "",
        "reasons to train",
    ]
    lines += [
        f" {'!' if r['asks'] else ' '} {name:24}{r['value']:10.4g}   limit {r['limit']:g}"
        for name, r in answer["reasons"].items()
    ]
    if answer["gates"]:
        from training.deployment.decisions import difference

        lines += ["", "gates"]
        lines += [
            f" {'ok ' if g['passed'] else 'NO '}{name:24}{_value(g['value'])}   limit {g['limit']}"
            for name, g in answer["gates"].items()
        ]
        lines += [
            f"      {difference(d)}"
            for g in answer["gates"].values()
            for d in g.get("first_differences", [])
        ]
        lines += [
            "",
            *(
                f"   {name:12} AUC {s['auc']['mean']:.4f}  GAUC {s['gauc']['mean']:.4f}"
                for name, s in answer["scores"].items()
            ),
        ]
    why = (
        ""
        if answer["decision"] == "promoted"
        else ": no reason to train"
        if not answer["gates"]
        else ": a gate did not hold"
    )
    return "\n".join(
        [
            *lines,
            "",
            (
                f"{answer['decision']}{why}{' (decided before, nothing done)' if answer['reused'] else ''}"
            ),
        ]
    )


def _drift(result: Mapping[str, Any]) -> str:
    lines = [
        (
            f"generation {result['generation']}, {result['now']['impressions']} impressions against"
            f" {result['baseline']['impressions']}"
        ),
        "",
    ]
    lines += [
        f" {'!' if f['beyond'] else ' '} {name:12}{f['value']:8.4f}   limit {f['limit']:g}"
        for name, f in result["drift"].items()
    ]
    return "\n".join(
        [
            *lines,
            "",
            (
                "beyond: " + ", ".join(result["beyond"])
                if result["beyond"]
                else "codes are used as before"
            ),
        ]
    )


def _value(value: Any) -> str:
    return (
        f"{value['mean']:+.4f} [{value['low']:+.4f}, {value['high']:+.4f}]"
        if isinstance(value, Mapping)
        else f"{value:.4g}"
    )


def _table(result: Mapping[str, Any]) -> str:
    serving: Mapping[str, Any] = next(
        (p for p in result["promotions"] if p["state"] == "serving"), {}
    )
    lines = ["generations"]
    for g in result["generations"]:
        mark = "*" if g["id"] == serving.get("generation") else " "
        lines.append(
            f" {mark} {g['id']:16}{g['state']:10}{g['snapshots']:4} snapshots, newest"
            f" {_day(g['newest'])}, trained through {_day(g['trained_through'])}"
        )
    lines += ["", "rankers"]
    for r in result["rankers"]:
        mark = "*" if r["hash"] == serving.get("ranker") else " "
        lines.append(
            f" {mark} {r['hash'][:12]:16}{r['state']:10}{r['recipe']:24}{r['generation'] or '-':8}"
            f" trained through {_day(r['trained_through'])}  {r['directory']}"
        )
    lines += ["", "promotions"]
    lines += [
        f"   {p['number']:<4}{p['state']:10}{p['ranker'][:12]} on {p['generation'] or 'no codes'}"
        f" at {p['promoted_at']:%Y-%m-%d %H:%M}"
        for p in result["promotions"]
    ]
    return "\n".join([*lines, "", "* serves"])


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else "none"
