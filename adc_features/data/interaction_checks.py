"""What is wrong with an interaction table: ids, times, labels, items never seen. Reads: Arrow
tables. Writes: findings.
"""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.data.findings import Finding, unusable_columns, unusable_ids


def examine_interactions(interactions: pa.Table, items: pa.Table | None = None) -> list[Finding]:
    """Findings on an interaction table: ids, times, labels, items never seen."""
    if problem := unusable_columns(
        interactions, {"user_id", "item_id", "time", "label"}, "interactions"
    ):
        return [problem]
    bad_ids = unusable_ids(interactions["user_id"], "interactions.user_id") + unusable_ids(
        interactions["item_id"], "interactions.item_id"
    )
    findings = bad_ids + _times(interactions["time"]) + _labels(interactions["label"])
    if bad_ids:
        return findings
    twice = len(interactions) - len(
        interactions.group_by(["user_id", "item_id", "time", "label"]).aggregate([])
    )
    if twice:
        findings.append(
            Finding(
                "warning",
                "interactions",
                f"{twice} rows repeat user, item, time and label of another row",
                "each counts as an event; drop what was logged twice",
            )
        )
    for entity in ("user_id", "item_id"):
        if pc.count_distinct(interactions[entity]).as_py() == 1:
            findings.append(
                Finding(
                    "error",
                    f"interactions.{entity}",
                    f"all rows have one {entity}",
                    "a ranking needs several; give more data",
                )
            )
    if (
        items is not None
        and "item_id" in items.column_names
        and not unusable_ids(items["item_id"], "items.item_id")
    ):
        findings += _known_items(interactions, items)
    return findings


def _known_items(interactions: pa.Table, items: pa.Table) -> list[Finding]:
    """Interactions that name unknown items, and items without an interaction."""
    kinds = {pa.types.is_integer(t["item_id"].type) for t in (items, interactions)}
    if len(kinds) > 1:
        what = (
            f"type {interactions['item_id'].type} cannot match items of type"
            f" {items['item_id'].type}"
        )
        return [Finding("error", "interactions.item_id", what, "use one type")]
    findings = []
    one_type = pa.int64() if kinds == {True} else pa.large_string()
    known = pc.is_in(
        interactions["item_id"].cast(one_type),
        value_set=pc.unique(items["item_id"]).cast(one_type),
    )
    unknown = len(interactions) - (pc.sum(pc.cast(known, pa.int64())).as_py() or 0)
    if unknown == len(interactions):
        findings.append(
            Finding(
                "error",
                "interactions.item_id",
                "no interaction names a known item",
                "check that both tables use the same ids",
            )
        )
    elif unknown:
        findings.append(
            Finding(
                "warning",
                "interactions.item_id",
                f"{unknown} of {len(interactions)} rows name items that the item table lacks",
                "these rows are left out; add the items to keep them",
            )
        )
    never = len(items) - pc.count_distinct(interactions["item_id"].filter(known)).as_py()
    if never:
        findings.append(
            Finding(
                "warning",
                "items.item_id",
                f"{never} of {len(items)} items have no interaction",
                "they are cold: content codes only, behavioural weight 0",
            )
        )
    return findings


def _times(column: pa.ChunkedArray) -> list[Finding]:
    where = "interactions.time"
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        example = f"times are text such as {str(column[0])!r}"
        return [
            Finding(
                "error",
                where,
                example,
                "give every one an offset, 2014-05-13T08:30:00+00:00, or make all of them dates,"
                " 2014-05-13",
            )
        ]
    if not pa.types.is_timestamp(column.type):
        return [
            Finding("error", where, f"type is {column.type}", "give timestamps with a time zone")
        ]
    if column.type.tz is None:
        how = (
            "convert them to UTC, in SQL to timestamptz or to text with an offset (a view does); a"
            " guess would move events across cut-offs"
        )
        return [Finding("error", where, "times have no time zone", how)]
    if column.null_count:
        return [Finding("error", where, f"{column.null_count} times are null", "drop these rows")]
    # Cast before any conversion: pyarrow 26.0.1 corrupts day-resolution stamps on their way to
    # numpy.
    ticks = (
        pc.cast(column, pa.timestamp("us", tz="UTC"), safe=False)
        .to_numpy()
        .astype("datetime64[us]")
        .astype(np.int64)
    )
    first, last = (str(np.datetime64(int(t), "us"))[:19] for t in (ticks.min(), ticks.max()))
    findings = [Finding("fact", where, f"{len(ticks)} rows from {first} to {last}")]
    if ticks.min() == ticks.max():
        findings.append(
            Finding(
                "error",
                where,
                f"every row has the time {first}",
                "point-in-time features need events at several times",
            )
        )
    elif (ticks % 86_400_000_000 == 0).all():
        findings.append(
            Finding(
                "warning",
                where,
                "every stamp is a midnight: the data has day resolution",
                "features that contain a day become valid on the next day",
            )
        )
    return findings


def _labels(column: pa.ChunkedArray) -> list[Finding]:
    where = "interactions.label"
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_floating(column.type)
        or pa.types.is_boolean(column.type)
    ):
        return [Finding("error", where, f"type is {column.type}", "labels are 0 or 1")]
    if column.null_count:
        return [Finding("error", where, f"{column.null_count} labels are null", "drop these rows")]
    values = np.unique(pc.cast(column, pa.float64()).to_numpy()).tolist()
    if not set(values) <= {0.0, 1.0}:
        return [
            Finding(
                "error",
                where,
                f"labels take {len(values)} values such as {values[:3]}",
                "give 0 or 1, for example rating > 3",
            )
        ]
    if len(values) == 1:
        return [
            Finding("error", where, f"every label is {values[0]:g}", "a ranker needs both classes")
        ]
    rate = pc.mean(pc.cast(column, pa.float64())).as_py()
    level: Literal["warning", "fact"] = "fact" if 0.001 <= rate <= 0.999 else "warning"
    return [Finding(level, where, f"{rate:.1%} of the rows are positive")]
