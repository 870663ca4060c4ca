"""Packed snapshots: what goes in comes out, bit for bit; what is broken is named. Reads:
adc_features.store.packed.snapshot, store.id_index.
"""

import multiprocessing
import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_world import START, day, snapshot

from adc_features.codes.rows import as_served, sid_rows, with_missing_visible
from adc_features.codes.sids import SidTable
from adc_features.errors import ArtifactError, InputError
from adc_features.store.packed import id_index
from adc_features.store.packed.id_index import build_index, checked_ids
from adc_features.store.packed.snapshot import PackedSnapshot
from adc_features.store.packed.writer import write_snapshot


def pack(path: Path, table: SidTable, *, weight_dtype: str = "float32") -> PackedSnapshot:
    as_of = np.full(len(table), int(table.as_of.timestamp()) * 1_000_000)
    write_snapshot(
        path,
        table,
        sid_as_of=as_of,
        servable_at=day(1),
        computed_at=day(9),
        codebook_hash="11" * 32,
        weight_dtype=weight_dtype,
    )
    return PackedSnapshot(path)


def same(got: SidTable, expected: SidTable) -> bool:
    return got.to_arrow().equals(expected.to_arrow(), check_metadata=True)


@st.composite
def tables(draw):
    """Tables of any id kind, K on both sides of what one byte holds, missing codes, removed rows,
    constant and varying weights.
    """
    text = draw(st.booleans())
    unicode = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    ids = draw(
        st.lists(
            unicode if text else st.integers(-(2**63), 2**63 - 1) | st.integers(0, 20),
            min_size=1,
            max_size=12,
            unique=True,
        )
    )
    k, length, n = draw(st.sampled_from([4, 255, 256, 65_535])), draw(st.integers(1, 4)), len(ids)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = rng.random(n) < 0.8
    sid = np.where(
        found[:, None] & (rng.random((n, length)) < 0.8),
        rng.choice([0, k - 1, k // 2], (n, length)),
        -1,
    ).astype(np.int32)
    weight = np.where(
        rng.random(length) < 0.5,
        np.float32(1),
        rng.random((n, length), np.float32).astype(np.float16).astype(np.float32),
    )
    weight = np.where(sid < 0, np.float32(0), weight).astype(np.float32)
    count = np.where(found, rng.integers(1, 2**31 - 1, n), 0).astype(np.int32)
    scalars = [rng.choice([0, 0.1, 1], n).astype(np.float32) for _ in range(2)]
    second: dict[str, np.ndarray] = {}
    if draw(st.booleans()):
        some = (sid >= 0) & (rng.random((n, length)) < 0.7)
        second["sid_second"] = np.where(some, (sid + 1) % k, -1).astype(np.int32)
        chance = rng.random((n, length), np.float32).astype(np.float16).astype(np.float32)
        second["sid_second_weight"] = np.where(some, chance, np.float32(0))
    return SidTable(
        np.array(ids, np.str_ if text else np.int64),
        sid,
        weight,
        *scalars,
        ~found,
        count,
        found,
        "g1",
        k,
        START,
        **second,
    )


@given(tables(), st.sampled_from(["float32", "float16"]))
@settings(max_examples=150, deadline=None)
def test_a_packed_snapshot_returns_the_table_bit_for_bit(tmp_path_factory, table, weight_dtype):
    """Every item alone, all in any order with repeats and a stranger: equal to a lookup in the
    table itself.
    """
    packed = pack(tmp_path_factory.mktemp("packed") / "x.sids", table, weight_dtype=weight_dtype)
    stranger = (
        np.array(["\U0001f642 nobody"]) if table.item_ids.dtype.kind == "U" else np.array([21])
    )
    asked = np.concatenate([table.item_ids[::-1], stranger, table.item_ids[:1]])
    assert same(packed.lookup(asked), table.lookup(asked))
    for one in table.item_ids:
        assert same(packed.lookup(np.array([one])), table.lookup(np.array([one])))
    everything, _ = packed.table()
    assert same(everything.lookup(table.item_ids), table)
    assert packed.has_second == table.has_second
    assert packed.path.read_bytes()[8] == (3 if table.has_second else 2)
    packed.verify()


def test_many_ids_are_answered_in_one_call(tmp_path):
    """100,000 ids, half of them unknown, equal the table's own lookup:
    a call is gathered in blocks.
    """
    table = snapshot(START, 3, items=np.arange(0, 100_000, 2))
    assert same(
        pack(tmp_path / "x.sids", table).lookup(np.arange(100_000)),
        table.lookup(np.arange(100_000)),
    )


def test_features_are_named_and_typed_as_a_join_shows_them(tmp_path):
    """The columns of a packed read equal those that the published rows give, unknown and removed
    items included.
    """
    table = as_served(snapshot(START, 4, removed=["gone"]))
    rows = sid_rows(table, servable_at=day(1), computed_at=day(9)).drop_columns(
        ["item_id", "event_timestamp", "created_timestamp"]
    )
    unknown = pa.table({field.name: pa.nulls(1, field.type) for field in rows.schema})
    expected = with_missing_visible(pa.concat_tables([rows, unknown]), length=3)
    assert (
        pack(tmp_path / "x.sids", table)
        .features([*table.item_ids.tolist(), "nobody"])
        .equals(expected.combine_chunks())
    )


def test_ten_codes_and_four_weights_take_at_most_forty_bytes(tmp_path):
    """K = 300: twelve bytes of codes, sixteen of weights, a profile number; six constant weights
    take none. The whole file, key and index included.
    """
    n, rng = 20_000, np.random.default_rng(0)
    ids = rng.integers(-(2**62), 2**62, n)
    weight = np.ones((n, 10), np.float32)
    weight[:, 6:] = rng.random((n, 4), np.float32)
    x = (rng.integers(0, 50, n) / 50).astype(np.float32)
    codes = rng.integers(0, 300, (n, 10), dtype=np.int32)
    table = SidTable(
        ids,
        codes,
        weight,
        x,
        x,
        np.zeros(n, bool),
        np.ones(n, np.int32),
        np.ones(n, bool),
        "g1",
        300,
        START,
    )
    packed = pack(tmp_path / "x.sids", table)
    record = packed.record.itemsize
    assert record == 12 + 16 + packed.record["profile"].itemsize
    # ids all over 64 bits take 8 bytes of key
    assert packed.path.stat().st_size / n <= record + 8 + 2 + 1
    dense = pack(tmp_path / "z.sids", replace(table, item_ids=rng.permutation(n) * 7))
    assert dense.path.stat().st_size / n <= 40
    half = pack(
        tmp_path / "y.sids",
        replace(table, sid_weight=weight.astype(np.float16).astype(np.float32)),
        weight_dtype="float16",
    )
    assert half.path.stat().st_size / n <= 41


def test_weights_that_float16_would_round_are_refused(tmp_path):
    """0.1 is no float16: packing refuses it rather than serving other bits than the offline rows
    hold, and leaves no file.
    """
    table = snapshot(START, 1)
    table.sid_weight[0, 1] = 0.2
    with pytest.raises(InputError, match="do not fit the spec's float16 exactly"):
        pack(tmp_path / "x.sids", table, weight_dtype="float16")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.array([1, 2]), "ids of type int64, the table holds string"),
        (np.array([1.5]), "ids of type float64"),
        (np.array([b"a"]), "ids of type .S1"),
        (np.array([["a"]]), r"shape \[1, 1\]"),
        (["a", 1], "of type int and str"),
        ([None], "of type NoneType"),
        ([b"a"], "of type bytes"),
        (["\ud800"], "not UTF-8"),
    ],
)
def test_ids_that_cannot_be_looked_up_are_refused(tmp_path, ids, words):
    """Wrong and mixed types, bytes, a matrix, half characters: each is one clear InputError."""
    packed = pack(tmp_path / "x.sids", snapshot(START, 1))
    with pytest.raises(InputError, match=words):
        packed.lookup(ids)


