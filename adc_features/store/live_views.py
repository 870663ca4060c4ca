"""Views whose rows follow events: declared, found in a repository, read online. Reads: the Python
files of a repository. Writes: Feast views.

    clicks = EventStream("clicks", keys={"customer_id": "int64", "sku": "string"}, ...)
    activity = AggregateView("customer_activity", clicks, key=("customer_id",), features={...})
    customer_activity = live_view(activity, entities=[customer], repo=Path(__file__).parent)

A live view is an ordinary feature view. Its source is the directory of the rows that were served,
each from the moment on at which it was (`event_timestamp`), so that a join reads what a request
read. In our online store its rows lie in an environment of their own, which a bulk load of other
views never holds up; into every other store they come by `write_to_online_store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from adc_features.aggregates.batch import TIMESTAMP, row_schema
from adc_features.aggregates.declaration import TIME, Aggregate, AggregateView
from adc_features.aggregates.finalise import (
    READ_AT,
    TILES,
    column_of,
    feature_type,
    read_columns,
)
from adc_features.aggregates.record import declaration_hash, to_json
from adc_features.artifact import write_atomically
from adc_features.errors import InputError
from adc_features.inputs.tags import PREFIX
from adc_features.parquet_files import write_table

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureView, OnDemandFeatureView

LIVE_TAG = "adc_live"
"""The tag of live views; its value is the hash of their declaration."""
PLACE = "data/live"
"""Where the live directory of a repository lies."""
_NOTHING = f"{0:020d}-{0:020d}.parquet"


def is_live(view: Any) -> bool:
    """Whether the rows of a Feast view follow events."""
    return LIVE_TAG in (getattr(view, "tags", None) or {})


def history_path(repo: Path, view: str) -> Path:
    """The directory of a live view's rows."""
    return Path(repo) / PLACE / "history" / view


def live_view(
    declared: AggregateView,
    *,
    entities: Sequence[Any],
    repo: Path,
    ttl: timedelta = timedelta(0),
) -> FeatureView:
    """The Feast view of declared aggregates.

    Of features that are declared with at="read" it holds tiles; `read_view` makes the features.

    Parameters
    ----------
    declared : AggregateView
    entities : sequence of feast.Entity
        Those whose join keys are the view's key.
    repo : Path
        The repository.
    ttl : timedelta
        How long a row is served after it was published, that is after the key's last event; 0: for
        ever. One that is shorter than the longest window hides keys that still have events in it.

    Returns
    -------
    feast.FeatureView

    Raises
    ------
    InputError
        The entities are not those of the view's key, or a feature has no Feast type.
    """
    from adc_features.store import _compat as feast
    from adc_features.store.definitions import feast_type

    keys = sorted(entity.join_key for entity in entities)
    if keys != sorted(declared.key):
        raise InputError(
            f"the live view {declared.name!r} is keyed by {', '.join(declared.key)}, but its"
            f" entities have the join keys {', '.join(keys) or 'none'}; name the entities of"
            " its key"
        )
    schema = row_schema(declared)
    place = history_path(Path(repo).resolve(), declared.name)
    if not place.is_dir():
        _make_readable(place, schema)
    fields = [f for f in schema if f.name != TIMESTAMP]
    return feast.FeatureView(
        name=declared.name,
        entities=list(entities),
        schema=[
            feast.Field(name=f.name, dtype=feast_type(f.type), tags=tags_of(declared, f.name))
            for f in fields
        ],
        source=feast.FileSource(
            name=f"{declared.name}_history",
            path=str(place),
            file_format=feast.ParquetFormat(),
            timestamp_field=TIMESTAMP,
        ),
        ttl=ttl,
        tags={LIVE_TAG: declaration_hash(declared)},
    )


def read_view(declared: AggregateView, view: FeatureView) -> OnDemandFeatureView:
    """The on-demand view `<name>_at_read` of the features that are declared with at="read".

    Their windows end at the time of the request, or of the training row: this package gives it;
    a direct call of Feast's client sends it as `adc_read_at`, whole microseconds since 1970 UTC.

    Parameters
    ----------
    declared : AggregateView
    view : feast.FeatureView
        Its `live_view`.

    Returns
    -------
    feast.OnDemandFeatureView

    Raises
    ------
    InputError
        No feature is declared with at="read".
    """
    from adc_features.store import _compat as feast
    from adc_features.store.definitions import feast_type

    at_read = {name: one for name, one in declared.features.items() if one.at == "read"}
    if not at_read:
        raise InputError(
            f"no feature of {declared.name!r} is declared with at='read'; serve its live view alone"
        )

    def read(columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return read_columns(declared, columns)

    time = feast.Field(name=READ_AT, dtype=feast.Int64)
    tiles: Any = view[[column_of(name, one) for name, one in at_read.items()]]
    return feast.DeclaredOnDemandView(
        name=f"{declared.name}_at_read",
        sources=[tiles, feast.RequestSource(name=f"{declared.name}_read", schema=[time])],
        schema=[
            feast.Field(name=name, dtype=feast_type(feature_type(declared, one)))
            for name, one in at_read.items()
        ],
        mode="python",
        udf=cast(Any, read),
        udf_string=f"read_columns({to_json(declared)})",
    )


def tags_of(declared: AggregateView, name: str) -> dict[str, str]:
    """How a ranker reads a column where its type does not say: the time of an event as its age, not
    as a number that only grows, and the newest events of a user as one history.

    The lists of the newest n events belong together where each holds all n: a list of another key
    (their items), of their times, of a value that every event has. Of several values the first is
    the history's label.
    """
    if name.endswith(TILES):
        return {f"{PREFIX}kind": "skip"}
    one = declared.features.get(name)
    if one is None:
        return {}
    if one.kind.endswith("_time"):
        return {f"{PREFIX}kind": "time"}
    if one.kind not in ("last", "last_distinct"):
        return {}
    roles = _roles(declared, one)
    if name in roles.values():
        (role,) = (role for role, of in roles.items() if of == name)
        tags = {"kind": "history", "group": roles["ids"], "role": role, "order": "newest_last"}
    elif one.of in (*declared.stream.keys, *declared.stream.attributes):
        tags = {"order": "newest_last"}  # which makes it a sequence
    else:
        tags = {"kind": "skip"}  # lists of any length are no vectors
    return {f"{PREFIX}{tag}": value for tag, value in tags.items()}


def _roles(declared: AggregateView, one: Aggregate) -> dict[str, str]:
    """ids, times and labels of the history that the list of the newest events is of -> features;
    empty where it is of none.
    """
    stream, roles = declared.stream, dict[str, str]()
    for name, other in declared.features.items():
        if other.kind != "last" or replace(other, of=one.of) != one:
            continue
        if other.of in stream.keys and other.of not in declared.key:
            roles.setdefault("ids", name)
        elif other.of == TIME:
            roles.setdefault("times", name)
        elif other.of in stream.values and not stream.values[str(other.of)].optional:
            roles.setdefault("labels", name)
    return roles if "ids" in roles else {}


def _make_readable(place: Path, schema: pa.Schema) -> None:
    """An empty first segment: a join before the first event finds a table without rows."""
    place.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    write_table(schema.empty_table(), sink)
    write_atomically(place / _NOTHING, sink.getvalue().to_pybytes())
