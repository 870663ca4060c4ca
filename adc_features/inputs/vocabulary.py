"""Which row of a table a value has. Reads: Arrow arrays, vocabulary files. Writes: row numbers,
vocabulary files.

Rows: 0 absent, 1 unknown, 2..1+buckets hash rows, then ids in the order of admission: by count,
largest first, then by value (text by its UTF-8 bytes). A row is never given to another id.

A file is one Arrow IPC file that is mapped into memory, U ids long: `hash` uint64, sorted, and the
`row` of each as uint32; then in the order of admission `id`, `count` and `unseen`, the number of
retrainings in a row that have not met it.

Legend: n values, U ids.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import fresh_file
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import format_of, numbered
from adc_features.inputs.counting import Counted, counted_values, id_values, value_type
from adc_features.inputs.hashing import ValueType, bucket_of, check_hashes, hash_vectors, hashes
from adc_features.inputs.kinds import VocabularyOptions

ABSENT, UNKNOWN, FIRST = 0, 1, 2
"""The row of a null, that of a value without a row of its own, and the first hash row."""
FORGOTTEN = 6
"""Retrainings in a row without an id, after which it is unknown. Its row stays empty."""
UNBOUNDED = 1_000_000
"""Distinct values that a column may have without a bound."""
WIDTH = 16
"""Numbers in a row of a table, where a message tells its size."""
_METADATA = b"adc_features.vocabulary"
_TEXT_BYTES = 1 << 31
_SORTED_FROM = 4096
FEW, _REMEMBERED = 2048, 1 << 16
"""Values that are looked up in what was asked before, and how many of those are kept."""


class _Admitted(NamedTuple):
    """Ids that get rows, in the order of admission; uint32 [n] how often each occurred; `others`
    of the vocabulary."""

    ids: pa.Array
    counts: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class Vocabulary:
    """A fitted vocabulary.

    Parameters
    ----------
    dtype : str
        "int64", "string" or "binary": values of another type are refused, 12 is not "12".
    options : VocabularyOptions
        min_count, max_size and buckets as fitted; growth obeys them too.
    ids : pyarrow.Array
        [U], in the order of admission.
    id_counts : ndarray
        uint32 [U], how often each occurred in the rows of the last fit or growth.
    unseen : ndarray
        uint8 [U], at most `FORGOTTEN`.
    hashes, hash_rows : ndarray
        uint64 [U], sorted, and uint32 [U], their rows.
    others : ndarray
        int64 [2 + buckets]: how often a null, an unknown value and each hash row occurred.
    """

    dtype: ValueType
    options: VocabularyOptions
    ids: pa.Array
    id_counts: np.ndarray
    unseen: np.ndarray
    hashes: np.ndarray
    hash_rows: np.ndarray
    others: np.ndarray

    @classmethod
    def fit(
        cls,
        values: pa.Array | pa.ChunkedArray | Counted,
        options: VocabularyOptions,
        *,
        of: str = "the column",
    ) -> Self:
        """The vocabulary of these values, one a training row or an element of its lists.

        of: the column, for messages. Raises InputError for a type that has no ids, and for more
        than a million distinct values without a bound.
        """
        counted = values if isinstance(values, Counted) else counted_values(values, of=of)
        distinct = len(counted.values)
        if distinct > UNBOUNDED and options.min_count <= 1 and options.max_size is None:
            raise InputError(
                f"{of} has {distinct:,} distinct values and no bound: its table would hold"
                f" {distinct * WIDTH * 4:,} bytes at a width of {WIDTH}, and three times that while"
                " it is trained; set min_count or max_size, or buckets with min_count"
            )
        empty = cls(
            dtype=value_type(counted.values.type),
            options=options,
            ids=pa.array([], counted.values.type),  # a slice would keep all of them
            id_counts=np.zeros(0, np.uint32),
            unseen=np.zeros(0, np.uint8),
            hashes=np.zeros(0, np.uint64),
            hash_rows=np.zeros(0, np.uint32),
            others=np.zeros(FIRST + options.buckets, np.int64),
        )
        admitted = empty._admitted(counted, np.full(distinct, UNKNOWN, np.uint8))
        del counted  # tens of millions of ids are to fit in 1 GB
        return empty._with(admitted)

    def grown(
        self, values: pa.Array | pa.ChunkedArray | Counted, *, of: str = "the column"
    ) -> Self:
        """The vocabulary after a retraining on these values: every id keeps its row, new ones are
        appended, and one that `FORGOTTEN` retrainings in a row have not met is unknown from now on.
        An id that was forgotten and comes back is a new one.
        """
        counted = values if isinstance(values, Counted) else counted_values(values, of=of)
        self._check_type(counted.values.type, of=of)
        rows = self._find(counted.values)
        seen = np.bincount(
            rows[rows >= self.own] - self.own,
            weights=counted.counts[rows >= self.own],
            minlength=len(self.ids),
        )
        aged = np.minimum(self.unseen + np.uint8(1), np.uint8(FORGOTTEN))
        unseen = np.where((seen > 0) & (self.unseen < FORGOTTEN), np.uint8(0), aged)
        kept = replace(self, id_counts=seen.astype(np.uint32), unseen=unseen)
        admitted = kept._admitted(counted, rows)
        del counted, rows
        return kept._with(admitted)

    def _admitted(self, counted: Counted, rows: np.ndarray) -> _Admitted:
        """Those of the counted values that have no row of their own and get one. rows: of the
        counted values."""
        rest = rows < self.own
        room = self.options.max_size
        if room is not None:
            room = max(0, room - int((self.unseen < FORGOTTEN).sum()))
        enough = rest & (counted.counts >= self.options.min_count)
        admitted = _admission(counted, np.flatnonzero(enough))[:room]
        ids, id_counts = counted.values.take(pa.array(admitted)), counted.counts[admitted]
        rest[admitted] = False
        others = np.zeros(FIRST + self.options.buckets, np.int64)
        others[ABSENT] = counted.absent
        if self.options.buckets:
            of_rest = bucket_of(hashes(counted.values.filter(pa.array(rest))), self.options.buckets)
            np.add.at(others, FIRST + of_rest, counted.counts[rest])
        else:
            others[UNKNOWN] = counted.counts[rest].sum()
        return _Admitted(ids, id_counts.astype(np.uint32, copy=False), others)

    def _with(self, admitted: _Admitted) -> Self:
        """With these ids behind its own; `others` counted anew."""
        ids, counts, others = admitted
        pa.default_memory_pool().release_unused()  # the counted values, which are many
        hashed = _behind(self.hashes, hashes(ids))
        first = self.own + len(self.ids)
        rows = _behind(self.hash_rows, np.arange(first, first + len(ids), dtype=np.uint32))
        rows = rows[np.argsort(hashed, kind="stable")]
        hashed.sort()
        return replace(
            self,
            ids=_joined(self.ids, ids),
            id_counts=_behind(self.id_counts, counts),
            unseen=_behind(self.unseen, np.zeros(len(ids), np.uint8)),
            hashes=hashed,
            hash_rows=rows,
            others=others,
        )

    @property
    def own(self) -> int:
        """The first row that belongs to one id alone."""
        return FIRST + self.options.buckets

    @property
    def size(self) -> int:
        """Rows of the table."""
        return self.own + len(self.ids)

    @cached_property
    def counts(self) -> np.ndarray:
        """int64 [size]: how often each row occurred in the rows of the last fit or growth."""
        return np.concatenate([self.others, self.id_counts.astype(np.int64)])

    def rows(self, values: pa.Array | pa.ChunkedArray, *, of: str = "the column") -> np.ndarray:
        """The row of each value, int64 [n]. Raises InputError for values of another type."""
        values = id_values(values, of=of)
        if pa.types.is_null(values.type):
            return np.full(len(values), ABSENT)
        self._check_type(values.type, of=of)
        if len(values) <= FEW:
            return self._rows_of_few(_python(values))
        encoded = values.dictionary_encode(null_encoding="encode")
        distinct, indices = encoded.dictionary, encoded.indices.to_numpy()
        if not values.null_count:
            return self._find(distinct).take(indices)
        found = np.full(len(distinct), ABSENT)
        found[distinct.is_valid().to_numpy(zero_copy_only=False)] = self._find(distinct.drop_null())
        return found.take(indices)

    def rows_of_ids(
        self, ids: Sequence[Any], type_: pa.DataType, *, of: str = "the column"
    ) -> np.ndarray:
        """`rows` of a request's ids: whole numbers, or the UTF-8 of texts and bytes, None where
        absent; they stand in a column of this type."""
        self._check_type(type_, of=of)
        return self._rows_of_few(ids)

    def _rows_of_few(self, ids: Sequence[Any]) -> np.ndarray:
        """Arrow's calls take longer than a dictionary of what was asked before."""
        known = self._asked
        rows = list(map(known.get, ids))
        if None in rows:
            new = list({value for value, row in zip(ids, rows, strict=True) if row is None})
            if len(known) + len(new) > _REMEMBERED:
                known = self.__dict__["_asked"] = {None: ABSENT}
                new = list(set(ids) - {None})
            values = pa.array(new, pa.int64() if self.dtype == "int64" else pa.binary())
            if self.dtype == "string":
                values = values.cast(pa.string())
            known.update(zip(new, self._find(values).tolist(), strict=True))
            rows = list(map(known.get, ids))
        return np.array(rows, np.int64)

    @cached_property
    def _asked(self) -> dict[Any, int]:
        return {None: ABSENT}

    def _check_type(self, type_: pa.DataType, *, of: str) -> None:
        if not pa.types.is_null(type_) and value_type(type_) != self.dtype:
            raise InputError(
                f"{of} holds values of type {type_}; its vocabulary was fitted on {self.dtype},"
                " and 12 is not '12': convert the column to the type of training"
            )

    def _find(self, values: pa.Array) -> np.ndarray:
        """The rows of distinct values without nulls, int64."""
        if not len(values):
            return np.zeros(0, np.int64)
        hashed = hashes(values)
        buckets = self.options.buckets
        found = FIRST + bucket_of(hashed, buckets) if buckets else np.full(len(values), UNKNOWN)
        if not len(self.ids):
            return found
        at = np.minimum(_places(self.hashes, hashed), len(self.ids) - 1)
        rows = self.hash_rows.take(at).astype(np.int64)
        hit = self.hashes.take(at) == hashed
        if self._some_forgotten:
            hit &= self.unseen.take(rows - self.own) < FORGOTTEN
        shared_hashes, row_of = self._sharing
        if len(shared_hashes):
            for place in np.flatnonzero(np.isin(hashed, shared_hashes)):
                row = row_of.get(values[int(place)].as_py())
                hit[place], rows[place] = row is not None, row or 0
        return np.where(hit, rows, found)

    @cached_property
    def _some_forgotten(self) -> bool:
        return bool((self.unseen >= FORGOTTEN).any())

    @cached_property
    def _sharing(self) -> tuple[np.ndarray, Mapping[Any, int]]:
        """Hashes that several rows have, and the row of each id that is known by one of them: two
        ids of one hash, or one that was forgotten and admitted again."""
        same = np.flatnonzero(self.hashes[1:] == self.hashes[:-1])
        places = np.union1d(same, same + 1)
        rows = np.sort(self.hash_rows[places].astype(np.int64))
        rows = rows[self.unseen[rows - self.own] < FORGOTTEN]
        ids = self.ids.take(pa.array(rows - self.own)).to_pylist()
        return np.unique(self.hashes[same]), dict(zip(ids, rows.tolist(), strict=True))

    def save(self, path: Path) -> None:
        """Write the file, visible when complete."""
        document = {
            "dtype": self.dtype,
            "min_count": self.options.min_count,
            "max_size": self.options.max_size,
            "buckets": self.options.buckets,
            "others": self.others.tolist(),
            "hashes_of": hash_vectors(),
        }
        columns = {
            "hash": pa.array(self.hashes),
            "row": pa.array(self.hash_rows),
            "id": self.ids,
            "count": pa.array(self.id_counts),
            "unseen": pa.array(self.unseen),
        }
        schema = pa.schema([pa.field(name, column.type) for name, column in columns.items()])
        schema = schema.with_metadata({_METADATA: json.dumps(numbered("inputs", document))})
        batch = pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)
        with fresh_file(path) as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_batch(batch)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map a file into memory. Raises ArtifactError where it is missing, cut off or altered in a
        way that lookups would meet; the manifest of its directory has its sha256."""
        try:
            with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
                document = json.loads(reader.schema.metadata[_METADATA])
                batch = reader.get_batch(0)
            format_of("inputs", document, of=path)
            check_hashes(document["hashes_of"], of=path)
            numbers = {
                name: batch.column(name).to_numpy() for name in ("hash", "row", "count", "unseen")
            }
            found = cls(
                dtype=document["dtype"],
                options=VocabularyOptions(
                    min_count=document["min_count"],
                    max_size=document["max_size"],
                    buckets=document["buckets"],
                ),
                ids=batch.column("id"),
                id_counts=numbers["count"],
                unseen=numbers["unseen"],
                hashes=numbers["hash"],
                hash_rows=numbers["row"],
                others=np.array(document["others"], np.int64),
            )
            if fault := found._fault():
                raise ValueError(fault)
            _ = found._sharing, found._some_forgotten  # now, not with the first request
        except (OSError, EOFError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} is no whole vocabulary ({error}): it is missing, was cut off or altered;"
                " restore it, or train the ranker again"
            ) from error
        return found

    def _fault(self) -> str | None:
        """What lookups would stumble over."""
        if self.dtype != value_type(self.ids.type) or len(self.others) != self.own:
            return f"it says it holds {self.dtype} and {self.own - FIRST} hash rows"
        if len(self.ids) and not (
            self.own <= self.hash_rows.min() and self.hash_rows.max() < self.size
        ):
            return "rows lie outside of the table"
        if (self.hashes[1:] < self.hashes[:-1]).any():
            return "its hashes are not in order"
        return None


def _python(values: pa.Array) -> list[Any]:
    """Whole numbers, or the bytes of texts and bytes, None where null: by numpy, as Arrow makes an
    object of its own of each first."""
    if pa.types.is_integer(values.type):
        return values.to_pylist() if values.null_count else values.to_numpy().tolist()
    return values.cast(pa.binary()).to_numpy(zero_copy_only=False).tolist()


def _places(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """`searchsorted`; many are asked in order, so that memory is read from one end to the other."""
    if len(asked) < _SORTED_FROM:
        return np.searchsorted(known, asked)
    order = np.argsort(asked)
    places = np.empty(len(asked), np.int64)
    places[order] = np.searchsorted(known, asked[order])
    return places


def _admission(counted: Counted, places: np.ndarray) -> np.ndarray:
    """The places of values in the order of admission: by count, the largest first, then by
    value."""
    values = counted.values
    if len(places) < len(values):
        values = values.take(pa.array(places))
    places = places.astype(np.uint32)[pc.array_sort_indices(values).to_numpy()]
    behind = counted.counts[places]
    if not len(behind) or behind.min() == behind.max():
        return places
    return places[np.argsort(behind.max() - behind, kind="stable")]


def _behind(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both, in an array of its own; without a copy where `one` is empty."""
    return np.concatenate([one, other]) if len(one) else other


def _joined(one: pa.Array, other: pa.Array) -> pa.Array:
    if not len(one):
        return other
    if pa.types.is_string(one.type) and one.nbytes + other.nbytes >= _TEXT_BYTES:
        one, other = one.cast(pa.large_string()), other.cast(pa.large_string())
    return pa.concat_arrays([one, other.cast(one.type)])
