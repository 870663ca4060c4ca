"""SID snapshots as the rows that Feast stores, and back. Reads: SidTable. Writes: Arrow tables; no
feast here.

A row's `event_timestamp` is `servable_at`, so a plain event-time join is a knowledge-time join.
`created_timestamp` is when the row was computed. `sid_as_of` (microseconds since 1970, UTC) is the
exclusive cut-off of what the codes have seen.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant, moment
from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import CODES, LISTS, SidTable, check_second, list_matrix
from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError

TIME = pa.timestamp("us", tz="UTC")

SID_FEATURES = pa.schema(
    {
        "sid": pa.list_(pa.int32()),
        "sid_weight": pa.list_(pa.float32()),
        "reliability": pa.float32(),
        "alignment": pa.float32(),
        "is_cold": pa.bool_(),
        "collision_count": pa.int32(),
        "sid_as_of": pa.int64(),
    }
)
"""The features of every `item_sid_<generation>` view. Lists hold L values and never a null: Feast
turns one into 0, a real code.
"""
SECOND_FEATURES = pa.schema(
    {"sid_second": pa.list_(pa.int32()), "sid_second_weight": pa.list_(pa.float32())}
)
"""Further features of a view whose generation tells second codes."""
_TYPES = {field.name: field.type for field in (*SID_FEATURES, *SECOND_FEATURES)}


def utc_array(times: np.ndarray) -> pa.Array:
    """datetime64 of any unit, meaning UTC, as timestamp[us, UTC].

    Cast to microseconds in numpy first: pyarrow 26.0.1 converts day-resolution arrays to wrong
    times without a word.
    """
    return pa.array(times.astype("datetime64[us]"), TIME)


def check_timed(table: pa.Table, keys: Sequence[str], *, name: str) -> None:
    """Raise InputError unless `table` has event_timestamp, with a time zone, and every key, none of
    them null.
    """
    for column in ("event_timestamp", *keys):
        if column not in table.column_names:
            raise InputError(f"{name} has no column {column!r}; it has {table.column_names}")
        if table[column].null_count:
            raise InputError(
                f"{name}: {table[column].null_count} values of {column!r} are null; drop these rows"
            )
    stamp = table.schema.field("event_timestamp").type
    if not pa.types.is_timestamp(stamp) or stamp.tz is None:
        raise InputError(
            f"{name}: event_timestamp is {stamp}; expected timestamps with a time zone, guessing"
            " one would move rows across cut-offs"
        )


def as_served(snapshot: SidTable) -> SidTable:
    """The snapshot as every store holds it: a removed row (found = False) is cold and has
    collision_count 0.

    Raises InputError when a found row has collision_count < 1 (an item shares its codes at least
    with itself).
    """
    found = snapshot.found
    if (snapshot.collision_count[found] < 1).any():
        raise InputError(
            "a found item has collision_count 0; it counts the item itself, so expected at least 1"
        )
    return replace(
        snapshot,
        is_cold=snapshot.is_cold | ~found,
        collision_count=np.where(found, snapshot.collision_count, 0).astype(np.int32),
    )


def sid_rows(snapshot: SidTable, *, servable_at: datetime, computed_at: datetime) -> pa.Table:
    """One row an item: item_id, event_timestamp = servable_at, created_timestamp = computed_at,
    then SID_FEATURES, and SECOND_FEATURES of a snapshot that has them.

    A row of the snapshot with found = False is a removal: codes -1, cold, collision_count 0, so
    that it hides older rows. Raises InputError as `as_served`.
    """
    n = len(snapshot)
    table = as_served(snapshot).to_arrow().drop_columns("found").replace_schema_metadata(None)
    table = table.append_column(
        "sid_as_of", pa.array(np.full(n, instant(snapshot.as_of).astype(np.int64)))
    )
    for place, (name, at) in enumerate(
        (("event_timestamp", servable_at), ("created_timestamp", computed_at)), start=1
    ):
        table = table.add_column(place, name, utc_array(np.full(n, instant(at))))
    return table


def with_missing_visible(features: pa.Table, *, length: int) -> pa.Table:
    """SID_FEATURES columns, and those of SECOND_FEATURES that there are, with nulls (unknown
    items) as bool `sid_found` followed by columns without nulls, of the declared types.

    Unknown and removed items: codes [-1] * L, weights, reliability and alignment 0, cold,
    collision_count 0. sid_as_of becomes timestamp[us, UTC], null for unknown items. Fills come
    before casts: a miss must not turn codes into floats.
    """
    lists: dict[str, list] = {
        name: [NO_CODE if name in CODES else 0.0] * length
        for name in LISTS
        if name in features.column_names or name in SID_FEATURES.names
    }
    fills = {"reliability": 0.0, "alignment": 0.0, "is_cold": True, "collision_count": 0}
    columns = {name: features[name] for name in (*lists, *fills, "sid_as_of")}
    for name, fill in (lists | fills).items():
        # a fill of nothing costs as much as a fill, and a request mostly knows its items
        if columns[name].null_count:
            columns[name] = (
                _fill_lists(columns[name], fill)
                if isinstance(fill, list)
                else columns[name].fill_null(fill)
            )
    columns = {
        name: column if column.type == _TYPES[name] else column.cast(_TYPES[name])
        for name, column in columns.items()
    }
    columns["sid_as_of"] = columns["sid_as_of"].cast(TIME)
    return pa.table({"sid_found": pa.array(columns["collision_count"].to_numpy() > 0), **columns})


def _fill_lists(column: pa.ChunkedArray, fill: list) -> pa.ChunkedArray:
    """`fill_null` for lists, which Arrow lacks:
    take every row from the lists with `fill` appended.
    """
    rows = np.where(column.is_valid().to_numpy(), np.arange(len(column)), len(column))
    return pa.chunked_array([*column.chunks, pa.array([fill], column.type)]).take(pa.array(rows))


def sid_table(
    rows: pa.Table, *, generation: str, codebook_size: int, length: int, as_of: datetime
) -> SidTable:
    """The SidTable of `item_id` and the columns that `with_missing_visible` returns; as_of: the
    newest cut-off a row may have seen.
    """
    scalars = ("reliability", "alignment", "is_cold", "collision_count")
    return SidTable(
        item_ids=id_array(rows["item_id"]),
        **{
            name: list_matrix(rows[name], length, dtype)
            for name, dtype in LISTS.items()
            if name in rows.column_names
        },
        **{name: rows[name].to_numpy() for name in scalars},
        found=rows["sid_found"].to_numpy(),
        generation=generation,
        codebook_size=codebook_size,
        as_of=as_of,
    )


def newest_as_of(rows: pa.Table) -> datetime | None:
    """The newest `sid_as_of` among rows of `with_missing_visible`; None when no item was known."""
    times = rows["sid_as_of"].drop_null().to_numpy()
    return moment(times.max()) if len(times) else None


def completed(snapshot: SidTable, before: SidTable) -> tuple[SidTable, np.ndarray]:
    """`snapshot` followed by the rows of `before`, the complete one before it, for items that it
    does not hold; and which rows those are (bool).

    That is what the point-in-time join of the published rows sees; an item leaves only by an
    explicit row with found = False. Raises GenerationMismatch as `check_second`.
    """
    check_second((snapshot, before))
    carried = ~pc.is_in(pa.array(before.item_ids), value_set=pa.array(snapshot.item_ids)).to_numpy(
        zero_copy_only=False
    )
    both = {f.name: (getattr(snapshot, f.name), getattr(before, f.name)) for f in fields(SidTable)}
    columns: dict[str, Any] = {
        name: np.concatenate([new, old[carried]])
        for name, (new, old) in both.items()
        if isinstance(new, np.ndarray)
    }
    return replace(snapshot, **columns), carried