def test_integer_ids_outside_64_bits_are_refused(tmp_path):
    """2**63 and beyond is no id of ours, as a Python integer or as uint64; booleans and text are
    not integers.
    """
    packed = pack(tmp_path / "x.sids", snapshot(START, 1, items=[1, 2, 3]))
    for ids, words in (
        ([2**70], "64 bits"),
        (np.array([2**63], np.uint64), "64 bits"),
        (["1"], "holds int64"),
        ([True], "of type bool"),
    ):
        with pytest.raises(InputError, match=words):
            packed.lookup(ids)
    assert packed.lookup(np.array([3, 9], np.int32)).found.tolist() == [True, False]
    assert packed.lookup([]).sid.shape == (0, 3)


def test_strings_of_one_hash_stay_two_items(monkeypatch):
    """When the hash says the same of two ids the strings decide; the builder takes the next seed
    until its own ids differ.
    """
    true_keys = id_index.id_keys
    monkeypatch.setattr(
        id_index,
        "id_keys",
        lambda ids, *, base, seed: (
            true_keys(ids, base=base, seed=seed) if seed else np.zeros(len(ids), np.uint64)
        ),
    )
    index, order = build_index(np.array(["a", "b", "c"]))
    assert index.seed == 1
    # now every id looks like one that is there
    monkeypatch.setattr(
        id_index, "id_keys", lambda ids, *, base, seed: np.resize(index.keys, len(ids))
    )
    assert index.find(np.array(["x", "y", "z"])).tolist() == [3, 3, 3]
    assert sorted(order.tolist()) == [0, 1, 2]


