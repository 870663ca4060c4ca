"""The commands that keep a deployment up to date: retrain its ranker, watch its traffic."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.commands import CompleteOption
from adc_features.cli.console import JsonOption, report, table
from adc_features.cli.runs import OptionalRunOption, RepoOption, one_of
from training.cli import ranker_deployment as ranker_cli
from training.cli.deployment import CatalogOption, open_deployed
from training.cli.ranker_deployment import AcceptOption, ServedOption
from training.cli.rankers import LabelsOption, LabelsQueryOption

SettingsOption = Annotated[
    Path | None,
    typer.Option(
        "--settings",
        metavar="FILE.toml",
        help="Thresholds, in the tables [retrain] and [drift]; see `adc retrain --show-settings`.",
    ),
]

KEPT, DATA_FAULT = 10, 20
"""Exit codes of `adc retrain`, for a scheduler to tell apart; 0 is promoted."""
DRIFT = 10
"""Exit code of `adc monitor` for drift: not 1, which every refusal has, a mistyped path for one."""


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (retrain, monitor):
        app.command()(command)


# as long as its options; the work is one call
def retrain(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    accept_inputs: AcceptOption = False,
    renew_codes: ranker_cli.RenewOption = False,
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
    settings: SettingsOption = None,
    show_settings: Annotated[
        bool,
        typer.Option(
            "--show-settings",
            help="Print the settings that file and options give, as a settings file; do no more.",
        ),
    ] = False,
    window_days: Annotated[
        int | None,
        typer.Option(min=1, help="Days of the labelled window that both are judged on."),
    ] = None,
    min_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows that the window, and the new training rows, need at least."),
    ] = None,
    every_days: Annotated[
        int | None,
        typer.Option(min=1, help="Reason to train: days since the champion's rows ended."),
    ] = None,
    min_gain: Annotated[float | None, typer.Option(help="Gate: least GAUC gain.")] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(min=0.0, help="Gate: the gain's 95 % bound must lie above minus this."),
    ] = None,
    max_churn: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, help="Gate: share of codes that a new generation may change."
        ),
    ] = None,
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
    promoted, 10 kept, 20 unusable data. An option goes before the settings file, that before the
    defaults. On a run (--run), or a ranker of a Feast repository of your own (--repo, --labels).
    """
    from adc_features.cli.console import progress
    from adc_features.errors import InputError
    from adc_features.pipeline.run import Run
    from training.deployment.record import catalog_of
    from training.deployment.retrain import retrain as retrain_run
    from training.deployment.settings import drift_thresholds, retrain_settings, settings_text

    options = {
        "window_days": window_days,
        "min_rows": min_rows,
        "every_days": every_days,
        "min_gain": min_gain,
        "max_loss": max_loss,
        "max_churn": max_churn,
    }
    one_of(run, repo)
    try:
        if renew_codes and repo is None:
            raise InputError(
                "--renew-codes is for a ranker of --repo; on a run, `adc snapshot` adds codes"
            )
        chosen = retrain_settings(settings, options)
        if show_settings:
            typer.echo(settings_text(retrain=chosen, drift=drift_thresholds(settings, {})))
            return
        if repo is not None:
            answer = ranker_cli.retrain_on_service(
                repo,
                ranker,
                (labels, labels_query),
                settings=chosen,
                as_of=_time(as_of, "--as-of"),
                accept_inputs=accept_inputs,
                renew=renew_codes,
                force=force,
            )
            _reported(answer, json)
            return
        assert run is not None
        with progress() as notify:
            opened = Run.open(run, progress=notify)
            answer = retrain_run(
                opened,
                catalog_of(opened, catalog),
                as_of=_time(as_of, "--as-of"),
                source=data,
                generation=generation,
                settings=chosen,
                complete_through=_time(complete_through, "--complete-through"),
                force=force,
                at=datetime.now(UTC),
            )
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(DATA_FAULT) from error
    _reported(answer, json)


