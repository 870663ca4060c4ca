"""Streaming rows into a training loop: order, shards, types, resuming. Reads:
adc_features.loader.batches, row_groups, torch_batches, xgboost_batches.
"""

import pickle
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_world import day, snapshots

from adc_features.errors import ArtifactError, InputError
from adc_features.loader.batches import Columns, Order, array_batches
from adc_features.loader.row_groups import CodedGroups, JoinedGroups, ParquetGroups, TableGroups

LISTS = {"sid": 3, "sid_weight": 3}
COLUMNS = Columns(
    ("row_id", "x", "label"), LISTS, codes=("sid",), vocabularies={"brand": np.array(["b0", "b1"])}
)


def table(rows: int) -> pa.Table:
    n = np.arange(rows)
    return pa.table(
        {
            "row_id": n,
            "x": pa.array(n / 2, pa.float32(), mask=n % 7 == 3),
            "label": pa.array((n % 3 == 0).astype(np.float32)),
            "sid": pa.array([[i % 5 - 1, i % 4, 2] for i in range(rows)], pa.list_(pa.int32())),
            "sid_weight": pa.array([[0.5, i, 1.0] for i in range(rows)], pa.list_(pa.float32())),
            "brand": [f"b{i % 3}" if i % 5 else None for i in range(rows)],
            "event_timestamp": pa.array([day(0)] * rows, pa.timestamp("us", tz="UTC")),
        }
    )


def row_ids(batches) -> list[list[int]]:
    return [batch["row_id"].tolist() for batch in batches]


SHARDS = st.tuples(
    st.integers(1, 60),
    st.integers(1, 13),
    st.integers(1, 9),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(1, 3),
)


@settings(max_examples=150, deadline=None)
@given(
    shards=SHARDS,
    seed=st.sampled_from([None, 0, 5]),
    epoch=st.integers(0, 2),
    remainder=st.sampled_from(["pad", "drop"]),
)
def test_every_row_is_seen_once_over_ranks_and_workers(shards, seed, epoch, remainder):
    """Each rank has as many rows and batches; "pad" repeats fewer than `ranks` rows and loses none,
    "drop" repeats none and fills every batch.
    """
    rows, group_rows, batch_rows, buffer_rows, ranks, workers = shards
    source, seen, sizes = TableGroups(table(rows), group_rows=group_rows), Counter(), []
    for rank in range(ranks):
        order = Order(
            batch_rows,
            seed=seed,
            buffer_rows=buffer_rows,
            rank=rank,
            ranks=ranks,
            remainder=remainder,
        )
        by_worker = [
            row_ids(
                array_batches(
                    source, Columns(("row_id",)), order, epoch=epoch, worker=w, workers=workers
                )
            )
            for w in range(workers)
        ]
        counts = [len(b) for b in by_worker]
        assert sorted(counts, reverse=True) == counts
        assert counts[0] - counts[-1] <= 1  # so DataLoader, which asks in turn, meets them in order
        assert sum(counts) == order.batches(rows)
        sizes.append(sum(len(batch) for batches in by_worker for batch in batches))
        assert remainder == "pad" or all(
            len(batch) == batch_rows for batches in by_worker for batch in batches
        )
        seen.update(i for batches in by_worker for batch in batches for i in batch)
    assert len(set(sizes)) == 1
    if remainder == "pad":
        assert set(seen) == set(range(rows))
        assert seen.total() - rows < ranks
    else:
        assert set(seen.values()) <= {1}
        assert rows - seen.total() < ranks * batch_rows


@settings(max_examples=60, deadline=None)
@given(shards=SHARDS, skip=st.integers(0, 20))
def test_skipping_equals_reading_and_dropping(shards, skip):
    """Batches after a skip are those of an uninterrupted epoch, whatever buffers and groups they
    cut.
    """
    rows, group_rows, batch_rows, buffer_rows, ranks, workers = shards
    source, order = (
        TableGroups(table(rows), group_rows=group_rows),
        Order(batch_rows, buffer_rows=buffer_rows, ranks=ranks),
    )
    whole = row_ids(array_batches(source, Columns(("row_id",)), order, workers=workers))
    assert (
        row_ids(array_batches(source, Columns(("row_id",)), order, workers=workers, skip=skip))
        == whole[skip:]
    )


