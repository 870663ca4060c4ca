"""Rows that are kept decoded beside what is read afresh: never another answer."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.store.lmdb.entity_keys import integer_keys
from adc_features.store.lmdb.environment import environment
from adc_features.store.lmdb.kept_rows import Kept, KeptRows
from adc_features.store.lmdb.records import NO_CREATED, Schema
from adc_features.store.lmdb.row_table import Rows, delete, read, write

KINDS = {
    "number": ("double_val", pa.float64(), st.none() | st.floats(-9, 9)),
    "whole": ("int64_val", pa.int64(), st.none() | st.integers(-3, 3)),
    "text": ("string_val", pa.string(), st.none() | st.sampled_from(["", "a", "é", "long text"])),
    "codes": ("int32_list_val", pa.list_(pa.int32()), st.none() | st.just([1, 2]) | st.just([])),
    "seen": ("bool_val", pa.bool_(), st.none() | st.booleans()),
}
SCHEMA = Schema(tuple((name, kind) for name, (kind, _, _) in KINDS.items()))
OTHER = Schema((("number", "double_val"),))
KEYS = st.integers(0, 6)
ROW = st.fixed_dictionaries({name: values for name, (_, _, values) in KINDS.items()})
MIB = 1 << 20


def put(env, rows: dict[int, dict], event: int, schema: Schema = SCHEMA) -> None:
    """Rows by key, all of one time."""
    count = len(rows)
    columns = {
        name: pa.array([row[name] for row in rows.values()], KINDS[name][1])
        for name, _ in schema.features
    }
    keys = pa.array(integer_keys(np.array(list(rows))), pa.large_binary())
    times = np.full(count, event), np.full(count, NO_CREATED)
    write(env, "t", lambda: [Rows(schema, keys, *times, columns)])


def same(env, kept: Kept, keys: list[bytes], oldest: int | None = None) -> None:
    """What is kept says what a fresh read says, of every feature and in every form."""
    fresh, again = read(env, "t", keys, oldest=oldest), kept.answer()
    assert kept.found.tolist() == fresh.found.tolist()
    for name, (_, type_, _) in KINDS.items():
        expected = fresh.to_arrow(name, type_)
        assert again.to_arrow(name, type_).equals(expected), name
        if name in ("number", "whole"):
            got = kept.numbers[:, kept.columns[name][1]]
            known = [None if np.isnan(v) else v for v in got.tolist()]
            assert known == [None if v is None else float(v) for v in expected.to_pylist()]
        if name == "text":
            place = kept.columns[name][1]
            texts = [kept.dictionaries[place].values[c] for c in kept.codes[:, place].tolist()]
            assert texts == [None if v is None else v.encode() for v in expected.to_pylist()]
        if name == "codes" and name in kept.lists:
            numbers, valid = kept.lists[name]
            lists = [v.tolist() if k else None for v, k in zip(numbers, valid, strict=True)]
            assert lists == expected.to_pylist()


CHANGE = st.tuples(st.just("put"), st.dictionaries(KEYS, ROW, min_size=1, max_size=4))
STEP = CHANGE | st.tuples(st.just("delete"), st.lists(KEYS, min_size=1, max_size=2))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(STEP, min_size=1, max_size=5),
    st.lists(st.lists(KEYS, min_size=1, max_size=8), min_size=1, max_size=3),
    st.sampled_from([2_000, 10_000, MIB]),
)
def test_kept_rows_say_what_a_fresh_read_says(steps, asked, most):
    """Rows are written, changed and deleted between reads of some of them, repeats and unknown keys
    among them, within any bound: values, nulls, lists and expiry are those of a fresh read."""
    with tempfile.TemporaryDirectory() as directory:
        env = environment(Path(directory), map_size=MIB)
        kept = KeptRows(env, "t", list(KINDS), most_bytes=most)
        for time, (what, rows) in enumerate(steps):
            if what == "put":
                put(env, rows, time)
            else:
                delete(env, "t", integer_keys(np.array(rows)))
            for numbers in asked:
                keys = integer_keys(np.array(numbers))
                for oldest in (None, time):
                    if (got := kept.read(keys, oldest=oldest)) is not None:
                        same(env, got, keys, oldest)
        env.close()


def test_a_row_is_decoded_once_until_it_changes(tmp_path, monkeypatch):
    """Unchanged rows are not decoded again, after a write to another row neither; the changed one
    is."""
    from adc_features.store.lmdb import kept_rows

    env, decoded = environment(tmp_path, map_size=MIB), []

    def counted(schema, joined, wanted, before=kept_rows.decode):
        decoded.append(len(joined.lengths))
        return before(schema, joined, wanted)

    monkeypatch.setattr(kept_rows, "decode", counted)
    row = {"number": 1.0, "whole": 1, "text": "a", "codes": [1, 2], "seen": True}
    put(env, {1: row, 2: row}, 0)
    kept, keys = KeptRows(env, "t", list(KINDS)), integer_keys(np.array([1, 2, 3]))
    assert [kept.read(keys).found.tolist() for _ in range(2)] == [[True, True, False]] * 2
    put(env, {2: row | {"number": 5.0}}, 1)
    assert kept.read(keys).numbers[:, 0].tolist()[:2] == [1.0, 5.0]
    put(env, {3: row}, 1)
    assert kept.read(keys).found.tolist() == [True, True, True]
    assert decoded == [2, 1, 1]
    env.close()


def test_rows_of_several_schemas_are_not_kept(tmp_path):
    """They are read afresh each time; so is what is larger than the bound."""
    env = environment(tmp_path, map_size=MIB)
    row = {"number": 1.0, "whole": 1, "text": "a", "codes": [1, 2], "seen": True}
    keys = integer_keys(np.array([1, 2]))
    assert KeptRows(env, "t", list(KINDS)).read(keys) is None
    put(env, {1: row}, 0)
    assert KeptRows(env, "t", list(KINDS), most_bytes=100).read(keys) is None
    put(env, {2: row}, 0, OTHER)
    assert KeptRows(env, "t", list(KINDS)).read(keys) is None
    env.close()
