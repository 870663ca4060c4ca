"""What a trained ranker leans on: how much worse it ranks when inputs are exchanged among rows.
Reads: a trained ranker, labelled and encoded rows. Writes: Importance.

An input is exchanged where its values belong: that of a user or of a request among requests, that
of an item among the candidates of its request, that of a user and an item together among all rows.
Without requests, a user's is exchanged among users, and all else among rows. Codes, and the weights
of codes, are exchanged among the candidates that have codes.

Legend: N rows, S seeds, G groups of rows (requests or users).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.declaration import SemanticId
from adc_features.inputs.encoded import Bag, Block, Encoded, Lookup
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import Side
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import TrainedRanker
from training.evaluation.metrics import Estimate, PairedBootstrap
from training.ranker.metrics import TaskRows
from training.ranker.results import BY, Interval

PERMUTATIONS = 5
MOST_ROWS = 20_000
METRICS = ("gauc", "auc", "logloss", "request_gauc")
CODES, WEIGHTS = "codes", "weights"


@dataclass(frozen=True)
class Leaning:
    """How much a ranker leans on one input or group of inputs.

    side: "user", "item", "pair", "request" or "global". inputs: those that were exchanged, one for
    an input by itself. drop: metric -> how much worse, with a 95 % interval; log loss rises by it,
    the others fall.
    """

    side: str
    kind: str
    inputs: tuple[str, ...]
    drop: Mapping[str, Interval]


@dataclass(frozen=True)
class Importance:
    """What a ranker leans on for one task.

    rows, positives: those that were scored, of `of` labelled ones. permutations, seeds: of which
    the intervals cover the chance, beside that of the users. base: metric -> as it is without any
    exchange. groups, inputs: by name, the most important first.
    """

    task: str
    rows: int
    of: int
    positives: int
    permutations: int
    seeds: int
    base: Mapping[str, Interval]
    groups: Mapping[str, Leaning]
    inputs: Mapping[str, Leaning]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RowGroups:
    """Rows by the group that they belong to.

    number: int64 [N], 0..G-1, of each row.
    """

    number: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "RowGroups":
        return cls(np.unique(values, return_inverse=True)[1])

    def among(self, rng: np.random.Generator) -> np.ndarray:
        """For each row a row of another group, int64 [N]: groups change places as wholes."""
        order = np.argsort(self.number, kind="stable")
        sizes = np.bincount(self.number)
        start = np.cumsum(sizes) - sizes
        rank: np.ndarray = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - np.repeat(start, sizes)
        other = rng.permutation(len(sizes))[self.number]
        return order[start[other] + rank % sizes[other]]

    def within(self, rng: np.random.Generator) -> np.ndarray:
        """For each row a row of its own group, int64 [N]: a permutation."""
        out: np.ndarray = np.empty(len(self.number), np.int64)
        order = np.argsort(self.number, kind="stable")
        out[order] = np.lexsort((rng.random(len(order)), self.number))
        return out

    @property
    def single(self) -> bool:
        """Whether every group has one row."""
        return len(self.number) == self.number.max(initial=-1) + 1


@dataclass(frozen=True)
class Exchange:
    """Who changes places with whom. request, user: int64 [N], None where they are not known."""

    rows: int
    request: RowGroups | None = None
    user: RowGroups | None = None

    def places(
        self, side: Side, rng: np.random.Generator, only: np.ndarray | None = None
    ) -> np.ndarray:
        """The row that each row's values are taken from, int64 [N].

        only: bool [N], rows among which values are exchanged; the others keep their own. For item
        sides.
        """
        groups = self.request or self.user
        if side in ("user", "request", "global") and groups is not None:
            return groups.among(rng)
        places = np.arange(self.rows)
        kept = places if only is None else np.flatnonzero(only)
        if side == "item" and self.request is not None and not self.request.single:
            inside = RowGroups(self.request.number[kept])
            places[kept] = kept[inside.within(rng)]
        else:
            places[kept] = rng.permutation(kept)
        return places


class _Unit(NamedTuple):
    """What is exchanged at once. part: "all", or CODES or WEIGHTS of semantic IDs."""

    name: str
    side: Side
    kind: str
    inputs: tuple[str, ...]
    part: str = "all"


def importance(
    trained: TrainedRanker,
    encoded: Encoded,
    label: np.ndarray,
    *,
    task: str | None = None,
    user: np.ndarray | None = None,
    request: np.ndarray | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    most_rows: int = MOST_ROWS,
    of: int | None = None,
    progress: Progress | None = None,
) -> Importance:
    """How much worse a task is ranked when each input, and each group of inputs, is exchanged.

    Parameters
    ----------
    trained : TrainedRanker
        All its seeds are scored.
    encoded : Encoded
        N rows, encoded as for serving: train-only inputs show their default, and are not named.
    label : ndarray
        float [N] of the task, 0 or 1; NaN for rows without a label, which are left out.
    task : str, optional
        By default the ranker's first.
    user, request : ndarray, optional
        The number of each row's user and request, int64 [N].
    seed : int
        Of permutations, of the sample of rows and of the bootstrap.
    permutations : int
        How often each is exchanged.
    most_rows : int
        With more labelled rows than that, requests (or users, or rows) are sampled whole.
    of : int, optional
        Labelled rows that these were sampled from already, by `sampled_rows`.
    progress : callable, optional
        Called with a label, exchanges done and their number.

    Raises
    ------
    InputError
        An unknown task, labels of one class, or fewer than one permutation.
    """
    names = [t.name for t in trained.ranker.tasks]
    task = check_asked(trained, task=task, permutations=permutations)
    labelled = np.flatnonzero(np.isfinite(label))
    kept = sampled_rows(label, user=user, request=request, seed=seed, most_rows=most_rows)
    encoded, label = encoded.take(kept), label[kept].astype(np.float64)
    users = request if user is None else user
    users = np.arange(len(label)) if users is None else users[kept]
    requests = None if request is None else RowGroups.of(request[kept])
    rows = TaskRows(
        PairedBootstrap(label, users, seed),
        None if requests is None else requests.number,
        by_user=user is not None,
    )
    exchange = Exchange(len(kept), requests, None if user is None else RowGroups.of(users))
    scored = _Scored(trained, encoded, names.index(task), rows)
    found = []
    units = list(_units(trained.encoder))
    for done, unit in enumerate(units):
        drop = scored.dropped(unit, exchange, permutations, seed)
        found.append((unit, Leaning(unit.side, unit.kind, unit.inputs, drop)))
        if progress is not None:
            progress(f"importance {trained.name}", done + 1, len(units))
    by = next(m for m in BY if m in scored.base and np.isfinite(scored.base[m].value))
    found.sort(key=lambda f: -np.nan_to_num(f[1].drop[by]["mean"]))
    return Importance(
        task,
        len(label),
        len(labelled) if of is None else of,
        int(label.sum()),
        permutations,
        len(trained.models),
        {name: estimate.interval() for name, estimate in scored.base.items()},
        {u.name: leaning for u, leaning in found if u.kind == "group"},
        {u.name: leaning for u, leaning in found if u.kind != "group"},
    )


def sampled_rows(
    label: np.ndarray,
    *,
    user: np.ndarray | None = None,
    request: np.ndarray | None = None,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
) -> np.ndarray:
    """The rows that `importance` scores, int64, increasing. The arguments are its own."""
    labelled = np.flatnonzero(np.isfinite(label))
    groups = request if request is not None else user
    rng = np.random.default_rng([seed, 1])
    return _sampled(labelled, None if groups is None else groups[labelled], most_rows, rng)


def check_asked(trained: TrainedRanker, *, task: str | None, permutations: int) -> str:
    """The task, by default the first. Raises InputError for an unknown one, and for fewer than one
    permutation."""
    names = [t.name for t in trained.ranker.tasks]
    task = task or names[0]
    if task not in names:
        raise InputError(f"there is no task {task!r}; the ranker's are {', '.join(names)}")
    if permutations < 1:
        raise InputError(f"permutations is {permutations}; expected at least 1")
    return task


class _Scored:
    """A ranker on some rows, and how much worse it is on others of their place."""

    def __init__(self, trained: TrainedRanker, encoded: Encoded, task: int, rows: TaskRows) -> None:
        self._scores: Callable[[Encoded], np.ndarray] = lambda e: trained.probabilities(e)[:, task]
        self._rows, self._encoded = rows, encoded
        self.base = self._estimates(encoded)

    def _estimates(self, encoded: Encoded) -> dict[str, Estimate]:
        return self._rows.estimates(self._scores(encoded), only=METRICS)

    def dropped(
        self, unit: _Unit, exchange: Exchange, permutations: int, seed: int
    ) -> dict[str, Interval]:
        """Metric -> how much worse when a unit is exchanged, over so many permutations."""
        each = []
        for n in range(permutations):
            rng = np.random.default_rng([seed, 2, n])  # the same for every unit of a side
            each.append(self._drop(exchanged(self._encoded, unit, exchange, rng)))
        return {m: _averaged([e[m] for e in each], seed).interval() for m in self.base}

    def _drop(self, encoded: Encoded) -> dict[str, Estimate]:
        """Metric -> how much worse, paired with the base."""
        worse = self._estimates(encoded)
        return {
            name: worse[name] - base if name == "logloss" else base - worse[name]
            for name, base in self.base.items()
        }


def _averaged(each: Sequence[Estimate], seed: int) -> Estimate:
    """The mean over permutations; its draws cover their chance too."""
    draws = np.stack([e.draws for e in each])  # [permutations, B]
    mean, n = draws.mean(axis=0), len(each)
    if n > 1:
        share = np.random.default_rng([seed, 3]).multinomial(n, np.full(n, 1 / n), draws.shape[1])
        # a bootstrap of n permutations spreads by sqrt((n - 1) / n) of what they do
        mean = mean + np.sqrt(n / (n - 1)) * ((share * draws.T).sum(axis=1) / n - mean)
    return Estimate(float(np.mean([e.value for e in each])), mean)


def _sampled(
    rows: np.ndarray, groups: np.ndarray | None, most: int, rng: np.random.Generator
) -> np.ndarray:
    """At most `most` of the rows, in their order; groups stay whole (the first is always there)."""
    if len(rows) <= most:
        return rows
    if groups is None:
        return np.sort(rng.permutation(rows)[:most])
    number = RowGroups.of(groups).number
    order = rng.permutation(number.max() + 1)
    fits = np.cumsum(np.bincount(number)[order]) <= most
    fits[0] = True
    return rows[np.isin(number, order[fits])]


def _units(encoder: InputEncoder) -> Iterator[_Unit]:
    """Groups of inputs, then every input; without those that only training sees."""
    specs = [spec for spec in encoder.specs if not spec.kind.train_only]
    coded = [spec for spec in specs if isinstance(spec.kind, SemanticId)]
    weighted = [s.name for s in coded if encoder.encoders[s.name].layout.dense[:-1]]
    sides: dict[Side, list[str]] = {}
    for spec in specs:
        if spec not in coded:
            sides.setdefault(spec.side, []).append(spec.name)
    for side, names in sides.items():
        yield _Unit(side, side, "group", tuple(names))
    if coded:
        yield _Unit(CODES, "item", "group", tuple(s.name for s in coded), CODES)
    if weighted:
        yield _Unit(WEIGHTS, "item", "group", tuple(weighted), WEIGHTS)
    for spec in specs:
        yield _Unit(spec.name, spec.side, spec.kind_name, (spec.name,))


def exchanged(
    encoded: Encoded, unit: _Unit, exchange: Exchange, rng: np.random.Generator
) -> Encoded:
    """The rows with the inputs of a unit exchanged, all by the same permutation."""
    blocks = {name: encoded.blocks[name] for name in unit.inputs}
    only = None
    if unit.part != "all":
        # no_codes, a candidate's last number, is 1 where it has none
        only = np.all([block.dense[:, -1] == 0 for block in blocks.values()], axis=0)
    places = exchange.places(unit.side, rng, only)
    taken = Encoded(blocks, encoded.rows).take(places).blocks
    if unit.part != "all":
        join = _codes_of if unit.part == CODES else _weights_of
        taken = {name: join(block, taken[name]) for name, block in blocks.items()}
    return replace(encoded, blocks={**encoded.blocks, **taken})


def _codes_of(own: Block, other: Block) -> Block:
    """The codes of another candidate, with its own weights."""
    pairs = zip(own.slots, other.slots, strict=True)
    # combinations follow the codes, and the gate the id
    return Block(
        own.dense,
        tuple(
            _mixed(a, b) if isinstance(a, Lookup) else b if isinstance(b, Bag) else a
            for a, b in pairs
        ),
    )


def _weights_of(own: Block, other: Block) -> Block:
    """Its own codes, with the weights and the reliability of another candidate."""
    dense = np.concatenate([other.dense[:, :-1], own.dense[:, -1:]], axis=1)
    pairs = zip(own.slots, other.slots, strict=True)
    return Block(dense, tuple(_mixed(b, a) if isinstance(a, Lookup) else a for a, b in pairs))


def _mixed(weights: Any, rows: Any) -> Lookup:
    """Rows of one lookup, weights of another; what has no code counts nothing."""
    shown = None if weights.weights is None else np.where(rows.rows > 0, weights.weights, 0)
    return Lookup(rows.rows, None if shown is None else shown.astype(np.float32))
