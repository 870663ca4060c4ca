"""How behaviour vectors are learned: settings of each encoder and named recipes."""

from collections.abc import Callable
from dataclasses import dataclass

from adc_features.encoders.sampled import Sampled
from adc_features.encoders.sasrec import Loss
from adc_features.errors import InputError


@dataclass(frozen=True)
class BehaviorSettings:
    """How the item table is trained.

    loss: against all items, the batch's own, or a sample. dim: D. length: T, places of a packed
    row, the longest history. batch: positions a step. epochs: passes over the events up to the
    first cut-off; continued_epochs: passes over all events before each later one. learning_rate:
    its peak; it rises over the first tenth of the steps and falls to 0, at every cut-off. init_std:
    of new rows of the item table. table_decay: AdamW's decoupled decay, on the item table only;
    without it the norms of rare items grow with every cut-off. new_event_weight: how much an event
    since the last cut-off counts beside one before it, when an item's vector moves on (`carried`).
    """

    loss: Loss | Sampled
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


@dataclass(frozen=True)
class ContentSettings:
    """SASRec of which an item's vector is a linear map of its content plus a part of its own.

    own_decay: decoupled decay of the own part of an item with one event; that of an item with n
    events is an n-th of it. content_width: axes of content, at most.
    """

    sasrec: BehaviorSettings
    own_decay: float = 8.0
    content_width: int = 128

    def __post_init__(self) -> None:
        if isinstance(self.sasrec.loss, Sampled):
            raise InputError(
                "a map of content is trained against every item's content, and the loss is"
                " sampled; expected full_softmax or in_batch, or BehaviorSettings without content"
            )
        if not self.own_decay >= 0 or self.content_width < 1:
            raise InputError(
                f"own_decay and content_width are {self.own_decay} and {self.content_width};"
                " expected at least 0 and 1"
            )

    @property
    def new_event_weight(self) -> float:
        return self.sasrec.new_event_weight


@dataclass(frozen=True)
class FactorSettings:
    """How users and items are factorised.

    dim: D. confidence: how much more an event weighs than the absence of one. user_penalty,
    item_penalty: of the squared length of a user's factor, and of the squared distance of an item's
    from the map of its content. ridge: of that map. rounds: of alternating least squares at the
    first cut-off; continued_rounds: at each later one. new_event_weight: as `BehaviorSettings`.
    """

    dim: int = 64
    confidence: float = 20.0
    user_penalty: float = 5.0
    item_penalty: float = 20.0
    ridge: float = 1.0
    rounds: int = 8
    continued_rounds: int = 3
    content_width: int = 128
    new_event_weight: float = 2.0

    def __post_init__(self) -> None:
        sizes = (self.dim, self.rounds, self.continued_rounds, self.content_width)
        penalties = (self.confidence, self.user_penalty, self.item_penalty, self.ridge)
        if min(sizes) < 1 or not min(penalties) > 0 or not self.new_event_weight > 0:
            raise InputError(
                f"factor settings are {self}; expected sizes and rounds of at least 1, and"
                " penalties, confidence and new_event_weight above 0"
            )


Settings = BehaviorSettings | ContentSettings | FactorSettings


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


def sampled_softmax() -> BehaviorSettings:
    """`full_softmax` against a sample of the items: for catalogues of which a step cannot read
    every one.
    """
    return BehaviorSettings(Sampled())


def quick() -> BehaviorSettings:
    """`full_softmax` with few epochs: to see whether a run works, in a fraction of the time. Such a
    run does not compare encoders of half of the events each.
    """
    return BehaviorSettings("full_softmax", epochs=1, continued_epochs=1)


def sasrec_content() -> ContentSettings:
    """`full_softmax` whose rare items are what their content says."""
    return ContentSettings(full_softmax())


def wmf_content() -> FactorSettings:
    """Weighted matrix factorisation whose rare items are what their content says: no sequence, no
    gradient descent, the same least squares every time.
    """
    return FactorSettings()


RECIPES: dict[str, Callable[[], Settings]] = {
    "full_softmax": full_softmax,
    "norm_rising": norm_rising,
    "sampled_softmax": sampled_softmax,
    "quick": quick,
    "sasrec_content": sasrec_content,
    "wmf_content": wmf_content,
}
