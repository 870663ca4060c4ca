"""Encoded rows in files, of which some are in memory at a time. Reads: Encoded. Writes: RowFiles.

<directory>/<piece>.pt    the `RowTensors` of consecutive rows
<directory>/rows.json     written last: the rows of each piece

The order of an epoch: pieces are permuted and read in turn until their rows fill a buffer; the rows
of a buffer are permuted and cut into batches, as those of an epoch in memory are. Where one buffer
holds all rows, nothing else is drawn, and the batches are those of rows in memory. Every process of
a shared fit reads all pieces and takes its share of each batch, so the batches do not depend on the
number of processes.

Legend: N rows, N' learnable rows, M of them in a buffer.
"""

import json
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from adc_features.artifact import fresh_directory, write_json
from adc_features.codes.sids import CodeTimeline
from adc_features.errors import ArtifactError, InputError
from adc_features.event_times import timestamps
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import Parts
from adc_features.loader.row_groups import RowGroups
from adc_features.ranking.multitask.shape import NetworkShape
from training.ranker.batches import HistoryRows, RowTensors, UnknownRows

BUFFER_ROWS = 262_144
"""Rows that are shuffled together, as in `adc_features.loader.Order`."""
_ROWS = "rows.json"


class Buffer(NamedTuple):
    """Learnable rows that are in memory together.

    tensors: they and their neighbours. places: int64 [M], which of the N' they are; rows: int64
    [M], where they stand in `tensors`.
    """

    tensors: RowTensors
    places: Tensor
    rows: Tensor


@dataclass(frozen=True)
class RowsInMemory:
    """All rows in one buffer."""

    tensors: RowTensors

    def plan(self, rng: torch.Generator) -> list[list[int]]:
        """The pieces of each buffer of an epoch, in its order."""
        return self.every()

    def every(self) -> list[list[int]]:
        """The pieces of each buffer, in the order of rows."""
        return [[0]]

    def __len__(self) -> int:
        return len(self.tensors)

    def read(self, pieces: Sequence[int]) -> RowTensors:
        """All rows."""
        return self.tensors

    def buffer(self, pieces: Sequence[int], learnable: Tensor) -> Buffer:
        """All rows. learnable: int64 [N'], ascending rows that are learned from."""
        return Buffer(
            self.tensors, torch.arange(len(learnable), device=learnable.device), learnable
        )


