"""The options of commands whose work an engine may do. Reads: words of the command line. Writes:
nothing.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.errors import InputError

if TYPE_CHECKING:
    from adc_features.engines import Engine

EngineOption = Annotated[str, typer.Option(help="local, spark or ray.")]
EngineSetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-set",
        metavar="NAME=VALUE",
        help="Setting of the Spark session, or argument of ray.init; repeatable.",
    ),
]


def chosen_engine(name: str, given: Sequence[str] | None) -> "Engine":
    """The engine, with its settings: values as JSON where they are, such as numbers; else as text.

    Raises InputError for another name, or for what is no NAME=VALUE.
    """
    from adc_features.engines import engine_of

    found = dict[str, Any]()
    for each in given or ():
        setting, equals, value = each.partition("=")
        if not (setting and equals):
            raise InputError(f"--engine-set is {each!r}; expected NAME=VALUE")
        try:
            found[setting] = json.loads(value)
        except ValueError:
            found[setting] = value
    return engine_of(name, found)
