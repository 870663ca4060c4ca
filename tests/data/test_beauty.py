"""Amazon Reviews 2014, category Beauty, in both its forms. Reads: adc_features.data.beauty."""

import gzip
import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adc_features.data.beauty import META, REVIEWS, beauty, is_beauty
from adc_features.errors import InputError

DAY = 86_400
FIRST = 1_356_998_400  # 2013-01-01, a midnight
RATINGS = [  # (user, item, rating, day): two ratings of one user on one day, in no order
    ("U2", "B2", 5.0, 3),
    ("U1", "B3", 3.0, 0),
    ("U1", "B1", 4.0, 0),
    ("U2", "B1", 1.0, 0),
    ("U1", "B2", 2.0, 200),
    ("U2", "B3", 5.0, 600),
]
PATHS = {
    "B1": ["Beauty", "Makeup", "Face", "Powder"],
    "B2": ["Beauty", "Hair Care"],
    "B3": ["Beauty"],
}
TITLES = {"B1": "Rouge 'n' \"Noir\"", "B2": "Crème brûlée soap", "B3": None}


def published(directory):
    """The published files: JSON lines of reviews by item, Python literals of metadata, one item
    that nobody reviewed.
    """
    with gzip.open(directory / REVIEWS, "wt", encoding="utf-8") as file:
        for user, item, rating, day in sorted(RATINGS, key=lambda r: r[1]):
            row = {
                "reviewerID": user,
                "asin": item,
                "reviewText": "it's fine",
                "overall": rating,
                "unixReviewTime": FIRST + day * DAY,
            }
            file.write(json.dumps(row) + "\n")
    with gzip.open(directory / META, "wt", encoding="utf-8") as file:
        for item in ("B9", "B3", "B1", "B2"):
            row = {
                "asin": item,
                "price": 9.99,
                "categories": [PATHS.get(item, ["Beauty"]), ["Other", "Path"]],
            }
            row |= {"title": TITLES[item], "brand": "Bräu"} if TITLES.get(item) else {}
            file.write(repr(row) + "\n")


def parquet(directory):
    """The same as two Parquet files, ratings by time."""
    rows = sorted(RATINGS, key=lambda r: r[3])
    ids = ["B2", "B1", "B3"]
    items = {
        "item_id": ids,
        "title": [TITLES[i] for i in ids],
        "brand": ["Bräu" if TITLES[i] else None for i in ids],
        "category_paths": [[" > ".join(PATHS[i]), "Other > Path"] for i in ids],
    }
    pq.write_table(pa.table(items), directory / "items.parquet")
    user, item, rating, day = zip(*rows, strict=True)
    ratings = {
        "user_id": user,
        "item_id": item,
        "rating": pa.array(rating, pa.float32()),
        "timestamp": [FIRST + d * DAY for d in day],
    }
    pq.write_table(pa.table(ratings), directory / "interactions.parquet")


def test_both_forms_are_one_dataset(tmp_path):
    """The published files, Python literals in them,
    and the Parquet files give equal tables, row by row.
    """
    for write in (published, parquet):
        (tmp_path / write.__name__).mkdir()
        write(tmp_path / write.__name__)
    one, other = beauty(tmp_path / "published"), beauty(tmp_path / "parquet")
    assert one.items.equals(other.items)
    assert one.interactions.equals(other.interactions)
    assert (one.windows, one.text_views, one.resolution) == (
        other.windows,
        other.text_views,
        other.resolution,
    )


def test_what_the_loader_makes_of_a_row(tmp_path):
    """The label is rating > 3, the stamp a UTC midnight, the category the first three levels;
    nobody's item is left out.
    """
    published(tmp_path)
    data = beauty(tmp_path)
    assert data.items["item_id"].to_pylist() == ["B1", "B2", "B3"]
    assert data.items["title"].to_pylist() == list(TITLES.values())
    assert data.items["category_path"].to_pylist() == [
        "Beauty > Makeup > Face > Powder",
        "Beauty > Hair Care",
        "Beauty",
    ]
    assert data.items["category"].to_pylist() == [
        "Beauty > Makeup > Face",
        "Beauty > Hair Care",
        "Beauty",
    ]
    assert data.interactions["item_id"].to_pylist() == ["B1", "B3", "B1", "B2", "B2", "B3"]
    assert data.interactions["label"].to_pylist() == [1, 0, 0, 1, 0, 1]
    assert data.interactions["time"].to_pylist()[:4] == [datetime(2013, 1, 1, tzinfo=UTC)] * 3 + [
        datetime(2013, 1, 4, tzinfo=UTC)
    ]


def test_each_form_is_recognised(tmp_path):
    """A directory of other tables, or of broken files, is not taken for the data set."""
    assert not is_beauty(tmp_path)
    for name in ("items.parquet", "interactions.parquet"):
        (tmp_path / name).write_bytes(b"not parquet")
    assert not is_beauty(tmp_path)
    parquet(tmp_path)
    assert is_beauty(tmp_path)
    for name in ("items.parquet", "interactions.parquet"):
        (tmp_path / name).unlink()
    published(tmp_path)
    assert is_beauty(tmp_path)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-20])


def garbled(path):
    with gzip.open(path, "at") as file:
        file.write("<html>404</html>\n")


def other_lines(path):
    with gzip.open(path, "at") as file:
        file.write('{"user": 1}\n')


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        (REVIEWS, cut_short, "cannot be read after line .*download the file again"),
        (META, cut_short, "cannot be read after line .*download the file again"),
        (META, garbled, "cannot be read after line 4 .*download the file again"),
        (REVIEWS, other_lines, "line 7 lacks .*'reviewerID'.* give the published 5-core reviews"),
        (META, lambda path: path.write_bytes(b"plain text"), "cannot be read after line"),
        (META, lambda path: path.unlink(), f"has {REVIEWS} but no {META}"),
    ],
)
def test_broken_downloads_are_named(tmp_path, name, damage, words):
    """A truncated, garbled or missing file is refused with its name and line."""
    published(tmp_path)
    damage(tmp_path / name)
    with pytest.raises(InputError, match=words):
        beauty(tmp_path)


def test_reviews_of_unknown_items_are_refused(tmp_path):
    """Metadata that lacks a reviewed item is incomplete."""
    published(tmp_path)
    with gzip.open(tmp_path / META, "wt") as file:
        file.write(repr({"asin": "B1"}) + "\n")
    with pytest.raises(InputError, match=r"lacks 2 reviewed items .first 'B2'."):
        beauty(tmp_path)


def test_missing_columns_are_named(tmp_path):
    """Parquet files of other columns are refused by what they lack."""
    parquet(tmp_path)
    pq.write_table(pa.table({"user_id": ["u"]}), tmp_path / "interactions.parquet")
    with pytest.raises(InputError, match=r"lacks the columns \['item_id', 'rating', 'timestamp'\]"):
        beauty(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        beauty(tmp_path / "elsewhere")
