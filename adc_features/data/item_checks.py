"""What is wrong with an item table: ids, attributes, vectors, text.
Reads: Arrow tables. Writes: findings.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.spec import BEHAVIOR
from adc_features.data.attributes import ATTRIBUTES, attribute_column, attribute_problem
from adc_features.data.findings import Finding, unusable_columns, unusable_ids


def examine_items(items: pa.Table, *, text_views: Mapping[str, tuple[str, ...]]) -> list[Finding]:
    """Findings on an item table: ids, vectors per modality, text columns."""
    if problem := unusable_columns(items, {"item_id"}, "items"):
        return [problem]
    findings = unusable_ids(items["item_id"], "items.item_id")
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
    return [*findings, *_vector_values(flat.to_numpy().reshape(len(kept), -1), where)]


def _vector_values(values: np.ndarray, where: str) -> list[Finding]:
    """What makes vectors of one width useless: values that are not finite, all equal, or zero."""
    if broken := int((~np.isfinite(values).all(axis=1)).sum()):
        what = f"{broken} vectors hold NaN, null or infinite values"
        return [Finding("error", where, what, "repair them or set the whole vector to null")]
    zero = int((values == 0).all(axis=1).sum())
    if zero == len(values) or (values == values[0]).all():
        do = "they carry no information, drop the column"
        return [Finding("error", where, "all vectors are equal", do)]
    if zero:
        do = "set them to null: absent is not zero"
        return [Finding("error", where, f"{zero} vectors are all zeros", do)]
    return []


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _blank(items: pa.Table, columns: tuple[str, ...]) -> pa.ChunkedArray:
    """Per item: is every one of these text columns null or blank?"""
    blank = pa.chunked_array([pa.array(np.ones(len(items), bool))])
    for name in columns:
        text = pc.cast(items[name], pa.string())
        blank = pc.and_(blank, pc.equal(pc.utf8_trim_whitespace(pc.fill_null(text, "")), ""))
    return blank
