"""Labelled rows with the features of a service, in files. Reads: a Feast repository, a label log.
Writes: JoinedFiles.

<directory>/joined.parquet    the rows, a row group for each piece

In memory are the label log (keys, times, labels, weights; its request fields until they are
joined), numbers of 8 bytes for each row, and one piece of joined rows.

Legend: N rows, n of them.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, SemanticId
from adc_features.inputs.resolution import Resolution
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.loader.row_groups import ParquetGroups
from adc_features.one_writer import only_writer
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import REFERENCE_ROWS
from training.ranker.joined import JoinedRows, declared_inputs, read_codes, wanted_features
from training.ranker.label_sources import LabelSource
from training.ranker.labels import LabelLog, matched_rows, matched_shares, read_labels
from training.ranker.refresh import chosen_refresh
from training.ranker.row_files import BUFFER_ROWS

GROUP_ROWS = 32_768
"""Rows that are joined, and encoded, at once."""
ROWS = ".rows"


@contextmanager
def own_directory(ranker: Path) -> Iterator[Path]:
    """An empty directory below that of a ranker for the rows that it is trained on, gone after the
    block; what a killed process left there goes first. Raises InputError while another one has it.
    """
    directory = ranker / ROWS
    with only_writer(directory):
        for left in directory.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            with suppress(OSError):  # it stays where it holds a version
                ranker.rmdir()


@dataclass(frozen=True, kw_only=True)
class JoinedFiles(JoinedRows):
    """`JoinedRows` whose table holds no row: the rows are in files and come a group at a time.

    Parameters
    ----------
    groups : ParquetGroups
        The rows.
    directory : Path
        Where what is made of them may be written.
    order : ndarray, optional
        int64 [N], the row of the log at each place in the files; None: the log's own order. Rows of
        one request follow one another where the ranker learns from whole requests.
    buffer_rows : int
        Encoded rows that are learned from, and shuffled, together.
    """

    groups: ParquetGroups
    directory: Path
    order: np.ndarray | None = None
    buffer_rows: int = BUFFER_ROWS

    @property
    def reference(self) -> pa.Table:
        newest = np.arange(max(0, len(self) - REFERENCE_ROWS), len(self))
        return self.parts(newest)["request"].table  # every side has the same rows

    def parts(self, rows: np.ndarray) -> Parts:
        """Some rows (int64), in memory."""
        ascending = np.argsort(rows, kind="stable")
        found = list(self.pieces(rows[ascending]))
        if not found:
            return Parts.joined(self.table, self.log.times[rows], timeline=self.online_timeline)
        places = ascending[np.concatenate([where for where, _ in found])]
        table = pa.concat_tables([parts["request"].table for _, parts in found])
        table = table.take(pa.array(np.argsort(places))).combine_chunks()
        return Parts.joined(table, self.log.times[rows], timeline=self.online_timeline)

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Parts]]:
        """As `JoinedRows.pieces`, a group of the files at a time, in their order."""
        at, by = rows, None
        if self._place is not None:
            at = self._place[rows]
            by = np.argsort(at, kind="stable")
            at = at[by]
        timeline, ends = self.online_timeline, np.cumsum(self.groups.rows)
        edges = np.searchsorted(at, [0, *ends])
        for group, (start, stop) in enumerate(pairwise(edges)):
            if start == stop:
                continue
            places = np.arange(start, stop) if by is None else by[start:stop]
            local = at[start:stop] - (ends[group] - self.groups.rows[group])
            table = self.groups.read(group)
            if len(local) < len(table):
                table = table.take(pa.array(local))
            times = self.log.times[rows[places]]
            found = Parts.joined(table, times, timeline=timeline, first=int(places.min()))
            yield places, replace(found, places=places)

    @cached_property
    def _place(self) -> np.ndarray | None:
        """int64 [N]: where each row of the log stands in the files; None: at its own number."""
        if self.order is None:
            return None
        place = np.empty(len(self), np.int64)
        place[self.order] = np.arange(len(self))
        return place


def refuse_files(resolved: Resolution, *, logged: bool = False) -> None:
    """Raise InputError, before any work, for what does not learn from rows in files.

    resolved: a ranker's inputs. logged: whether values of the log were to be learned from.
    """
    ranker = resolved.ranker
    name = ranker.name or ranker.service
    if ranker.model == "xgboost":
        raise InputError(
            f"ranker {name!r} has model='xgboost': trees learn from rows in memory, and networks"
            " alone from rows in files; leave --rows-in-files out for it, or name other rankers,"
            " --ranker NAME"
        )
    if logged:
        raise InputError(
            "--logged-values takes the features of a label log as a whole, which does not go with"
            " --rows-in-files; leave one of them out"
        )
    for spec in resolved.inputs:
        if isinstance(spec.kind, SemanticId) and spec.kind.pretrain:
            raise InputError(
                f"ranker {name!r} has the input {spec.name!r} with pretrain={spec.kind.pretrain},"
                " which reads all codes at once; set pretrain=0, or leave --rows-in-files out"
            )


def join_files(
    repo: Path,
    ranker: Ranker,
    source: LabelSource,
    *,
    directory: Path,
    group_rows: int = GROUP_ROWS,
    start: datetime | None = None,
    end: datetime | None = None,
    refresh: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> JoinedFiles:
    """Read and check a label log, and join the features that a ranker reads into files.

    Parameters
    ----------
    repo, ranker, source, start, end, refresh, progress
        As for `join_labels`.
    directory : Path
        Exists, and is given to this alone.
    group_rows : int
        About so many rows are joined at once; rows of one request at once where the ranker is
        listwise.

    Raises
    ------
    InputError
        As `join_labels` and `refuse_files`.
    """
    from adc_features.store.services.training_rows import join_in_pieces

    schema, resolved = declared_inputs(repo, ranker, source)
    refuse_files(resolved)
    schedules = chosen_refresh(repo, schema, refresh)
    log = read_labels(source, schema=schema, ranker=resolved.ranker, start=start, end=end)
    pa.default_memory_pool().release_unused()  # what the checks took
    generation, timeline = read_codes(repo, resolved, schema)
    order, sizes = _groups(log, group_rows, whole_requests=bool(resolved.ranker.listwise))
    path = directory / "joined.parquet"
    pieces = join_in_pieces(
        repo,
        schema,
        log.entity_rows if order is None else log.entity_rows.take(pa.array(order)),
        sizes=sizes,
        features=wanted_features(resolved, schema),
        refresh=schedules,
        progress=progress,
    )
    table, matched = _written(pieces, schema, path)
    fields = [name for name in log.request_types if name != log.request]
    log = replace(log, table=log.table.drop_columns(fields), request_types={})  # they are in files
    pa.default_memory_pool().release_unused()
    return JoinedFiles(
        schema,
        resolved,
        log,
        table,
        matched,
        generation,
        timeline,
        schedules,
        groups=ParquetGroups(path),
        directory=directory,
        order=order,
    )


def _written(
    joined: Iterator[pa.Table], schema: ServiceSchema, path: Path
) -> tuple[pa.Table, dict[str, float]]:
    """Write joined rows; their columns without rows, and the shares of `check_matched`."""
    from adc_features.store.parquet import write_parquet

    counts: dict[str, int] = {}
    first: list[pa.Table] = []

    def counted() -> Iterator[pa.Table]:
        for piece in joined:
            for view, count in matched_rows(piece, schema).items():
                counts[view] = counts.get(view, 0) + count
            first[:] = first or [piece.take(pa.array([0]))]
            yield piece

    rows = write_parquet(counted(), path)
    return first[0].schema.empty_table(), matched_shares(counts, first[0], schema, rows=rows)


def _groups(
    log: LabelLog, group_rows: int, *, whole_requests: bool
) -> tuple[np.ndarray | None, list[int]]:
    """The order of rows in files, None for the log's, and the rows of each group."""
    count = len(log)
    if not whole_requests or log.requests is None:
        ends = [*range(0, count, group_rows), count]
        return None, np.diff(ends).tolist()
    first = np.empty(int(log.requests.max(initial=-1)) + 1, np.int64)
    first[log.requests[::-1]] = np.arange(count)[::-1]  # of each request
    order = np.argsort(first[log.requests], kind="stable")
    requests = log.requests[order]
    begins = np.concatenate([[True], requests[1:] != requests[:-1]])
    begin = np.maximum.accumulate(np.where(begins, np.arange(count), 0))
    sizes = np.unique(begin // group_rows, return_counts=True)[1].tolist()
    return (None if (np.diff(order) == 1).all() else order), sizes
