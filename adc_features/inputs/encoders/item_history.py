"""A user's recent items and the candidate. Reads: lists of items, times and labels; the candidate;
codes through time. Writes: a History, numbers of it.

Legend: n rows of histories, n = N or 1; N candidates, T elements of all histories, P positions:
those of the codes, or 1 for ids.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.declaration import Category, ItemHistory, SemanticId
from adc_features.inputs.encoded import Block, History, InputLayout, SlotLayout
from adc_features.inputs.encoders.bags import list_counts, once_a_row
from adc_features.inputs.encoders.base import Fitting, State, table_of
from adc_features.inputs.encoders.category import described, fitted_vocabulary
from adc_features.inputs.encoders.late_codes import rows_as_of
from adc_features.inputs.encoders.matches import smoothed_mean, sums_of_equal
from adc_features.inputs.encoders.moments import (
    element_seconds,
    microseconds,
    refuse_later_elements,
    row_seconds,
)
from adc_features.inputs.encoders.scaling import Scale, counted_indicator, stored_numbers
from adc_features.inputs.encoders.semantic_id import SemanticIdEncoder, codebook_size
from adc_features.inputs.lists import Lists, coded, places, read_lists
from adc_features.inputs.resolved import ResolvedInput, SourceColumn
from adc_features.inputs.rows import FeatureRows, Parts

SMOOTHING = 2.0
"""Elements that do not match, in every share; and labels of the training rows' mean, in a user's
mean label."""
_SECOND, _DAY = 1_000_000, 86_400.0


@dataclass(frozen=True)
class Fitted:
    """What is learned beside the vocabulary.

    age: of log1p(days since the newest element). label: mean label of the training rows' elements.
    own: first row of the table that one id has.
    """

    age: Scale
    label: float
    own: int


@dataclass(frozen=True)
class Keys:
    """What elements and candidates are compared and embedded by.

    rows: int64 [T, P] and query: int64 [N, P], rows of the tables; weights, query_weights: float32
    of the same shapes, 0 for no code. equal, equal_query: int64, what is compared, 0 for nothing.
    """

    rows: np.ndarray
    weights: np.ndarray
    query: np.ndarray
    query_weights: np.ndarray
    equal: np.ndarray
    equal_query: np.ndarray


@dataclass(frozen=True)
class ItemHistoryEncoder:
    """The newest items of a user, in the tables of the candidate.

    Parameters
    ----------
    spec : ResolvedInput
        Columns "source" and "candidate", or "codes"; "times" and "labels" where they are read.
    tables_read : tuple of str
        Tables of the candidate's id, or of each position of its codes.
    reader : SemanticIdEncoder or Vocabulary
        How a candidate becomes rows of them.
    fitted : Fitted
        Scales.
    """

    spec: ResolvedInput
    tables_read: tuple[str, ...]
    reader: Any
    fitted: Fitted

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        lists = _read(spec, parts)
        _check_order(spec, lists)
        reader, tables, own = _reader(spec, parts, fitting)
        label = 0.0
        if "labels" in lists.columns and len(lists.row):
            weight = fitting.weights[lists.row]
            label = _mean(_numbers(lists.columns["labels"]), weight)
        age = Scale(0.0, 1.0)
        if "times" in lists.columns:
            rows = parts[spec.columns["source"].side]
            age = Scale.fit(_ages(lists, rows), fitting.weights, of=described(spec))
        encoder = cls(spec, tables, reader, Fitted(age, label, own))
        encoder.encode(parts)  # refuses what cannot be read
        return encoder

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        facts = state.facts
        tables = tuple(facts["tables"])
        fitted = Fitted(Scale.of_facts(facts["age"]), facts["label"], facts["own"])
        if not _kind(spec).codes:
            return cls(spec, tables, vocabularies[tables[0]], fitted)
        columns = {role: SourceColumn(**column) for role, column in facts["columns"].items()}
        kind = SemanticId(weights=facts["weighted"])
        codes = ResolvedInput(facts["codes_of"], kind, columns, columns["codes"].side, spec.origin)
        reader = SemanticIdEncoder(codes, len(tables), facts["codebook_size"])
        return cls(spec, tables, reader, fitted)

    @classmethod
    def values(cls, spec: ResolvedInput, parts: Parts) -> pa.Array:
        """What a vocabulary that it shares by name is fitted on: each item once a row."""
        return once_a_row(_read(spec, parts)).columns["source"]

    @property
    def layout(self) -> InputLayout:
        kind = _kind(self.spec)
        names = ["log_size"]
        if "times" in self.spec.columns:
            names.append("log_age")
        if kind.match:
            positions = range(len(self.tables_read))
            names += [f"match_{place}" for place in positions]
            if "labels" in self.spec.columns:
                names += [f"liked_match_{place}" for place in positions]
        indicators = dict.fromkeys(range(len(names)), len(names))
        if "times" in self.spec.columns:
            indicators[1] = len(names) + 1
        names += ["absent", "no_age"][: 1 + ("times" in self.spec.columns)]
        shown: list[Literal["history", "similarity"]] = ["history"] * kind.embedded
        shown += ["similarity"] * (kind.similarity * (1 + ("labels" in self.spec.columns)))
        slots = tuple(SlotLayout(of, self.tables_read, own=self.fitted.own) for of in shown)
        return InputLayout(tuple(f"{self.spec.name}_{n}" for n in names), indicators, slots)

    def encode(self, parts: Parts) -> Block:
        kind, lists = _kind(self.spec), _read(self.spec, parts)
        keys = self._keys(lists, parts)
        count = len(keys.query)
        columns = [np.log1p(lists.sizes)[:, None]]
        ends = [lists.absent[:, None].astype(np.float64)]
        if "times" in lists.columns:
            age = np.empty((len(lists), 2), np.float32)
            rows = parts[self.spec.columns["source"].side]
            self.fitted.age.dense(_ages(lists, rows), into=age)
            columns.append(age[:, :1].astype(np.float64))
            ends.append(age[:, 1:].astype(np.float64))
        if kind.match:
            columns += self._matches(lists, keys, parts)
        every = [np.broadcast_to(c, (count, c.shape[1])) for c in (*columns, *ends)]
        dense = np.concatenate(every, axis=1, dtype=np.float32, casting="same_kind")
        history = History(keys.rows, keys.weights, lists.offsets, keys.query, keys.query_weights)
        slots = [history] if kind.embedded else []
        if kind.similarity:
            slots += [replace(history, weights=w) for w in self._pooling(lists, keys, parts)]
        return Block(dense, tuple(slots))

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block; a row is unknown where one of its elements is, as far as they are
        embedded."""
        absent = block.dense[:, -2 if "times" in self.spec.columns else -1] > 0  # as of `layout`
        if not block.slots:
            return counted_indicator(absent)
        history = block.slots[0]  # all have the same rows
        assert isinstance(history, History)
        unknown: np.ndarray = np.all(history.rows < self.fitted.own, axis=1)
        return list_counts(absent, unknown, history.offsets)

    def counts(self, parts: Parts) -> dict[str, int]:
        """With "null_elements": how many were dropped."""
        return self.counted(self.encode(parts)) | {"null_elements": _read(self.spec, parts).dropped}

    def state(self) -> State:
        facts: dict[str, Any] = {
            "tables": list(self.tables_read),
            "age": self.fitted.age.facts(),
            "label": self.fitted.label,
            "own": self.fitted.own,
        }
        if _kind(self.spec).codes:
            codes = self.reader.spec
            facts |= {
                "codebook_size": self.reader.codebook_size,
                "codes_of": codes.name,
                "columns": {role: asdict(column) for role, column in codes.columns.items()},
                "weighted": codes.kind.weights,
            }
        return State(facts, {})

    def _keys(self, lists: Lists, parts: Parts) -> Keys:
        item, distinct = coded(lists.columns["source"])
        if not _kind(self.spec).codes:
            candidate = _broadcast(self._candidate(parts), len(lists))
            rows = self.reader.rows(distinct, of=described(self.spec))[item][:, None]
            query = self.reader.rows(candidate, of=described(self.spec))[:, None]
            return Keys(
                rows,
                np.ones(rows.shape, np.float32),
                query,
                np.ones(query.shape, np.float32),
                item[:, None] + 1,
                places(candidate, distinct, name=described(self.spec))[:, None] + 1,
            )
        timeline = parts.timeline
        if timeline is None:
            raise InputError(
                f"{described(self.spec)}: the codes of a user's items are read from the timeline of"
                " published codes, and none is given; publish codes, or declare"
                " item_history(codes=False)"
            )
        moment = parts[self.spec.columns["source"].side].times[lists.row]
        rows, weights = rows_as_of(timeline, item, distinct, moment)
        if not self.reader.spec.kind.weights:
            weights = (rows > 0).astype(np.float32)
        codes, query_weights = self._candidate_codes(parts)
        query = codes.astype(np.int64) + 1
        return Keys(rows, weights, query, query_weights, rows, query)

    def _candidate(self, parts: Parts) -> pa.Array:
        column = self.spec.columns["candidate"]
        return parts[column.side].column(column.name)

    def _candidate_codes(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """The candidate's codes as they were joined or looked up; [N, P]."""
        codes, weights = self.reader.read(parts)
        count = len(parts[self.spec.columns["source"].side])
        if len(codes) == 1 != count:
            codes, weights = (np.repeat(a, count, axis=0) for a in (codes, weights))
        return codes, weights

    def _matches(self, lists: Lists, keys: Keys, parts: Parts) -> list[np.ndarray]:
        """Smoothed shares of the elements that agree with the candidate, [N, P], plain and by how
        they were liked.
        """
        worths = [np.ones(int(lists.offsets[-1]))]
        if "labels" in lists.columns:
            worths.append(self._liking(lists, parts))
        sums = sums_of_equal(
            keys.equal, lists.offsets, keys.equal_query, worths=worths, weights=keys.weights
        )
        whole = (lists.sizes + SMOOTHING)[:, None]
        return [one * keys.query_weights / whole for one in sums]

    def _liking(self, lists: Lists, parts: Parts) -> np.ndarray:
        """Label - mean label of each element, float64 [T]."""
        label = _numbers(lists.columns["labels"])
        mean = smoothed_mean(
            label, lists.row, lists.sizes, smoothing=SMOOTHING, prior=self.fitted.label
        )
        if (stored := self.spec.columns.get("mean")) is not None:
            known = stored_numbers(stored, parts)
            mean = np.where(np.isnan(known), mean, known)
        return label - np.repeat(mean, lists.sizes)

    def _pooling(self, lists: Lists, keys: Keys, parts: Parts) -> list[np.ndarray]:
        """What each element counts in the similarity, float32 [T, P]: its share by recency, beside
        `SMOOTHING` elements that are like nothing, times its codes' weights; and by how it was
        liked."""
        newer = lists.offsets[1:][lists.row] - 1 - np.arange(len(lists.row))
        recency = 0.5 ** (newer / _kind(self.spec).half_life)
        whole = np.bincount(lists.row, recency, minlength=len(lists)) + SMOOTHING
        share = (recency / whole[lists.row])[:, None] * keys.weights
        worths = [share]
        if "labels" in lists.columns:
            worths.append(share * self._liking(lists, parts)[:, None])
        return [worth.astype(np.float32) for worth in worths]


def _kind(spec: ResolvedInput) -> ItemHistory:
    assert isinstance(spec.kind, ItemHistory)
    return spec.kind


def _read(spec: ResolvedInput, parts: Parts) -> Lists:
    """The newest elements, oldest first. Raises LeakError for one that is later than its row."""
    source, kind = spec.columns["source"], _kind(spec)
    rows = parts[source.side]
    columns: dict[str, pa.Array] = {
        role: parts[spec.columns[role].side].column(spec.columns[role].name)
        for role in ("source", "times", "labels")
        if role in spec.columns
    }
    lists = read_lists(columns, name=described(spec))
    if "times" in lists.columns:
        refuse_later_elements(lists, rows, spec)
    return lists.newest(kind.last, kind.order)


def _reader(
    spec: ResolvedInput, parts: Parts, fitting: Fitting
) -> tuple[Any, tuple[str, ...], int]:
    """How the candidate becomes rows, the tables it has, and the first row of one id alone."""
    kind = _kind(spec)
    role: Literal["codes", "candidate"] = "codes" if kind.codes else "candidate"
    column = spec.columns[role].name
    wanted, read = (SemanticId, "codes") if kind.codes else (Category, "source")
    for other in fitting.specs:
        theirs = other.columns.get(read)
        if not isinstance(other.kind, wanted) or theirs is None or theirs.name != column:
            continue
        if other.name not in fitting.layouts:
            raise InputError(
                f"{described(spec)}: it reads the tables of {described(other)}, which cannot be"
                " fitted; mend that one first"
            )
        slots = fitting.layouts[other.name].slots
        if isinstance(other.kind, SemanticId):
            length = sum(slot.kind in ("lookup", "bag") for slot in slots)
            reader = SemanticIdEncoder(other, length, codebook_size(other, parts))
            return reader, reader.table_names, 1
        vocabulary = fitting.vocabularies[table_of(other)]
        return vocabulary, (table_of(other),), vocabulary.own
    if kind.codes:
        raise InputError(
            f"{described(spec)}: its items are read as codes of {column}, which no semantic_id"
            " input reads; declare one, or item_history(codes=False)"
        )
    if kind.share is None:
        raise InputError(
            f"{described(spec)}: its items are read with the vocabulary of {column}, which no"
            " category reads; declare that category, or item_history(share=NAME) for a table of"
            " its own"
        )
    vocabulary = fitted_vocabulary(ItemHistoryEncoder.values(spec, parts), spec, fitting)
    return vocabulary, (kind.share,), vocabulary.own


def _check_order(spec: ResolvedInput, lists: Lists) -> None:
    """Raise InputError where times mostly run against the declared order."""
    if "times" not in lists.columns or not len(lists.row):
        return
    inside = lists.row[1:] == lists.row[:-1]
    step = np.diff(element_seconds(lists.columns["times"], spec))[inside]
    if (fall := int((step < 0).sum())) > (rise := int((step > 0).sum())):
        order = _kind(spec).order
        other = "newest_first" if order == "newest_last" else "newest_last"
        raise InputError(
            f"{described(spec)}: declared {order}, but the times run the other way in {fall} of"
            f" {fall + rise} steps, so that the oldest would be kept; declare order={other!r}"
        )


def _ages(lists: Lists, rows: FeatureRows) -> np.ndarray:
    """log1p(days since the newest element), float64 [n], NaN where there is none."""
    known = lists.sizes > 0
    newest = microseconds(lists.columns["times"].take(pa.array(lists.offsets[1:][known] - 1)))
    age = np.full(len(lists), np.nan)
    seconds = row_seconds(rows)[known] - newest // _SECOND
    age[known] = np.log1p(np.maximum(seconds, 0) / _DAY)
    return age


def _numbers(values: pa.Array) -> np.ndarray:
    return values.to_numpy(zero_copy_only=False).astype(np.float64)


def _broadcast(values: pa.Array, count: int) -> pa.Array:
    return values.take(pa.array(np.zeros(count, np.int64))) if len(values) == 1 != count else values


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = float(weights.sum())
    return float((weights * values).sum() / total) if total else 0.0
