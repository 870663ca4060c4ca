"""Parts one after the other in this process. Reads, writes: as the work does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from adc_features.engines.parts import Part, PartWork


@dataclass(frozen=True)
class LocalEngine:
    """This process. What works on a piece may use every core."""

    name: str = "local"
    cores: int | None = None

    def run(
        self, work: PartWork, parts: Sequence[Part], *, told: Callable[[int], None]
    ) -> Mapping[int, int]:
        """Part number -> rows written. told: called with the rows of each piece."""
        return {part.number: work(part, told) for part in parts}
