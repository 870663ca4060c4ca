"""What is wrong with a user's tables, in plain words. Reads: Arrow tables. Writes: findings.

An `error` stops the pipeline before any work; a `warning` is worth knowing; a `fact` describes the
data.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.spec import BEHAVIOR
from adc_features.data.attributes import ATTRIBUTES, attribute_column, attribute_problem


class Finding(NamedTuple):
    """One sentence about the data and one about what to do."""

    level: Literal["error", "warning", "fact"]
    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.do}" if self.do else "")


def examine_items(items: pa.Table, *, text_views: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Findings on an item table: ids, vectors per modality, text columns."""
    if problem := _columns(items, {"item_id"}, "items"):
        return [problem]
    findings = _ids(items["item_id"], "items.item_id")
    ids = items["item_id"]
    if not findings and (twice := len(ids) - pc.count_distinct(ids).as_py()):
        counts = pc.value_counts(ids)
        first = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        findings.append(
            Finding(
                "error",
                "items.item_id",
                f"{twice} rows repeat an item id (first {first})",
                "keep one row an item",
            )
        )
    if len(items) == 1:
        findings.append(
            Finding(
                "error",
                "items",
                "there is one item; a ranking needs at least two",
                "give the whole catalogue",
            )
        )
    for name in items.column_names:
        if name.startswith("vector_"):
            findings += _vectors(items[name], name)
        elif _is_list(items[name].type) and pa.types.is_floating(items[name].type.value_type):
            findings.append(
                Finding(
                    "warning",
                    f"items.{name}",
                    "looks like vectors but is not used",
                    f"rename it to vector_{name} to use it as modality {name!r}",
                )
            )
    return [
        *findings,
        *_attributes(items),
        *_modality_names(items, text_views),
        *_text_views(items, text_views),
    ]


def examine_interactions(interactions: pa.Table, items: pa.Table | None = None) -> list[Finding]:
    """Findings on an interaction table: ids, times, labels, items never seen."""
    if problem := _columns(interactions, {"user_id", "item_id", "time", "label"}, "interactions"):
        return [problem]
    bad_ids = _ids(interactions["user_id"], "interactions.user_id") + _ids(
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
        and not _ids(items["item_id"], "items.item_id")
    ):
        kinds = {pa.types.is_integer(t["item_id"].type) for t in (items, interactions)}
        if len(kinds) > 1:
            findings.append(
                Finding(
                    "error",
                    "interactions.item_id",
                    f"type {interactions['item_id'].type} cannot match items of type"
                    f" {items['item_id'].type}",
                    "use one type",
                )
            )
            return findings
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


def _attributes(items: pa.Table) -> list[Finding]:
    """Which columns became the items' brand, category and path, or why they cannot."""
    findings: dict[str, Finding] = {}
    read = []
    for name in ATTRIBUTES:
        if problem := attribute_problem(items, name):
            findings.setdefault(problem[0], Finding("error", f"items.{problem[0]}", *problem[1:]))
        elif column := attribute_column(items, name):
            read.append(f"item_{name} from column {column}")
    if read and not findings:
        return [Finding("fact", "items", f"statistics by group: {', '.join(read)}")]
    return list(findings.values())


def _columns(table: pa.Table, wanted: set[str], where: str) -> Finding | None:
    if missing := sorted(wanted - set(table.column_names)):
        return Finding(
            "error",
            where,
            f"columns {missing} are missing; got {table.column_names}",
            "rename or add them",
        )
    if len(table) == 0:
        return Finding("error", where, "the table is empty", "give at least one row")
    return None


def _ids(column: pa.ChunkedArray, where: str) -> list[Finding]:
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_string(column.type)
        or pa.types.is_large_string(column.type)
    ):
        return [
            Finding("error", where, f"ids are of type {column.type}", "use integers or strings")
        ]
    if pa.types.is_uint64(column.type) and (pc.max(column).as_py() or 0) >= 2**63:
        return [Finding("error", where, "ids exceed the range of int64", "store them as strings")]
    return (
        [Finding("error", where, f"{column.null_count} ids are null", "drop these rows")]
        if column.null_count
        else []
    )


