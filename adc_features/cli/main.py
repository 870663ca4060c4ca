"""The `adc` command: the library's commands,
and those of every installed package that declares some.

A package adds commands by an entry point of the group `adc_features.commands`: a function that
takes the app. `training`, which is installed beside the library, does; a user's own folder of that
name only hides its commands.
"""

import logging
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

from adc_features.cli import (
    aggregates,
    commands,
    copies,
    encoding,
    explore,
    forget,
    inputs,
    live,
    migrate,
    serving,
)
from adc_features.cli.console import run_app
from adc_features.ranks import started_by_torchrun

log = logging.getLogger("adc")
GROUP = "adc_features.commands"


def main() -> None:
    """Entry point of the console script. Of several processes that torchrun started, the first
    runs the command, and the others take part in its fits.
    """
    if started_by_torchrun():
        from adc_features.processes import lead

        run_app(lambda: lead(application()))
    else:
        run_app(application())


def _version(asked: bool) -> None:
    if asked:
        from adc_features import __version__

        typer.echo(f"adc-features {__version__}")
        raise typer.Exit


@cache
def application() -> typer.Typer:
    """The app with every command that is installed."""
    serving.add_to(commands.app)
    migrate.add_to(commands.app)
    encoding.add_to(commands.app)
    inputs.add_to(commands.app)
    live.add_to(commands.app)
    forget.add_to(commands.app)
    explore.add_to(commands.app)
    copies.add_to(commands.app)
    aggregates.add_to(commands.app)
    for point in entry_points(group=GROUP):
        _add(point, commands.app)
    commands.app.callback()(options)
    return commands.app


def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Reliability-aware semantic IDs as Feast features for ranking."""


def _add(point: EntryPoint, app: typer.Typer) -> None:
    try:
        add_to = point.load()
    except (ImportError, AttributeError) as error:
        log.warning(
            "the commands of %s are left out (%s); does another package of that name come first on"
            " the path?",
            point.value,
            error,
        )
        return
    add_to(app)


if __name__ == "__main__":  # torchrun -m -- adc_features.cli.main fit ...
    main()
