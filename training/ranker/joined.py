"""Labelled rows of a ranker with the features of its service. Reads: a Feast repository, a label
log. Writes: JoinedRows.

Legend: N rows.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.codes.sids import CodeTimeline
from adc_features.errors import InputError
from adc_features.inputs.column_types import feast_type
from adc_features.inputs.compatibility import pins
from adc_features.inputs.declaration import ItemHistory, Ranker
from adc_features.inputs.resolution import Resolution, resolution
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import REFERENCE_ROWS
from adc_features.store.freshness import online_timeline
from adc_features.store.parquet.table_version import tables_read
from adc_features.store.refresh import RefreshSchedule
from training.ranker.label_sources import LabelSource, open_labels
from training.ranker.labels import LabelLog, check_matched, read_labels
from training.ranker.logged_values import logged_table
from training.ranker.refresh import chosen_refresh, stored_views


@dataclass(frozen=True)
class JoinedRows:
    """Labelled rows and what was known of them at their time.

    Parameters
    ----------
    schema : ServiceSchema
        The service as it was applied.
    resolution : Resolution
        The ranker's inputs; its declaration with keys filled in.
    log : LabelLog
        N rows, by time.
    table : pyarrow.Table
        The same rows with their features.
    matched : mapping of str to float
        View -> share of rows for which it has a value.
    generation : str or None
        Id of the generation whose codes the inputs read.
    timeline : CodeTimeline or None
        Its codes through time, as they were published, where an input reads those of a user's
        recent items.
    refresh : mapping of str to RefreshSchedule
        View -> how it is refreshed online; the rows read what was there at their time. Views
        without a schedule are fresh.
    """

    schema: ServiceSchema
    resolution: Resolution
    log: LabelLog
    table: pa.Table
    matched: Mapping[str, float]
    generation: str | None = None
    timeline: CodeTimeline | None = None
    refresh: Mapping[str, RefreshSchedule] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.log)

    @property
    def ranker(self) -> Ranker:
        """The declaration, its keys filled in."""
        return self.resolution.ranker

    @property
    def name(self) -> str:
        """Of the ranker."""
        return self.ranker.name or self.ranker.service

    @property
    def features(self) -> tuple[str, ...]:
        """Keys of the features that the inputs read, in the order of the service."""
        return _features(self.resolution, self.schema)

    @property
    def pins(self) -> dict[str, Any]:
        """What a manifest holds of the inputs."""
        return pins(self.schema, self.resolution.inputs, self.ranker)

    @property
    def tables(self) -> dict[str, dict[str, str]]:
        """View -> the version of the Delta or Iceberg table that its values were joined from."""
        return tables_read(self.table)

    @property
    def reference(self) -> pa.Table:
        """The newest rows, which a trained ranker keeps: every load scores them again, and a
        promotion runs them through both stores."""
        newest = np.arange(max(0, len(self) - REFERENCE_ROWS), len(self))
        return self.table.take(pa.array(newest))  # a copy: a slice would keep all rows in memory

    def parts(self, rows: np.ndarray) -> Parts:
        """Some rows (int64) as encoders read them."""
        whole = np.array_equal(rows, np.arange(len(self)))
        table = self.table if whole else self.table.take(pa.array(rows))
        return Parts.joined(table, self.log.times[rows], timeline=self.online_timeline)

    def pieces(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, Parts]]:
        """The same rows (int64 [n], increasing) as many at a time as are in memory together, each
        once: their places among `rows`, and their parts. Here all of them."""
        yield np.arange(len(rows)), self.parts(rows)

    @property
    def online_timeline(self) -> CodeTimeline | None:
        """The codes as they were online at the rows' times."""
        if self.timeline is None:
            return None
        views = stored_views(self.schema)
        own = (s for view, s in self.refresh.items() if views.get(view) == self.generation)
        return online_timeline(self.timeline, next(own, None))


