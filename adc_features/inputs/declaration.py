"""How a ranker is declared: its service, its tasks and what becomes of each feature.

Reads: nothing; importing it is light and has no side effects, as Feast imports the files of a
repository while it applies them. Writes: values.

    from adc_features.inputs import Ranker, Task, category, infer, number

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
from adc_features.inputs.kinds import (
    Category,
    Cross,
    Flag,
    Input,
    Number,
    SemanticId,
    Skip,
    Time,
    Vector,
    VocabularyOptions,  # noqa: F401 - declarations that were written earlier import it from here
)
from adc_features.inputs.list_kinds import (
    CategorySequence,
    CategorySet,
    ItemHistory,
    Match,
    Remainder,
)

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
NAMES: Mapping[type, str] = {kind: name for name, kind in KINDS.items()}
"""Class -> name of the kind."""

number, category, flag, time, vector = Number, Category, Flag, Time, Vector
category_set, category_sequence, item_history = CategorySet, CategorySequence, ItemHistory
semantic_id, cross, match, skip = SemanticId, Cross, Match, Skip
remainder = Remainder


@dataclass(frozen=True)
class Inputs:
    """Declared inputs by name, and whether the rest of the service is inferred.

    `|` adds declarations; the right-hand side wins.

    Parameters
    ----------
    declared : mapping of str to Input or Skip
        By the name of the input: a feature's key `<view>__<feature>`, its own name where only one
        view of the service has it, or a name of your choice with `source`.
    inferred : bool
        Every other feature of the service follows the rules for its type and tags.

    Examples
    --------
    >>> from adc_features.inputs import Inputs, flag, infer
    >>> inputs = infer() | {"is_member": flag()} | Inputs({"is_new": flag()})
    >>> list(inputs.declared), inputs.inferred
    (['is_member', 'is_new'], True)
    """

    declared: Mapping[str, AnyInput] = field(default_factory=dict)
    inferred: bool = False

    def __or__(self, other: "Mapping[str, AnyInput] | Inputs") -> "Inputs":
        if isinstance(other, Inputs):
            inferred = self.inferred or other.inferred
            return Inputs({**self.declared, **other.declared}, inferred)
        return Inputs({**self.declared, **other}, self.inferred)


def infer() -> Inputs:
    """Every feature of the ranker's service, by the rules for its type and tags.

    A placeholder: it is resolved when a command opens the applied registry, since Feast imports the
    file of a declaration while it applies it.

    Returns
    -------
    Inputs
        Without declarations of its own; add them with `|`.

    Examples
    --------
    >>> from adc_features.inputs import category, infer
    >>> inputs = infer() | {"device": category(request=True)}
    >>> inputs.inferred, list(inputs.declared)
    (True, ['device'])
    """
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

    Rows whose label is null, or not ripe at the cut-off, are masked for this task and stay in the
    others.

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

    Examples
    --------
    >>> from adc_features.inputs import Task
    >>> purchase = Task("purchase", weight=0.3, known_at="bought_at", delay="7d", given="click")
    >>> purchase.given, purchase.column is None
    ('click', True)

    Source
    ------
    Labels that come late: Chapelle, Modeling Delayed Feedback in Display Advertising, KDD 2014.
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

    It belongs into a Python file of the Feast repository: importing it has no side effects, and
    `feast apply` passes over it. Its options are checked against the service when a command opens
    it.

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

    Raises
    ------
    InputError
        When `tasks`, `gates`, `user` or `item` is one text and no list.

    Examples
    --------
    >>> from adc_features.inputs import Ranker, Task, category, infer, number
    >>> feed = Ranker(
    ...     name="feed",
    ...     service="feed_v3",
    ...     tasks=[Task("click"), Task("purchase", weight=0.3, delay="7d")],
    ...     inputs=infer() | {
    ...         "item_stats__price": number(log=True, bins=32),
    ...         "device": category(request=True),
    ...     },
    ...     gates=["profile__segment"],
    ... )
    >>> [task.name for task in feed.tasks], sorted(feed.declared.declared)
    (['click', 'purchase'], ['device', 'item_stats__price'])

    Source
    ------
    Gates (PPNet) and the domain (EPNet): Chang et al., PEPNet: Parameter and Embedding Personalized
    Network for Infusing with Personalized Prior Information, KDD 2023.
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
