"""Run a function over the pieces of a Parquet source: in this process, on Spark or on Ray."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from adc_features.errors import InputError

if TYPE_CHECKING:  # pyarrow would make every `adc --help` wait
    from adc_features.engines.parts import Part, PartWork

__all__ = ["engine_of"]

ENGINES = ("local", "spark", "ray")


class Engine(Protocol):
    """Does the work of every part, in whatever order and on whatever machines.

    cores: threads that the work may use where it runs; None: what torch chooses.
    """

    @property
    def name(self) -> str: ...

    @property
    def cores(self) -> int | None: ...

    def run(
        self, work: "PartWork", parts: "Sequence[Part]", *, told: Callable[[int], None]
    ) -> Mapping[int, int]: ...


def engine_of(name: str, settings: Mapping[str, Any] | None = None) -> Engine:
    """Where the parts of a source are worked on.

    Parameters
    ----------
    name : str
        "local", "spark" or "ray".
    settings : mapping, optional
        Of the Spark session that is started where none runs, or arguments of `ray.init`.

    Returns
    -------
    Engine
        Nothing is started yet.

    Raises
    ------
    InputError
        Another name, or settings of the local engine, which has none.

    Examples
    --------
    >>> engine_of("local").name
    'local'
    """
    if name == "spark":
        from adc_features.engines.spark import SparkEngine

        return SparkEngine(settings or {})
    if name == "ray":
        from adc_features.engines.ray import RayEngine

        return RayEngine(settings or {})
    if name != "local":
        raise InputError(f"engine is {name!r}; expected one of {', '.join(ENGINES)}")
    if settings:
        raise InputError(f"the local engine has no settings, and got {sorted(settings)}")
    from adc_features.engines.local import LocalEngine

    return LocalEngine()
