"""The commands that rank and serve. Each is one call of `adc_features.serving`."""

import logging
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, report
from adc_features.cli.runs import OptionalRunOption, RepoOption, one_of
from adc_features.errors import InputError

log = logging.getLogger(__name__)
PromotionOption = Annotated[
    Path | None,
    typer.Option("--promotion", metavar="FILE", help="The promotion file; default the run's own."),
]
NowOption = Annotated[
    str | None,
    typer.Option(
        "--now",
        metavar="TIME",
        help="Rank as of this time; default the clock. For data that ended long ago.",
    ),
]
RankerOption = Annotated[
    str | None,
    typer.Option(
        "--ranker", metavar="NAME", help="With --repo: which ranker; default the only one."
    ),
]


# as long as its options
def rank(
    user: Annotated[str, typer.Argument(help="User id; several join keys as KEY=VALUE,KEY=VALUE.")],
    items: Annotated[
        list[str], typer.Argument(metavar="ITEM...", help="Candidates, written likewise.")
    ],
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: RankerOption = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            "--field",
            metavar="NAME=VALUE",
            help="With --repo: a field of the request, in JSON or plain text; repeatable.",
        ),
    ] = None,
    k: Annotated[int | None, typer.Option(min=1, help="How many of the best to show.")] = None,
    now: NowOption = None,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain",
            help="What the ranker saw of the winner, and what each group of inputs contributed.",
        ),
    ] = False,
    json: JsonOption = None,
) -> None:
    """Rank candidates for a user, as the service does."""
    from json import dumps, loads

    from adc_features.serving.in_words import id_asked, keyed_request
    from adc_features.serving.service import Service, ServiceSettings

    place = _promotion_of(repo, ranker) if repo else None
    one_of(run, repo)
    bundle, clock = _opened(run, place, now)
    if run and now is None and (stale := _stale(run, clock())):
        typer.echo(stale, err=True)
    asked: dict[str, Any] = {"user": user, "items": items}
    if repo is not None:
        asked = keyed_request(bundle, user, items, field or [])
    elif int64 := [
        name
        for name, key in (("user", "user_id"), ("items", "item_id"))
        if bundle.id_types[key] == "int64"
    ]:
        asked |= {name: id_asked(asked[name]) for name in int64}
    answer = Service(bundle, ServiceSettings(), clock=clock).rank(
        bundle, dumps({**asked, "k": k, "explain": explain}).encode()
    )
    report(loads(answer.body), json, text=_ranked_text)


def _ranked_text(answer: Any) -> str:
    """The answer for people: what was explained of the winner as tables."""
    from adc_features.cli.console import facts_text, table

    told = answer.pop("explained", None)
    if told is None:
        return facts_text(answer)
    groups = [
        {"group": name, "score": one["score"], **one["log_odds"], "inputs": len(one["inputs"])}
        for name, one in told["groups"].items()
    ]
    inputs = [
        {
            "input": name,
            **{part: one[part] for part in ("side", "kind", "state")},
            "served": ", ".join(f"{column} {value}" for column, value in one["values"].items()),
        }
        for name, one in told["inputs"].items()
    ]
    return "\n".join(
        (
            facts_text(answer),
            "",
            f"the best candidate, score {told['score']:.4g}; contributed by each group:",
            table(groups),
            f"({told['definition']})",
            "",
            table(inputs),
        )
    )


def _promotion_of(repo: Path, ranker: str | None) -> Path:
    """The promotion file of a repository's ranker; without a name, of the only promoted one."""
    from adc_features.serving.workspace import Workspace, promoted_names

    if ranker is None:
        names = promoted_names(repo)
        if len(names) != 1:
            raise InputError(
                f"promoted in {repo} are {names or 'no rankers'}; "
                + ("name one, --ranker NAME" if names else f"run `adc promote --repo {repo}` first")
            )
        ranker = names[0]
    return Workspace(repo, ranker).promotion