def _reported(answer: Mapping[str, Any], json: Any) -> None:
    report(dict(answer), json, text=_decision)
    if answer["decision"] == "kept":
        raise typer.Exit(KEPT)


def _time(text: str | None, name: str) -> datetime | None:
    from adc_features.clock import parse_utc

    return parse_utc(text, name=name) if text else None


# as long as its options; the work is one call
def monitor(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
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
    settings: SettingsOption = None,
    max_usage: Annotated[
        float | None, typer.Option(help="Limit of the Jensen-Shannon distance of code usage.")
    ] = None,
    max_uncovered: Annotated[
        float | None,
        typer.Option(help="Limit of the loss of coverage, and of the rise of unknown items."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write an HTML page.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare code usage, weights, reliability, coverage and unknown items of traffic with a
    baseline. Exit code 10 when any is beyond its limit.

    With --repo and --labels: compare the inputs and scores of a ranker with its training; the
    limits are those of unknown items and of code usage.
    """
    from training.deployment import monitor as monitored
    from training.deployment.settings import drift_thresholds
    from training.reports.pages import write_page

    options = {"usage": max_usage, "coverage": max_uncovered, "unknown": max_uncovered}
    one_of(run, repo)
    limits = drift_thresholds(settings, options)
    if repo is not None:
        moved = ranker_cli.monitor_on_service(
            repo,
            ranker,
            (labels, labels_query),
            as_of=_time(as_of, "--as-of"),
            days=days,
            thresholds=limits,
        )
        report(moved, json, text=ranker_cli.drift_text)
        if moved["beyond"]:
            raise typer.Exit(DRIFT)
        return
    assert run is not None
    result = monitored.monitor(
        open_deployed(run),
        traffic=traffic,
        as_of=_time(as_of, "--as-of"),
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


def _decision(answer: Mapping[str, Any]) -> str:
    """Reasons and gates with their limits, and what became of the challenger, as lines."""
    window = answer["window"]
    lines = [
        f"window {window['start']} to {window['end']}, {window['rows']} labelled rows",
        "",
        table(
            [
                {
                    "": "!" if r["asks"] else "",
                    "reason to train": name,
                    "value": r["value"],
                    "limit": r["limit"],
                }
                for name, r in answer["reasons"].items()
            ]
        ),
    ]
    if answer["gates"]:
        lines += _gate_lines(answer)
    if noticed := answer.get("noticed"):
        lines += ["", *(f"- {said}" for said in noticed)]
    why = ""
    if answer["decision"] == "kept":
        why = ": a gate did not hold" if answer["gates"] else ": no reason to train"
    before = " (decided before, nothing done)" if answer["reused"] else ""
    return "\n".join([*lines, "", f"{answer['decision']}{why}{before}"])


def _gate_lines(answer: Mapping[str, Any]) -> list[str]:
    from training.deployment.decisions import difference

    gates = [
        {
            "": "ok" if g["passed"] else "NO",
            "gate": name,
            "value": _value(g["value"]),
            "limit": str(g["limit"]),
        }
        for name, g in answer["gates"].items()
    ]
    scores = [
        {"": name, **{m.upper(): f"{s[m]['mean']:.4f}" for m in ("auc", "gauc") if s[m]}}
        for name, s in answer["scores"].items()
    ]
    lines = ["", table(gates)]
    for g in answer["gates"].values():
        lines += [f"      {difference(d)}" for d in g.get("first_differences", [])]
    return [*lines, "", table(scores)]


def _drift(result: Mapping[str, Any]) -> str:
    lines = [
        (
            f"generation {result['generation']}, {result['now']['impressions']} impressions against"
            f" {result['baseline']['impressions']}"
        ),
        "",
    ]
    drift = [
        {
            "": "!" if f["beyond"] else "",
            "drift": name,
            "value": f"{f['value']:.4f}",
            "limit": f["limit"],
        }
        for name, f in result["drift"].items()
    ]
    lines.append(table(drift))
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
