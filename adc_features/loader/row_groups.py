"""Where a training loop's rows come from, group by group. Reads: frames in memory, Parquet files, a
prepared join, packed codes. Writes: nothing.

A group is the unit of reading: it is read whole, by whichever worker needs rows of it, and nothing
is written in between.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.codes.sids import CodeTimeline
from adc_features.errors import InputError
from adc_features.parquet_files import reading
from adc_features.uris import is_remote, local_path, open_uri


class RowGroups(Protocol):
    """Rows in groups, numbered from 0, that can be read in any order and again.

    Pickles, so that every loader worker may hold one.

    Attributes
    ----------
    rows : ndarray
        int64 [groups], rows of each.
    """

    rows: np.ndarray

    def read(self, group: int) -> pa.Table: ...


class Join(Protocol):
    """`adc_features.store.PreparedJoin`, or any other that answers each row in its place."""

    def join(self, entity_frame: pa.Table) -> pa.Table: ...


class TableGroups:
    """A table in memory, cut into groups.

    Parameters
    ----------
    table : pyarrow.Table
        The rows.
    group_rows : int
        Rows of a group, at least 1.

    Raises
    ------
    InputError
        `group_rows` below 1.

    Examples
    --------
    >>> TableGroups(pa.table({"x": [1, 2, 3]}), group_rows=2).rows.tolist()
    [2, 1]
    """

    def __init__(self, table: pa.Table, *, group_rows: int = 65_536) -> None:
        if group_rows < 1:
            raise InputError(f"group_rows is {group_rows}; expected at least 1")
        self.table, self.group_rows = table, group_rows
        self.rows = np.diff([*range(0, len(table), group_rows), len(table)]).astype(np.int64)

    def read(self, group: int) -> pa.Table:
        """One group of rows.

        Parameters
        ----------
        group : int
            0 and up, one for each entry of `rows`.

        Returns
        -------
        pyarrow.Table
        """
        return self.table.slice(group * self.group_rows, int(self.rows[group]))


class ParquetGroups:
    """The row groups of Parquet files.

    Parameters
    ----------
    paths : path or sequence of paths
        Files of one frame, read in this order; their addresses where they are on an object store.
    columns : sequence of str, optional
        Columns to read; all by default.

    Raises
    ------
    ArtifactError
        A file that is not Parquet.
    StorageError
        An object store refuses the credentials, or does not answer.
    InputError
        A column is missing, or a file has other columns than the first.

    Examples
    --------
    >>> import pyarrow.parquet as pq
    >>> pq.write_table(pa.table({"x": [1, 2, 3]}), folder / "rows.parquet", row_group_size=2)
    >>> source = ParquetGroups(folder / "rows.parquet")
    >>> source.rows.tolist(), source.read(1)["x"].to_pylist()
    ([2, 1], [3])
    """

    def __init__(
        self, paths: Path | str | Sequence[Path | str], *, columns: Sequence[str] | None = None
    ) -> None:
        given = [paths] if isinstance(paths, str | Path) else list(paths)
        self.paths = [p if is_remote(p) else local_path(p) for p in given]
        self.columns = None if columns is None else list(columns)
        self._places: list[tuple[int, int]] = []
        self._open: dict[int, pq.ParquetFile] = {}
        rows: list[int] = []
        schema = None
        for number, path in enumerate(self.paths):
            with reading(path):
                meta = self._file(number).metadata
                names = meta.schema.to_arrow_schema()
                _ = names.names  # decoded only now
            if missing := sorted(set(self.columns or ()) - set(names.names)):
                raise InputError(f"{path} has no column {', '.join(missing)}; it has {names.names}")
            if schema is not None and not names.equals(schema):
                raise InputError(
                    f"{path} has other columns than {self.paths[0]}; give files of one frame"
                )
            schema = names
            for group in range(meta.num_row_groups):
                self._places.append((number, group))
                rows.append(meta.row_group(group).num_rows)
        self.rows = np.array(rows, np.int64)

    def read(self, group: int) -> pa.Table:
        """One group of rows.

        Parameters
        ----------
        group : int
            0 and up, one for each entry of `rows`.

        Returns
        -------
        pyarrow.Table
        """
        number, place = self._places[group]
        path = self.paths[number]
        with reading(path):
            if number not in self._open:
                self._open[number] = self._file(number)
            return self._open[number].read_row_group(place, columns=self.columns, use_threads=False)

    def _file(self, number: int) -> pq.ParquetFile:
        place = self.paths[number]
        filesystem, path = open_uri(place) if is_remote(place) else (None, place)
        return pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)

    def __getstate__(self) -> Mapping[str, Any]:
        return {**self.__dict__, "_open": {}}  # files are opened again where it arrives


class JoinedGroups:
    """Entity rows with their features, joined as they are read: nothing is written.

    Parameters
    ----------
    entity : RowGroups
        Rows with keys and event times.
    join : Join
        `adc_features.store.open_join(repository, service)`.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from adc_features.store import open_join
    >>> labels = pa.table(
    ...     {
    ...         "item_id": ["a"],
    ...         "user_id": ["u"],
    ...         "event_timestamp": [datetime(2014, 1, 15, tzinfo=UTC)],
    ...     }
    ... )
    >>> source = JoinedGroups(TableGroups(labels), open_join(repo, "ranker_g1"))
    >>> source.read(0)["sid"].to_pylist()
    [[1, 1, -1]]
    """

    def __init__(self, entity: RowGroups, join: Join) -> None:
        self.entity, self.join, self.rows = entity, join, entity.rows

    def read(self, group: int) -> pa.Table:
        """One group of rows.

        Parameters
        ----------
        group : int
            0 and up, one for each entry of `rows`.

        Returns
        -------
        pyarrow.Table
        """
        return self.join.join(self.entity.read(group))


class CodedGroups:
    """Rows with codes gathered by (item, time): the late join.

    Appends `sid`, `sid_weight` and `reliability`, and second codes where there are some, as the
    Feast join would give them.

    Parameters
    ----------
    entity : RowGroups
        Rows with an item and an event time.
    codes : CodeTimeline
        Codes through time, `adc_features.store.published_timeline(repository, generation)`.
    item, time : str
        Names of the two columns.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> from adc_features.store import published_timeline
    >>> labels = pa.table(
    ...     {"item_id": ["a"], "event_timestamp": [datetime(2014, 1, 15, tzinfo=UTC)]}
    ... )
    >>> CodedGroups(TableGroups(labels), published_timeline(repo, "g1")).read(0)["sid"].to_pylist()
    [[1, 1, -1]]
    """

    def __init__(
        self,
        entity: RowGroups,
        codes: CodeTimeline,
        *,
        item: str = "item_id",
        time: str = "event_timestamp",
    ) -> None:
        self.entity, self.codes, self.item, self.time, self.rows = (
            entity,
            codes,
            item,
            time,
            entity.rows,
        )

    def read(self, group: int) -> pa.Table:
        """One group of rows.

        Parameters
        ----------
        group : int
            0 and up, one for each entry of `rows`.

        Returns
        -------
        pyarrow.Table
        """
        table = self.entity.read(group)
        moments = (
            table[self.time].cast(pa.timestamp("us", tz="UTC")).to_numpy().astype("datetime64[us]")
        )
        items = table[self.item].to_numpy()
        sid, weight, reliability = self.codes.gather(items, moments)
        matrices = {"sid": sid, "sid_weight": weight}
        if self.codes.has_second:
            second = self.codes.gather_second(items, moments)
            matrices["sid_second"], matrices["sid_second_weight"] = second
        offsets = pa.array(np.arange(len(sid) + 1, dtype=np.int32) * sid.shape[1])
        for name, matrix in matrices.items():
            table = table.append_column(
                name, pa.ListArray.from_arrays(offsets, pa.array(matrix.reshape(-1)))
            )
        return table.append_column("reliability", pa.array(reliability))
