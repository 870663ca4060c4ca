"""Batches of arrays in a reproducible order, for one of several ranks and workers. Reads:
RowGroups. Writes: dicts of arrays.

The order of an epoch: groups are permuted, rows within a group are permuted, and the sequence is
cut into one equal span for each rank; a rank's batches are cut into one span for each worker;
consecutive rows of a span are read into a buffer and permuted again. Everything follows from (seed,
epoch, ranks, workers), so a batch in the middle is found without reading what was before it.
Or there is one span for all ranks, and each takes its share of every batch of it: then the batches
do not depend on the number of ranks, at the price that each reads what all do.

Legend: B rows of a batch, L length of a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from adc_features.errors import InputError
from adc_features.loader.columns import Arrays, Columns
from adc_features.loader.row_groups import RowGroups
from adc_features.ranks import Ranks

__all__ = ["Arrays", "Columns", "Order", "Piece", "array_batches"]


class Piece(NamedTuple):
    """Rows start..stop of a group, counted in the group's own order of this epoch."""

    group: int
    start: int
    stop: int


@dataclass(frozen=True)
class Order:
    """Who sees which rows in which order.

    Parameters
    ----------
    batch_rows : int
        B.
    seed : int or None
        Of the permutations; None keeps the order of the source.
    buffer_rows : int
        Rows that are permuted together, cut to whole batches; a worker holds them and their groups
        in memory.
    rank, ranks : int
        This process, and how many train together.
    remainder : {"pad", "drop"}
        What happens when rows do not divide evenly. "pad": the epoch's first rows are seen again,
        at most ranks - 1 of them, so that every row is seen and every rank has as many; its last
        batch may be shorter. "drop": the rest is left out of this epoch, every batch has B rows.
    cut : {"span", "batch"}
        What is dealt out to ranks. "span": rows, each rank has its own of the epoch. "batch": B
        rows are those of all ranks, each has its share of them; the rows of an epoch are its
        batches whatever the number of ranks, none is seen again, and of a last batch that is
        shorter a rank's share may be empty.

    Raises
    ------
    InputError
        A size below 1, or a rank that does not exist.

    Examples
    --------
    >>> Order(batch_rows=4, ranks=2).batches(10)
    2
    >>> Order(batch_rows=4, ranks=2, remainder="drop").batches(10)
    1
    >>> Order(batch_rows=4, ranks=2, cut="batch").batches(10)
    3
    """

    batch_rows: int
    seed: int | None = 0
    buffer_rows: int = 262_144
    rank: int = 0
    ranks: int = 1
    remainder: Literal["pad", "drop"] = "pad"
    cut: Literal["span", "batch"] = "span"

    def __post_init__(self) -> None:
        if self.batch_rows < 1 or self.buffer_rows < 1:
            raise InputError(
                f"batch_rows is {self.batch_rows}, buffer_rows {self.buffer_rows}; expected at"
                " least 1"
            )
        if not 0 <= self.rank < self.ranks:
            raise InputError(
                f"rank is {self.rank} of {self.ranks} ranks; expected 0..{self.ranks - 1}"
            )
        if self.remainder not in ("pad", "drop"):
            raise InputError(f"remainder is {self.remainder!r}; expected pad or drop")
        if self.cut not in ("span", "batch"):
            raise InputError(f"cut is {self.cut!r}; expected span or batch")

    @property
    def dealt(self) -> "Order":
        """The order whose batches are read: this one, or that of all ranks together."""
        return self if self.cut == "span" else replace(self, rank=0, ranks=1, cut="span")

    def share(self, start: int, rows: int) -> np.ndarray:
        """Which rows of a batch of `dealt` are this rank's.

        Parameters
        ----------
        start : int
            Where the batch begins.
        rows : int
            How many it has.

        Returns
        -------
        ndarray
            int64, consecutive from `start` on.
        """
        mine = slice(None) if self.cut == "span" else Ranks(self.rank, self.ranks).share(rows)
        return start + np.arange(rows)[mine]

    def rank_rows(self, rows: int) -> int:
        """Rows of an epoch that each rank sees, or all of them where batches are dealt out.

        Parameters
        ----------
        rows : int
            Rows of the source.

        Returns
        -------
        int
            The same for every rank.
        """
        if self.cut == "batch":
            return self.dealt.rank_rows(rows)
        if self.remainder == "pad":
            return -(-rows // self.ranks)
        return rows // self.ranks // self.batch_rows * self.batch_rows

    def batches(self, rows: int) -> int:
        """Batches of an epoch.

        Parameters
        ----------
        rows : int
            Rows of the source.

        Returns
        -------
        int
            The same for every rank.
        """
        return -(-self.rank_rows(rows) // self.batch_rows)

    def span(self, rows: int, *, worker: int, workers: int) -> tuple[int, int]:
        """Which of this rank's batches a worker makes.

        Parameters
        ----------
        rows : int
            Rows of the source.
        worker, workers : int
            This worker of the rank, and how many there are.

        Returns
        -------
        tuple of int
            Its first batch, and its last one, excluded. Earlier workers have at most one more, so
            that batches can be dealt out in turn.
        """
        each, more = divmod(self.batches(rows), workers)
        first = worker * each + min(worker, more)
        return first, first + each + (worker < more)

    def pieces(self, rows: np.ndarray, *, epoch: int, worker: int, workers: int) -> list[Piece]:
        """What a worker reads in an epoch, in order.

        Parameters
        ----------
        rows : int64 [groups]
            Rows of each group of the source.
        epoch : int
            Each epoch has its own order.
        worker, workers : int
            This worker of the rank, and how many there are.

        Returns
        -------
        list of Piece
        """
        total = int(rows.sum())
        mine = self.rank_rows(total)
        first, last = self.span(total, worker=worker, workers=workers)
        begin = self.rank * mine + first * self.batch_rows
        end = self.rank * mine + min(last * self.batch_rows, mine)
        groups = (
            np.arange(len(rows))
            if self.seed is None
            else self._rng(epoch, 0).permutation(len(rows))
        )
        ends = np.cumsum(rows[groups])
        found: list[Piece] = []
        while begin < end:
            at = begin % total  # padding begins anew
            place = int(np.searchsorted(ends, at, side="right"))
            start = at - int(ends[place] - rows[groups[place]])
            stop = min(int(rows[groups[place]]), start + end - begin)
            found.append(Piece(int(groups[place]), start, stop))
            begin += stop - start
        return found

    def rows_of(self, piece: Piece, rows: int, *, epoch: int) -> np.ndarray:
        """Which rows of its group a piece holds.

        Parameters
        ----------
        piece : Piece
            One of `pieces`.
        rows : int
            Rows of the group.
        epoch : int
            The epoch of the piece.

        Returns
        -------
        ndarray
            int64 [M], row numbers within the group.
        """
        if self.seed is None:
            return np.arange(piece.start, piece.stop)
        return self._rng(epoch, 1, piece.group).permutation(rows)[piece.start : piece.stop]

    def mixed(self, rows: int, *, epoch: int, worker: int, buffer: int) -> np.ndarray:
        """The order in which the rows of a buffer leave it.

        Parameters
        ----------
        rows : int
            Rows in the buffer.
        epoch, worker, buffer : int
            Whose permutation it is: each buffer of a worker has its own.

        Returns
        -------
        ndarray
            int64 [rows], a permutation.
        """
        return (
            np.arange(rows)
            if self.seed is None
            else self._rng(epoch, 2, self.rank, worker, buffer).permutation(rows)
        )

    def _rng(self, epoch: int, *what: int) -> np.random.Generator:
        assert self.seed is not None
        return np.random.default_rng((self.seed, epoch, *what))


def array_batches(
    source: RowGroups,
    columns: Columns,
    order: Order,
    *,
    epoch: int = 0,
    worker: int = 0,
    workers: int = 1,
    skip: int = 0,
) -> Iterator[Arrays]:
    """The batches of one worker in one epoch.

    Parameters
    ----------
    source : RowGroups
        Where the rows come from.
    columns : Columns
        What a batch holds.
    order : Order
        Who sees which rows in which order.
    epoch : int
        Each epoch has its own order.
    worker, workers : int
        This worker of the rank, and how many there are.
    skip : int
        Batches of this worker to leave out; what they would have needed alone is not read.

    Yields
    ------
    dict of str to ndarray
        [B] or [B, L] each.

    Raises
    ------
    InputError
        A source without rows; all that `Columns.arrays` raises.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from adc_features.loader.row_groups import TableGroups
    >>> source = TableGroups(pa.table({"label": [0.0, 1.0, 2.0]}))
    >>> order = Order(batch_rows=2, seed=None)
    >>> [b["label"].tolist() for b in array_batches(source, Columns(scalars=("label",)), order)]
    [[0.0, 1.0], [2.0]]
    """
    if not source.rows.sum():
        raise InputError("the source has no rows; give at least one")
    own, order = order, order.dealt
    to_skip = skip * order.batch_rows
    kept: dict[int, Arrays] = {}
    # whole batches, so that no row waits for the next buffer
    held = max(1, order.buffer_rows // order.batch_rows) * order.batch_rows
    for number, pieces in enumerate(
        _buffers(order.pieces(source.rows, epoch=epoch, worker=worker, workers=workers), held)
    ):
        count = sum(p.stop - p.start for p in pieces)
        if to_skip >= count:
            to_skip -= count
            continue
        kept = {
            g: kept[g] if g in kept else _read(source, columns, g)
            for g in dict.fromkeys(p.group for p in pieces)
        }
        mix = order.mixed(count, epoch=epoch, worker=worker, buffer=number)[to_skip:]
        to_skip = 0
        batches = [
            own.share(start, min(order.batch_rows, len(mix) - start))
            for start in range(0, len(mix), order.batch_rows)
        ]
        buffer = _mixed(
            kept,
            pieces,
            [order.rows_of(p, int(source.rows[p.group]), epoch=epoch) for p in pieces],
            mix[np.concatenate(batches)],
        )
        # the group that was cut goes on in the next buffer: it is read once
        kept = {pieces[-1].group: kept[pieces[-1].group]}
        ends = np.cumsum([len(batch) for batch in batches])
        for batch, end in zip(batches, ends, strict=True):
            yield {name: values[end - len(batch) : end] for name, values in buffer.items()}


def _buffers(pieces: list[Piece], rows: int) -> Iterator[list[Piece]]:
    """Consecutive pieces of at most `rows` rows together; a longer piece is cut."""
    held: list[Piece] = []
    room = rows
    for piece in pieces:
        start = piece.start
        while start < piece.stop:
            stop = min(piece.stop, start + room)
            held.append(Piece(piece.group, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield held
                held, room = [], rows
    if held:
        yield held


def _read(source: RowGroups, columns: Columns, group: int) -> Arrays:
    table = source.read(group)
    if len(table) != source.rows[group]:
        raise InputError(
            f"group {group} was read with {len(table)} rows and announced with"
            f" {source.rows[group]}; a source's groups must not change"
        )
    return columns.arrays(table)


def _mixed(
    groups: Mapping[int, Arrays],
    pieces: Sequence[Piece],
    rows: Sequence[np.ndarray],
    mix: np.ndarray,
) -> Arrays:
    """The pieces' rows in the order `mix`; rows: of each piece, within its group."""
    arrays = list(groups.values())
    sizes = [len(next(iter(a.values()))) for a in arrays]
    before = dict(zip(groups, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    picked = np.concatenate([before[p.group] + r for p, r in zip(pieces, rows, strict=True)])[mix]
    whole = (
        arrays[0]
        if len(arrays) == 1
        else {name: np.concatenate([a[name] for a in arrays]) for name in arrays[0]}
    )
    return {name: np.take(values, picked, axis=0) for name, values in whole.items()}
