"""`adc push` and `adc pull`. One call of `adc_features.stored_versions` each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, report


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (push, pull):
        app.command()(command)


def push(
    source: Annotated[
        Path,
        typer.Option("--from", metavar="DIR", help="A complete directory, such as a publication."),
    ],
    to: Annotated[str, typer.Option("--to", metavar="URI", help="The address of its versions.")],
    keep: Annotated[int, typer.Option(help="Versions that stay there, this one included.")] = 3,
    json: JsonOption = None,
) -> None:
    """Put a complete directory on an object store, as the newest of its versions there."""
    from adc_features import stored_versions

    stored = stored_versions.push(source, to, keep=keep)
    report({"uri": to, **vars(stored)}, json, text=_lines)


def pull(
    source: Annotated[
        str, typer.Option("--from", metavar="URI", help="Where `adc push` put versions.")
    ],
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The directory here; it is replaced.")
    ],
    version: Annotated[
        str | None, typer.Option(help="An older version, to go back to; default the newest.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Bring a directory of this host to the newest version on an object store, or back to an older
    one: copied, verified and replaced in one step.
    """
    from adc_features import stored_versions

    stored = stored_versions.pull(source, to, version=version)
    report({"directory": str(to), **vars(stored)}, json, text=_lines)


def _lines(result: Mapping[str, Any]) -> str:
    done = "copied" if result["changed"] else "there already"
    return f"version {result['version']}: {done}; kept: {', '.join(result['versions'])}"
