"""Semantic IDs of items as values. Reads: arrays or Arrow. Writes: SidTable.

Legend: N items, L positions, K codes per position.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Protocol

import numpy as np
import pyarrow as pa

from adc_features.clock import instant, utc
from adc_features.codes.embeddings import id_array
from adc_features.codes.list_columns import code_matrix, list_matrix
from adc_features.codes.spec import NO_CODE
from adc_features.errors import GenerationMismatch, InputError

__all__ = [
    "CodeTimeline",
    "SidTable",
    "SidTimeline",
    "changed_rows",
    "code_matrix",
    "find_rows",
    "list_matrix",
]

LISTS = {
    "sid": np.int32,
    "sid_weight": np.float32,
    "sid_second": np.int32,
    "sid_second_weight": np.float32,
}
"""Arrays [N, L] of a SidTable, columns of lists in Arrow, and their types; the second ones are
there where second codes are told.
"""
CODES = ("sid", "sid_second")
"""Those of them that hold codes: -1 for none."""


@dataclass(frozen=True)
class SidTable:
    """Codes and weights of N items in one generation, as known before `as_of`.

    The same type leaves `encode` and arrives from a lookup, so that online and offline answers can
    be compared for equality.

    Parameters
    ----------
    item_ids : int64 or str [N]
        Any order; unique where the table is a snapshot.
    sid : int32 [N, L]
        Codes in -1..codebook_size - 1; -1 = no code.
    sid_weight : float32 [N, L]
        At least 0, and 0 where the code is -1; the weights of an item do not sum to 1.
    reliability : float32 [N]
        x in [0, 1].
    alignment : float32 [N]
        w (Eq. 17).
    is_cold : bool [N]
        No behaviour was seen before `as_of`.
    collision_count : int32 [N]
        Items with the same codes, itself included.
    found : bool [N]
        Whether the item is known; one that is not has no codes.
    generation : str
        Id of the generation that the codes belong to.
    codebook_size : int
        K.
    as_of : datetime
        Aware UTC, exclusive.
    sid_second : int32 [N, L], optional
        The second likeliest code at each position, never that of `sid`; -1 = none. Of tokenizers
        that tell it (`posterior_second`); None for others.
    sid_second_weight : float32 [N, L], optional
        Its probability, 0 where it is -1; there where `sid_second` is.

    Raises
    ------
    InputError
        When an array has another dtype or shape, or a value lies outside its range.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> table = SidTable(
    ...     item_ids=np.array(["a", "b"]),
    ...     sid=np.array([[3, 1], [0, -1]], np.int32),
    ...     sid_weight=np.array([[1, 0.5], [1, 0]], np.float32),
    ...     reliability=np.array([0.5, 0], np.float32),
    ...     alignment=np.array([0.9, 0.1], np.float32),
    ...     is_cold=np.array([False, True]),
    ...     collision_count=np.array([1, 1], np.int32),
    ...     found=np.array([True, True]),
    ...     generation="g1",
    ...     codebook_size=4,
    ...     as_of=datetime(2024, 5, 1, tzinfo=UTC),
    ... )
    >>> table.lookup(np.array(["b", "unknown"])).sid.tolist()
    [[0, -1], [-1, -1]]
    >>> SidTable.from_arrow(table.to_arrow()).lookup(np.array(["a"])).sid_weight.tolist()
    [[1.0, 0.5]]

    Source
    ------
    ADC-SID, arXiv 2510.25622, Eq. 15-17 for reliability and alignment; docs/method_notes.md says
    what differs.
    """

    item_ids: np.ndarray
    sid: np.ndarray
    sid_weight: np.ndarray
    reliability: np.ndarray
    alignment: np.ndarray
    is_cold: np.ndarray
    collision_count: np.ndarray
    found: np.ndarray
    generation: str
    codebook_size: int
    as_of: datetime
    sid_second: np.ndarray | None = None
    sid_second_weight: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        shape = (n, self.sid.shape[1]) if self.sid.ndim == 2 else (n, -1)
        expected: dict[str, tuple[type, tuple[int, ...]]] = {
            "sid": (np.int32, shape),
            "sid_weight": (np.float32, shape),
            "collision_count": (np.int32, (n,)),
        }
        expected |= dict.fromkeys(("reliability", "alignment"), (np.float32, (n,))) | dict.fromkeys(
            ("is_cold", "found"), (np.bool_, (n,))
        )
        for name, (dtype, wanted) in expected.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.shape != wanted:
                raise InputError(
                    f"{name} is {array.dtype}{list(array.shape)}; expected"
                    f" {np.dtype(dtype)}{list(wanted)}"
                )
        if n and (self.sid.min() < NO_CODE or self.sid.max() >= self.codebook_size):
            raise InputError(
                f"codes range over {self.sid.min()}..{self.sid.max()}; expected"
                f" {NO_CODE}..{self.codebook_size - 1}"
            )
        if not (np.isfinite(self.sid_weight).all() and (self.sid_weight >= 0).all()):
            raise InputError("a weight is negative or not finite; expected every sid_weight >= 0")
        if (self.sid_weight[self.sid == NO_CODE] != 0).any():
            raise InputError("a missing code (-1) carries a weight; its weight must be 0")
        if not ((self.reliability >= 0) & (self.reliability <= 1)).all():
            raise InputError(
                "a reliability is outside [0, 1] or not a number; expected 0 <= x <= 1"
            )
        if (self.sid[~self.found] != NO_CODE).any():
            raise InputError(
                "a row that was not found carries codes; expected -1 at every position"
            )
        self._check_second(shape)
        object.__setattr__(self, "as_of", utc(self.as_of, name="as_of"))

    def _check_second(self, shape: tuple[int, ...]) -> None:
        code, weight = self.sid_second, self.sid_second_weight
        if code is None and weight is None:
            return
        if code is None or weight is None:
            raise InputError(
                f"sid_second is {'absent' if code is None else 'given'} and sid_second_weight is"
                " not so; give both or neither"
            )
        if (code.dtype, code.shape, weight.dtype, weight.shape) != (
            np.int32,
            shape,
            np.float32,
            shape,
        ):
            raise InputError(
                f"sid_second is {code.dtype}{list(code.shape)} and sid_second_weight"
                f" {weight.dtype}{list(weight.shape)}; expected int32 and float32, {list(shape)}"
            )
        some = code != NO_CODE
        if (code < NO_CODE).any() or (code >= self.codebook_size).any():
            raise InputError(
                f"second codes range over {code.min()}..{code.max()}; expected"
                f" {NO_CODE}..{self.codebook_size - 1}"
            )
        if (some & ((self.sid == NO_CODE) | (self.sid == code))).any():
            raise InputError(
                "a second code stands where there is no first, or is the first again; expected -1"
                " there"
            )
        if not ((weight >= 0) & (weight <= 1)).all() or (weight[~some] != 0).any():
            raise InputError(
                "a sid_second_weight is outside [0, 1] or not a number, or stands where there is no"
                " second code; expected a probability, and 0 there"
            )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def length(self) -> int:
        """L."""
        return self.sid.shape[1]

    @property
    def has_second(self) -> bool:
        """Whether second codes are told."""
        return self.sid_second is not None

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that it has beside `item_ids`, by name; the first axis is N."""
        return {name: array for name in _ARRAYS if (array := getattr(self, name)) is not None}

    def lookup(self, item_ids: np.ndarray) -> "SidTable":
        """The codes of these items.

        Parameters
        ----------
        item_ids : int64 or str [M]
            Any ids, in any order, repeats allowed.

        Returns
        -------
        SidTable, M rows
            In the order asked; unknown items have found = False, codes -1 and weights 0.
        """
        wanted = np.asarray(item_ids)
        rows, known = find_rows(self.item_ids, wanted)
        return self._gather(rows, known, wanted)

    def _gather(self, rows: np.ndarray, known: np.ndarray, item_ids: np.ndarray) -> "SidTable":
        columns = {}
        for field, source in self.arrays.items():
            fill = NO_CODE if field in CODES else field == "is_cold"
            column = np.full((len(rows), *source.shape[1:]), fill, source.dtype)
            column[known] = source[rows[known]]
            columns[field] = column
        return SidTable(
            item_ids=item_ids,
            generation=self.generation,
            codebook_size=self.codebook_size,
            as_of=self.as_of,
            **columns,
        )

    def to_arrow(self) -> pa.Table:
        """The table in Arrow, one row per item.

        Returns
        -------
        pyarrow.Table, N rows
            `sid` list<int32> and `sid_weight` list<float> (never large_list, never a null inside),
            and a column for each other array, lists for those of second codes; the rest is in the
            metadata.
        """
        n, length = self.sid.shape
        offsets = pa.array(np.arange(n + 1, dtype=np.int32) * length)
        columns = {"item_id": pa.array(self.item_ids)} | {
            name: pa.array(array)
            if array.ndim == 1
            else pa.ListArray.from_arrays(offsets, pa.array(array.reshape(-1)))
            for name, array in self.arrays.items()
        }
        meta = {
            "generation": self.generation,
            "codebook_size": str(self.codebook_size),
            "as_of": self.as_of.isoformat(),
            "length": str(length),
        }
        return pa.table(columns).replace_schema_metadata(meta)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "SidTable":
        """The inverse of `to_arrow`.

        Parameters
        ----------
        table : pyarrow.Table
            What `to_arrow` returned.

        Returns
        -------
        SidTable

        Raises
        ------
        InputError
            The table did not come from `to_arrow`.
        """
        meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if missing := {"generation", "codebook_size", "as_of", "length"} - set(meta):
            raise InputError(
                f"the table's metadata lacks {sorted(missing)}; read what SidTable.to_arrow wrote"
            )
        length = int(meta["length"])
        return cls(
            item_ids=id_array(table["item_id"]),
            **{
                name: list_matrix(table[name], length, dtype)
                for name, dtype in LISTS.items()
                if name in table.column_names
            },
            **{
                name: table[name].to_numpy()
                for name in ("reliability", "alignment", "is_cold", "collision_count", "found")
            },
            generation=meta["generation"],
            codebook_size=int(meta["codebook_size"]),
            as_of=datetime.fromisoformat(meta["as_of"]),
        )