@dataclass(frozen=True)
class RowFiles:
    """N encoded rows in files.

    Parameters
    ----------
    directory : Path
        Holds them; a fit keeps its checkpoint there too. Processes that fit together see the same.
    sizes : tuple of int
        Rows of each piece.
    buffer_rows : int
        Rows that are in memory, and shuffled, together; at least one piece.

    Raises
    ------
    InputError
        A buffer without rows.

    Examples
    --------
    >>> from adc_features.inputs.declaration import Ranker, Task
    >>> from adc_features.inputs.encoded import Block, InputLayout, Layout
    >>> layout = Layout({"price": InputLayout(("price",))}, {})
    >>> shape = NetworkShape.of(layout, Ranker("feed", [Task("click")]))
    >>> piece = Encoded({"price": Block(np.ones((3, 1), np.float32))}, 3)
    >>> rows = RowFiles.write(tmp_path / "rows", [piece, piece], shape)
    >>> len(rows), RowFiles.open(tmp_path / "rows") == rows
    (6, True)
    """

    directory: Path
    sizes: tuple[int, ...]
    buffer_rows: int = BUFFER_ROWS

    def __post_init__(self) -> None:
        if self.buffer_rows < 1:
            raise InputError(f"buffer_rows is {self.buffer_rows}; expected at least 1")

    @classmethod
    def write(
        cls,
        directory: Path,
        pieces: Iterable[Encoded],
        shape: NetworkShape,
        *,
        buffer_rows: int = BUFFER_ROWS,
    ) -> "RowFiles":
        """Write rows piece by piece, so that one is in memory at a time.

        Parameters
        ----------
        directory : Path
            Is made; what it held before is replaced.
        pieces : iterable of Encoded
            Consecutive rows each; rows of one request in one piece, where a ranker is listwise.
        shape : NetworkShape
            Of the networks that read them.
        buffer_rows : int
            As above.

        Raises
        ------
        InputError
            No rows.
        """
        sizes = []
        with fresh_directory(directory) as fresh:
            for number, piece in enumerate(pieces):
                torch.save(RowTensors.of(piece, shape), fresh / f"{number}.pt")
                sizes.append(len(piece))
            if not sum(sizes):
                raise InputError("there are no rows to write; give at least one")
            write_json(fresh / _ROWS, {"rows": sizes})
        return cls(directory, tuple(sizes), buffer_rows)

    @classmethod
    def open(cls, directory: Path, *, buffer_rows: int = BUFFER_ROWS) -> "RowFiles":
        """Rows that `write` has written. Raises ArtifactError where they are not complete."""
        path = directory / _ROWS
        if not path.is_file():
            raise ArtifactError(f"{directory} holds no complete rows; write them again")
        sizes = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return cls(directory, tuple(sizes), buffer_rows)

    def __len__(self) -> int:
        return sum(self.sizes)

    def plan(self, rng: torch.Generator) -> list[list[int]]:
        """The pieces of each buffer of an epoch, in its order."""
        if len(self) <= self.buffer_rows:
            return self.every()
        order = torch.randperm(len(self.sizes), generator=rng, device=rng.device)
        return self._packed(order.tolist())

    def every(self) -> list[list[int]]:
        """The pieces of each buffer, in the order of rows."""
        return self._packed(range(len(self.sizes)))

    def _packed(self, pieces: Sequence[int]) -> list[list[int]]:
        """Consecutive pieces whose rows fill a buffer."""
        found: list[list[int]] = []
        room = 0
        for piece in pieces:
            if not found or self.sizes[piece] > room:
                found.append([])
                room = self.buffer_rows
            found[-1].append(piece)
            room -= self.sizes[piece]
        return found

    def buffer(self, pieces: Sequence[int], learnable: Tensor) -> Buffer:
        """These pieces, on the device of `learnable`: int64 [N'], ascending rows that are learned
        from.
        """
        ends = np.cumsum(self.sizes)
        places, rows, before = [], [], 0
        for piece in pieces:
            first = int(ends[piece]) - self.sizes[piece]
            edges = torch.tensor([first, int(ends[piece])], device=learnable.device)
            start, stop = torch.searchsorted(learnable, edges).tolist()
            places.append(torch.arange(start, stop, device=learnable.device))
            rows.append(learnable[start:stop] - first + before)
            before += self.sizes[piece]
        tensors = self.read(pieces).on(learnable.device)
        return Buffer(tensors, torch.cat(places), torch.cat(rows))

    def read(self, pieces: Sequence[int]) -> RowTensors:
        """These pieces, one after the other, in memory. Raises ArtifactError for a damaged one."""
        return _joined([self._piece(piece) for piece in pieces])

    def _piece(self, piece: int) -> RowTensors:
        path = self.directory / f"{piece}.pt"
        try:
            with torch.serialization.safe_globals([RowTensors, HistoryRows, UnknownRows]):
                found: RowTensors = torch.load(path, weights_only=True, mmap=True)
        except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            why = str(error).partition(".")[0]
            raise ArtifactError(f"{path} cannot be read ({why}); write the rows again") from error
        return found


