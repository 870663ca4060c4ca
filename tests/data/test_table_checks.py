"""What is wrong with a user's tables, in plain words. Reads: adc_features.data.table_checks."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from adc_features.data.dataset import dataset_from_tables
from adc_features.data.table_checks import Finding, examine_interactions, examine_items
from adc_features.errors import InputError

START = datetime(2024, 1, 1, 8, tzinfo=UTC)
UTC_TIME = pa.timestamp("us", tz="UTC")
VECTORS = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 1.0]]


def items(**columns):
    return pa.table(
        {
            "item_id": ["a", "b", "c", "d"],
            "title": ["w", "x", "y", "z"],
            "vector_image": VECTORS,
            **columns,
        }
    )


def events(**columns):
    times = pa.array([START + timedelta(days=n) for n in range(8)], UTC_TIME)
    plain = {
        "user_id": ["u", "v"] * 4,
        "item_id": ["a", "b", "c", "d"] * 2,
        "time": times,
        "label": [0, 1] * 4,
    }
    return pa.table({**plain, **columns})


def said(findings, level):
    return [str(f) for f in findings if f.level == level]


def test_a_sound_pair_of_tables_has_no_complaint():
    """Facts only: the span of time and the share of positives."""
    findings = examine_items(items(), text_views={"title": ("title",)}) + examine_interactions(
        events(), items()
    )
    assert findings == [
        Finding(
            "fact", "interactions.time", "8 rows from 2024-01-01T08:00:00 to 2024-01-08T08:00:00"
        ),
        Finding("fact", "interactions.label", "50.0% of the rows are positive"),
    ]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (items().slice(0, 0), "items: the table is empty; give at least one row"),
        (
            items().slice(0, 1),
            "items: there is one item; a ranking needs at least two; give the whole catalogue",
        ),
        (
            items().drop_columns("item_id"),
            (
                "items: columns ['item_id'] are missing; got ['title', 'vector_image']; rename or"
                " add them"
            ),
        ),
        (
            items(item_id=["a", "b", "a", "a"]),
            "items.item_id: 2 rows repeat an item id (first a); keep one row an item",
        ),
        (items(item_id=["a", None, "c", "d"]), "items.item_id: 1 ids are null; drop these rows"),
        (
            items(item_id=[1.0, 2.0, 3.0, 4.0]),
            "items.item_id: ids are of type double; use integers or strings",
        ),
        (
            items(item_id=[["a"], ["b"], ["c"], ["d"]]),
            "items.item_id: ids are of type list<item: string>; use integers or strings",
        ),
        (
            items(item_id=pa.array([1, 2, 3, 2**63], pa.uint64())),
            "items.item_id: ids exceed the range of int64; store them as strings",
        ),
        (
            items(vector_image=[[1.0, float("nan")], *VECTORS[1:]]),
            "1 vectors hold NaN, null or infinite values; repair them",
        ),
        (
            items(vector_image=[[1.0, None], *VECTORS[1:]]),
            "1 vectors hold NaN, null or infinite values; repair them",
        ),
        (
            items(vector_image=[[1.0, 1e300], *VECTORS[1:]]),
            "1 vectors hold NaN, null or infinite values; repair them",
        ),
        (
            items(vector_image=[[0.0, 0.0], *VECTORS[1:]]),
            "items.vector_image: 1 vectors are all zeros; set them to null: absent is not zero",
        ),
        (
            items(vector_image=[[3.0, 4.0]] * 4),
            "items.vector_image: all vectors are equal; they carry no information, drop the column",
        ),
        (
            items(vector_image=[[0.0, 0.0]] * 4),
            "items.vector_image: all vectors are equal; they carry no information, drop the column",
        ),
        (
            items(vector_image=[[1.0], *VECTORS[1:]]),
            "items.vector_image: vectors have widths [1, 2]; give one width above 0",
        ),
        (
            items(vector_image=pa.array([None] * 4, pa.list_(pa.float32()))),
            "every vector is null: the modality is missing; drop the column",
        ),
        (
            items(vector_image=["[1, 2]", "oops", "", "x"]),
            "items.vector_image: type is string; vectors are lists of floats",
        ),
        (
            items(vector_image=[["a"], ["b"], ["c"], ["d"]]),
            "items.vector_image: type is list<item: string>; vectors are lists of floats",
        ),
        (items(vector_behavior=VECTORS), "modality behavior: this name is reserved"),
        (
            items(vector_title=VECTORS),
            (
                "modality title: it has a vector column and a text view; keep one of them, or"
                " rename one"
            ),
        ),
        (
            items(title=["", " ", None, ""]),
            "text view title: no item has text; leave this view out",
        ),
        (
            items(title=[["a"], ["b"], ["c"], ["d"]]),
            "text view title: columns ['title'] are not text; join their values into strings",
        ),
        (
            items().drop_columns("title"),
            (
                "text view title: columns ['title'] are missing; items have ['item_id',"
                " 'vector_image']; name existing columns"
            ),
        ),
    ],
)
def test_items_that_cannot_be_used(table, words):
    """Each error is one plain sentence: where, what, what to do."""
    errors = said(examine_items(table, text_views={"title": ("title",)}), "error")
    assert any(words in e for e in errors), errors


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (events().slice(0, 0), "interactions: the table is empty; give at least one row"),
        (
            events().drop_columns("label"),
            (
                "interactions: columns ['label'] are missing; got ['user_id', 'item_id', 'time'];"
                " rename or add them"
            ),
        ),
        (
            events(user_id=["u"] * 8),
            (
                "interactions.user_id: all rows have one user_id; a ranking needs several; give"
                " more data"
            ),
        ),
        (events(item_id=["a"] * 8), "interactions.item_id: all rows have one item_id"),
        (events(user_id=pa.nulls(8)), "interactions.user_id: ids are of type null"),
        (
            events(item_id=["x"] * 4 + ["y"] * 4),
            (
                "interactions.item_id: no interaction names a known item; check that both tables"
                " use the same ids"
            ),
        ),
        (
            events(item_id=[1, 2] * 4),
            "interactions.item_id: type int64 cannot match items of type string; use one type",
        ),
        (
            events(time=events()["time"].cast(pa.timestamp("us"))),
            "interactions.time: times have no time zone; convert them to UTC",
        ),
        (
            events(time=list(range(8))),
            "interactions.time: type is int64; give timestamps with a time zone",
        ),
        (
            events(time=["2024-01-01 00:00"] * 8),
            "times are text such as '2024-01-01 00:00'; give every one an offset",
        ),
        (
            events(time=pa.array([None, *[START] * 7], UTC_TIME)),
            "interactions.time: 1 times are null; drop these rows",
        ),
        (
            events(time=pa.array([START] * 8, UTC_TIME)),
            "interactions.time: every row has the time 2024-01-01T08:00:00",
        ),
        (
            events(label=[1] * 8),
            "interactions.label: every label is 1; a ranker needs both classes",
        ),
        (
            events(label=[1, 2, 3, 4, 5, 3, 3, 3]),
            (
                "interactions.label: labels take 5 values such as [1.0, 2.0, 3.0]; give 0 or 1, for"
                " example rating > 3"
            ),
        ),
        (
            events(label=[1.0, 0.0, float("nan"), 0, 0, 0, 0, 0]),
            "interactions.label: labels take 3 values",
        ),
        (
            events(label=[None, *[1, 0] * 3, 1]),
            "interactions.label: 1 labels are null; drop these rows",
        ),
        (events(label=["yes", "no"] * 4), "interactions.label: type is string; labels are 0 or 1"),
    ],
)
def test_interactions_that_cannot_be_used(table, words):
    """Each error is one plain sentence, and a dataset
    of such a table is refused with it before any work.
    """
    errors = said(examine_interactions(table, items()), "error")
    assert any(words in e for e in errors), errors
    with pytest.raises(InputError) as refusal:
        dataset_from_tables("x", items(), table)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("findings", "words"),
    [
        (
            examine_items(items(vector_image=[None, *VECTORS[1:]]), text_views={}),
            "1 of 4 items have no vector; they get no code at this modality's position",
        ),
        (
            examine_items(items(title=["", None, "y", "z"]), text_views={"t": ("title",)}),
            "text view t: 2 of 4 items have no text",
        ),
        (
            examine_items(items(image=VECTORS), text_views={}),
            "items.image: looks like vectors but is not used; rename it to vector_image",
        ),
        (
            examine_items(items(image=pa.array(VECTORS, pa.list_(pa.float32(), 2))), text_views={}),
            "looks like vectors but is not used",
        ),
        (
            examine_items(items().select(["item_id", "title"]), text_views={}),
            "no vector_<modality> column and no text view",
        ),
        (
            examine_interactions(
                pa.concat_tables([events(), *[events().slice(0, 1)] * 10]), items()
            ),
            "interactions: 10 rows repeat user, item, time and label of another row",
        ),
        (
            examine_interactions(events(item_id=["a", "x"] * 4), items()),
            "4 of 8 rows name items that the item table lacks",
        ),
        (
            examine_interactions(events(item_id=["a", "b"] * 4), items()),
            "2 of 4 items have no interaction; they are cold",
        ),
        (
            examine_interactions(
                events(
                    time=pa.array([START - timedelta(hours=8, days=n) for n in range(8)], UTC_TIME)
                )
            ),
            (
                "every stamp is a midnight: the data has day resolution; features that contain a"
                " day become valid on the next day"
            ),
        ),
    ],
)
def test_what_is_worth_knowing(findings, words):
    """Warnings do not stop the pipeline; they say what will follow."""
    assert said(findings, "error") == []
    assert any(words in w for w in said(findings, "warning")), findings


def test_ids_may_differ_in_width():
    """int32 events meet int64 items, and large strings meet strings."""
    big = items(item_id=[1, 2, 3, 2**40])
    assert (
        said(examine_interactions(events(item_id=pa.array([1, 2] * 4, pa.int32())), big), "error")
        == []
    )
    assert (
        said(
            examine_interactions(
                events(item_id=pa.array(["a", "b"] * 4, pa.large_string())), items()
            ),
            "error",
        )
        == []
    )
