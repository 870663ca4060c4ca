"""The command that explores. It is one call of `adc_features.explore`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.cli.console import JsonOption, progress, report
from adc_features.cli.runs import OptionalRunOption, RepoOption

if TYPE_CHECKING:  # numpy and starlette would make every `adc --help` wait
    from adc_features.explore.pages import Explorer


def explore(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    promotion: Annotated[
        Path | None,
        typer.Option("--promotion", metavar="FILE", help="A promotion file: its repository."),
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(
            "--items",
            metavar="FILE",
            help="Parquet with ids, `title`, `brand`, `category`; default the run's items.",
        ),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            "--vectors",
            metavar="view__feature|FILE",
            help=(
                "Vectors of the items, for what is like an item: an Array(Float32) feature, or"
                " Parquet with the key; repeatable. Default: those that the tokenizer was fitted"
                " on, else those that the repository declares."
            ),
        ),
    ] = None,
    show: Annotated[
        str | None,
        typer.Option(
            "--show",
            metavar="PAGE",
            help="Print the facts of a page, such as '/item?id=b42'.",
        ),
    ] = None,
    served_log: Annotated[
        Path | None,
        typer.Option(
            "--log", metavar="DIR", help="What `adc serve --log` keeps: requests by their ids."
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="DIR", help="Write static pages to a new directory, and end."
        ),
    ] = None,
    export_items: Annotated[
        int, typer.Option(min=0, help="How many of the most popular items --export writes.")
    ] = 200,
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="DIR", help="Keep the index here; default beside the publications."
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(help="Address to listen on; anything but loopback needs ADC_SERVE_TOKEN."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 takes a free one.")] = 8090,
    json: JsonOption = None,
) -> None:
    """Look at codes, items, decisions and freshness in a browser, on this machine and read-only."""
    import os

    from adc_features.explore.place import place_of

    place = place_of(run=run, repo=repo, promotion=promotion, items=items, vectors=vectors or ())
    token = os.environ.get("ADC_SERVE_TOKEN") or None
    if export is not None:
        from adc_features.explore.export import export_site

        pages = [] if show is None else [show]
        explorer = _opened(place, cache, served_log)
        report(export_site(explorer, export, items=export_items, pages=pages), json)
    elif show is not None:
        from adc_features.explore.pages import facts_of, parsed

        page, asked = parsed(show)
        if page == "health":
            asked["wait"] = "1"
        report(facts_of(_opened(place, cache, served_log), page, asked), json)
    else:
        _serve(_opened(place, cache, served_log), host, port, token, json)


def _opened(place: Any, cache: Path | None, served_log: Path | None) -> "Explorer":
    from adc_features.explore.building import ensure_index
    from adc_features.explore.index import Index
    from adc_features.explore.pages import Explorer

    with progress() as notify:
        directory = ensure_index(place, cache, notify)
    return Explorer(Index(directory, place), served_log)


def _serve(explorer: "Explorer", host: str, port: int, token: str | None, json: str | None) -> None:
    import socket

    from adc_features.errors import InputError
    from adc_features.explore.app import LOOPBACK, server

    local = host in ("127.0.0.1", "::1", "localhost")
    if not local and token is None:
        raise InputError(
            f"--host is {host} and there is no token: everyone who reaches it could read all data;"
            " set ADC_SERVE_TOKEN, or leave --host out"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listening:
        name = f"[{host}]" if ":" in host else host
        url = f"http://{name}:{listening.getsockname()[1]}"
        made = server(explorer, token=token, hosts=LOOPBACK if local else None)
        report({"url": url, "items": explorer.index.items, "token": token is not None}, json)
        explorer.begin()
        made.run(sockets=[listening])


def add_to(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(explore)