_ARRAYS = [
    f.name
    for f in fields(SidTable)
    if f.name not in ("item_ids", "generation", "codebook_size", "as_of")
]


def changed_rows(before: SidTable, after: SidTable) -> SidTable:
    """What of `after` differs from `before`, as rows to publish: new and changed items, and, not
    found, items that are gone.

    Carried forward over `before`, the rows give `after` again. Raises GenerationMismatch as
    `check_second`.
    """
    place, known = find_rows(before.item_ids, after.item_ids)
    same = known.copy()
    check_second((before, after))
    earlier = before.arrays
    for name, array in after.arrays.items():
        equal = earlier[name][place] == array
        same &= equal.all(axis=1) if equal.ndim > 1 else equal
    gone = before.item_ids[before.found & ~np.isin(before.item_ids, after.item_ids)]
    return after.lookup(np.concatenate([after.item_ids[~same], gone]))


def check_second(tables: Sequence[SidTable]) -> None:
    """Raise GenerationMismatch where one of these tables of a generation tells second codes and
    another does not.
    """
    if len({table.has_second for table in tables}) > 1:
        told = next(table for table in tables if table.has_second)
        silent = next(table for table in tables if not table.has_second)
        raise GenerationMismatch(
            f"the codes as of {told.as_of.isoformat()} have second codes, those as of"
            f" {silent.as_of.isoformat()} have none; encode both with generation"
            f" {told.generation!r}, which tells them of all its items or of none"
        )


