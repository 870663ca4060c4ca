"""Batches of arrays in a reproducible order, for one of several ranks and workers. Reads:
RowGroups. Writes: dicts of arrays.

The order of an epoch: groups are permuted, rows within a group are permuted, and the sequence is
cut into one equal span for each rank; a rank's batches are cut into one span for each worker;
consecutive rows of a span are read into a buffer and permuted again. Everything follows from (seed,
epoch, ranks, workers), so a batch in the middle is found without reading what was before it.

Legend: B rows of a batch, L length of a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.sids import code_matrix, list_matrix
from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.loader.row_groups import RowGroups

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Columns:
    """Which columns a batch holds, and in which form; a column that is not named is left out.

    Parameters
    ----------
    scalars : tuple of str
        Numbers, booleans and times: [B] in their own type (times: int64 microseconds since 1970 UTC).
    lists : mapping of str to int
        Name -> L: [B, L] in the type of the values, which are numbers or booleans.
    codes : tuple of str or mapping of str to int
        Those of `lists` that hold codes, whole numbers in -1..K-1. They become int64 code + 1, so that
        0 is "no code". A mapping gives K as well: name -> K.
    vocabularies : mapping of str to ndarray
        Name -> values: int64 [B], 1 + the place of the value, 0 for values that are not in it and for
        nulls.
    fill : mapping of str to float
        Name -> number in the place of nulls. Without one a null float becomes NaN, and any other null
        is refused.

    Raises
    ------
    InputError
        No column is named, one is named twice, or `codes` names what is not among `lists`.

    Examples
    --------
    >>> columns = Columns(scalars=("label",), lists={"sid": 2}, codes=("sid",))
    >>> batch = columns.arrays(pa.table({"label": [1.0, 0.0], "sid": [[3, -1], [0, 1]]}))
    >>> batch["sid"].tolist()
    [[4, 0], [1, 2]]
    """

    scalars: tuple[str, ...] = ()
    lists: Mapping[str, int] = field(default_factory=dict)
    codes: tuple[str, ...] | Mapping[str, int] = ()
    vocabularies: Mapping[str, np.ndarray] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.scalars, *self.lists, *self.vocabularies]
        if not names:
            raise InputError("no columns are named; give scalars, lists or vocabularies")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise InputError(f"columns {twice} are named twice; a column leaves in one form")
        if unknown := sorted(set(self.codes) - set(self.lists)):
            raise InputError(
                f"codes {unknown} are not among the lists {sorted(self.lists)}; give their lengths"
                " there"
            )

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        return [*self.scalars, *self.lists, *self.vocabularies]

    def arrays(self, table: pa.Table) -> Arrays:
        """The columns of a table as arrays.

        Parameters
        ----------
        table : pyarrow.Table
            Rows that hold every named column.

        Returns
        -------
        dict of str to ndarray
            [B] or [B, L] each.

        Raises
        ------
        InputError
            A column is missing or of another type; nulls without a fill; a fill that its column's type
            does not hold; lists of another length; a number that is no code.
        """
        if missing := sorted(set(self.names) - set(table.column_names)):
            raise InputError(
                f"the rows have no column {', '.join(missing)}; they have {table.column_names}"
            )
        out = {
            name: _scalar(_decoded(table[name]), name, self.fill.get(name)) for name in self.scalars
        }
        for name, length in self.lists.items():
            size = (
                self.codes[name] if isinstance(self.codes, Mapping) and name in self.codes else None
            )
            out[name] = _matrix(
                _decoded(table[name]),
                name,
                length,
                self.fill.get(name),
                is_code=name in self.codes,
                codebook_size=size,
            )
        for name, values in self.vocabularies.items():
            out[name] = _places(_decoded(table[name]), name, values)
        return out


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary (pandas: categorical) as its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _scalar(column: pa.ChunkedArray, name: str, fill: float | None) -> np.ndarray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = timestamps(column, name=name).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"column {name} is of type {kind}; a scalar is a number, boolean or timestamp, a text"
            " needs a vocabulary"
        )
    stands = None if fill is None else _fill(fill, column.type, name)
    if column.null_count:
        if stands is not None:
            column = pc.fill_null(column, pa.scalar(stands, column.type))
        elif not pa.types.is_floating(kind):
            raise InputError(
                f"column {name}: {column.null_count} nulls in a group of {kind}; say what stands"
                f" for them with fill={{{name!r}: ...}}"
            )
    return column.to_numpy()


def _matrix(
    column: pa.ChunkedArray,
    name: str,
    length: int,
    fill: float | None,
    *,
    is_code: bool,
    codebook_size: int | None,
) -> np.ndarray:
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise InputError(f"column {name} is of type {kind}; expected lists of {length} values")
    value = pa.int64() if is_code else kind.value_type
    known = column.drop_null() if column.null_count else column
    try:
        values = (
            code_matrix(known, length, codebook_size=codebook_size)
            if is_code
            else list_matrix(known, length, value.to_pandas_dtype())
        )
        if is_code and fill is not None:
            code_matrix(pa.array([[fill]]), 1, codebook_size=codebook_size)
    except (InputError, pa.ArrowInvalid, OverflowError) as error:
        raise InputError(f"column {name}: {error}") from error
    stands = np.nan if fill is None else _fill(fill, value, name)
    if column.null_count:
        if fill is None and not pa.types.is_floating(value):
            raise InputError(
                f"column {name}: {column.null_count} null lists of {kind.value_type}; say what"
                f" stands for them with fill={{{name!r}: ...}}"
            )
        matrix = np.full((len(column), length), stands, values.dtype)
        matrix[column.is_valid().to_numpy()] = values
        values = matrix
    return values + 1 if is_code else values


def _places(column: pa.ChunkedArray, name: str, values: np.ndarray) -> np.ndarray:
    """int64 [N]: 1 + the place of each value, 0 for those that the vocabulary lacks and for
    nulls.
    """
    try:
        known = pa.array(values).cast(column.type)
        found = pc.index_in(column, value_set=known, skip_nulls=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(
            f"column {name} is of type {column.type} and its vocabulary is not ({error}); give the"
            " vocabulary in the column's type"
        ) from error
    return pc.fill_null(found, -1).to_numpy().astype(np.int64) + 1


def _fill(fill: float, kind: pa.DataType, name: str) -> bool | int | float:
    """What stands for a null, in the column's type. Raises InputError when the type does not hold
    it.
    """
    dtype = np.dtype(kind.to_pandas_dtype())
    try:
        with np.errstate(all="ignore"):
            held = dtype.type(fill)
            fits = not isinstance(fill, str | bytes) and bool(
                np.isinf(held) == np.isinf(fill) if dtype.kind == "f" else held == fill
            )
    except (OverflowError, ValueError, TypeError):
        fits = False
    if not fits:
        raise InputError(
            f"column {name} is of type {kind}, which does not hold its fill {fill!r}; give a number"
            " of that type"
        )
    return held.item()


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
        Rows that are permuted together, cut to whole batches; a worker holds them and their groups in
        memory.
    rank, ranks : int
        This process, and how many train together.
    remainder : {"pad", "drop"}
        What happens when rows do not divide evenly. "pad": the epoch's first rows are seen again, at
        most ranks - 1 of them, so that every row is seen and every rank has as many; its last batch
        may be shorter. "drop": the rest is left out of this epoch, every batch has B rows.

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
    """

    batch_rows: int
    seed: int | None = 0
    buffer_rows: int = 262_144
    rank: int = 0
    ranks: int = 1
    remainder: Literal["pad", "drop"] = "pad"

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

    def rank_rows(self, rows: int) -> int:
        """Rows of an epoch that each rank sees, of `rows` in all."""
        if self.remainder == "pad":
            return -(-rows // self.ranks)
        return rows // self.ranks // self.batch_rows * self.batch_rows

    def batches(self, rows: int) -> int:
        """Batches of an epoch, the same for every rank."""
        return -(-self.rank_rows(rows) // self.batch_rows)

    def span(self, rows: int, *, worker: int, workers: int) -> tuple[int, int]:
        """First and last batch (excluded) of a worker, of this rank's; earlier workers have at most
        one more, so they may take turns.
        """
        each, more = divmod(self.batches(rows), workers)
        first = worker * each + min(worker, more)
        return first, first + each + (worker < more)

    def pieces(self, rows: np.ndarray, *, epoch: int, worker: int, workers: int) -> list[Piece]:
        """What a worker reads, in order. rows: int64 [groups]."""
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
        """Row numbers within the piece's group, of `rows` rows."""
        if self.seed is None:
            return np.arange(piece.start, piece.stop)
        return self._rng(epoch, 1, piece.group).permutation(rows)[piece.start : piece.stop]

    def mixed(self, rows: int, *, epoch: int, worker: int, buffer: int) -> np.ndarray:
        """The permutation of a buffer's rows."""
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
    >>> from adc_features.loader.row_groups import TableGroups
    >>> source = TableGroups(pa.table({"label": [0.0, 1.0, 2.0]}))
    >>> order = Order(batch_rows=2, seed=None)
    >>> [b["label"].tolist() for b in array_batches(source, Columns(scalars=("label",)), order)]
    [[0.0, 1.0], [2.0]]
    """
    if not source.rows.sum():
        raise InputError("the source has no rows; give at least one")
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
        buffer = _mixed(
            kept,
            pieces,
            [order.rows_of(p, int(source.rows[p.group]), epoch=epoch) for p in pieces],
            mix,
        )
        # the group that was cut goes on in the next buffer: it is read once
        kept = {pieces[-1].group: kept[pieces[-1].group]}
        for start in range(0, len(mix), order.batch_rows):
            yield {
                name: values[start : start + order.batch_rows] for name, values in buffer.items()
            }


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
