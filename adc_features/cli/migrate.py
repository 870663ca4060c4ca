"""`adc migrate`. One call of `adc_features.pipeline.migrations`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, report


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(migrate)


def migrate(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A run or a Feast repository.")],
    catalog: Annotated[
        str | None,
        typer.Option(
            "--catalog",
            metavar="URL",
            help="The run's catalogue; default $ADC_CATALOG, else catalog.db in the run.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Bring what an older version wrote to the formats of this one; `adc doctor` says what that is.

    Nothing is lost when it is stopped: run it again. Refuses while another command works there.
    """
    from adc_features.pipeline.migrations import migrate as bring_up_to_date

    done = bring_up_to_date(directory, catalog=catalog)
    report(
        {"directory": str(directory), "migrated": [step.facts() for step in done]},
        json,
        text=_lines,
    )


def _lines(result: Mapping[str, Any]) -> str:
    return (
        "\n".join(
            f"{step['kind']:18}{step['path']}: format {step['found']} -> {step['becomes']}"
            for step in result["migrated"]
        )
        or "nothing to migrate: everything is of the formats that this version writes"
    )
