"""What was put online, and whether it is there.
Reads: the record, the online store. Writes: `<repo>/data/online.json`.

`materialize` writes the record view by view. Readiness, `adc doctor` and `adc materialize` compare
the store with it: a store that is gone, empty or behind answers every question with "unknown",
which nobody could tell from the truth. Views in our own store are counted and some of their rows
looked up, without feast; of other stores, some rows are read as Feast reads them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adc_features.artifact import write_document
from adc_features.clock import parse_utc, utc
from adc_features.errors import ArtifactError, InputError, NewerFormatError
from adc_features.formats import format_of, refuse_newer_document
from adc_features.store.lmdb.environment import Environment, environment
from adc_features.store.lmdb.row_table import glance, read, refuse_newer_rows
from adc_features.store.repository import read_config

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore, FeatureView

LMDB_STORE = "adc_features.store.online_store.LmdbOnlineStore"
SAMPLES = 8
"""Rows of each view that are looked up again."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_DO = "load it again, `adc materialize --run RUN`"


@dataclass(frozen=True)
class Loaded:
    """What `materialize` found online of a view when it had loaded it.

    rows: keys online. through: its `now`. table: where they are in our own store; None for other
    stores. samples: some rows, the newest first: "key" (hex, our own store) or "entity" (join key
    -> value), and "time", their event time.
    """

    view: str
    rows: int
    through: datetime
    table: str | None
    samples: tuple[Mapping[str, Any], ...]

    @property
    def newest(self) -> datetime | None:
        """The newest event time."""
        return parse_utc(self.samples[0]["time"]) if self.samples else None


def record_path(repo: Path) -> Path:
    """The record of a repository."""
    return Path(repo) / "data" / "online.json"


def loaded(repo: Path) -> dict[str, Loaded]:
    """View -> what was put online; empty before the first `materialize`.

    Raises ArtifactError when the record is damaged.
    """
    path = record_path(repo)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        format_of("online_record", document, of=path)
        views = document["views"]
        return {
            name: Loaded(
                name, int(v["rows"]), parse_utc(v["through"]), v["table"], tuple(v["samples"])
            )
            for name, v in views.items()
        }
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ArtifactError(
            f"{path} is no record of what is online ({error}); remove the file, then run `adc"
            " materialize --run RUN`"
        ) from error


def refuse_newer_online(repo: Path) -> None:
    """Raise NewerFormatError when a newer version wrote the record or the rows of our own store,
    which may then not be replaced. What is absent or damaged may be.
    """
    refuse_newer_document(record_path(repo), "online_record")
    try:
        if (ours := _ours(repo)) is not None:
            for table in ours.tables():
                refuse_newer_rows(ours, table)
    except NewerFormatError:
        raise
    except ArtifactError:
        return


def record(repo: Path, store: FeatureStore, view: FeatureView, *, through: datetime) -> None:
    """Note what of a view is online now that it was loaded as of `through`."""
    path = record_path(repo)
    try:
        before = loaded(repo)
    except ArtifactError:
        before = {}
    before[view.name] = _found(store, view, through)
    path.parent.mkdir(parents=True, exist_ok=True)
    views = {
        name: {k: v for k, v in asdict(one).items() if k != "view"}
        for name, one in sorted(before.items())
    }
    write_document(path, "online_record", {"views": views})


def online_problems(
    repo: Path,
    views: Iterable[str] | None = None,
    *,
    store: FeatureStore | None = None,
    thorough: bool = True,
) -> list[str]:
    """Where the online store is not what was put into it.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    views : iterable of str, optional
        Which views to compare; by default all that were materialized and are still declared.
    store : feast.FeatureStore, optional
        The repository, where it is open already.
    thorough : bool
        Whether every row that was put there must be there; else a view is wrong only when it is
        empty, or none of the rows noted is there.

    Returns
    -------
    list of str
        What is wrong and what to do, a sentence each;
        empty when nothing is, or nothing was ever materialized.
    """
    try:
        known = loaded(repo)
        wanted = [known[name] for name in (known if views is None else views) if name in known]
        mine = [one for one in wanted if one.table is not None]
        others = [one for one in wanted if one.table is None]
        problems = [problem for one in mine if (problem := _compared(_ours(repo), one, thorough))]
        return [*problems, *_others(repo, others, store, thorough)]
    except ArtifactError as error:
        return [str(error)]


def _ours(repo: Path) -> Environment | None:
    """Our own online store; None when the repository names another by now."""
    block = read_config(repo).get("online_store")
    if not isinstance(block, dict) or block.get("type") != LMDB_STORE:
        return None
    path = os.path.realpath(Path(repo).resolve() / block.get("path", "data/online_lmdb"))
    return environment(path, map_size=int(block.get("map_size_mb", 16_384)) << 20)