def test_a_seed_gives_one_order_and_an_epoch_another():
    """Same seed and epoch: same batches; another epoch or seed: another order; no seed: the
    source's own.
    """
    source, columns = TableGroups(table(200), group_rows=30), Columns(("row_id",))
    orders = [
        row_ids(array_batches(source, columns, Order(16, seed=s), epoch=e))
        for s, e in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != orders[3]
    assert np.concatenate(
        row_ids(array_batches(source, columns, Order(16, seed=None)))
    ).tolist() == list(range(200))


def test_rows_stay_whole_and_have_their_types():
    """A shuffled row keeps its values; codes are shifted by one, unknown texts are 0, a null float
    is NaN, lists are [B, L].
    """
    rows = table(100).to_pylist()
    for batch in array_batches(
        TableGroups(table(100), group_rows=17), COLUMNS, Order(8, buffer_rows=40)
    ):
        kinds = {name: (v.dtype, v.ndim) for name, v in batch.items()}
        assert kinds == {
            "row_id": (np.int64, 1), "x": (np.float32, 1), "label": (np.float32, 1),
            "sid": (np.int64, 2), "sid_weight": (np.float32, 2), "brand": (np.int64, 1),
        }  # fmt: skip
        for i, row in enumerate(batch["row_id"]):
            want = rows[row]
            assert batch["sid"][i].tolist() == [c + 1 for c in want["sid"]]
            assert batch["sid_weight"][i].tolist() == want["sid_weight"]
            assert batch["brand"][i] == {"b0": 1, "b1": 2}.get(want["brand"], 0)
            assert batch["x"][i] == want["x"] or (want["x"] is None and np.isnan(batch["x"][i]))


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns(("absent",)), "no column absent"),
        (Columns(("brand",)), "a text needs a vocabulary"),
        (Columns(("whole",)), "fill={'whole'"),
        (Columns(lists={"sid": 4}), "column sid: .*expected 4"),
        (Columns(lists={"gaps": 2}), "null lists"),
        (Columns(lists={"x": 2}), "expected lists"),
    ],
)
def test_what_cannot_become_an_array_is_refused(columns, says):
    """Missing columns, texts, nulls without a fill and lists of other lengths name the column and
    what to do.
    """
    rows = (
        table(3)
        .append_column("whole", pa.array([1, None, 3]))
        .append_column("gaps", pa.array([[1, 2], None, [3, 4]]))
    )
    with pytest.raises(InputError, match=says):
        columns.arrays(rows)


def test_a_fill_stands_for_nulls():
    """Integers and lists with a fill keep their type."""
    rows = pa.table(
        {"n": pa.array([1, None], pa.int32()), "l": pa.array([None, [1, 2]], pa.list_(pa.int16()))}
    )
    arrays = Columns(("n",), {"l": 2}, fill={"n": -1, "l": -5}).arrays(rows)
    assert arrays["n"].tolist() == [1, -1]
    assert arrays["n"].dtype == np.int32
    assert arrays["l"].tolist() == [[-5, -5], [1, 2]]


def test_sources_agree_and_pickle(tmp_path):
    """Parquet row groups, a table, a join and the late join give the same rows, also after
    pickling, as loader workers receive them.
    """
    rows = table(50)
    pq.write_table(rows, tmp_path / "a.parquet", row_group_size=16)
    parquet = ParquetGroups(tmp_path / "a.parquet")
    parquet.read(0)
    for source in (
        TableGroups(rows, group_rows=16),
        pickle.loads(pickle.dumps(parquet)),
        JoinedGroups(parquet, AddsNothing()),
    ):
        assert pa.concat_tables([source.read(g) for g in range(len(source.rows))]).equals(rows)
        assert source.rows.tolist() == [16, 16, 16, 2]
    asked = pa.table(
        {
            "item_id": ["i01", "i59", "nobody"],
            "event_timestamp": pa.array([day(30), day(90), day(90)], pa.timestamp("us", tz="UTC")),
        }
    )
    late = CodedGroups(TableGroups(asked), snapshots()).read(0)
    sid, weight, _ = snapshots().gather(
        asked["item_id"].to_numpy().astype(str),
        asked["event_timestamp"].to_numpy().astype("datetime64[us]"),
    )
    assert late["sid"].to_pylist() == sid.tolist()
    assert late["sid_weight"].to_pylist() == weight.tolist()


