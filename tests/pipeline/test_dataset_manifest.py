"""The content hash and the differences of two retrievals."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import day, times

from adc_features.errors import InputError
from adc_features.pipeline.dataset_manifest import (
    content_hashes,
    differences,
    parquet_batches,
    retrieval_manifest,
)

ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-5, 5),
        st.none() | st.text("ab", max_size=3),
        st.none() | st.lists(st.none() | st.integers(0, 2), max_size=3),
        st.booleans(),
    ),
    max_size=12,
)


def table(rows) -> pa.Table:
    n, text, lists, flag = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table(
        {
            "n": pa.array(n, pa.int32()),
            "t": pa.array(text, pa.string()),
            "l": pa.array(lists, pa.list_(pa.int32())),
            "b": pa.array(flag, pa.bool_()),
        }
    )


def hashes(*batches: pa.Table) -> dict[str, str]:
    return content_hashes(batches, batches[0].schema)


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, other=ROWS, cut=st.integers(0, 12))
def test_hashes_are_equal_exactly_where_the_content_is(rows, other, cut):
    """Chunks and slices leave no trace; another value, null, length or order changes the hash of
    its column and of no other.
    """
    whole = table(rows)
    assert hashes(whole.slice(0, cut), whole.slice(cut)) == hashes(whole)
    ours, theirs = hashes(whole), hashes(table(other))
    for place, name in enumerate(whole.column_names):
        assert (ours[name] == theirs[name]) == (
            [r[place] for r in rows] == [r[place] for r in other]
        )


def test_the_hash_does_not_depend_on_the_file(tmp_path):
    """Row groups, compression and dictionary pages of Parquet leave the hash alone; the type
    belongs to it.
    """
    whole = table([(i, "ab"[i % 2], [i], True) for i in range(20)])
    pq.write_table(
        whole, tmp_path / "a.parquet", row_group_size=3, compression="gzip", use_dictionary=False
    )
    assert content_hashes(parquet_batches(tmp_path / "a.parquet"), whole.schema) == hashes(whole)
    assert hashes(whole.set_column(0, "n", whole["n"].cast(pa.int64())))["n"] != hashes(whole)["n"]
    with pytest.raises(InputError, match="no content hash"):
        hashes(pa.table({"s": pa.array([{"a": 1}])}))


def manifest(values, **facts):
    frame = pa.table(
        {"event_timestamp": times([day(n) for n in range(len(values))]), "v": np.array(values)}
    )
    return retrieval_manifest([frame], frame.schema, **facts)


def test_a_manifest_says_what_was_retrieved():
    """Rows, time range and versions stand in it."""
    made = manifest([1, 2, 3], service="s", generation="g1", unmatched={"item": 1})
    assert (made["rows_in"], made["rows"], made["views"]) == (3, 3, {"item": {"unmatched": 1}})
    assert made["time_range"] == {"first": day(0), "last": day(2)}
    assert set(made["versions"]) == {"adc-features", "feast", "pyarrow"}


def test_the_version_of_a_table_is_on_record_and_explains_a_difference():
    """It is named where the data differ, and is no difference by itself: a table that was
    compacted gives the same rows.
    """

    def read(version: str, values=(1, 2)):
        table = {"format": "Delta", "table": "s3://lake/clicks", "version": version}
        return manifest(values, unmatched={"clicks": 0, "items": 1}, tables={"clicks": table})

    then = read("3")
    assert then["views"]["clicks"]["table"]["version"] == "3"
    assert then["views"]["items"] == {"unmatched": 1}
    assert differences(then, read("4")) == []
    said = differences(then, read("4", (1, 5)))
    assert said[-1] == (
        "view clicks: version 3 of the Delta table s3://lake/clicks then, version 4 of the Delta"
        " table s3://lake/clicks now"
    )
    plain = manifest((1, 5), unmatched={"clicks": 0, "items": 1})
    assert differences(then, plain)[-1].endswith("s3://lake/clicks then, Parquet files now")


def test_differences_name_what_changed():
    """Equal data have none; a changed value, count of misses, generation or column is named."""
    then = manifest([1, 2], generation="g1", unmatched={"item": 1})
    assert differences(then, manifest([1, 2], generation="g1", unmatched={"item": 1})) == []
    said = differences(then, manifest([2, 1], generation="g2", unmatched={"item": 0}))
    assert [s.split(":")[0] for s in said] == ["generation", "view item", "column v"]
    other = {
        **then,
        "columns": {
            "event_timestamp": then["columns"]["event_timestamp"],
            "w": then["columns"]["v"],
        },
    }
    assert differences(then, other) == ["column v: gone", "column w: new"]
