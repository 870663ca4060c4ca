"""SID snapshots as Feast rows and back."""

import numpy as np
import pyarrow as pa
import pytest
from store_world import START, day, snapshot

from adc_features.codes.rows import (
    SID_FEATURES,
    newest_as_of,
    sid_rows,
    sid_table,
    utc_array,
    with_missing_visible,
)
from adc_features.codes.sids import SidTable
from adc_features.errors import InputError


def back(rows: pa.Table) -> SidTable:
    visible = with_missing_visible(rows, length=3)
    return sid_table(
        visible.append_column("item_id", rows["item_id"]),
        generation="g1",
        codebook_size=10,
        length=3,
        as_of=newest_as_of(visible) or START,
    )


def test_rows_return_the_snapshot_bit_for_bit():
    """A snapshot that went through rows comes back equal, removed items included."""
    before = snapshot(START, 4, removed=["gone"])
    after = back(sid_rows(before, servable_at=day(1), computed_at=day(9)))
    assert after.to_arrow().equals(before.to_arrow(), check_metadata=True)


def test_rows_carry_when_they_could_be_served_and_when_they_were_made():
    """event_timestamp is servable_at,
    created_timestamp is computed_at, sid_as_of counts microseconds.
    """
    rows = sid_rows(snapshot(START, 4), servable_at=day(1), computed_at=day(9))
    assert rows["event_timestamp"].to_pylist() == [day(1)] * 3
    assert rows["created_timestamp"].to_pylist() == [day(9)] * 3
    assert rows["sid_as_of"].to_pylist() == [int(START.timestamp()) * 1_000_000] * 3
    assert rows.schema.names == [
        "item_id",
        "event_timestamp",
        "created_timestamp",
        *SID_FEATURES.names,
    ]


def test_unknown_items_are_shown_as_absent_not_as_zeros():
    """A null row becomes codes -1 with weight 0, cold and not found;
    sid_as_of stays null; no type widens.
    """
    known = sid_rows(
        snapshot(START, 4, items=["a"]), servable_at=day(1), computed_at=day(9)
    ).select(SID_FEATURES.names)
    missing = pa.table({f.name: pa.nulls(1, f.type) for f in SID_FEATURES})
    shown = with_missing_visible(pa.concat_tables([missing, known]), length=3)
    assert shown["sid"].to_pylist() == [[-1, -1, -1], [4, 4, -1]]
    assert shown["sid_weight"].to_pylist()[0] == [0, 0, 0]
    assert shown["sid_found"].to_pylist() == [False, True]
    assert shown["is_cold"].to_pylist() == [True, False]
    assert shown["sid_as_of"].to_pylist() == [None, START]
    assert [shown.schema.field(n).type for n in SID_FEATURES.names[:-1]] == [
        f.type for f in SID_FEATURES
    ][:-1]


def test_a_found_item_counts_itself_among_equal_codes():
    """collision_count 0 on a found row is refused: 0 marks a removed one."""
    broken = snapshot(START, 4)
    broken.collision_count[0] = 0
    with pytest.raises(InputError, match="counts the item itself"):
        sid_rows(broken, servable_at=day(1), computed_at=day(9))


def test_day_resolution_times_become_the_same_days():
    """Arrow 26.0.1 turns the second day of such an array into 1970;
    ours are cast to microseconds first.
    """
    days = np.array(["2014-05-13", "1969-12-31", "2014-05-14"], "datetime64[D]")
    assert (
        utc_array(days).to_numpy(zero_copy_only=False).astype("datetime64[D]").tolist()
        == days.tolist()
    )