def find_rows(haystack: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each wanted id its row in `haystack` (unique ids, any order) and whether it is there:
    (int64 [M], bool [M]).

    Raises InputError when one side holds integers and the other does not: numpy would compare them
    as text and find nothing.
    """
    if not (len(haystack) and len(wanted)):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    if (wanted.dtype.kind in "iu") != (haystack.dtype.kind in "iu"):
        raise InputError(
            f"asked for ids of type {wanted.dtype}, the table holds {haystack.dtype}; convert one"
            " to the other"
        )
    order = np.argsort(haystack, kind="stable")
    place = np.minimum(np.searchsorted(haystack, wanted, sorter=order), len(haystack) - 1)
    rows = order[place]
    return rows, haystack[rows] == wanted


class CodeTimeline(Protocol):
    """Codes of one generation by (item, time): SidTimeline in memory, store.timeline.PackedTimeline
    in memory-mapped files.

    servable_at: datetime64[us], strictly increasing, when each snapshot could first be served.
    """

    servable_at: np.ndarray

    @property
    def generation(self) -> str: ...

    @property
    def length(self) -> int: ...

    @property
    def codebook_size(self) -> int: ...

    @property
    def item_ids(self) -> np.ndarray: ...

    @property
    def has_second(self) -> bool: ...

    def gather(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...

    def gather_second(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]: ...


class SidTimeline:
    """Snapshots of one generation through time, looked up by (item, time).

    A snapshot counts from its `servable_at` (included) until the next one's.

    Parameters
    ----------
    snapshots : sequence of SidTable
        Each complete; all of one generation, codebook size and length L.
    servable_at : sequence of datetime
        When each could first be served: aware, strictly increasing.

    Attributes
    ----------
    snapshots : list of SidTable
    servable_at : datetime64[us], one for each snapshot

    Raises
    ------
    InputError
        Without snapshots, or when the times are not strictly increasing.
    GenerationMismatch
        When the snapshots are of several generations, or only some tell second codes.
    """

    def __init__(self, snapshots: Sequence[SidTable], servable_at: Sequence[datetime]) -> None:
        if not snapshots:
            raise InputError("no snapshots given; publish at least one before looking codes up")
        if len(vocabularies := {(s.generation, s.codebook_size, s.length) for s in snapshots}) > 1:
            raise GenerationMismatch(
                "snapshots of several vocabularies (generation, codebook size, length):"
                f" {sorted(vocabularies)}; codes of different vocabularies are never mixed: look"
                " up each one separately"
            )
        check_second(snapshots)
        times = np.array([instant(t) for t in servable_at], "datetime64[us]")
        if len(times) != len(snapshots) or (np.diff(times) <= np.timedelta64(0)).any():
            raise InputError(
                "servable_at must hold one strictly increasing time per snapshot; sort the"
                " snapshots by time"
            )
        self.snapshots = list(snapshots)
        self.servable_at = times
        self._ids = np.unique(np.concatenate([s.item_ids for s in snapshots]))
        shape = (len(snapshots), len(self._ids) + 1)  # one more row: the item nobody knows
        length = snapshots[0].length
        self._sid = np.full((*shape, length), NO_CODE, np.int32)
        self._weight = np.zeros((*shape, length), np.float32)
        self._reliability = np.zeros(shape, np.float32)
        if snapshots[0].has_second:
            self._second = np.full_like(self._sid, NO_CODE), np.zeros_like(self._weight)
        for i, snapshot in enumerate(snapshots):
            rows = np.searchsorted(self._ids, snapshot.item_ids)
            self._sid[i, rows], self._weight[i, rows], self._reliability[i, rows] = (
                snapshot.sid,
                snapshot.sid_weight,
                snapshot.reliability,
            )
            if snapshot.sid_second is not None:
                self._second[0][i, rows] = snapshot.sid_second
                self._second[1][i, rows] = snapshot.sid_second_weight

    @property
    def generation(self) -> str:
        """Its id."""
        return self.snapshots[0].generation

    @property
    def length(self) -> int:
        """L."""
        return self.snapshots[0].length

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.snapshots[0].codebook_size

    @property
    def has_second(self) -> bool:
        """Whether its snapshots tell second codes."""
        return self.snapshots[0].has_second

    @property
    def item_ids(self) -> np.ndarray:
        """Every item of any snapshot, sorted."""
        return self._ids

    def gather(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes of M (item, time) pairs as they were served then.

        Parameters
        ----------
        item_ids : int64 or str [M]
        times : datetime64[us] [M]
            UTC.

        Returns
        -------
        codes : int32 [M, L]
            -1 for unknown items and before the first snapshot.
        weights : float32 [M, L]
            0 there.
        reliability : float32 [M]
            0 there.

        Raises
        ------
        InputError
            For a missing time, or ids of another type.
        """
        which, row = self._places(item_ids, times)
        return self._sid[which, row], self._weight[which, row], self._reliability[which, row]

    def gather_second(
        self, item_ids: np.ndarray, times: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Second codes of M (item, time) pairs as they were served then.

        Parameters
        ----------
        item_ids : int64 or str [M]
        times : datetime64[us] [M]
            UTC.

        Returns
        -------
        codes : int32 [M, L]
            -1 where there is none.
        probabilities : float32 [M, L]
            0 there.

        Raises
        ------
        InputError
            For a missing time, ids of another type, and a generation without second codes.
        """
        refuse_without_second(self)
        which, row = self._places(item_ids, times)
        return self._second[0][which, row], self._second[1][which, row]

    def _places(self, item_ids: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Snapshot and row of each pair, int64 [M]."""
        if np.isnat(times).any():
            raise InputError(
                f"{int(np.isnat(times).sum())} rows have no time (NaT); drop them, a code is looked"
                " up as of a time"
            )
        which = np.searchsorted(self.servable_at, times, side="right") - 1
        rows, known = find_rows(self._ids, item_ids)
        row = np.where(known & (which >= 0), rows, len(self._ids))
        return np.maximum(which, 0), row


def refuse_without_second(timeline: CodeTimeline) -> None:
    """Raise InputError where the snapshots of a timeline tell no second codes."""
    if not timeline.has_second:
        raise InputError(
            f"generation {timeline.generation!r} has no second codes; fit one with the tokenizer"
            " posterior_second, and publish that"
        )
