"""Brand, category and path of items. Reads: adc_features.data.attributes, through statistics and
the checks of tables.
"""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.data.attributes import attribute_text
from adc_features.data.dataset import dataset_from_tables, read_table
from adc_features.data.statistics import item_profile
from adc_features.errors import InputError

TEXTS = pa.list_(pa.string())
START = datetime(2024, 1, 1, tzinfo=UTC)


def items(**columns):
    return pa.table({"item_id": ["a", "b", "c"], **columns})


def events():
    times = pa.array([START + timedelta(days=n) for n in range(20)], pa.timestamp("us", tz="UTC"))
    return pa.table(
        {
            "user_id": ["u", "v"] * 10,
            "item_id": ["a", "a", "b", "b"] * 5,
            "time": times,
            "label": pa.array([0.0, 1.0, 1.0, 0.0] * 5),
        }
    )


@pytest.mark.parametrize(
    ("values", "kind", "wanted"),
    [
        (
            [["Apparel", "Bottomwear", "Skirts"], ["Apparel", "Topwear"], None],
            TEXTS,
            ["Apparel > Bottomwear > Skirts", "Apparel > Topwear", ""],
        ),
        (
            [["Drama", "Crime"], ["Crime", "Drama"], []],
            TEXTS,
            ["Crime > Drama", "Crime > Drama", ""],
        ),
        ([["Drama", None, "Drama", " "], ["Crime"], [None]], TEXTS, ["Drama", "Crime", ""]),
        ([[["x", "y"], ["z"]], [[], ["x"]], [None]], pa.list_(TEXTS), ["x > y", "x", ""]),
        ([["x"], ["y"], None], pa.large_list(pa.large_string()), ["x", "y", ""]),
        ([["x", "y"], ["y", "x"], None], pa.list_(pa.string(), 2), ["x > y", "x > y", ""]),
        (["p", None, "q"], pa.string(), ["p", "", "q"]),
        ([7, 8, None], pa.int64(), ["7", "8", ""]),
    ],
)
@pytest.mark.parametrize("column", ["category", "categories", "category_path", "category_paths"])
def test_categories_of_every_form_are_read(values, kind, wanted, column):
    """The first path with all its levels;
    where the same values stand in two orders, the lists are sets.
    """
    table = items(**{column: pa.array(values, kind)})
    assert attribute_text(table, "path").to_pylist() == wanted
    assert attribute_text(table, "category").to_pylist() == wanted


@given(st.lists(st.lists(st.sampled_from("pqrs"), unique=True), min_size=1, max_size=8))
def test_equal_sets_are_one_group(drawn):
    """Two items share a path exactly where their lists hold the same values."""
    got = attribute_text(pa.table({"categories": pa.array(drawn, TEXTS)}), "path").to_pylist()
    assert [[a == b for b in got] for a in got] == [
        [set(a) == set(b) for b in drawn] for a in drawn
    ]


def test_lists_of_categories_reach_the_statistics(tmp_path):
    """A catalogue with genre lists, read from Parquet, gives counts by genre set."""
    pq.write_table(
        items(categories=[["Drama", "Crime"], ["Crime", "Drama"], ["Short"]]),
        tmp_path / "items.parquet",
    )
    data = dataset_from_tables("films", read_table(str(tmp_path / "items.parquet")), events())
    got = item_profile(
        data.interactions,
        data.items,
        resolution=data.resolution,
        refresh_at=[START + timedelta(days=30)],
    ).to_pylist()
    last = {row["item_id"]: (row["item_path"], row["path_event_count"]) for row in got}
    assert last == {"a": ("Crime > Drama", 20), "b": ("Crime > Drama", 20), "c": ("Short", 0)}


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("brand", [{"name": "x"}] * 3, pa.struct({"name": pa.string()})),
        ("brand", [b"x", b"\xff", None], pa.binary()),
        ("brand", [["x"], ["y"], None], TEXTS),
        ("category", [b"x", b"y", b"z"], pa.large_binary()),
        ("category", [[1.0], [2.0], None], pa.list_(pa.float32())),
        ("category_path", [[{"name": "x"}]] * 3, pa.list_(pa.struct({"name": pa.string()}))),
        ("categories", [[[["x"]]]] * 3, pa.list_(pa.list_(TEXTS))),
        ("category", [[("x", "y")]] * 3, pa.map_(pa.string(), pa.string())),
    ],
)
def test_other_types_are_refused_before_work(column, values, kind):
    """The refusal names the column, its type and what to do instead."""
    with pytest.raises(
        InputError, match=rf"items\.{column}: type is .*(one brand an item|give text)"
    ):
        dataset_from_tables("x", items(**{column: pa.array(values, kind)}), events())
