"""`online_store: {type: adc_features.store.online_store.LmdbOnlineStore}`: Feast's online store in
one LMDB directory.

Reads, writes: the directory `path`, one table for each project, view and version. Newest event time
wins, then created time; an equal row is overwritten, so that a re-encode applies. A row is one
record, replaced as a whole. A ttl holds online too. Views named in `delegate_views` live in the
store described by `delegate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, StrictStr, model_validator

from adc_features.store import _compat as feast
from adc_features.store.live_views import PLACE, is_live
from adc_features.store.lmdb.environment import Environment
from adc_features.store.lmdb.feature_values import protos, takes_arrow
from adc_features.store.lmdb.incoming import (
    EPOCH,
    as_protos,
    entity_row_key,
    microseconds_of,
    rows_of,
    rows_of_protos,
)
from adc_features.store.lmdb.places import directory_of, store_of, table_name, tables_of
from adc_features.store.lmdb.request import check_names, checked_rows
from adc_features.store.lmdb.response import columnar_response
from adc_features.store.lmdb.row_table import Answer, Rows, delete, read, write
from adc_features.store.pushes import checked_frame, pushed_table, times_of
from adc_features.store.pushes import takes as pushes_are_ours


class LmdbOnlineStoreConfig(feast.FeastConfigBaseModel):
    """The `online_store:` block of feature_store.yaml.

    Attributes
    ----------
    path : str
        The directory; a relative one is under the repository.
    live_path : str
        The directory of live views, whose rows follow events (`adc_features.store.live_views`).
    map_size_mb : int
        Address space reserved at first (MiB), neither disk nor memory. It doubles by itself, but a
        load that outgrows it begins anew.
    enforce_ttl : bool
        Whether a row past its view's ttl is withheld. Feast's own stores serve it for ever.
    delegate : dict or None
        Another `online_store:` block, for the views that are not to be held here.
    delegate_views : list of str
        The names of those views.
    """

    type: Literal["adc_features.store.online_store.LmdbOnlineStore"] = (
        "adc_features.store.online_store.LmdbOnlineStore"
    )
    path: StrictStr = "data/online_lmdb"
    live_path: StrictStr = f"{PLACE}/lmdb"
    map_size_mb: int = Field(default=16_384, ge=1)
    enforce_ttl: bool = True
    delegate: dict[str, Any] | None = None
    delegate_views: list[StrictStr] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_delegate(self) -> LmdbOnlineStoreConfig:
        if self.delegate_views and not self.delegate:
            raise ValueError(
                f"delegate_views names {self.delegate_views}, but there is no delegate; describe"
                " that online store under `delegate:`"
            )
        return self


class LmdbOnlineStore(feast.OnlineStore):
    """Feast's online store in one LMDB directory: reads by columns, writes from Arrow.

    Set `online_store.type` to `adc_features.store.online_store.LmdbOnlineStore`; Feast makes the
    object. Of two rows of a key the one with the newer event time is kept, then the one with the
    newer created time; an equal row is overwritten. A write is one transaction, and readers never
    wait for it.

    Attributes
    ----------
    clock : callable
        Says what time it is (aware) when a ttl is applied; tests and replays set it.
    """

    _versioned_read_supported = True
    clock: Callable[[], datetime] = staticmethod(lambda: datetime.now(UTC))

    def __init__(self) -> None:
        self._delegated: tuple[Any, Any] | None = None

    @property
    def async_supported(self) -> feast.SupportedAsyncMethods:
        """Reads and writes run in a thread.

        What is not in memory yet would hold up the event loop.
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
            pieces = [rows_of_protos(table, rows)]
            write(self.environment(config, table), table_name(config, table), pieces.copy)
            if progress:
                progress(len(rows))

    async def online_write_batch_async(
        self, config: Any, table: Any, data: Any, progress: Any
    ) -> None:
        """The same, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def checked_frame(self, table: Any, frame: Any) -> Any:
        """A pushed frame under the view's names. Raises InputError for columns that it lacks."""
        return checked_frame(table, frame)

    def write_frame(self, config: Any, table: Any, frame: Any) -> bool:
        """Write a pushed frame, in the declared types.

        False for views whose pushes Feast has to read. Raises InputError as `write_arrow`.
        """
        if not pushes_are_ours(table):
            return False
        self.write_table(config, table, pushed_table(table, frame))
        return True

    def check_push(self, config: Any, table: Any, frame: Any) -> None:
        """Raise InputError, as `write_frame` would, without writing."""
        if pushes_are_ours(table):
            rows = pushed_table(table, frame)
            event, created = times_of(table, rows.column_names)
            if self.takes_arrow(config, table):
                rows_of(table, rows, event=event, created=created)
            else:
                as_protos(table, rows, event=event, created=created)

    def write_table(self, config: Any, table: Any, rows: pa.Table) -> None:
        """Write an Arrow table in the view's names.

        Value protos stand in between only where the view's types ask for it.
        Raises InputError as `write_arrow`.
        """
        event, created = times_of(table, rows.column_names)
        if self.takes_arrow(config, table):
            self.write_arrow(config, table, rows, event=event, created=created)
            return
        self.online_write_batch(
            config, table, as_protos(table, rows, event=event, created=created), None
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
        """Write an Arrow table as one transaction.

        Parameters
        ----------
        table : feast.FeatureView
            The view; `takes_arrow` says whether it can be written so.
        rows : pyarrow.Table
            A column for each join key and feature. Order and repeats do not matter.
        event, created : str, str or None
            The columns of event and created times; naive times mean UTC.

        Returns
        -------
        int
            How many rows were newer than what was there.

        Raises
        ------
        InputError
            Columns are missing, keys or times null, or values do not fit their type.
        ArtifactError
            The directory cannot be written; nothing was changed.
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
        """The same for tables that come one by one, all in one transaction.

        One is in memory at a time; `pieces` may be called again.
        """

        def prepared() -> Iterator[Rows]:
            return (
                rows_of(table, piece, event=event, created=created)
                for piece in pieces()
                if len(piece)
            )

        return write(self.environment(config, table), table_name(config, table), prepared)

    def delete_rows(self, config: Any, table: Any, entity_keys: Sequence[Any]) -> int:
        """Forget the rows of entities (entity key protos); returns how many there were."""
        return delete(
            self.environment(config, table),
            table_name(config, table),
            [entity_row_key(key) for key in entity_keys],
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
            config, table, [entity_row_key(key) for key in entity_keys], requested_features
        )
        names = sorted({name for _, records in answer.parts for name in records.schema.place})
        columns = {name: (protos(answer, name), answer.held(name)) for name in names}

        def row(i: int) -> tuple[datetime | None, dict[str, Any] | None]:
            if not answer.found[i]:
                return None, None
            held = {name: values[i] for name, (values, held) in columns.items() if held[i]}
            return EPOCH + timedelta(microseconds=int(answer.event[i])), held

        return [row(i) for i in range(len(entity_keys))]

    async def online_read_async(self, *args: Any, **kwargs: Any) -> Any:
        """The same, in a thread."""
        return await asyncio.to_thread(self.online_read, *args, **kwargs)

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
        """Features for entity rows, by columns: without per-value protobuf conversion.

        On-demand views, delegated views, and keys that are not plainly of their declared types are
        answered by Feast itself.

        Parameters
        ----------
        entity_rows : list of dict, or mapping of str to sequence, N rows
            Values of the join keys.
        full_feature_names, include_feature_view_version_metadata : bool
            As Feast passes them, like the arguments that are not named here.

        Returns
        -------
        feast.OnlineResponse
            N values a feature in the order of the request, None where absent or past the ttl.

        Raises
        ------
        InputError
            Two columns would share a name; an id is a fraction or beyond 64 bits.
        """
        check_names(features, registry, project, full_feature_names=full_feature_names)
        entity_rows = checked_rows(
            entity_rows, features, registry, project, full_feature_names=full_feature_names
        )
        response = columnar_response(
            self,
            config,
            features,
            entity_rows,
            registry,
            project,
            full_feature_names=full_feature_names,
            tell_versions=include_feature_view_version_metadata,
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
        """The rows of a view under some keys, those past the view's ttl marked expired."""
        ttl = getattr(table, "ttl", None) if config.online_store.enforce_ttl else None
        # in numbers: a ttl may be longer than there are years before now
        oldest = microseconds_of(self.clock()) - ttl // timedelta(microseconds=1) if ttl else None
        return read(
            self.environment(config, table),
            table_name(config, table),
            keys,
            oldest=oldest,
            wanted=wanted,
        )

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
        """Drop the tables of deleted views, all versions.

        A kept view needs nothing: its table comes with its first row.
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
        """Drop the tables of these views.

        The directory stays, for other projects may live in it; its pages are used again.
        """
        self._drop(config, tables)
        if delegate := self._delegate(config):
            delegate[0].teardown(
                delegate[1], [table for table in tables if self._delegate(config, table)], entities
            )

    async def close(self, config: Any = None) -> None:
        """Close the directory in this process; the next call opens it again."""
        if config is not None:
            for live in (False, True):
                await asyncio.to_thread(directory_of(config, live=live).close)

    def environment(self, config: Any, table: Any = None) -> Environment:
        """The LMDB directory of a repository, or the one that holds the rows of a view."""
        return directory_of(config, live=table is not None and is_live(table))

    def _drop(self, config: Any, tables: Sequence[Any]) -> None:
        for live in (False, True):
            environment = directory_of(config, live=live)
            environment.drop(tables_of(config, tables, environment.tables()))

    def _delegate(self, config: Any, table: Any = None) -> tuple[Any, Any] | None:
        """The other store and its configuration.

        None when there is none, or when `table` is not one of its views.
        """
        block = config.online_store.delegate
        if block is None or (table is not None and self.holds(config, table)):
            return None
        if self._delegated is None:
            self._delegated = store_of(config, block)
        return self._delegated