# ---- broken files


def error_of(action) -> str | None:
    """What its ArtifactError says; any other error flies."""
    try:
        action()
    except ArtifactError as error:
        return str(error)
    return None


@pytest.fixture
def packed(tmp_path) -> PackedSnapshot:
    return pack(tmp_path / "x.sids", snapshot(START, 3, items=np.arange(500)))


def test_a_cut_file_is_refused_on_opening(packed):
    """Whatever was cut off or appended, opening says which file it is and what to do."""
    whole = packed.path.read_bytes()
    for size in (0, 5, 30, 200, len(whole) // 2, len(whole) - 1):
        packed.path.write_bytes(whole[:size])
        with pytest.raises(ArtifactError, match=r"x\.sids .*publish the generation again"):
            PackedSnapshot(packed.path)
    packed.path.write_bytes(whole + b"x")
    with pytest.raises(ArtifactError, match="cut or appended to"):
        PackedSnapshot(packed.path)


@pytest.mark.parametrize("items", [np.arange(500), np.array([f"item {i}" for i in range(300)])])
def test_any_flipped_bit_is_found(tmp_path, items):
    """A flip in the header is refused on opening, one anywhere else by `verify`; no read of such a
    file does worse than an ArtifactError.
    """
    packed = pack(tmp_path / "x.sids", snapshot(START, 3, items=items))
    whole = packed.path.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(whole), 150):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << (bit % 8)
        packed.path.unlink()  # an open map must keep its own bytes
        packed.path.write_bytes(broken)
        said = error_of(lambda: PackedSnapshot(packed.path))
        if said is None:
            opened = PackedSnapshot(packed.path)
            assert "CRC-32" in error_of(opened.verify)
            reads = [error_of(opened.table), error_of(partial(opened.lookup, items))]
            assert all("was altered" in error for error in reads if error)
        else:
            assert "x.sids" in said
    assert packed.lookup(items).found.all()


@pytest.mark.parametrize("end", [0, -1])
def test_strings_that_end_outside_of_the_text_are_refused_on_opening(tmp_path, end):
    """A first or last offset of the ids that points outside is damage, said in our words."""
    packed = pack(tmp_path / "x.sids", snapshot(START, 3, items=np.array(["a", "bc", "d"])))
    where = packed._header["sections"]["id_offsets"]
    data, dtype = bytearray(packed.path.read_bytes()), np.dtype(where["dtype"])
    offsets = np.frombuffer(data, dtype, 4, where["offset"])
    offsets[end] = -1 if end == 0 else 1_000
    packed.path.unlink()
    packed.path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"x\.sids points outside of itself"):
        PackedSnapshot(packed.path)


def test_another_format_is_named(packed):
    """A newer version's file is refused, and the reader is told to upgrade; so is format 0."""
    data = bytearray(packed.path.read_bytes())
    for version, words in (
        (0, "format version 0, of which there is none"),
        (4, "format 4, this version reads up to 3.*made by a newer version"),
    ):
        data[8] = version
        packed.path.write_bytes(data)
        with pytest.raises(ArtifactError, match=words):
            PackedSnapshot(packed.path)
    with pytest.raises(ArtifactError, match=r"cannot be opened \(No such file"):
        PackedSnapshot(packed.path.with_name("y.sids"))


def test_a_disk_that_fills_up_leaves_no_file(packed, monkeypatch):
    """When syncing fails the half-written file is gone and the old one is whole."""
    before = packed.path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        pack(packed.path, snapshot(START, 1))
    assert [p.name for p in packed.path.parent.iterdir()] == ["x.sids"]
    assert packed.path.read_bytes() == before


def _codes(packed: PackedSnapshot) -> list[int]:
    return packed.lookup([1, 2]).sid[:, 0].tolist()


def test_another_process_opens_the_same_file_or_none(packed):
    """An open snapshot is sent to a worker as its path and checksum: the worker sees the same
    codes, or says that they were replaced.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_codes, (packed,)) == [3, 3]
    sent = pickle.dumps(packed)
    pack(packed.path, snapshot(START, 5, items=np.arange(500)))
    with pytest.raises(ArtifactError, match="published anew"):
        pickle.loads(sent)
    assert _codes(packed) == [3, 3]


def test_checked_ids_takes_arrow_and_lists():
    """Arrow columns, lists and arrays of ids are one thing."""
    for ids in (
        pa.array(["a", "b"]),
        pa.chunked_array([["a"], ["b"]]),
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"], object),
    ):
        assert checked_ids(ids, "string").tolist() == ["a", "b"]