# longer than a page because every option of the command is declared here
def serve(
    run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Serve this run: its promoted ranker, else codes_weights."
        ),
    ] = None,
    promotion: PromotionOption = None,
    repo: RepoOption = None,
    ranker: RankerOption = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; anything but loopback should have a token, ADC_SERVE_TOKEN."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8080,
    max_items: Annotated[int, typer.Option(min=1, help="Most ids in one request.")] = 2_000,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 2.0,
    workers: Annotated[
        int,
        typer.Option(
            min=1, help="Processes that answer; each takes a core and the memory of a model."
        ),
    ] = 1,
    items: Annotated[
        bool, typer.Option("--items", help="Take new items, POST /items; needs torch.")
    ] = False,
    max_connections: Annotated[
        int, typer.Option(min=1, help="Connections that each process holds open.")
    ] = 512,
    max_per_peer: Annotated[
        int,
        typer.Option(
            min=1, help="Of them, those of one address; behind a proxy give as many as in all."
        ),
    ] = 256,
    now: NowOption = None,
    events: Annotated[
        bool,
        typer.Option("--events", help="With --repo: take events too, for its live views."),
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="DIR", help="With --repo: keep what was served, to learn from it."
        ),
    ] = None,
    sample: Annotated[
        float,
        typer.Option("--log-sample", metavar="P", help="The share of requests that --log keeps."),
    ] = 1.0,
    values: Annotated[
        float,
        typer.Option(
            "--log-values", metavar="P", help="The share of them that is kept with feature values."
        ),
    ] = 1.0,
    json: JsonOption = None,
) -> None:
    """Rank over HTTP: POST /rank, POST /lookup, GET /healthz, /readyz, /metrics; with --events
    POST /events, with --items POST /items and DELETE /items/ID. Follows promotions.
    """
    import os
    import tempfile
    from contextlib import ExitStack

    stack = ExitStack()
    shared = (
        stack.enter_context(
            tempfile.TemporaryDirectory(prefix="adc-serve-", ignore_cleanup_errors=True)
        )
        if workers > 1
        else None
    )
    if shared:
        # before anything imports prometheus_client, here and in the other processes
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared

    from adc_features.store.feast_import import import_feast_unchecked

    import_feast_unchecked()

    from adc_features.serving.protocol import ServiceSettings
    from adc_features.serving.sink_process import sink_process
    from adc_features.serving.workers import beside

    if [run, promotion, repo].count(None) != 2:
        raise typer.BadParameter("give one of --run, --promotion and --repo")
    if events and repo is None:
        raise typer.BadParameter("--events needs --repo, whose Python files declare live views")
    if keep is not None and repo is None:
        raise typer.BadParameter("--log keeps what a feature service served; give --repo")
    for name, share in (("sample", sample), ("values", values)):
        if not 0 < share <= 1:
            raise typer.BadParameter(f"--log-{name} is {share}; expected more than 0, at most 1")
    promotion = _promotion_of(repo, ranker) if repo else promotion
    token = os.environ.get("ADC_SERVE_TOKEN") or None
    settings = ServiceSettings(
        max_items=max_items,
        timeout=timeout,
        token=token,
        max_connections=max_connections,
        max_per_peer=max_per_peer,
    )
    if host not in ("127.0.0.1", "::1", "localhost") and settings.token is None:
        log.warning(
            "stage=serve host=%s token=none: everyone who reaches it may ask; set ADC_SERVE_TOKEN",
            host,
        )
    with stack, _listening(host, port) as listening:
        taken = stack.enter_context(sink_process(repo)) if events and repo else None
        asked = run, promotion, now, settings, shared, taken, keep, (sample, values), items
        service = _service(*asked)
        facts = {
            "url": _url(host, listening),
            "pair": service.bundle.promotion.name,
            "recipe": service.bundle.recipe_name,
            "token": settings.token is not None,
            "workers": workers,
            "events": events,
        }
        if shared:
            stack.enter_context(
                beside(workers - 1, _serve_beside, listening, *asked, metrics=shared)
            )
        report(facts, json)
        _run(service, listening)