def _compared(ours: Environment | None, one: Loaded, thorough: bool) -> str | None:
    if not one.rows:
        return None
    if ours is None:
        return (
            f"view {one.view} was put into our own online store, feature_store.yaml names another;"
            f" {_DO}"
        )
    rows = count(ours, str(one.table))
    if not rows:
        return (
            f"the online store {ours.path} holds no row of view {one.view}, {one.rows} were put"
            f" there as of {one.through.isoformat()}; {_DO}"
        )
    if thorough and rows < one.rows:
        return (
            f"the online store {ours.path} holds {rows} rows of view {one.view}, {one.rows} were"
            f" put there as of {one.through.isoformat()}; {_DO}"
        )
    answer = read(
        ours, str(one.table), [bytes.fromhex(sample["key"]) for sample in one.samples], wanted=()
    )
    times = [
        _EPOCH + timedelta(microseconds=int(at)) if found else None
        for found, at in zip(answer.found, answer.event, strict=True)
    ]
    return _behind(str(ours.path), one, times, thorough)


def count(ours: Environment, table: str) -> int:
    """The rows of a table; 0 when there is none."""
    return glance(ours, table, samples=0)[0]


def _behind(
    where: str, one: Loaded, times: Sequence[datetime | None], thorough: bool
) -> str | None:
    """times: of the samples, as read online; None where absent."""
    wanted = [parse_utc(sample["time"]) for sample in one.samples]
    late = [(at, then) for at, then in zip(times, wanted, strict=True) if at is None or at < then]
    if not late or (not thorough and len(late) < len(wanted)):
        return None
    at, then = late[0]
    shown = f"of {at.isoformat()}" if at else "absent"
    return (
        f"the online store {where} is behind in view {one.view}: a row of {then.isoformat()} is"
        f" {shown} there; {_DO}"
    )


def _others(
    repo: Path, wanted: Sequence[Loaded], store: FeatureStore | None, thorough: bool
) -> list[str]:
    """The same for views in stores that are not ours, by Feast's own reads."""
    if not wanted:
        return []
    from adc_features.store import _compat as feast
    from adc_features.store.registry import open_store

    store, problems = store or open_store(repo), []
    declared = {view.name: view for view in store.list_feature_views()}
    for one in wanted:
        if one.view not in declared or not one.samples:
            continue
        name = declared[one.view].features[0].name
        try:
            with feast.quiet():
                got = store.get_online_features(
                    [f"{one.view}:{name}"], [dict(s["entity"]) for s in one.samples]
                ).to_dict(include_event_timestamps=True)
        except Exception as error:  # whatever that store's client raises
            problems.append(
                f"the online store of {repo} does not answer for view {one.view}"
                f" ({type(error).__name__}: {str(error)[:200]}); {_DO}"
            )
            continue
        # Feast answers whole seconds, 0 for what is absent
        times = [
            datetime.fromtimestamp(at, UTC) + _SECOND if at else None
            for at in got[name + feast.TIMESTAMP_POSTFIX]
        ]
        if problem := _behind(f"of {repo}", one, times, thorough):
            problems.append(problem)
    return problems


def _found(store: FeatureStore, view: FeatureView, through: datetime) -> Loaded:
    from adc_features.store import _compat as feast
    from adc_features.store.lmdb.places import table_name
    from adc_features.store.online_store import LmdbOnlineStore

    online_store, config = feast.online_store(store), store.config
    if isinstance(online_store, LmdbOnlineStore) and online_store.holds(config, view):
        table = table_name(config, view)
        rows, newest = glance(online_store.environment(config, view), table, samples=SAMPLES)
        samples = [
            {"key": key.hex(), "time": (_EPOCH + timedelta(microseconds=at)).isoformat()}
            for at, key in newest
        ]
        return Loaded(view.name, rows, through, table, tuple(samples))
    rows, entities = _pulled(store, view, through)
    return Loaded(view.name, rows, through, None, tuple(entities))


def _pulled(
    store: FeatureStore, view: FeatureView, through: datetime
) -> tuple[int, list[dict[str, Any]]]:
    """How many keys the view's source has as of a time, and the newest of them."""
    from adc_features.store import _compat as feast

    source = view.batch_source
    if source is None:
        raise InputError(
            f"view {view.name} has no batch source, so nothing says what it put online; give it one"
        )
    joined, names, time, created = feast._get_column_names(
        view, [store.get_entity(name) for name in view.entities]
    )
    with feast.quiet():
        job = store._get_provider().offline_store.pull_latest_from_table_or_query(
            store.config, source, joined, names[:1], time, created, _EPOCH, through
        )
        rows = job.to_arrow()
    given = {
        column: name
        for column, name in (source.field_mapping or {}).items()
        if column in rows.column_names
    }
    rows = rows.rename_columns([given.get(name, name) for name in rows.column_names])
    keys = [given.get(name, name) for name in joined]
    newest = rows.sort_by([(given.get(time, time), "descending")]).slice(0, SAMPLES)
    times = [
        utc(at if at.tzinfo else at.replace(tzinfo=UTC), name=time).isoformat()
        for at in newest[given.get(time, time)].to_pylist()
    ]
    return len(rows), [
        {"entity": entity, "time": at}
        for entity, at in zip(newest.select(keys).to_pylist(), times, strict=True)
    ]