def join_labels(
    repo: Path,
    ranker: Ranker,
    source: LabelSource,
    *,
    start: datetime | None = None,
    end: datetime | None = None,
    refresh: Mapping[str, str] | None = None,
    logged: bool = False,
    progress: Progress | None = None,
) -> JoinedRows:
    """Read and check a label log, and join the features that a ranker reads.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied.
    ranker : Ranker
        Its declaration.
    source : LabelSource
        The label log.
    start, end : datetime, optional
        Rows with start <= time < end; aware.
    refresh : mapping of str to str, optional
        View -> how it is refreshed online, as `RefreshSchedule.parse` reads it; by default what the
        repository says of itself, see `training.ranker.refresh`.
    logged : bool
        Take the values that the log holds of what was served, in place of a join.
    progress : callable, optional
        Called with a label, steps done and their number.

    Raises
    ------
    InputError
        The service, the declaration or the log is wrong; or keys match nothing. What can be told
        before the join is told before it.
    """
    schema, resolved = declared_inputs(repo, ranker, source)
    schedules = chosen_refresh(repo, schema, refresh)
    log = read_labels(source, schema=schema, ranker=resolved.ranker, start=start, end=end)
    values = partial(logged_table, source, log, schema, start=start, end=end) if logged else None
    return join_log(
        repo, schema, resolved, log, refresh=schedules, values=values, progress=progress
    )


def declared_inputs(
    repo: Path, ranker: Ranker, source: LabelSource
) -> tuple[ServiceSchema, Resolution]:
    """The service of a ranker and its inputs, before any row is read. Raises InputError."""
    from adc_features.store.services.schema import service_schema

    schema = service_schema(repo, ranker.service)
    return schema, resolution(ranker, schema, columns=request_fields(source, schema))


def join_log(
    repo: Path,
    schema: ServiceSchema,
    resolved: Resolution,
    log: LabelLog,
    *,
    also: Collection[str] = (),
    refresh: Mapping[str, RefreshSchedule] | None = None,
    values: Callable[[Sequence[str]], pa.Table] | None = None,
    progress: Progress | None = None,
) -> JoinedRows:
    """Join the features that resolved inputs read to the rows of a log.

    also: keys of further features of the service, for another ranker that reads the same rows.
    refresh: view -> how it is refreshed online; by default what the repository says. values: the
    rows with the features of these keys, where they need no join. Raises as `join_labels`.
    """
    from adc_features.store.services.training_rows import join_service

    wanted = wanted_features(resolved, schema, also)
    if refresh is None:
        refresh = chosen_refresh(repo, schema)
    if values is None:
        table = join_service(
            repo, schema, log.entity_rows, features=wanted, refresh=refresh, progress=progress
        )
    else:
        table = values(wanted)
    matched = check_matched(table, schema)
    generation, timeline = read_codes(repo, resolved, schema)
    return JoinedRows(schema, resolved, log, table, matched, generation, timeline, refresh)


def wanted_features(
    resolved: Resolution, schema: ServiceSchema, also: Collection[str] = ()
) -> list[str]:
    """Keys of the features that are joined, in the order of the service."""
    read = {*_features(resolved, schema), *also}
    return [feature.key for feature in schema.features if feature.key in read]


def read_codes(
    repo: Path, resolved: Resolution, schema: ServiceSchema
) -> tuple[str | None, CodeTimeline | None]:
    """The generation whose codes the inputs read, and its codes through time. Raises InputError
    where they read several, or codes of recent items and there are none."""
    generation = _generation(resolved, schema)
    kinds = [i.kind for i in resolved.inputs]
    late = any(isinstance(k, ItemHistory) and k.codes for k in kinds)
    timeline = _timeline(repo, generation) if generation else None
    if late and timeline is None:
        raise InputError(
            f"ranker {resolved.ranker.name or schema.service!r} reads the codes of recent items,"
            " and its service has no view of codes; publish a generation and add its view"
        )
    return generation, timeline


def request_fields(source: LabelSource, schema: ServiceSchema) -> dict[str, str]:
    """Columns of the log that may be fields of a request: name -> Feast type."""
    types = {field.name: feast_type(field.type) for field in open_labels(source).schema}
    taken = {*schema.join_keys, *(feature.key for feature in schema.features)}
    return {n: t for n, t in types.items() if t is not None and n not in taken}


def _features(resolved: Resolution, schema: ServiceSchema) -> tuple[str, ...]:
    read = {c.name for i in resolved.inputs for c in i.columns.values()}
    return tuple(f.key for f in schema.features if f.key in read)


def _generation(resolved: Resolution, schema: ServiceSchema) -> str | None:
    """The generation of the codes that are read. Raises InputError when there are several."""
    read = set(_features(resolved, schema))
    found = {
        f.tags["generation"] for f in schema.features if f.key in read if "generation" in f.tags
    }
    if len(found) > 1:
        raise InputError(
            f"the ranker reads codes of the generations {sorted(found)}; read those of one: leave"
            " the others out of the service, or skip() them"
        )
    return next(iter(found), None)


def _timeline(repo: Path, generation: str) -> CodeTimeline:
    from adc_features.store import published_timeline

    return published_timeline(repo, generation)