def encoded_groups(
    source: RowGroups,
    encoder: InputEncoder,
    *,
    seed: int = 0,
    time: str = "event_timestamp",
    timeline: CodeTimeline | None = None,
) -> Iterator[Encoded]:
    """Joined rows as they are learned from, a group of the source at a time: for `RowFiles.write`.

    Parameters
    ----------
    source : RowGroups
        Joined rows with the columns that the encoder reads, such as `ParquetGroups` of a frame or
        `JoinedGroups`.
    encoder : InputEncoder
        Fitted on rows that are in memory.
    seed : int
        Of the rows in which a train-only input carries its default.
    time : str
        Column of the rows' times, aware.
    timeline : CodeTimeline, optional
        Codes through time, where an input reads those of a user's recent items.

    Yields
    ------
    Encoded
        The rows of a group: those that the encoder makes of all rows at once, to the bit.

    Raises
    ------
    InputError
        As `InputEncoder.encode`; a column of times that holds none.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from datetime import UTC, datetime
    >>> from adc_features.loader import TableGroups
    >>> rows = pa.table({"event_timestamp": [datetime(2026, 1, 1, tzinfo=UTC)] * 3})
    >>> source = TableGroups(rows, group_rows=2)
    >>> [len(piece) for piece in encoded_groups(source, InputEncoder({}, {}))]
    [2, 1]
    """
    first = 0
    for group in range(len(source.rows)):
        table = source.read(group)
        times = timestamps(table[time], name=time).to_numpy().astype("datetime64[us]")
        parts = Parts.joined(table, times, timeline=timeline, first=first)
        yield encoder.encode(parts, training=True, seed=seed)
        first += len(table)


def rows_of(
    encoded: Encoded | RowFiles, shape: NetworkShape, device: torch.device
) -> RowsInMemory | RowFiles:
    """Rows as buffers: those of files as they are, those of memory as one, on a device."""
    if isinstance(encoded, RowFiles):
        return encoded
    return RowsInMemory(RowTensors.of(encoded, shape).on(device))


# ---- pieces, one after the other

Lists = tuple[Tensor, Tensor, Tensor]
"""Rows and weights of the elements of all rows' lists, and offsets into them."""


def _joined(parts: Sequence[RowTensors]) -> RowTensors:
    """The rows of all parts: a copy in memory, since parts may be mapped files."""
    weights: Tensor | None = None
    if any(p.lookup_weights is not None for p in parts):
        given = ((p.lookups, p.lookup_weights) for p in parts)
        weights = torch.cat([torch.ones(of.shape) if w is None else w for of, w in given])
    bags = _lists([(p.bag_rows, p.bag_weights, p.bag_offsets) for p in parts])
    return RowTensors(
        torch.cat([p.dense for p in parts]),
        torch.cat([p.lookups for p in parts]),
        weights,
        *bags,
        [torch.cat(of) for of in zip(*(p.projected for p in parts), strict=True)],
        [_histories(of) for of in zip(*(p.histories for p in parts), strict=True)],
        [_histories(of) for of in zip(*(p.similar for p in parts), strict=True)],
        [torch.cat(of) for of in zip(*(p.gates for p in parts), strict=True)],
        [_lists(of) for of in zip(*(p.mixtures for p in parts), strict=True)],
        parts[0].unknown_lookups,
        parts[0].unknown_bags,
    )


def _lists(parts: Sequence[Lists]) -> Lists:
    ends = [int(offsets[-1]) for *_, offsets in parts]
    starts = accumulate(ends[:-1], initial=0)
    offsets = [of[1:] + start for (*_, of), start in zip(parts, starts, strict=True)]
    return (
        torch.cat([rows[:end] for (rows, *_), end in zip(parts, ends, strict=True)]),
        torch.cat([weights[:end] for (_, weights, _), end in zip(parts, ends, strict=True)]),
        torch.cat([parts[0][2][:1], *offsets]),
    )


def _histories(parts: Sequence[HistoryRows]) -> HistoryRows:
    rows, weights, offsets = _lists([(p.rows, p.weights, p.offsets) for p in parts])
    if not len(rows):  # an element to leave out, as rows in memory have it
        rows, weights = parts[0].rows[:1].clone(), parts[0].weights[:1].clone()
    query = torch.cat([p.query for p in parts])
    return HistoryRows(rows, weights, offsets, query, torch.cat([p.query_weights for p in parts]))
