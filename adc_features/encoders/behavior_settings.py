"""How behaviour vectors are trained: settings and named recipes."""

from collections.abc import Callable
from dataclasses import dataclass

from adc_features.encoders.sasrec import Loss
from adc_features.errors import InputError


@dataclass(frozen=True)
class BehaviorSettings:
    """How the item table is trained.

    dim: D. length: T, places of a packed row, the longest history. batch: positions a step. epochs:
    passes over the events up to the first cut-off; continued_epochs: passes over all events before
    each later one. learning_rate: its peak; it rises over the first tenth of the steps and falls to
    0, at every cut-off. init_std: of new rows of the item table. table_decay: AdamW's decoupled
    decay, on the item table only; without it the norms of rare items grow with every cut-off.
    new_event_weight: how much an event since the last cut-off counts beside one before it, when an
    item's vector moves on (`carried`).
    """

    loss: Loss
    dim: int = 64
    blocks: int = 2
    length: int = 64
    batch: int = 512
    dropout: float = 0.3
    epochs: int = 10
    continued_epochs: int = 3
    learning_rate: float = 5e-3
    init_std: float = 0.02
    table_decay: float = 0.3
    new_event_weight: float = 2.0

    def __post_init__(self) -> None:
        sizes = {
            name: getattr(self, name)
            for name in ("dim", "blocks", "length", "epochs", "continued_epochs")
        }
        if min(sizes.values()) < 1 or self.batch < self.length:
            raise InputError(
                f"behaviour settings are {sizes} with batch {self.batch}; expected all at least 1"
                " and a batch of at least one row of `length`"
            )
        if not self.new_event_weight > 0:
            raise InputError(
                f"new_event_weight is {self.new_event_weight}; expected above 0: at 0 no vector"
                " would ever move"
            )


def full_softmax() -> BehaviorSettings:
    """The most accurate recipe we measured. Item popularity is a fixed term of the logits, so that
    the vectors hold what is left.
    """
    return BehaviorSettings("full_softmax")


def norm_rising() -> BehaviorSettings:
    """Norms that grow with popularity, as ADC-SID's Eq. 15-17 assume: tiny initial rows, negatives
    as frequent as positives, strong decay, an early stop (the rank correlation of norm and count
    falls with every further epoch). Less accurate than `full_softmax`.
    """
    return BehaviorSettings(
        "in_batch",
        epochs=16,
        continued_epochs=2,
        learning_rate=2e-3,
        init_std=0.002,
        table_decay=1.0,
    )


def quick() -> BehaviorSettings:
    """`full_softmax` with few epochs: to see whether a run works, in a fraction of the time."""
    return BehaviorSettings("full_softmax", epochs=1, continued_epochs=1)


RECIPES: dict[str, Callable[[], BehaviorSettings]] = {
    "full_softmax": full_softmax,
    "norm_rising": norm_rising,
    "quick": quick,
}
