"""Amazon Reviews 2014, category Beauty, 5-core. Reads: our Parquet files or the published JSON lines. Writes: Dataset.

Label: rating > 3. Stamps are midnights, so the resolution is a day. The data is for research use and is never shipped with us.
"""

import ast
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.dataset import DAY, TIME, Dataset, Windows, read_table
from adc_features.errors import InputError

REVIEWS, META = "reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"
WINDOWS = Windows(datetime(2013, 3, 1, tzinfo=UTC), datetime(2013, 6, 1, tzinfo=UTC), datetime(2014, 5, 13, tzinfo=UTC))
TEXT_VIEWS = {"title": ("title",), "brand_category": ("brand", "category_path")}
CATEGORY_DEPTH = 3
"""Levels of the path that the `category` attribute keeps: Beauty > Hair Care > Styling Products."""


def is_beauty(source: Path) -> bool:
    """Does this directory hold the data set, in either form?"""
    source = Path(source)
    if (source / REVIEWS).is_file():
        return True
    files = source / "items.parquet", source / "interactions.parquet"
    return all(f.is_file() for f in files) and {"category_paths", "brand"} <= set(pq.read_schema(files[0]).names)


def beauty(source: Path) -> Dataset:
    """The data set from `items.parquet` + `interactions.parquet`, or from the published files `reviews_Beauty_5.json.gz` + `meta_Beauty.json.gz`.

    items: item_id, title, brand, category_path (its first path), category (the first three levels). interactions: rating beside the label.
    Raises InputError when a file is missing or is not what it should be.
    """
    source = Path(source)
    if (source / REVIEWS).is_file():
        items, ratings = _published(source)
    else:
        items, ratings = read_table(str(source / "items.parquet")), read_table(str(source / "interactions.parquet"))
        items = items.select(["item_id", "title", "brand"]).append_column("category_path", pc.list_element(items["category_paths"], 0))
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
        raise InputError(f"{source} has {REVIEWS} but no {META}; put the published metadata file beside it")
    reviews = _json_lines(source / REVIEWS)
    ratings = pa.table(
        {
            "user_id": [r["reviewerID"] for r in reviews],
            "item_id": [r["asin"] for r in reviews],
            "rating": pa.array([float(r["overall"]) for r in reviews], pa.float32()),
            "timestamp": pa.array([int(r["unixReviewTime"]) for r in reviews], pa.int64()),
        }
    )
    ratings = ratings.take(np.argsort(ratings["timestamp"].to_numpy(), kind="stable"))
    wanted = set(ratings["item_id"].to_pylist())
    meta = {m["asin"]: m for m in _json_lines(source / META, only=wanted)}
    if missing := wanted - set(meta):
        raise InputError(f"{source / META} lacks {len(missing)} reviewed items (first {min(missing)!r}); download the complete file")
    ids = sorted(meta)
    items = pa.table(
        {
            "item_id": ids,
            "title": pa.array([meta[i].get("title") for i in ids], pa.string()),
            "brand": pa.array([meta[i].get("brand") for i in ids], pa.string()),
            "category_path": pa.array([" > ".join((meta[i].get("categories") or [["Beauty"]])[0]) for i in ids], pa.string()),
        }
    )
    return items, ratings


def _json_lines(path: Path, only: set[str] | None = None) -> list[dict[str, Any]]:
    """The published files hold one JSON object a line (reviews) or one Python literal a line (metadata)."""
    rows = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line) if line.startswith('{"') else ast.literal_eval(line)
            except (ValueError, SyntaxError) as error:
                raise InputError(f"{path} line {number} is not an object ({error}); download the file again") from error
            if only is None or row.get("asin") in only:
                rows.append(row)
    return rows