def _listening(host: str, port: int) -> Any:
    import socket

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def _url(host: str, listening: Any) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"


def _service(
    run: Path | None,
    promotion: Path | None,
    now: str | None,
    settings: Any,
    metrics: str | None,
    events: tuple[str, tuple[str, ...]] | None,
    keep: Path | None,
    shares: tuple[float, float],
    items: bool,
) -> Any:
    """What answers. events: the process that takes them, as `sink_process`. keep, shares: the log
    of what was served. items: new ones are taken.
    """
    from adc_features.served.log import LogSettings, ServedLog
    from adc_features.serving.promotion import PROMOTION
    from adc_features.serving.service import Service

    bundle, clock = _opened(run, promotion, now)
    service = Service(
        bundle,
        settings,
        clock=clock,
        promotion_file=promotion or Path(run or "") / PROMOTION,
        metrics=metrics,
        served=None if keep is None else ServedLog(keep, LogSettings(*shares)),
        items=_item_intake(bundle.promotion, settings) if items else None,
        intake=_intake(events, settings) if events else None,
    )
    service.take_over()  # the variants, before the first request
    return service


def _intake(events: tuple[str, tuple[str, ...]], settings: Any) -> Any:
    """What passes events on to the process that takes them."""
    from adc_features.serving.intake import Intake
    from adc_features.serving.sink_process import ProcessSink

    return Intake(ProcessSink(*events).wait(), settings)


def _item_intake(promotion: Any, settings: Any) -> Any:
    """What takes new items of the generation that is served."""
    from adc_features.serving.items import ItemIntake

    return ItemIntake(_served_items(promotion), settings, opened=_served_items)


def _served_items(promotion: Any) -> Any:
    """What encodes new items of a promoted pair, warm."""
    from adc_features.live.items import Items
    from adc_features.live.items_encoding import open_encoder

    if promotion.generation is None:
        raise InputError(
            "the promoted ranker reads no codes, so that new items have none; leave --items out, or"
            " add them with `adc ingest --items`"
        )
    items = Items(promotion.repository, open_encoder(promotion.repository, promotion.generation))
    items.warm()
    return items


def _serve_beside(listening: Any, *asked: Any) -> None:
    """What a further process of `adc serve` runs."""
    from adc_features.serving.workers import end_with_parent

    logging.basicConfig(level=logging.INFO)
    end_with_parent()
    _run(_service(*asked), listening)


def _run(service: Any, listening: Any) -> None:
    from adc_features.serving.app import server

    server(service).run(sockets=[listening])


def _opened(run: Path | None, promotion: Path | None, now: str | None) -> tuple[Any, Any]:
    """The bundle that a run or a promotion file names, warm, and the clock to rank by."""
    from datetime import UTC

    from adc_features.clock import parse_utc
    from adc_features.pipeline.pairs import serving_pair
    from adc_features.pipeline.run import Run
    from adc_features.serving.opening import open_bundle
    from adc_features.serving.promotion import read_promotion
    from adc_features.serving.workers import one_thread

    frozen = parse_utc(now, name="--now") if now else None
    pair = (
        read_promotion(promotion)
        if promotion
        else serving_pair(Run.open(run or Path()), now=datetime.now(UTC))
    )
    bundle = open_bundle(pair)
    one_thread()  # of all libraries that it brought in
    return bundle, lambda: frozen or datetime.now(UTC)


def _stale(run: Path, now: datetime) -> str | None:
    """A sentence for who ranks old data as of today;
    None where the data is younger than a month.
    """
    from adc_features.pipeline.run import Run
    from adc_features.pipeline.stages import serving_time

    end = serving_time(Run.open(run))
    if now - end < timedelta(days=30):
        return None
    return (
        f"warning: ranking as of now, {now:%Y-%m-%dT%H:%M}Z, but the run's data ends at"
        f" {end.isoformat()}; give --now {end.isoformat()} to rank as of then"
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands to an app."""
    for command in (rank, serve):
        app.command()(command)
