"""What a ranker learns from: labelled rows and the features that were knowable at their time.

Reads: labels, the table that a point-in-time join returned for them. Writes: TrainingFrame, which
checks itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import SidTable, code_matrix, list_matrix
from adc_features.errors import InputError

LABEL_COLUMNS = ("row_id", "user_id", "item_id", "event_timestamp", "label")
LAST_EVENT_COLUMNS = ("user_last_time", "item_last_time")
_TIME = pa.timestamp("us", tz="UTC")


def label_table(interactions: pa.Table) -> pa.Table:
    """The entity rows of a join, from interactions.

    Parameters
    ----------
    interactions : pyarrow.Table, N rows
        `user_id`, `item_id`, `time` (a timestamp with a zone) and `label`, as `Dataset` holds them.

    Returns
    -------
    pyarrow.Table, N rows
        `row_id` int64 (0, 1, ... in the order given), `user_id`, `item_id`, `event_timestamp`
        timestamp[us, UTC], `label` float32.

    Raises
    ------
    KeyError
        A column is missing.

    Examples
    --------
    >>> from datetime import UTC
    >>> log = pa.table(
    ...     {
    ...         "user_id": ["u", "u"],
    ...         "item_id": ["a", "b"],
    ...         "time": [datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC)],
    ...         "label": [1.0, 0.0],
    ...     }
    ... )
    >>> label_table(log).column_names
    ['row_id', 'user_id', 'item_id', 'event_timestamp', 'label']
    """
    return pa.table(
        {
            "row_id": pa.array(np.arange(len(interactions))),
            "user_id": interactions["user_id"],
            "item_id": interactions["item_id"],
            "event_timestamp": interactions["time"].cast(_TIME),
            "label": interactions["label"].cast(pa.float32()),
        }
    )


class Frame(Protocol):
    """Rows that inputs are derived from: joined for training, or one request's. An unknown value is
    NaN, "" or an empty list.

    generation: of the codes, None where there are none. times: datetime64[us] [N].
    """

    @property
    def generation(self) -> str | None: ...

    @property
    def times(self) -> np.ndarray: ...

    @property
    def labels(self) -> np.ndarray: ...

    @property
    def user_ids(self) -> np.ndarray: ...

    @property
    def item_ids(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def numbers(self, name: str) -> np.ndarray:
        """float64 [N]."""
        ...

    def texts(self, name: str) -> np.ndarray:
        """Objects [N]; int64 [N] for ids that are integers."""
        ...

    def flat(self, name: str) -> np.ndarray:
        """The values of a list column, row after row."""
        ...

    def sizes(self, name: str) -> np.ndarray:
        """int64 [N]: how many of them are each row's."""
        ...

    def codes(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes int32 [N, L], weights float32 [N, L], reliability float32 [N]; rows without codes
        have -1 and 0.
        """
        ...


@dataclass(frozen=True)
class TrainingFrame:
    """Labelled rows with their features as Arrow columns, and the generation of their codes.

    Parameters
    ----------
    table : pyarrow.Table, N rows
        The columns of `label_table`, then features; `sid_as_of` (UTC, null where there is no
        snapshot yet) tells how old codes are.
    generation : str or None
        Id of the generation whose codes were joined; None for a frame without codes.
    codebook_size : int
        K of its codes.
    resolution : timedelta
        Of the data's stamps: a feature of a row at t may contain events up to t - resolution.

    Raises
    ------
    InputError
        A column is missing, rows are out of order, a feature is newer than its row, or codes have
        no generation.

    Examples
    --------
    >>> from datetime import UTC
    >>> log = pa.table(
    ...     {
    ...         "user_id": ["u", "u"],
    ...         "item_id": ["a", "b"],
    ...         "time": [datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC)],
    ...         "label": [1.0, 0.0],
    ...     }
    ... )
    >>> labels = label_table(log)
    >>> frame = TrainingFrame(labels, None, codebook_size=10, resolution=timedelta(days=1))
    >>> len(frame), frame.labels.tolist()
    (2, [1.0, 0.0])
    >>> frame.between(datetime(2024, 5, 2, tzinfo=UTC), None).item_ids.tolist()
    ['b']
    """

    table: pa.Table
    generation: str | None
    codebook_size: int
    resolution: timedelta

    def __post_init__(self) -> None:
        if missing := set(LABEL_COLUMNS) - set(self.table.column_names):
            raise InputError(
                f"the frame lacks {sorted(missing)}; join features to label_table(...)"
            )
        if ("sid" in self.table.column_names) != (self.generation is not None):
            raise InputError(
                f"generation is {self.generation!r} but the frame"
                f" {'has' if self.generation is None else 'lacks'} the column sid; name the one"
                " generation that was joined"
            )
        if (np.diff(self.table["row_id"].to_numpy()) <= 0).any():
            raise InputError(
                "row_id does not increase: the join reordered or repeated rows; sort its answer by"
                " row_id and look for doubled keys"
            )
        self._refuse_the_future()

    def _refuse_the_future(self) -> None:
        refuse_later_events(
            {
                name: _moments(self.table[name])
                for name in LAST_EVENT_COLUMNS
                if name in self.table.column_names
            },
            self.times,
            self.resolution,
        )
        if "sid_as_of" in self.table.column_names:
            _refuse_newer(
                "sid_as_of",
                _moments(self.table["sid_as_of"]),
                self.times,
                self.times,
                "no later than the row",
            )

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def times(self) -> np.ndarray:
        """datetime64[us] [N]."""
        return _moments(self.table["event_timestamp"])

    @property
    def labels(self) -> np.ndarray:
        """float32 [N], 0 or 1."""
        return self.table["label"].to_numpy().astype(np.float32)

    @property
    def user_ids(self) -> np.ndarray:
        """int64 or str [N]."""
        return id_array(self.table["user_id"])

    @property
    def item_ids(self) -> np.ndarray:
        """int64 or str [N]."""
        return id_array(self.table["item_id"])

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers.

        Parameters
        ----------
        name : str
            A column of the table.

        Returns
        -------
        ndarray
            float64 [N], NaN where null.
        """
        column = self.table[name]
        return (
            column if pa.types.is_float64(column.type) else column.cast(pa.float64())
        ).to_numpy()

    def texts(self, name: str) -> np.ndarray:
        """A column of text or ids.

        Parameters
        ----------
        name : str
            A column of the table.

        Returns
        -------
        ndarray
            Objects [N], "" where null; int64 [N] for ids that are integers.
        """
        column = self.table[name]
        if pa.types.is_integer(column.type):
            return column.to_numpy().astype(np.int64)
        column = column if pa.types.is_string(column.type) else column.cast(pa.string())
        return (column.fill_null("") if column.null_count else column).to_numpy()

    def flat(self, name: str) -> np.ndarray:
        """The values of a list column, row after row.

        Parameters
        ----------
        name : str
            A column of the table.

        Returns
        -------
        ndarray
            [sum of `sizes`], in the type of the values.
        """
        return _one_array(self.table[name]).flatten().to_numpy(zero_copy_only=False)

    def sizes(self, name: str) -> np.ndarray:
        """How many values of a list column each row has.

        Parameters
        ----------
        name : str
            A column of the table.

        Returns
        -------
        ndarray
            int64 [N], 0 where null.
        """
        return (
            pc.list_value_length(_one_array(self.table[name]))
            .fill_null(0)
            .to_numpy(zero_copy_only=False)
            .astype(np.int64)
        )

    def codes(self, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Codes and weights of the rows.

        Parameters
        ----------
        length : int
            L, positions of a semantic ID.

        Returns
        -------
        tuple of ndarray
            Codes int32 [N, L], weights float32 [N, L] and reliability float32 [N]; rows without
            codes have -1 and 0.
        """
        sid, weight = _one_array(self.table["sid"]), _one_array(self.table["sid_weight"])
        known = np.flatnonzero(~np.asarray(sid.is_null()))
        codes, weights = (
            np.full((len(self), length), -1, np.int32),
            np.zeros((len(self), length), np.float32),
        )
        codes[known] = code_matrix(sid.drop_null(), length, codebook_size=self.codebook_size)
        weights[known] = list_matrix(weight.drop_null(), length, np.float32)
        return codes, weights, np.nan_to_num(self.numbers("reliability")).astype(np.float32)

    def between(self, start: datetime | None, end: datetime | None) -> "TrainingFrame":
        """The rows of a window.

        Parameters
        ----------
        start, end : datetime or None
            Aware, start <= time < end; None leaves that side open.

        Returns
        -------
        TrainingFrame
        """
        times = self.times
        keep = np.ones(len(times), bool)
        if start is not None:
            keep &= times >= instant(start)
        if end is not None:
            keep &= times < instant(end)
        return self.take(np.flatnonzero(keep))

    def take(self, rows: np.ndarray) -> "TrainingFrame":
        """Some of the rows.

        Parameters
        ----------
        rows : int64 [M]
            Row numbers, which must increase.

        Returns
        -------
        TrainingFrame

        Raises
        ------
        InputError
            The row numbers do not increase.
        """
        return TrainingFrame(
            self.table.take(pa.array(rows)), self.generation, self.codebook_size, self.resolution
        )


def training_frame(
    joined: pa.Table,
    labels: pa.Table,
    *,
    generation: str | None,
    codebook_size: int,
    resolution: timedelta,
) -> TrainingFrame:
    """The answer of a join as a frame, in the order of its labels.

    Parameters
    ----------
    joined : pyarrow.Table, N rows
        What `adc_features.store.training_features` returned for `labels`.
    labels : pyarrow.Table, N rows
        What `label_table` returned.
    generation : str or None
        Id of the generation whose codes were joined; None for no codes.
    codebook_size : int
        K of its codes.
    resolution : timedelta
        Of the data's stamps, see `TrainingFrame`.

    Returns
    -------
    TrainingFrame

    Raises
    ------
    InputError
        The join dropped, repeated or changed rows, which the message counts, or a feature is newer
        than its row.

    Examples
    --------
    >>> from datetime import UTC
    >>> log = pa.table(
    ...     {
    ...         "user_id": ["u", "u"],
    ...         "item_id": ["a", "b"],
    ...         "time": [datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 2, tzinfo=UTC)],
    ...         "label": [1.0, 0.0],
    ...     }
    ... )
    >>> labels = label_table(log)
    >>> frame = training_frame(
    ...     labels, labels, generation=None, codebook_size=10, resolution=timedelta(days=1)
    ... )
    >>> frame.user_ids.tolist()
    ['u', 'u']
    """
    joined = joined.take(np.argsort(joined["row_id"].to_numpy(), kind="stable"))
    wanted, got = labels["row_id"].to_numpy(), joined["row_id"].to_numpy()
    if not np.array_equal(wanted, got):
        lost, doubled = len(np.setdiff1d(wanted, got)), len(got) - len(np.unique(got))
        raise InputError(
            f"{len(wanted)} rows went into the join, {len(got)} came out ({lost} lost, {doubled}"
            " repeated); use the DuckDB or ADC offline store, never Dask"
        )
    for name in ("user_id", "item_id", "label"):
        if not np.array_equal(labels[name].to_numpy(), joined[name].to_numpy()):
            raise InputError(
                f"the join changed column {name}; its rows are not those that were asked for"
            )
    return TrainingFrame(joined, generation, codebook_size, resolution)


def retroactive_frame(frame: TrainingFrame, snapshot: SidTable) -> TrainingFrame:
    """The frame with every row's codes taken from one snapshot, whatever the row's time: a leak,
    for comparison only.

    `sid_as_of` becomes null: these codes do not claim to have been known.
    """
    if snapshot.generation != frame.generation:
        raise InputError(
            f"the snapshot is of generation {snapshot.generation!r}, the frame of"
            f" {frame.generation!r}; use one generation"
        )
    columns = (
        snapshot.lookup(frame.item_ids)
        .to_arrow()
        .drop(["item_id"])
        .rename_columns({"found": "sid_found"})
    )
    table = frame.table
    for name in columns.column_names:
        table = table.set_column(table.column_names.index(name), name, columns[name])
    unknown = pa.nulls(len(frame), table.schema.field("sid_as_of").type)
    return replace(
        frame, table=table.set_column(table.column_names.index("sid_as_of"), "sid_as_of", unknown)
    )


def refuse_later_events(
    last_events: Mapping[str, np.ndarray], times: np.ndarray, resolution: timedelta
) -> None:
    """Raise InputError when a row at times [N] reads a last event (datetime64[us] [N], NaT: none)
    that is not at least `resolution` older.
    """
    for name, known in last_events.items():
        _refuse_newer(
            name,
            known,
            times - np.timedelta64(resolution, "us"),
            times,
            f"at least {resolution} earlier",
        )


def _refuse_newer(
    name: str, known: np.ndarray, latest: np.ndarray, times: np.ndarray, expected: str
) -> None:
    late = np.flatnonzero(known > latest)  # NaT, nothing known, is never later
    if len(late):
        raise InputError(
            f"{len(late)} rows read {name} from the future (first: row {late[0]} at"
            f" {times[late[0]]} reads {known[late[0]]}); expected {expected}: features must become"
            " valid only after the events they contain"
        )


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _moments(column: pa.ChunkedArray) -> np.ndarray:
    """A time column, or int64/float64 microseconds, as datetime64[us]; NaT where null or negative
    (never).
    """
    if pa.types.is_timestamp(column.type):
        return (
            (column if column.type == _TIME else column.cast(_TIME))
            .to_numpy()
            .astype("datetime64[us]", copy=False)
        )
    values = column.cast(pa.float64()).to_numpy()
    with np.errstate(invalid="ignore"):
        return np.where(values >= 0, values, np.nan).astype("datetime64[us]")


def check_two_classes(label: np.ndarray) -> None:
    """Raise InputError unless the labels hold 0 and 1, and nothing else."""
    classes = np.unique(label)
    if not np.array_equal(classes, [0, 1]):
        raise InputError(
            f"{len(label)} labels hold {classes[:5].tolist()}; ranking is judged on rows with both"
            " 0 and 1, widen the window or check the label rule"
        )