class AddsNothing:
    def join(self, entity_frame: pa.Table) -> pa.Table:
        return entity_frame


def test_files_that_do_not_fit_are_refused(tmp_path):
    """A broken file, other columns and missing columns are named before a row is read."""
    pq.write_table(table(3), tmp_path / "a.parquet")
    pq.write_table(table(3).drop_columns(["x"]), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="other columns"):
        ParquetGroups([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    with pytest.raises(InputError, match="no column y"):
        ParquetGroups(tmp_path / "a.parquet", columns=["y"])
    with pytest.raises(ArtifactError, match=re.escape("c.parquet")):
        ParquetGroups(tmp_path / "c.parquet")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumes_with_the_exact_next_batch(workers):
    """State taken in the middle of the second epoch, loaded elsewhere: the same tensors follow as
    without the break, over worker processes too.
    """
    from adc_features.loader.torch_batches import TrainingLoader

    source, order = TableGroups(table(70), group_rows=11), Order(8, buffer_rows=24)
    whole = TrainingLoader(source, COLUMNS, order, workers=workers)
    assert len(list(whole)) == len(whole) == 9
    follow, state = [], None
    for number, batch in enumerate(whole):
        follow.append(batch)
        if number == 2:
            state, follow = whole.state_dict(), []
    again = TrainingLoader(source, COLUMNS, order, workers=workers)
    again.load_state_dict(state)
    resumed = list(again)
    assert row_ids(resumed) == row_ids(follow)
    assert len(resumed) == 6
    assert all(set(batch) == set(COLUMNS.names) for batch in resumed)
    assert resumed[0]["sid"].shape == (8, 3)
    with pytest.raises(InputError, match="another order"):
        TrainingLoader(source, COLUMNS, Order(9), workers=workers).load_state_dict(state)


def test_xgboost_learns_the_same_from_groups_as_from_memory():
    """Trees from the iterator's matrix predict bit for bit as those from one matrix in memory;
    codes are categories.
    """
    import xgboost as xgb

    from adc_features.loader.xgboost_batches import GroupIter, quantile_matrix

    rows, columns = (
        table(600),
        Columns(
            ("x", "label"), LISTS, codes=("sid",), vocabularies={"brand": np.array(["b0", "b1"])}
        ),
    )
    streamed = quantile_matrix(TableGroups(rows, group_rows=64), columns)
    arrays = columns.arrays(rows)
    dense = np.concatenate(
        [arrays["x"][:, None], arrays["sid"], arrays["sid_weight"], arrays["brand"][:, None]],
        axis=1,
    ).astype(np.float32)
    names = GroupIter(TableGroups(rows), columns, label="label")
    whole = xgb.QuantileDMatrix(
        dense,
        arrays["label"],
        feature_names=names.names,
        feature_types=names.types,
        enable_categorical=True,
    )
    assert names.types == ["float", "c", "c", "c", "float", "float", "float", "c"]
    boosters = [
        xgb.train({"objective": "binary:logistic", "nthread": 1, "seed": 1}, m, 5)
        for m in (streamed, whole)
    ]
    answers = [b.predict(whole) for b in boosters]
    assert np.array_equal(*answers)
    assert len(np.unique(answers[0])) > 1


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ([[3.0, 1.0], [float("nan"), 2.0]], "column c: .*nan"),
        ([[1.7, 0.0]], "column c: .*1.7"),
        ([[-7.0, 0.0]], "-7..0; expected -1"),
        ([[-2, 0]], "-2..0; expected -1"),
        ([[float("inf"), 0.0]], "inf"),
        ([[2.0**40, 0.0]], "expected -1"),
        ([[5, 0]], r"expected -1\.\.4"),
        ([[1.0, 2.0], None], "null lists"),
    ],
)
def test_what_is_no_code_is_refused(lists, says):
    """Codes are whole numbers in -1..K-1 in whatever type the file has them; a missing list of them
    is no number.
    """
    with pytest.raises(InputError, match=says):
        Columns(lists={"c": 2}, codes={"c": 5}).arrays(pa.table({"c": lists}))
    if "4" not in says:
        with pytest.raises(InputError, match=says):
            Columns(lists={"c": 2}, codes=("c",)).arrays(pa.table({"c": lists}))


