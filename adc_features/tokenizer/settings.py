"""How an ADC-SID tokenizer is built and trained. Writes: AdcSettings."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from adc_features.codes.reliability import Mode
from adc_features.errors import InputError
from adc_features.tokenizer.importance import (
    GateInput,
    GateScale,
    Sparsity,
)

RETIRED = frozenset({"codebook_update", "ema_decay", "stopgrad_behavior", "denoise_negatives"})


"""Settings of generations that versions before 0.2 wrote."""


@dataclass(frozen=True)
class AdcSettings:
    """How an ADC-SID tokenizer is built and trained.

    Defaults are measured on Beauty unless the paper states them; docs/method_notes.md gives the
    reasons by heading.

    Parameters
    ----------
    reliability : {"log_count", "norm", "norm_quantile"}
        What the reliability x is read from (method notes: The reliability signal).
    alpha, beta : float
        The alignment controller's slope and offset (Eq. 17).
    hidden, latent, aligned : int
        Widths of the network: hidden layers, latents (D) and the space of the alignment (h);
        multiples of 16.
    gate_scale : {"linear", "sigmoid", "controller", "equal"}
        What multiplies the gate (Eq. 22; method notes: Scale and input of the gate).
    gate_input : {"unit", "raw"}
        The behaviour vector as the gate reads it: at unit length, or as it is, as the paper does.
    reconstruction_weight, alignment_weight, vq_weight, balance_weight : float
        Weights of the loss's terms (method notes: The total loss).
    commitment : float
        How much latents move to codewords beside codewords
        to latents (method notes: How codebooks learn).
    orthogonality_weight, auxiliary_weight : float
        Weights of two further terms, 0 by default (method notes: Terms of MMQ).
    temperature : float
        tau of the contrastive terms.
    target_active : float, optional
        k-bar, the mean number of active behavioural experts; None means half of them (method notes:
        How many experts are active).
    sparsity : {"threshold", "penalty", "off"}
        Feedback on the gate's threshold, the penalty of Eq. 23, or neither.
    steps, warmup_steps, batch : int
        Optimiser steps, those of them before codes are used, and rows of each.
    learning_rate, weight_decay : float
        AdamW's, with cosine decay.
    drop_behavior : float
        Share of rows that train as cold (method notes: Items without behaviour).
    revive_every, revive_share : int, float
        Every so many steps, codes under this share of the uniform rate move to crowded places.
    stay_weight : float
        How much a warm-started fit pays for moving items off the codes
        of the generation before (`Codebooks.departure`).
    hysteresis : float
        The lead in cosine that another code needs over the one an item had in the snapshot before.
    min_utilisation : float
        Share of codes in use under which a codebook counts as collapsed and the fit refuses.

    Raises
    ------
    InputError
        For steps, batches or widths that cannot be met.

    Examples
    --------
    >>> AdcSettings(steps=200).hysteresis
    0.12
    """

    reliability: Mode = "log_count"
    alpha: float = 20.0
    beta: float = 4.0
    hidden: int = 256
    latent: int = 64
    aligned: int = 128
    gate_scale: GateScale = "linear"
    gate_input: GateInput = "unit"
    reconstruction_weight: float = 12.0
    alignment_weight: float = 0.1
    vq_weight: float = 1.0
    commitment: float = 1.0
    balance_weight: float = 2.0
    orthogonality_weight: float = 0.0
    auxiliary_weight: float = 0.0
    temperature: float = 0.07
    target_active: float | None = None
    sparsity: Sparsity = "threshold"
    steps: int = 600
    warmup_steps: int = 60
    batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    drop_behavior: float = 0.1
    revive_every: int = 50
    revive_share: float = 0.1
    stay_weight: float = 0.2
    hysteresis: float = 0.12
    min_utilisation: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_steps < self.steps:
            raise InputError(
                f"warmup_steps is {self.warmup_steps} of {self.steps} steps; expected 0 or more and"
                " fewer than steps"
            )
        if self.batch < 2 or self.revive_every < 1:
            raise InputError(
                f"batch is {self.batch} and revive_every {self.revive_every}; expected at least 2"
                " and 1"
            )
        # a matrix product under 16 columns rounds a row differently in another place of the batch;
        # codes must not depend on that
        if any(width < 16 or width % 16 for width in (self.hidden, self.latent, self.aligned)):
            raise InputError(
                f"hidden, latent, aligned are {self.hidden}, {self.latent}, {self.aligned};"
                " expected multiples of 16"
            )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "AdcSettings":
        """The settings of a stored generation, those of earlier versions included.

        Settings that this version has retired are left out: they steered the training only, and a
        frozen generation encodes without them.
        """
        return cls(**{name: value for name, value in stored.items() if name not in RETIRED})
