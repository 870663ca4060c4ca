"""Feature values for requests. Reads: a repository's online store.
Writes: the online store (materialize).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from adc_features.clock import utc
from adc_features.codes.sids import SidTable
from adc_features.errors import ArtifactError, InputError
from adc_features.store.definitions import arrow_schema
from adc_features.store.lmdb.columns import Column
from adc_features.store.lmdb.entity_keys import key_array
from adc_features.store.online_record import (
    count,
    loaded,
    online_problems,
    record,
    record_path,
    refuse_newer_online,
)
from adc_features.store.online_sids import OnlineSids
from adc_features.store.refresh_log import note_refresh
from adc_features.store.registry import check_ids, join_key, open_store, service_views
from adc_features.store.visible import visible_features

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView
    from adc_features.store.lmdb.row_table import Answer

_log = logging.getLogger(__name__)
_BEGINNING = datetime(1, 1, 2, tzinfo=UTC)
"""Feast materializes a window; ours starts before any event, so every key's newest row is found
however old it is.
"""
_ASK_AGAIN = 2.0
"""Seconds that a sound store is taken to be sound while no file of it changes."""
_IDS_AT_ONCE = 5_000
"""Keys in one online read: SQLite refuses statements with too many parameters."""


def materialize(
    repo: Path, *, now: datetime, progress: Callable[[str, int, int], None] | None = None
) -> None:
    """Take the newest row of every key into the online store, view by view.

    Repeating it changes nothing. What is online then is noted in the repository, and readiness
    checks compare the store with it (`online_problems`).

    Parameters
    ----------
    repo : Path
        A Feast repository to which `apply` was done.
    now : datetime
        Rows with an event time up to this moment count, that moment included; aware.
    progress : callable, optional
        Called with a label, the views done and their number.

    Raises
    ------
    InputError
        Nothing is applied, or `now` has no time zone.
    ArtifactError
        The online store, or what was published, cannot be used.
    NewerFormatError
        A newer version wrote the online store or its record; nothing was loaded.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> materialize(repo, now=datetime(2014, 1, 31, tzinfo=UTC))

    Source
    ------
    Feast documentation, "Load data into the online store":
    https://docs.feast.dev/how-to-guides/feast-snowflake-gcp-aws/load-data-into-the-online-store
    """
    from adc_features.store import _compat as feast

    now = utc(now, name="now")
    refuse_newer_online(repo)
    store = open_store(repo)
    names = sorted(view.name for view in store.list_feature_views() if view.online)
    if not names:
        raise InputError(f"{repo} declares no views; apply it first")
    for done, name in enumerate(names):
        if progress:
            progress(f"materialize {name}", done, len(names))
        with feast.quiet():
            store.materialize(_BEGINNING, now, feature_views=[name])
        record(repo, store, store.get_feature_view(name), through=now)
        if not _engine_notes(store):
            note_refresh(repo, name, cut=now, visible=datetime.now(UTC))
        _log.info("stage=materialize view=%s now=%s", name, now.isoformat())
    if progress:
        progress("materialize", len(names), len(names))


def _engine_notes(store: FeatureStore) -> bool:
    """Whether the engine notes itself when a view was refreshed."""
    engine: Any = store.config.batch_engine
    return str(getattr(engine, "type", engine)).endswith(".ArrowComputeEngine")


def materialized_through(repo: Path) -> datetime | None:
    """The latest moment as of which any view of the repository was materialized.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    datetime or None
        Aware UTC; None where nothing was materialized. Values of before are not online any more.
    """
    ends = [view.most_recent_end_time for view in open_store(repo).list_feature_views()]
    return max((utc(end) for end in ends if end is not None), default=None)


class OnlineReader:
    """The views of a service, open for many reads; threads may share it. `open_reader` makes one.

    What is materialized later is seen; what is applied later is not: open another reader then.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    store : feast.FeatureStore
        The repository, opened.
    views : sequence of feast.FeatureView
        What is read.

    Examples
    --------
    >>> reader = open_reader(repo, service="ranker_g1")
    >>> reader.check()  # nothing is raised: what was materialized is there
    >>> reader.read(item_ids=np.array(["a", "x"]))["sid_found"].to_pylist()
    [True, False]

    Source
    ------
    Feast documentation, "Feature retrieval":
    https://docs.feast.dev/getting-started/concepts/feature-retrieval
    """

    def __init__(self, repo: Path, store: FeatureStore, views: Sequence[FeatureView]) -> None:
        self._repo, self._store, self._views = repo, store, views
        self._schemas = {view.name: arrow_schema(view) for view in views}
        self._sound: tuple[Any, float] | None = None

    def check(self) -> None:
        """Raise when the store is gone, empty or behind what was put into it.

        It looks again only when a file has changed; stores that are not ours are asked again after
        two seconds.

        Raises
        ------
        ArtifactError
            What is wrong, and the command that mends it.
        """
        seen = self._seen()
        if self._sound and self._sound[0] == seen and time.monotonic() < self._sound[1]:
            return
        problems = online_problems(self._repo, self._schemas, store=self._store, thorough=False)
        known = {} if problems else loaded(self._repo)
        problems += [
            f"nothing of view {view.name} is online; load it, `adc materialize --run RUN`"
            for view in (() if problems else self._views)
            if view.name not in known and not self._was_loaded(view)
        ]
        if problems:
            self._sound = None
            raise ArtifactError(problems[0])
        self._sound = seen, time.monotonic() + _ASK_AGAIN

    def _was_loaded(self, view: FeatureView) -> bool:
        """Whether something of a view is online that no record speaks of (`feast materialize`).

        Of other stores than ours Feast's registry tells.
        """
        from adc_features.store import _compat as feast
        from adc_features.store.lmdb.places import table_name
        from adc_features.store.online_store import LmdbOnlineStore

        online_store, config = feast.online_store(self._store), self._store.config
        if isinstance(online_store, LmdbOnlineStore) and online_store.holds(config, view):
            return count(online_store.environment(config, view), table_name(config, view)) > 0
        return bool(view.materialization_intervals)

    def _seen(self) -> Any:
        """What changes when the store or the record of it does, as far as files tell."""
        from adc_features.store import _compat as feast
        from adc_features.store.online_store import LmdbOnlineStore

        online_store, paths = feast.online_store(self._store), [record_path(self._repo)]
        if isinstance(online_store, LmdbOnlineStore):
            paths.append(online_store.environment(self._store.config).path / "data.mdb")
        stats = [os.stat(path) if os.path.exists(path) else None for path in paths]
        return [s and (s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns) for s in stats]

    def read(
        self, *, item_ids: np.ndarray | None = None, user_ids: np.ndarray | None = None
    ) -> pa.Table:
        """The online values of ids, one row per id in the order asked, repeats kept.

        Parameters
        ----------
        item_ids : numpy.ndarray, [N], optional
            int64 or str, of the published type. Alone: only views about items are read.
        user_ids : numpy.ndarray, [N], optional
            Likewise for users. With both, row i is about the i-th item and the i-th user.

        Returns
        -------
        pyarrow.Table, N rows
            The ids, then found columns and features as `training_features` names and types them. An
            unknown id has found = False and nulls, never zeros; unknown items have codes -1.

        Raises
        ------
        InputError
            No ids, ids of two lengths, or of another type than published.
        """
        asked = {
            name: np.asarray(ids)
            for name, ids in (("item_id", item_ids), ("user_id", user_ids))
            if ids is not None
        }
        if not asked or len({len(ids) for ids in asked.values()}) > 1:
            raise InputError(
                f"asked for ids of lengths { {k: len(v) for k, v in asked.items()} }; give"
                " item_ids, user_ids, or both of one length"
            )
        views = [view for view in self._views if join_key(view) in asked]
        if not views:
            raise InputError(
                f"no view is about {sorted(asked)}; ask for the ids that the service is about"
            )
        keys = pa.table({name: pa.array(column) for name, column in asked.items()})
        check_ids(views, keys.schema)
        raw = {name: column for view in views for name, column in self._raw(view, keys).items()}
        features = visible_features(self._repo, views, pa.table(raw))
        for name in features.column_names:
            keys = keys.append_column(name, features[name])
        return keys

    def columns(self, names: Set[str], *, key: str, ids: np.ndarray) -> dict[str, Column]:
        """Some features of ids as columns: what a request is scored from.

        Parameters
        ----------
        names : set of str
            The features wanted; those that no view of the key has are left out.
        key : str
            `item_id` or `user_id`.
        ids : numpy.ndarray, [N]
            int64 or str, of the published type.

        Returns
        -------
        dict of str to Column
            Feature -> its N values, not valid where absent; our own store answers without Arrow
            in between.
        """
        columns: dict[str, Column] = {}
        for view in self._views:
            wanted = [field for field in self._schemas[view.name] if field.name in names]
            if join_key(view) != key or not wanted:
                continue
            if answer := self._answer(view, ids, [field.name for field in wanted]):
                columns |= {field.name: answer.column(field.name, field.type) for field in wanted}
            else:
                raw = self._raw(view, pa.table({key: pa.array(ids)}))
                columns |= {field.name: Column.from_arrow(raw[field.name]) for field in wanted}
        return columns

    def _raw(self, view: FeatureView, keys: pa.Table) -> dict[str, Any]:
        """The declared features of one view, null where absent.

        Without a Feast object when the store is ours.
        """
        from adc_features.store import _compat as feast

        key, schema = join_key(view), self._schemas[view.name]
        if answer := self._answer(view, keys[key]):
            return {field.name: answer.to_arrow(field.name, field.type) for field in schema}
        columns: dict[str, list] = {field.name: [] for field in schema}
        for start in range(0, len(keys), _IDS_AT_ONCE):
            asked = {key: keys[key].slice(start, _IDS_AT_ONCE).to_pylist()}
            with feast.quiet():
                got = self._store.get_online_features(
                    [f"{view.name}:{name}" for name in columns], entity_rows=asked
                ).to_dict()
            for name, column in columns.items():
                column.extend(got[name])
        return {field.name: pa.array(columns[field.name], field.type) for field in schema}

    def _answer(
        self,
        view: FeatureView,
        ids: np.ndarray | pa.ChunkedArray,
        wanted: Sequence[str] | None = None,
    ) -> Answer | None:
        """What our store answers, as of one moment; None when the view lives in another."""
        from adc_features.store import _compat as feast
        from adc_features.store.online_store import LmdbOnlineStore

        online_store, config = feast.online_store(self._store), self._store.config
        if not isinstance(online_store, LmdbOnlineStore) or not online_store.holds(config, view):
            return None
        array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(ids)
        return online_store.read(
            config,
            view,
            key_array({join_key(view): array}).to_numpy(zero_copy_only=False).tolist(),
            wanted,
        )


def open_reader(repo: Path, *, service: str) -> OnlineReader:
    """Open what a service reads, for many requests.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    service : str
        A feature service that was applied.

    Returns
    -------
    OnlineReader
        Open until it is no longer referenced; threads may share it.

    Raises
    ------
    InputError
        The service is not applied.

    Examples
    --------
    >>> reader = open_reader(repo, service="ranker_g1")
    >>> rows = reader.read(item_ids=np.array(["a"]), user_ids=np.array(["u"]))
    >>> rows["sid"].to_pylist(), rows["user_activity_found"].to_pylist()
    ([[2, 2, -1]], [True])

    Source
    ------
    Feast documentation, "Feature retrieval":
    https://docs.feast.dev/getting-started/concepts/feature-retrieval
    """
    store = open_store(repo)
    return OnlineReader(repo, store, service_views(store, service))


def online_features(
    repo: Path,
    *,
    service: str,
    item_ids: np.ndarray | None = None,
    user_ids: np.ndarray | None = None,
) -> pa.Table:
    """Read the online values of ids once.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    service : str
        A feature service that was applied.
    item_ids, user_ids : numpy.ndarray, [N], optional
        As `OnlineReader.read` takes them.

    Returns
    -------
    pyarrow.Table, N rows
        As `OnlineReader.read` returns it. For many reads, keep an `open_reader` instead.

    Raises
    ------
    InputError
        The service is not applied, or the ids are not as published.

    Examples
    --------
    >>> rows = online_features(repo, service="ranker_g1", item_ids=np.array(["b"]))
    >>> rows["sid"].to_pylist()
    [[2, 2, -1]]

    Source
    ------
    Feast documentation, "Feature retrieval":
    https://docs.feast.dev/getting-started/concepts/feature-retrieval
    """
    return open_reader(repo, service=service).read(item_ids=item_ids, user_ids=user_ids)


def lookup(
    repo: Path, generation: str, item_ids: np.ndarray, *, now: datetime | None = None
) -> SidTable:
    """The codes of items as served at a moment, from the packed snapshots.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    generation : str
        The id of a published generation.
    item_ids : numpy.ndarray, [N]
        int64 or str, of the published type.
    now : datetime, optional
        The moment, aware; by default the present.
        The newest snapshot with servable_at <= now answers.

    Returns
    -------
    SidTable, N rows
        In the order asked, repeats kept: `sid` int32 [N, L], `sid_weight` float32 [N, L],
        `reliability` float32 [N] and the rest. Unknown and removed items have found = False,
        codes -1 and weights 0.

    Raises
    ------
    InputError
        The generation is not published, ids are of another type,
        or `now` lies before the first snapshot.
    ArtifactError
        A file is missing or altered.

    See Also
    --------
    OnlineSids : stays open for many lookups, and follows what is published.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> items = np.array(["a", "x"])
    >>> lookup(repo, "g1", items).sid.tolist()
    [[2, 2, -1], [-1, -1, -1]]
    >>> lookup(repo, "g1", items, now=datetime(2014, 1, 15, tzinfo=UTC)).sid[0].tolist()
    [1, 1, -1]

    Source
    ------
    Format of the packed files: docs/reference/snapshots.md.
    """
    return OnlineSids(repo, generation).lookup(item_ids, now=now)