@settings(max_examples=60, deadline=None)
@given(
    codes=st.lists(st.lists(st.integers(-1, 4), min_size=2, max_size=2), max_size=5),
    kind=st.sampled_from(
        [pa.int8(), pa.int32(), pa.int64(), pa.float16(), pa.float32(), pa.float64()]
    ),
    kept=st.sampled_from([pa.list_, pa.large_list, lambda value: pa.list_(value, 2)]),
)
def test_codes_are_the_same_in_every_type(codes, kind, kept):
    """Whole floats are the codes that they are equal to, in lists of every form."""
    column = pa.array(
        [[np.float16(c) for c in row] if kind == pa.float16() else row for row in codes], kept(kind)
    )
    got = Columns(lists={"c": 2}, codes={"c": 5}).arrays(pa.table({"c": column}))["c"]
    assert got.dtype == np.int64
    assert got.tolist() == [[c + 1 for c in row] for row in codes]


@pytest.mark.parametrize(
    "kind",
    [
        pa.int8(),
        pa.bool_(),
        pa.float32(),
        pa.timestamp("us"),
        pa.list_(pa.uint8()),
        pa.list_(pa.float32()),
    ],
)
@pytest.mark.parametrize("fill", [300, 1.5, -1, 2, float("nan"), 1e300, "x", 10**400])
def test_a_fill_fits_its_column_or_is_refused_by_name(kind, fill):
    """A fill is never cut, wrapped or made infinite: it is the value that stands in the array, or
    the column is named.
    """
    value = kind.value_type if pa.types.is_list(kind) else kind
    rows = pa.table({"n": pa.array([None], kind)})
    columns = (
        Columns(lists={"n": 1}, fill={"n": fill})
        if value is not kind
        else Columns(("n",), fill={"n": fill})
    )
    held = {
        pa.int8(): [-1, 2],
        pa.bool_(): [],
        pa.float32(): [300, 1.5, -1, 2],
        pa.timestamp("us"): [300, -1, 2],
        pa.uint8(): [2],
    }
    if fill in held[value] or (value == pa.float32() and fill != fill):
        assert columns.arrays(rows)["n"].tolist() in ([fill], [[fill]]) or fill != fill
    else:
        with pytest.raises(InputError, match="column n is of type"):
            columns.arrays(rows)


def test_lists_of_text_and_vocabularies_of_another_type_are_refused_by_name():
    """No object arrays and no raw Arrow errors leave the loader."""
    rows = pa.table(
        {
            "words": [["a", "b"]],
            "moments": pa.array([[1, 2]], pa.list_(pa.timestamp("us"))),
            "pairs": [[{"a": 1}, {"a": 2}]],
            "n": [1],
        }
    )
    for name, kind in (("words", "string"), ("moments", "timestamp"), ("pairs", "struct")):
        with pytest.raises(InputError, match=rf"column {name}: .*lists of {kind}"):
            Columns(lists={name: 2}).arrays(rows)
    with pytest.raises(InputError, match="column n is of type int64 and its vocabulary is not"):
        Columns(vocabularies={"n": np.array(["a"])}).arrays(rows)


def test_dictionaries_count_as_their_values():
    """What pandas wrote as categories is read as the texts and numbers that they are."""
    rows = pa.table(
        {
            "brand": pa.array(["b", None, "a"]).dictionary_encode(),
            "n": pa.array([7, 8, 7]).dictionary_encode(),
        }
    )
    got = Columns(("n",), vocabularies={"brand": np.array(["a", "b"])}).arrays(rows)
    assert got["brand"].tolist() == [2, 0, 1]
    assert got["n"].tolist() == [7, 8, 7]
