"""The commands of live views. Each is one call of `adc_features.live`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import DIFFERENT, JsonOption, progress, report
from adc_features.errors import InputError

LiveRepoOption = Annotated[
    Path, typer.Option("--repo", metavar="DIR", help="The Feast repository of the live views.")
]
StreamOption = Annotated[
    str | None,
    typer.Option("--stream", metavar="NAME", help="Which stream; default the only one."),
]


# as long as its options
def ingest(
    repo: LiveRepoOption,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE...", help="Files of events, one JSON object a line."),
    ] = None,
    stream: StreamOption = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.parquet",
            help="Begin with a whole history of events; before the first live event.",
        ),
    ] = None,
    correct: Annotated[
        bool,
        typer.Option("--correct", help="Count the events that were refused as late, after all."),
    ] = False,
    redis: Annotated[
        str | None, typer.Option(metavar="URL#KEY", help="Read a Redis stream until stopped.")
    ] = None,
    kafka: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT#TOPIC", help="Read a Kafka topic until stopped."),
    ] = None,
    group: Annotated[
        str, typer.Option(help="The consumer group of Redis or Kafka.")
    ] = "adc-features",
    consumer: Annotated[
        str, typer.Option(help="The name of this process in its Redis group.")
    ] = "1",
    items: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="New and removed items instead, one JSON object a line."),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(help="With --items: of which published codes; default the only ones."),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Take events into a repository's live views, from files, Redis Streams or Kafka.

    Started again, it goes on where it was; an event that comes twice counts once.
    """
    if items is not None:
        if files or history or correct or redis or kafka:
            raise typer.BadParameter("--items takes one file and nothing beside it")
        from adc_features.live.item_files import ingest_items

        with progress() as notify:
            report(ingest_items(repo, items, generation=generation, progress=notify), json)
        return
    from adc_features.live.beginnings import begin
    from adc_features.live.repository import open_live
    from adc_features.live.sources.base import Totals, ingest

    if sum(bool(one) for one in (files, history, correct, redis, kafka)) != 1:
        raise typer.BadParameter("give files, --history, --correct, --redis or --kafka")
    live = open_live(repo)
    name = _stream(live, stream)
    if history is not None or correct:
        from adc_features.live.corrections import correct as correction

        with progress() as notify:
            if history is not None:
                facts = begin(live, name, history, progress=notify)
            else:
                facts = correction(live.histories, name, progress=notify)
        report(facts, json)
        return
    totals, size = Totals(), sum(path.stat().st_size for path in files or [] if path.is_file())
    with _stopping() as stopped, progress() as notify:
        for source in _sources(live, name, files, redis, kafka, group=group, consumer=consumer):
            ingest(
                source,
                live.histories,
                stream=name,
                totals=totals,
                stopped=stopped,
                progress=lambda t: notify("events", t.size, max(t.size, size)),
            )
    elsewhere = live.histories.elsewhere
    waiting = {} if elsewhere is None else {"waiting_for_store": elsewhere.waiting()}
    report({"stream": name, **totals.to_dict(), **waiting}, json)


def _sources(
    live: Any,
    name: str,
    files: list[Path] | None,
    redis: str | None,
    kafka: str | None,
    *,
    group: str,
    consumer: str,
) -> list[Any]:
    from adc_features.live.sources.kafka import KafkaTopic
    from adc_features.live.sources.lines import Lines
    from adc_features.live.sources.redis_streams import RedisStream

    declared = live.ledger.streams[name]
    if redis is not None:
        url, key = _parted(redis, "--redis")
        return [RedisStream(url, key, declared, group=group, consumer=consumer)]
    if kafka is not None:
        servers, topic = _parted(kafka, "--kafka")
        return [KafkaTopic(servers, topic, group=group)]
    return [Lines(path) for path in files or []]


def _parted(text: str, option: str) -> tuple[str, str]:
    place, mark, name = text.rpartition("#")
    if not (mark and place and name):
        raise typer.BadParameter(f"{option} is {text!r}; expected its address, '#' and a name")
    return place, name


def _stream(live: Any, name: str | None) -> str:
    streams = list(live.ledger.streams)
    if name is None and len(streams) == 1:
        return streams[0]
    if name is None or name not in streams:
        raise InputError(
            f"{'several streams are declared' if name is None else f'there is no stream {name!r}'};"
            f" give --stream, one of {', '.join(streams)}"
        )
    return name


class _stopping:
    """SIGTERM and SIGINT end the reading between two commits."""

    def __enter__(self) -> Any:
        import signal

        self._asked = False
        self._before = {
            number: signal.signal(number, self._stop) for number in (signal.SIGTERM, signal.SIGINT)
        }
        return lambda: self._asked

    def __exit__(self, *error: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, *_: object) -> None:
        self._asked = True


def verify(
    what: Annotated[str, typer.Argument(metavar="online", help="What to verify.")],
    repo: LiveRepoOption,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Compare so many keys of each view; default all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write the report as a page.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Compare what is served, bit for bit, with what the accepted events say.

    Exits with 10 when anything differs.
    """
    from adc_features.live.repository import open_live
    from adc_features.live.verify import verify_online

    if what != "online":
        raise typer.BadParameter("only `adc verify online` exists")
    found = verify_online(open_live(repo).histories, sample=sample, seed=seed)
    if page is not None:
        from adc_features.live.page import write_page

        write_page(page, found)
    report(found.to_dict(), json)
    if found.different:
        sys.exit(DIFFERENT)


def add_to(app: typer.Typer) -> None:
    """Add these commands to an app."""
    for command in (ingest, verify):
        app.command()(command)