def _modality_names(items: pa.Table, text_views: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    findings = []
    modalities = [
        c.removeprefix("vector_") for c in items.column_names if c.startswith("vector_")
    ] + list(text_views)
    for modality in {*modalities}:
        if modality in (BEHAVIOR, "shared"):
            findings.append(
                Finding(
                    "error",
                    f"modality {modality}",
                    "this name is reserved: behaviour vectors are trained from the interactions",
                    "rename it",
                )
            )
        elif modalities.count(modality) > 1:
            findings.append(
                Finding(
                    "error",
                    f"modality {modality}",
                    "it has a vector column and a text view",
                    "keep one of them, or rename one",
                )
            )
    if not modalities:
        findings.append(
            Finding(
                "warning",
                "items",
                "there is no vector_<modality> column and no text view",
                "codes can only come from behaviour; name text columns",
            )
        )
    return findings


def _text_views(items: pa.Table, text_views: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    findings = []
    for modality, columns in text_views.items():
        if nested := [
            c for c in columns if c in items.column_names and pa.types.is_nested(items[c].type)
        ]:
            findings.append(
                Finding(
                    "error",
                    f"text view {modality}",
                    f"columns {nested} are not text",
                    "join their values into strings",
                )
            )
            continue
        if missing := [c for c in columns if c not in items.column_names]:
            findings.append(
                Finding(
                    "error",
                    f"text view {modality}",
                    f"columns {missing} are missing; items have {items.column_names}",
                    "name existing columns",
                )
            )
            continue
        blank = pc.sum(pc.cast(_blank(items, columns), pa.int64())).as_py() or 0
        if blank == len(items):
            findings.append(
                Finding("error", f"text view {modality}", "no item has text", "leave this view out")
            )
        elif blank:
            findings.append(
                Finding(
                    "warning",
                    f"text view {modality}",
                    f"{blank} of {len(items)} items have no text",
                    "they get no code at this modality's position",
                )
            )
    return findings


def _vectors(column: pa.ChunkedArray, name: str) -> list[Finding]:
    where = f"items.{name}"
    numbers = pa.types.is_floating, pa.types.is_integer
    if not (_is_list(column.type) and any(check(column.type.value_type) for check in numbers)):
        return [Finding("error", where, f"type is {column.type}", "vectors are lists of floats")]
    findings = []
    kept = column.drop_null()
    if not len(kept):
        return [
            Finding(
                "error", where, "every vector is null: the modality is missing", "drop the column"
            )
        ]
    if column.null_count:
        findings.append(
            Finding(
                "warning",
                where,
                f"{column.null_count} of {len(column)} items have no vector",
                "they get no code at this modality's position",
            )
        )
    widths = pc.unique(pc.list_value_length(kept)).to_pylist()
    if len(widths) > 1 or widths == [0]:
        return [
            *findings,
            Finding(
                "error", where, f"vectors have widths {sorted(widths)}", "give one width above 0"
            ),
        ]
    flat = pc.cast(pc.list_flatten(kept), pa.float32())
    values = flat.to_numpy().reshape(len(kept), -1)
    broken = int((~np.isfinite(values).all(axis=1)).sum())
    if broken:
        findings.append(
            Finding(
                "error",
                where,
                f"{broken} vectors hold NaN, null or infinite values",
                "repair them or set the whole vector to null",
            )
        )
    elif (zero := int((values == 0).all(axis=1).sum())) == len(values) or (
        values == values[0]
    ).all():
        findings.append(
            Finding(
                "error",
                where,
                "all vectors are equal",
                "they carry no information, drop the column",
            )
        )
    elif zero:
        findings.append(
            Finding(
                "error",
                where,
                f"{zero} vectors are all zeros",
                "set them to null: absent is not zero",
            )
        )
    return findings


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


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


def _blank(items: pa.Table, columns: tuple[str, ...]) -> pa.ChunkedArray:
    """Per item: is every one of these text columns null or blank?"""
    blank = pa.chunked_array([pa.array(np.ones(len(items), bool))])
    for name in columns:
        text = pc.cast(items[name], pa.string())
        blank = pc.and_(blank, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), ""))
    return blank
