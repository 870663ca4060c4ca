"""`online_store: {type: adc_features.store.online_store.LmdbOnlineStore}`: Feast's online store in
one LMDB directory.

Reads, writes: the directory `path`, one table for each project, view and version. Newest event time
wins, then created time; an equal row is overwritten, so that a re-encode applies. A row is one
record, replaced as a whole. A ttl holds online too. Views named in `delegate_views` live in the
store described by `delegate`.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, StrictStr, model_validator

from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.store import _compat as feast
from adc_features.store.column_names import refuse_shared
from adc_features.store.lmdb.entity_keys import integer_keys, key_array, row_key, text_keys
from adc_features.store.lmdb.environment import Environment, environment
from adc_features.store.lmdb.feature_values import (
    check_columns,
    columns_from_arrow,
    columns_from_protos,
    conformed,
    keys_from_arrow,
    protos,
    schema_of,
    takes_arrow,
)
from adc_features.store.lmdb.records import NO_CREATED
from adc_features.store.lmdb.response import ColumnarResponse, ViewAnswer
from adc_features.store.lmdb.row_table import Answer, Rows, delete, read, write
from adc_features.store.pushes import check_frame, pushed_table, times_of
from adc_features.store.pushes import takes as pushes_are_ours

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MEBIBYTE = 1 << 20
_PLAIN_IDS = {int, str}
_WHOLE_NUMBERS = (feast.ValueType.INT32, feast.ValueType.INT64)


class LmdbOnlineStoreConfig(feast.FeastConfigBaseModel):
    """The `online_store:` block of feature_store.yaml."""

    type: Literal["adc_features.store.online_store.LmdbOnlineStore"] = (
        "adc_features.store.online_store.LmdbOnlineStore"
    )
    path: StrictStr = "data/online_lmdb"
    """The directory; a relative one is under the repository."""
    map_size_mb: int = Field(default=16_384, ge=1)
    """Address space reserved at first, neither disk nor memory; it doubles by itself, but a load
    that outgrows it begins anew.
    """
    enforce_ttl: bool = True
    """A row past its view's ttl is not served. False, as Feast's own stores have it: it is, for
    ever.
    """
    delegate: dict[str, Any] | None = None
    """Another `online_store:` block, for the views that are not to be held here."""
    delegate_views: list[StrictStr] = Field(default_factory=list)
    """The names of those views."""

    @model_validator(mode="after")
    def _has_delegate(self) -> LmdbOnlineStoreConfig:
        if self.delegate_views and not self.delegate:
            raise ValueError(
                f"delegate_views names {self.delegate_views}, but there is no delegate; describe"
                " that online store under `delegate:`"
            )
        return self


class LmdbOnlineStore(feast.OnlineStore):
    """See the module. `clock` says what time it is when a ttl is applied; tests and replays
    set it.
    """

    _versioned_read_supported = True
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))

    def __init__(self) -> None:
        self._delegated: tuple[Any, Any] | None = None

    @property
    def async_supported(self) -> feast.SupportedAsyncMethods:
        """Reads and writes run in a thread: what is not in memory yet would hold up the
        event loop.
        """
        return feast.SupportedAsyncMethods(read=True, write=True)

    # -- writing

    def online_write_batch(
        self,
        config: Any,
        table: Any,
        data: Sequence[tuple[Any, Mapping[str, Any], datetime, datetime | None]],
        progress: Any,
    ) -> None:
        """Rows of value protos; those of equal features are one transaction."""
        if delegate := self._delegate(config, table):
            delegate[0].online_write_batch(delegate[1], table, data, progress)
            return
        for _, group in groupby(data, key=lambda row: tuple(row[1])):
            rows = list(group)
            schema, columns = columns_from_protos(table, [values for _, values, _, _ in rows])
            keys = pa.array([_row_key(entity) for entity, _, _, _ in rows], pa.large_binary())
            if lost := sum(_is_lost(time) for _, _, time, _ in rows):
                raise InputError(
                    f"view {table.name}: {lost} rows have no event time; a row without its time"
                    " cannot be compared, drop these rows"
                )
            event = np.array([_microseconds(time) for _, _, time, _ in rows], np.int64)
            created = np.array(
                [
                    NO_CREATED if time is None or _is_lost(time) else _microseconds(time)
                    for _, _, _, time in rows
                ],
                np.int64,
            )
            pieces = [Rows(schema, keys, event, created, columns)]
            write(self.environment(config), table_name(config, table), pieces.copy)
            if progress:
                progress(len(rows))

    async def online_write_batch_async(
        self, config: Any, table: Any, data: Any, progress: Any
    ) -> None:
        """The same, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def check_frame(self, table: Any, frame: Any) -> None:
        """Raise InputError for columns that a pushed frame lacks."""
        check_frame(table, frame)

    def write_frame(self, config: Any, table: Any, frame: Any) -> bool:
        """Write a pushed frame, in the declared types; False for views whose pushes Feast has to
        read. Raises InputError as `write_arrow`.
        """
        if not pushes_are_ours(table):
            return False
        self.write_table(config, table, pushed_table(table, frame))
        return True

    def check_push(self, config: Any, table: Any, frame: Any) -> None:
        """Raise InputError, as `write_frame` would, without writing."""
        if pushes_are_ours(table):
            event, created = times_of(table)
            rows = pushed_table(table, frame)
            if self.takes_arrow(config, table):
                _rows(table, rows, event=event, created=created)
            else:
                _as_protos(table, rows, event=event, created=created)

    def write_table(self, config: Any, table: Any, rows: pa.Table) -> None:
        """Write an Arrow table in the view's names, by way of protos where the view's types ask for
        it. Raises InputError as `write_arrow`.
        """
        event, created = times_of(table)
        if self.takes_arrow(config, table):
            self.write_arrow(config, table, rows, event=event, created=created)
            return
        self.online_write_batch(
            config, table, _as_protos(table, rows, event=event, created=created), None
        )

    def takes_arrow(self, config: Any, table: Any) -> bool:
        """Can `write_arrow` take the rows of this view?"""
        return self.holds(config, table) and takes_arrow(table)

    def holds(self, config: Any, table: Any) -> bool:
        """Are the rows of this view here, and not in the delegate?"""
        return table.name not in config.online_store.delegate_views

    def write_arrow(
        self, config: Any, table: Any, rows: pa.Table, *, event: str, created: str | None = None
    ) -> int:
        """Write an Arrow table as one transaction; returns how many rows were newer than what was
        there.

        rows: a column for each join key and feature, times in the columns `event` and `created`
        (naive ones mean UTC); order and repeats do not matter. Raises InputError for missing
        columns, null keys or times, values that do not fit their type.
        """
        return self.write_arrow_pieces(config, table, lambda: [rows], event=event, created=created)

    def write_arrow_pieces(
        self,
        config: Any,
        table: Any,
        pieces: Callable[[], Iterable[pa.Table]],
        *,
        event: str,
        created: str | None = None,
    ) -> int:
        """The same for tables that come piece by piece, in memory one at a time, all in one
        transaction; `pieces` may be called again.
        """

        def prepared() -> Iterator[Rows]:
            return (
                _rows(table, piece, event=event, created=created)
                for piece in pieces()
                if len(piece)
            )

        return write(self.environment(config), table_name(config, table), prepared)

    def delete_rows(self, config: Any, table: Any, entity_keys: Sequence[Any]) -> int:
        """Forget the rows of entities (entity key protos); returns how many there were."""
        return delete(
            self.environment(config),
            table_name(config, table),
            [_row_key(key) for key in entity_keys],
        )

    # -- reading

    def online_read(
        self,
        config: Any,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Any] | None]]:
        """Value protos for each entity key in turn; (None, None) for what is absent or expired."""
        if delegate := self._delegate(config, table):
            return delegate[0].online_read(delegate[1], table, entity_keys, requested_features)
        answer = self.read(
            config, table, [_row_key(key) for key in entity_keys], requested_features
        )
        names = sorted({name for _, records in answer.parts for name in records.schema.place})
        columns = {name: (protos(answer, name), answer.held(name)) for name in names}
        return [
            (
                (
                    _EPOCH + timedelta(microseconds=int(answer.event[i])),
                    {name: values[i] for name, (values, held) in columns.items() if held[i]},
                )
                if answer.found[i]
                else (None, None)
            )
            for i in range(len(entity_keys))
        ]

    async def online_read_async(
        self,
        config: Any,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: list[str] | None = None,
    ) -> Any:
        """The same, in a thread."""
        return await asyncio.to_thread(
            self.online_read, config, table, entity_keys, requested_features
        )

    def get_online_features(
        self,
        config: Any,
        features: Any,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> feast.OnlineResponse:
        """Feast's call, by columns. What needs protos on the way (on-demand views, delegated views,
        odd keys) goes Feast's way.

        Raises InputError when two features, or a feature and a key, would leave under one name.
        """
        _check_names(features, registry, project, full_feature_names=full_feature_names)
        asked = _by_column(entity_rows)
        if asked is not None:
            if any(not set(map(type, values)) <= _PLAIN_IDS for values in asked.values()):
                join_keys = feast._get_cached_request_context(
                    registry, project, features, full_feature_names
                )[4]
                asked = {
                    name: (
                        [_whole_id(name, value) for value in values]
                        if name in join_keys
                        else values
                    )
                    for name, values in asked.items()
                }
            _check_whole_numbers(
                asked, features, registry, project, full_feature_names=full_feature_names
            )
            entity_rows = asked
        response = self._columnar(
            config,
            features,
            entity_rows,
            registry,
            project,
            full_feature_names,
            include_feature_view_version_metadata,
        )
        if response is not None:
            return response
        return super().get_online_features(
            config,
            features,
            entity_rows,
            registry,
            project,
            full_feature_names,
            include_feature_view_version_metadata,
        )

    async def get_online_features_async(self, *args: Any, **kwargs: Any) -> feast.OnlineResponse:
        """The same, in a thread."""
        return await asyncio.to_thread(self.get_online_features, *args, **kwargs)

    def read(
        self, config: Any, table: Any, keys: Sequence[bytes], wanted: Sequence[str] | None = None
    ) -> Answer:
        """The rows of a view under keys of `entity_keys`, those past the view's ttl marked
        expired.
        """
        ttl = getattr(table, "ttl", None) if config.online_store.enforce_ttl else None
        # in numbers: a ttl may be longer than there are years before now
        oldest = _microseconds(self.clock()) - ttl // timedelta(microseconds=1) if ttl else None
        return read(
            self.environment(config), table_name(config, table), keys, oldest=oldest, wanted=wanted
        )

    def _columnar(
        self,
        config: Any,
        features: Any,
        entity_rows: Any,
        registry: Any,
        project: str,
        full_feature_names: bool,
        tell_versions: bool,
    ) -> ColumnarResponse | None:
        asked = _by_column(entity_rows)
        if asked is None or getattr(features, "precompute_online", False):
            return None
        _, on_demand, join_key_of, entity_types, join_keys, grouped, _, request_data, entityless = (
            feast._get_cached_request_context(registry, project, features, full_feature_names)
        )
        asked = {name: values for name, values in asked.items() if name in join_keys}
        if (
            on_demand
            or request_data
            or entityless
            or not asked
            or len({len(values) for values in asked.values()}) > 1
        ):
            return None
        views, types = [], {name: entity_types[name] for name in asked if name in entity_types}
        for table, names in grouped:
            own = feast._get_table_entity_values(table, join_key_of, asked)
            keys = _keys(own, _join_keys(table)) if len(own) == len(table.entities) else None
            if keys is None or not self.holds(config, table):
                return None
            prefix = f"{table.projection.name_to_use()}__" if full_feature_names else ""
            version = (
                (
                    table.projection.name_alias or table.projection.name,
                    getattr(table, "current_version_number", 0) or 0,
                )
                if tell_versions
                else None
            )
            answer = self.read(config, table, keys, names)
            shown = {name: prefix + name for name in names}
            types |= {
                shown[field.name]: field.dtype.to_value_type()
                for field in table.features
                if field.name in shown
            }
            held = sum(int(answer.held(name).sum()) for name in names)
            feast.track_feature_statuses(table.name, held, len(names) * len(keys) - held)
            views.append(ViewAnswer(answer, shown, version))
        return ColumnarResponse(asked, views, types)

    # -- infrastructure

    def update(
        self,
        config: Any,
        tables_to_delete: Sequence[Any],
        tables_to_keep: Sequence[Any],
        entities_to_delete: Any,
        entities_to_keep: Any,
        partial: bool,
    ) -> None:
        """Drop the tables of deleted views, all versions. A kept view needs nothing: its table
        comes with its first row.
        """
        self._drop(config, tables_to_delete)
        if delegate := self._delegate(config):
            gone, kept = (
                [table for table in tables if self._delegate(config, table)]
                for tables in (tables_to_delete, tables_to_keep)
            )
            delegate[0].update(
                delegate[1], gone, kept, entities_to_delete, entities_to_keep, partial
            )

    def teardown(self, config: Any, tables: Sequence[Any], entities: Any) -> None:
        """Drop the tables of these views. The directory stays, for other projects may live in it;
        its pages are used again.
        """
        self._drop(config, tables)
        if delegate := self._delegate(config):
            delegate[0].teardown(
                delegate[1], [table for table in tables if self._delegate(config, table)], entities
            )

    async def close(self, config: Any = None) -> None:
        """Close the directory in this process; the next call opens it again."""
        if config is not None:
            await asyncio.to_thread(self.environment(config).close)

    def environment(self, config: Any) -> Environment:
        """The LMDB directory of a repository."""
        path = os.path.realpath(os.path.join(config.repo_path or ".", config.online_store.path))
        return environment(path, map_size=config.online_store.map_size_mb * _MEBIBYTE)

    def _drop(self, config: Any, tables: Sequence[Any]) -> None:
        held = self.environment(config).tables()
        names = [
            re.compile(re.escape(f"{config.project}/{table.name}") + r"(@v\d+)?")
            for table in tables
        ]
        self.environment(config).drop(
            [name for name in held if any(pattern.fullmatch(name) for pattern in names)]
        )

    def _delegate(self, config: Any, table: Any = None) -> tuple[Any, Any] | None:
        """The other store and its configuration; None when there is none, or when `table` is not
        one of its views.
        """
        block = config.online_store.delegate
        if block is None or (table is not None and self.holds(config, table)):
            return None
        if self._delegated is None:
            settings = feast.get_online_config_from_type(block["type"])(**block)
            theirs = config.model_copy()
            theirs.online_config = theirs._online_store = settings
            self._delegated = feast.get_online_store_from_config(settings), theirs
        return self._delegated


def table_name(config: Any, table: Any) -> str:
    """Where the rows of a view are: project/view, with @v and the number of a later version when
    the registry keeps versions.
    """
    version = None
    if config.registry.enable_online_feature_view_versioning:
        pinned = getattr(table.projection, "version_tag", None)
        version = pinned if pinned is not None else getattr(table, "current_version_number", None)
    return f"{config.project}/{table.name}" + (f"@v{version}" if version else "")


def _check_names(features: Any, registry: Any, project: str, *, full_feature_names: bool) -> None:
    refs, _, _, _, join_keys, *_ = feast._get_cached_request_context(
        registry, project, features, full_feature_names
    )
    split = [ref.split(":", 1) for ref in refs]
    shown = [
        (f"{view}__{name}" if full_feature_names else name, f"view {view} feature {name}")
        for view, name in split
    ]
    # of on-demand views Feast has entities among them
    keys = [(key, f"join key {key}") for key in join_keys if isinstance(key, str)]
    refuse_shared(
        [*keys, *shown],
        advice=(
            "rename a view or a feature, give one view an alias (with_name), or ask for them in two"
            " calls"
        ),
    )


def _check_whole_numbers(
    asked: Mapping[str, list],
    features: Any,
    registry: Any,
    project: str,
    *,
    full_feature_names: bool,
) -> None:
    """Raise InputError for keys that are declared whole numbers and beyond 64 bits: Feast would
    name neither key nor value.
    """
    types = feast._get_cached_request_context(registry, project, features, full_feature_names)[3]
    limits = np.iinfo(np.int64)
    for name, values in asked.items():
        if types.get(name) not in _WHOLE_NUMBERS:
            continue
        whole = (
            values
            if set(map(type, values)) == {int}
            else [value for value in values if isinstance(value, int)]
        )
        for value in (min(whole), max(whole)) if whole else ():
            if not limits.min <= value <= limits.max:
                raise InputError(
                    f"join key {name!r} is {value}, beyond whole numbers of 64 bits with sign; no"
                    " row can have it, ask for other keys"
                )


def _join_keys(table: Any) -> dict[str, feast.ValueType]:
    return {column.name: column.dtype.to_value_type() for column in table.entity_columns}


def _rows(view: Any, table: pa.Table, *, event: str, created: str | None) -> Rows:
    # as `row_key` has it: one row
    keys, no_entity = keys_from_arrow(view, table), {"": pa.array([""] * len(table))}
    check_columns(view.name, [event, *([created] if created else [])], table.column_names)
    return Rows(
        schema_of(view),
        key_array({name: column.combine_chunks() for name, column in keys.items()} or no_entity),
        _times(table[event], view=view.name, name=event),
        (
            _times(table[created], view=view.name, name=created, absent=NO_CREATED)
            if created
            else np.full(len(table), NO_CREATED)
        ),
        columns_from_arrow(view, table),
    )


def _as_protos(view: Any, table: pa.Table, *, event: str, created: str | None) -> Any:
    rows = conformed(view, table, event=event, created=created)
    types = {field.name: field.dtype.to_value_type() for field in view.entity_columns}
    return feast._convert_arrow_to_proto(rows.combine_chunks(), view, types)


def _by_column(entity_rows: Any) -> dict[str, list] | None:
    """Entity rows as columns of plain Python values; None when they are anything else."""
    if isinstance(entity_rows, list):
        if not entity_rows or any(row.keys() != entity_rows[0].keys() for row in entity_rows):
            return None
        return {name: [row[name] for row in entity_rows] for name in entity_rows[0]}
    # numpy, pandas
    columns = {
        name: values.tolist() if hasattr(values, "tolist") else values
        for name, values in entity_rows.items()
    }
    return (
        {name: list(values) for name, values in columns.items()}
        if all(isinstance(values, Sequence) for values in columns.values())
        else None
    )


def _whole_id(name: str, value: Any) -> Any:
    """A fraction or decimal as the integer that it is, the rest as it came. Raises InputError for
    2.5, of which Feast would make 2.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, float | Decimal):
        return value
    if value != value:  # noqa: PLR0124  (a missing id that pandas made NaN)
        return None
    if value in (float("inf"), -float("inf")) or value != int(value):
        raise InputError(
            f"{name} is asked for {value!r}; ids are whole numbers or text, correct the request"
        )
    return int(value)


def _keys(columns: Mapping[str, list], types: Mapping[str, Any]) -> list[bytes] | None:
    """The keys of rows; None when the values are not plainly of their declared types, which Feast
    converts or refuses.
    """
    for name, values in columns.items():
        wanted = (
            int
            if types[name] in _WHOLE_NUMBERS
            else str
            if types[name] == feast.ValueType.STRING
            else None
        )
        if wanted is None or set(map(type, values)) != {wanted}:
            return None
    try:
        if len(columns) > 1:
            return key_array(
                {name: pa.array(values) for name, values in columns.items()}
            ).to_pylist()
        (values,) = columns.values()
        return (
            text_keys(values)
            if isinstance(values[0], str)
            else integer_keys(np.array(values, np.int64))
        )
    except (OverflowError, UnicodeEncodeError, pa.ArrowInvalid):
        return None


def _row_key(entity_key: Any) -> bytes:
    values = ((value, value.WhichOneof("val")) for value in entity_key.entity_values)
    return row_key(
        dict(
            zip(
                entity_key.join_keys,
                (getattr(value, kind) if kind else None for value, kind in values),
                strict=True,
            )
        )
    )


def _is_lost(time: datetime | None) -> bool:
    """Whether there is no time: None, or pandas' NaT, which no value equals."""
    return time is None or time != time  # noqa: PLR0124


def _microseconds(time: datetime) -> int:
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(
        microseconds=1
    )


def _times(
    column: pa.ChunkedArray, *, view: str, name: str, absent: int | None = None
) -> np.ndarray:
    """int64 microseconds [n]; naive times mean UTC."""
    stamps = timestamps(column, name=f"view {view}: {name}").cast(pa.int64())
    if stamps.null_count and absent is None:
        raise InputError(
            f"view {view}: {stamps.null_count} values of {name!r} are null; a row without its time"
            " cannot be compared, drop these rows"
        )
    return stamps.fill_null(absent if absent is not None else 0).to_numpy()
