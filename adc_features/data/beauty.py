"""Amazon Reviews 2014, category Beauty, 5-core. Reads: our Parquet files or the published JSON
lines. Writes: Dataset.

Label: rating > 3. Stamps are midnights, so the resolution is a day. The data is for research use
and is never shipped with us.
"""

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.damage import READ_ERRORS
from adc_features.data.dataset import DAY, TIME, Dataset, Windows, read_table
from adc_features.errors import InputError

REVIEWS, META = "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"
WINDOWS = Windows(
    datetime(2013, 3, 1, tzinfo=UTC),
    datetime(2013, 6, 1, tzinfo=UTC),
    datetime(2014, 5, 13, tzinfo=UTC),
)
TEXT_VIEWS = {"title": ("title",), "brand_category": ("brand", "category_path")}
ITEM_COLUMNS = {"item_id", "title", "brand", "category_paths"}
RATING_COLUMNS = {"user_id", "item_id", "rating", "timestamp"}
CATEGORY_DEPTH = 3
"""Levels of the path that the `category` attribute keeps: Beauty > Hair Care > Styling Products."""


def is_beauty(source: Path) -> bool:
    """Does this directory hold the data set, in either form?"""
    source = Path(source)
    if (source / REVIEWS).is_file():
        return True
    files = source / "items.parquet", source / "interactions.parquet"
    if not all(f.is_file() for f in files):
        return False
    try:
        return ITEM_COLUMNS.issubset(pq.read_schema(files[0]).names)
    except READ_ERRORS:
        return False  # not Parquet: whoever reads it says so


def beauty(source: Path) -> Dataset:
    """The data set from `items.parquet` + `interactions.parquet`, or from the published files
    `reviews_Beauty_5.json.gz` + `meta_Beauty.json.gz`.

    items: item_id, title, brand, category_path (its first path), category (the first three levels).
    interactions: rating beside the label. Both forms give the same Dataset: items by id, and since
    the order inside a day means nothing, ratings by day, user and item. Raises InputError when a
    file is missing or is not what it should be.
    """
    source = Path(source)
    if (source / REVIEWS).is_file():
        items, ratings = _published(source)
    else:
        items, ratings = (
            read_table(str(source / "items.parquet")),
            read_table(str(source / "interactions.parquet")),
        )
        for table, wanted in ((items, ITEM_COLUMNS), (ratings, RATING_COLUMNS)):
            if missing := sorted(wanted - set(table.column_names)):
                raise InputError(
                    f"{source} lacks the columns {missing}, it has {table.column_names}; give the"
                    " Beauty files, or use `adc data tables`"
                )
        items = items.select(["item_id", "title", "brand"]).append_column(
            "category_path", pc.list_element(items["category_paths"], 0)
        )
    items = items.sort_by("item_id")
    ratings = ratings.sort_by(
        [(column, "ascending") for column in ("timestamp", "user_id", "item_id")]
    )
    levels = pc.list_slice(pc.split_pattern(items["category_path"], " > "), 0, CATEGORY_DEPTH)
    items = items.append_column("category", pc.binary_join(levels, " > "))
    interactions = pa.table(
        {
            "user_id": ratings["user_id"],
            "item_id": ratings["item_id"],
            "time": pc.cast(pc.cast(ratings["timestamp"], pa.timestamp("s", tz="UTC")), TIME),
            "label": pc.cast(pc.greater(ratings["rating"], 3.0), pa.float32()),
            "rating": ratings["rating"],
        }
    )
    return Dataset("beauty", items, interactions, DAY, WINDOWS, TEXT_VIEWS)


def _published(source: Path) -> tuple[pa.Table, pa.Table]:
    if not (source / META).is_file():
        raise InputError(
            f"{source} has {REVIEWS} but no {META}; put the published metadata file beside it"
        )
    reviews = list(
        _json_lines(source / REVIEWS, fields=("reviewerID", "asin", "overall", "unixReviewTime"))
    )
    ratings = pa.table(
        {
            "user_id": [r["reviewerID"] for r in reviews],
            "item_id": [r["asin"] for r in reviews],
            "rating": pa.array([float(r["overall"]) for r in reviews], pa.float32()),
            "timestamp": pa.array([int(r["unixReviewTime"]) for r in reviews], pa.int64()),
        }
    )
    wanted = set(ratings["item_id"].to_pylist())
    meta = {
        m["asin"]: m for m in _json_lines(source / META, fields=("asin",)) if m["asin"] in wanted
    }
    if missing := wanted - set(meta):
        raise InputError(
            f"{source / META} lacks {len(missing)} reviewed items (first {min(missing)!r});"
            " download the complete file"
        )
    ids = list(meta)
    items = pa.table(
        {
            "item_id": ids,
            "title": pa.array([meta[i].get("title") for i in ids], pa.string()),
            "brand": pa.array([meta[i].get("brand") for i in ids], pa.string()),
            "category_path": pa.array(
                [" > ".join((meta[i].get("categories") or [["Beauty"]])[0]) for i in ids],
                pa.string(),
            ),
        }
    )
    return items, ratings


def _json_lines(path: Path, *, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The published files hold one JSON object a line (reviews)
    or one Python literal a line (metadata).
    """
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line) if line.startswith('{"') else ast.literal_eval(line)
                if missing := [f for f in fields if f not in row]:
                    raise InputError(
                        f"{path} line {number} lacks {missing}; give the published 5-core reviews"
                        " and their metadata"
                    )
                yield row
    except (ValueError, SyntaxError, TypeError, EOFError, OSError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read after line {number - 1} ({error}); download the file again"
        ) from error
