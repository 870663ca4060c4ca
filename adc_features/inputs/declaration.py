"""How a ranker is declared: its service, its tasks and what becomes of each feature.

Reads: nothing; importing it is light and has no side effects, as Feast imports the files of a
repository while it applies them. Writes: values.

    feed = Ranker(
        name="feed",
        service="feed_v3",
        tasks=[Task("click"), Task("purchase", weight=0.3, delay="7d")],
        inputs=infer() | {
            "item_stats__price": number(log=True, bins=32),
            "device": category(request=True),
            "position": category(request=True, train_only=True, default=0),
        },
        gates=["user_profile__segment", "sid"],
    )
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adc_features.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Input:
    """What all kinds of inputs share.

    Parameters
    ----------
    source : str, optional
        The column that is read: a feature's key `<view>__<feature>`, a join key, or a request
        field. By default the name under which the input is declared.
    request : bool
        The value comes with the request: a column of the label log offline, a field of the request
        online.
    optional : bool
        Of a request field: it may be missing, and is then absent. A required one that is missing is
        an error.
    train_only : bool
        The model sees the real value in training only (a position); every validation, test and
        served score sees `default`.
    default : object
        The stated value of a train-only input.
    level : bool or "settled"
        Read by the small level networks beside the gated towers, and not by the towers: who a user
        is (how often and how well they rate) shifts all of a request's scores alike. "settled":
        what was known of the user some time ago, read by the cautious one of both; see
        `ranking.multitask.shape`. Its numbers are read, not its embeddings.
    gate_only : bool
        Read by gates alone and not by towers: `Ranker.gates` must name it.
    """

    source: str | None = None
    request: bool = False
    optional: bool = False
    train_only: bool = False
    default: Any = None
    level: bool | Literal["settled"] = False
    gate_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Number(Input):
    """A number: clip -> sign(x) log1p|x| (log) -> standardise -> +-5, with a missing indicator.

    bins: quantile bins of the training values, embedded beside it; 0 for none.
    """

    log: bool = False
    clip: tuple[float, float] | None = None
    standardise: bool = True
    bins: int = 0


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """How values become rows of a table: 0 absent, 1 unknown, 2..1+buckets hash rows, then ids in
    the order of admission.

    min_count: training rows that a value needs for a row of its own. max_size: at most so many,
    the most frequent. buckets: rows that other values share by their hash; 0 = they all are
    "unknown". dropout: share of training rows that see the unknown (or hash) row in place of their
    own, so that it is trained. share: name of a table that several inputs share.
    """

    min_count: int = 30
    max_size: int | None = None
    buckets: int = 0
    dropout: float = 0.05
    share: str | None = None


@dataclass(frozen=True, kw_only=True)
class Category(Input, VocabularyOptions):
    """One value of a vocabulary, embedded."""


@dataclass(frozen=True, kw_only=True)
class Flag(Input):
    """True or false: +1, -1, 0 where missing, and an indicator."""


@dataclass(frozen=True, kw_only=True)
class Time(Input):
    """A moment: log1p(age in days) at the row's or the request's time, standardised, and an
    indicator. It reads timestamps, and integers that are microseconds since 1970 UTC where they are
    declared so. zone: an IANA zone adds hour and weekday, each as sine and cosine."""

    zone: str | None = None


@dataclass(frozen=True, kw_only=True)
class Vector(Input):
    """Numbers of one fixed length, projected to the embedding width without bias."""

    length: int | None = None
    normalise: bool = False


@dataclass(frozen=True, kw_only=True)
class CategorySet(Input, VocabularyOptions):
    """Distinct values of a list, embedded and averaged; their number as log1p beside it."""


@dataclass(frozen=True, kw_only=True)
class CategorySequence(Input, VocabularyOptions):
    """The newest `last` values of an ordered list, averaged with weights that halve every
    `half_life` places."""

    order: Literal["newest_last", "newest_first"] = "newest_last"
    last: int = 20
    half_life: float = 10.0


@dataclass(frozen=True, kw_only=True)
class ItemHistory(Input, VocabularyOptions):
    """A user's recent items: pooled, and attended to from the candidate.

    Parameters
    ----------
    source : str
        The list of item ids.
    times, labels : str, optional
        Lists of the same length: when each event happened (timestamps, or integers in microseconds
        since 1970 UTC), and how it was liked.
    codes : bool
        Items are read as their semantic IDs as of the row's time, with the tables of the
        `semantic_id` input; otherwise as ids, with the vocabulary of `candidate`.
    candidate : str, optional
        The join key of the candidate item. By default the item side's only key.
    match : bool
        Also the share of the recent items that agree with the candidate, by code position (or id),
        plain and weighted by `label - mean label`; the user's mean is smoothed by two labels of
        the training rows' mean.
    mean : str, optional
        A stored mean label of the user, for `match` in the place of that of the listed items: it
        knows the older ones too. Where it is null the listed items tell.
    embedded : bool
        Pooled and attended to; False leaves the numbers alone: size, age and match.
    """

    times: str | None = None
    labels: str | None = None
    codes: bool = False
    candidate: str | None = None
    order: Literal["newest_last", "newest_first"] = "newest_last"
    last: int = 20
    match: bool = True
    mean: str | None = None
    embedded: bool = True


@dataclass(frozen=True, kw_only=True)
class SemanticId(Input):
    """The candidate's codes with their weights and reliability.

    source: the projected name of the view of codes. weights: False counts every code as 1.
    codebook_size: K, by default that of the timeline of codes that training reads.
    """

    weights: bool = True
    codebook_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cross(Input, VocabularyOptions):
    """A pair of categories as one. of: the sources of both."""

    of: tuple[str, str] = ("", "")


@dataclass(frozen=True, kw_only=True)
class Match(Input):
    """How a user's recent values meet the candidate's: the smoothed sum of `values` (1 where none
    are named) over the elements of the list `source` that equal the candidate's `candidate`.

    sum / (matches + smoothing), one number and whether it is absent; a LookupFeature of
    TorchEasyRec whose map is stored as two lists, its keys and its values. centred: each of the
    values counts beside the user's own mean, sum / (elements + smoothing). standardise: as a number
    is, by its mean and deviation in the training rows, and within +-5.
    """

    candidate: str = ""
    values: str | None = None
    smoothing: float = 2.0
    centred: bool = False
    standardise: bool = False


@dataclass(frozen=True, kw_only=True)
class Remainder(Input):
    """What a stored total says of the events older than `days`: the total less the recent events
    that are younger. An event just before a row says much about the row itself; the state of some
    time ago does not.

    Parameters
    ----------
    source : str
        The number of events; or, with `count`, the mean of `values` over them, smoothed by
        `smoothing` events of 0. Older events than the list holds count as older than `days`.
    times : str
        The list of the recent events' times.
    values, count : str, optional
        Of a mean: the list of what each recent event counted, beside `times`, and the number of all
        events. Absent where no event is older.
    log : bool
        log1p of a number of events.
    """

    times: str = ""
    values: str | None = None
    count: str | None = None
    days: float = 60.0
    smoothing: float = 0.0
    log: bool = False


@dataclass(frozen=True)
class Skip:
    """The feature is not read."""


AnyInput = Input | Skip
KINDS: Mapping[str, type] = {
    "number": Number,
    "category": Category,
    "flag": Flag,
    "time": Time,
    "vector": Vector,
    "set": CategorySet,
    "sequence": CategorySequence,
    "history": ItemHistory,
    "semantic_id": SemanticId,
    "cross": Cross,
    "match": Match,
    "remainder": Remainder,
    "skip": Skip,
}
"""Kind as written in tags and manifests -> its class."""

number, category, flag, time, vector = Number, Category, Flag, Time, Vector
category_set, category_sequence, item_history = CategorySet, CategorySequence, ItemHistory
semantic_id, cross, match, skip = SemanticId, Cross, Match, Skip
remainder = Remainder


@dataclass(frozen=True)
class Inputs:
    """Declared inputs by name. inferred: the rest of the service follows the rules of
    `resolution`."""

    declared: Mapping[str, AnyInput] = field(default_factory=dict)
    inferred: bool = False

    def __or__(self, other: "Mapping[str, AnyInput] | Inputs") -> "Inputs":
        if isinstance(other, Inputs):
            inferred = self.inferred or other.inferred
            return Inputs({**self.declared, **other.declared}, inferred)
        return Inputs({**self.declared, **other}, self.inferred)


def infer() -> Inputs:
    """Every feature of the ranker's service by the rules for its type and tags. A placeholder: it
    is resolved when a command opens the applied registry."""
    return Inputs(inferred=True)


SETTINGS = (
    *("embedding", "hidden", "gate", "networks", "epnet"),
    *("level_hidden", "fresh_hidden", "fresh_share"),
    *("dropout", "learning_rate", "weight_decay", "batch", "max_epochs"),
    *("bias_penalty", "level_rate", "fresh_rate", "level_epochs"),
)
"""What `Ranker.settings` may name: how a network is built, then how it is trained."""


@dataclass(frozen=True)
class Task:
    """One label that is learned.

    Parameters
    ----------
    name : str
        The task, and by default the column of the label log that holds it: 0, 1 or null.
    column : str, optional
        Another column.
    weight : float
        Of the task in the loss.
    known_at : str, optional
        Column of the time at which a positive label became known.
    delay : str or timedelta, optional
        The attribution window: a label is 1 if it is known within it, and a row is ripe once the
        window is over. With `known_at` alone, the 99th percentile of known_at - row time among
        positives.
    given : str, optional
        A task that must be positive for this one to be defined (purchase given click).
    """

    name: str
    column: str | None = None
    weight: float = 1.0
    known_at: str | None = None
    delay: Any = None
    given: str | None = None


@dataclass(frozen=True)
class Ranker:
    """A ranker of a feature service.

    Parameters
    ----------
    service : str
        The feature service that it reads.
    tasks : sequence of Task
        What it learns.
    inputs : Inputs or mapping of str to Input
        By default `infer()`.
    name : str, optional
        By default the service's name.
    gates : sequence of str
        Names of inputs that the gates of every layer see (PPNet's prior).
    domain : str, optional
        An input whose embedding gates all others (EPNet).
    user, item : sequence of str, optional
        Join keys that are constant within a request, and those of the candidate. By default the
        label log tells (`adc inputs --labels`), or names are asked for.
    request : str, optional
        Column of the label log that names a row's request: splits keep it whole.
    score : mapping of str to float, optional
        The served score: the product of p(task) ** exponent. By default the first task alone.
    score_sum : bool
        The weighted sum in place of the product.
    model : str
        "ppnet" or "xgboost".
    listwise : float
        Weight of a softmax cross-entropy over each request's rows; 0 for none.
    sample_weight : str, optional
        Column of the label log with each row's weight in the loss and in weighted metrics, for all
        tasks.
    settings : mapping of str to object, optional
        How the network is built and trained, where it is not as `NetworkSettings` and `FitSettings`
        have it by default: {"networks": 4, "dropout": 0.5}.
    """

    service: str
    tasks: Sequence[Task]
    inputs: Inputs | Mapping[str, AnyInput] = field(default_factory=infer)
    name: str | None = None
    gates: Sequence[str] = ()
    domain: str | None = None
    user: Sequence[str] = ()
    item: Sequence[str] = ()
    request: str | None = None
    score: Mapping[str, float] | None = None
    score_sum: bool = False
    model: Literal["ppnet", "xgboost"] = "ppnet"
    listwise: float = 0.0
    sample_weight: str | None = None
    settings: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("tasks", "gates", "user", "item"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise InputError(f"Ranker({name}={value!r}): expected a list, write [{value!r}]")
            object.__setattr__(self, name, tuple(value))
        if not isinstance(self.inputs, Inputs):
            object.__setattr__(self, "inputs", Inputs(dict(self.inputs)))

    @property
    def declared(self) -> Inputs:
        """`inputs` as what it is after construction."""
        assert isinstance(self.inputs, Inputs)
        return self.inputs
