"""What a person may choose about codes. Writes: TokenizeSettings."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from adc_features.codes.generation import check_generation_id
from adc_features.devices import DEVICES
from adc_features.errors import InputError
from adc_features.pipeline.run_settings import RunSettings

LARGEST_CODEBOOK = 100
"""K where nobody names it, of catalogues that are large enough."""


@dataclass(frozen=True)
class TokenizeSettings:
    """How codes are made; what is None follows from the data.

    generation, tokenizer, reliability, steps, behavior_codes, behavior, seed: as `RunSettings`.
    codebook_size: K, codes of each position. publish_lag: how long after a time its codes could
    first be served. device: where the tokenizer and behaviour are trained.
    """

    generation: str = "g1"
    tokenizer: str = "adc"
    reliability: Any = None
    steps: int | None = None
    codebook_size: int | None = None
    behavior_codes: int = 3
    behavior: str = RunSettings.behavior
    publish_lag: timedelta = timedelta(0)
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_generation_id(self.generation)
        if self.device not in DEVICES:
            raise InputError(f"device is {self.device!r}; expected one of {', '.join(DEVICES)}")
        if self.publish_lag < timedelta(0):
            raise InputError(f"publish_lag is {self.publish_lag}; expected zero or more")

    def as_run(self, codebook_size: int = LARGEST_CODEBOOK) -> RunSettings:
        """The same, checked, as the settings that recipes read."""
        return RunSettings(
            source="a feature repository",
            generation=self.generation,
            tokenizer=self.tokenizer,
            reliability=self.reliability,
            steps=self.steps,
            codebook_size=self.codebook_size or codebook_size,
            behavior_codes=self.behavior_codes,
            behavior=self.behavior,
            seed=self.seed,
            device=self.device,
        )
