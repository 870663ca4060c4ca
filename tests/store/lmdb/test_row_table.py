"""Rows in LMDB against a dictionary that follows the same rules row by row."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import ArtifactError
from adc_features.store.lmdb.entity_keys import integer_keys
from adc_features.store.lmdb.environment import environment
from adc_features.store.lmdb.records import NO_CREATED, Schema
from adc_features.store.lmdb.row_table import Rows, delete, read, write

SCHEMA = Schema((("value", "int64_val"), ("text", "string_val")))
MIB = 1 << 20


def rows(batch: list[tuple[int, int, int | None, int]], schema: Schema = SCHEMA) -> Rows:
    """Rows of (key, event, created, value)."""
    key, event, created, value = zip(*batch, strict=True)
    columns = {"value": pa.array(value, pa.int64()), "text": pa.array([str(v) * v for v in value])}
    keys = pa.array(integer_keys(np.array(key)), pa.large_binary())
    created = np.array([NO_CREATED if c is None else c for c in created])
    return Rows(
        schema,
        keys,
        np.array(event),
        created,
        {name: columns.get(name, columns["value"]) for name, _ in schema.features},
    )


def put(env, *pieces: Rows) -> int:
    return write(env, "t", lambda: pieces)


def values(env, keys, table="t", **asked) -> list:
    return read(env, table, integer_keys(np.array(keys)), **asked).to_python("value", {})


ROW = st.tuples(
    st.integers(0, 5), st.integers(0, 3), st.none() | st.integers(0, 3), st.integers(0, 9)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=12), min_size=1, max_size=5))
def test_the_newest_row_of_every_key_is_served(batches):
    """Event time, then created time (unknown comes first), then the order of writing; the batches
    make no difference.
    """
    with tempfile.TemporaryDirectory() as directory:
        env, expected = environment(Path(directory), map_size=MIB), {}
        for batch in batches:
            for key, event, created, value in batch:
                rank = (event, -1 if created is None else created)
                if key not in expected or rank >= expected[key][:2]:
                    expected[key] = *rank, value
            put(env, rows(batch))
        assert values(env, range(6)) == [
            expected[key][2] if key in expected else None for key in range(6)
        ]
        assert read(env, "t", integer_keys(np.arange(6))).event.tolist() == [
            expected[key][0] if key in expected else 0 for key in range(6)
        ]
        env.close()


def test_an_equal_row_is_overwritten_and_an_older_one_is_not(tmp_path):
    """A re-encode with the same times applies;
    a late row does not, and `write` counts what it took.
    """
    env = environment(tmp_path, map_size=MIB)
    assert [
        put(env, rows(batch))
        for batch in (
            [(1, 5, 5, 1), (2, 5, 5, 1)],
            [(1, 5, 5, 2), (2, 4, 9, 2)],
            [(1, 5, 4, 3), (3, 0, None, 3)],
        )
    ] == [
        2,
        1,
        1,
    ]
    assert put(env, rows([(1, 5, None, 4), (3, 0, None, 3)])) == 1
    assert values(env, [1, 2, 3, 4, 1]) == [2, 1, 3, None, 2]


def test_rows_before_the_oldest_time_are_expired_not_found(tmp_path):
    """The boundary is served; an expired row has its time and no values;
    what never was is not expired.
    """
    env = environment(tmp_path, map_size=MIB)
    put(env, rows([(1, 9, None, 1), (2, 10, None, 2)]))
    got = read(env, "t", integer_keys(np.array([1, 2, 3])), oldest=10)
    assert (got.found.tolist(), got.expired.tolist(), got.event.tolist()) == (
        [False, True, False],
        [True, False, False],
        [9, 10, 0],
    )
    assert got.to_python("value", {}) == [None, 2, None]


def test_rows_written_with_other_features_stay_readable(tmp_path):
    """A feature that is added is absent in older rows, one whose kind changed is read in the kind
    it was written in.
    """
    env = environment(tmp_path, map_size=MIB)
    put(env, rows([(1, 1, None, 1)], Schema((("value", "int64_val"),))))
    put(env, rows([(2, 1, None, 2), (3, 1, None, 3)]))
    got = read(env, "t", integer_keys(np.array([3, 1, 2, 9])))
    assert got.to_python("value", {}) == [3, 1, 2, None]
    assert got.to_arrow("text", pa.string()).to_pylist() == ["333", None, "22", None]
    assert (got.held("text").tolist(), got.held("value").tolist()) == (
        [True, False, True, False],
        [True, True, True, False],
    )
    assert read(env, "t", []).found.tolist() == []


def test_deleted_rows_are_gone_and_others_stay(tmp_path):
    """Also a row that comes again later is taken, however old."""
    env = environment(tmp_path, map_size=MIB)
    put(env, rows([(1, 5, None, 1), (2, 5, None, 2)]))
    assert delete(env, "t", integer_keys(np.array([1, 7]))) == 1
    assert values(env, [1, 2]) == [None, 2]
    put(env, rows([(1, 0, None, 3)]))
    assert values(env, [1]) == [3]


def test_a_table_in_several_pieces_arrives_whole(tmp_path, monkeypatch):
    """Rows are written a bounded number at a time, in one transaction, whatever their order; the
    map grows under it.
    """
    monkeypatch.setattr("adc_features.store.lmdb.row_table.ROWS_AT_ONCE", 100)
    env = environment(tmp_path, map_size=MIB // 4)
    shuffled = np.random.default_rng(0).permutation(5000)
    assert put(env, rows([(int(k), 1, None, int(k) % 10) for k in shuffled])) == 5000
    assert values(env, range(5000)) == [k % 10 for k in range(5000)]
    assert put(env, rows([(int(k), k % 2, None, 7) for k in shuffled])) == 2500
    assert values(env, range(4)) == [0, 7, 2, 7]


def test_a_row_of_an_unknown_schema_is_refused(tmp_path):
    """A record whose schema is not in the table is damage, not absence."""
    env = environment(tmp_path, map_size=MIB)
    (key,) = integer_keys(np.array([1]))
    env.write("t", lambda txn: txn.put(key, b"\x01" + b"\x63" * 40))
    with pytest.raises(ArtifactError, match="does not hold; it is damaged"):
        values(env, [1])


@pytest.mark.parametrize("letter", range(3, 50, 5))
def test_a_schema_whose_text_was_altered_is_refused(tmp_path, letter):
    """One letter of a stored schema: no value is read in another type or under another name, the
    directory is named.
    """
    env = environment(tmp_path, map_size=MIB)
    put(env, rows([(1, 1, None, 1)]))
    key = b"!" + SCHEMA.id.to_bytes(4, "little")
    altered = bytearray(SCHEMA.to_json())
    altered[letter % len(altered)] ^= 1
    env.write("t", lambda txn: txn.put(key, bytes(altered)))
    for act in (lambda: values(env, [1]), lambda: put(env, rows([(2, 1, None, 2)]))):
        with pytest.raises(ArtifactError, match=f"{tmp_path}.*its hash differs"):
            act()


def test_the_text_of_another_schema_is_refused(tmp_path):
    """A whole schema in another's place reads as well as an altered one: not at all, also when this
    process knows it.
    """
    env, other = (
        environment(tmp_path, map_size=MIB),
        Schema((("text", "int64_val"), ("value", "string_val"))),
    )
    put(env, rows([(1, 1, None, 1)]))
    values(env, [1])
    env.write("t", lambda txn: txn.put(b"!" + SCHEMA.id.to_bytes(4, "little"), other.to_json()))
    with pytest.raises(ArtifactError, match="its hash differs"):
        values(env, [1])
