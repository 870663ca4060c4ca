"""What the joined rows of a run offer, where no registry tells. Reads: a TrainingFrame. Writes:
ServiceSchema.

A comparison joins a tokenizer's codes to rows itself, and publishes none of them; a control changes
columns, and raw vectors are no features at all. Their rows are declared like a service's.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pyarrow as pa

from adc_features.inputs.candidates import SID_COLUMNS
from adc_features.inputs.column_types import feast_type
from adc_features.inputs.schema import FeatureSchema, ServiceSchema, ViewSchema
from adc_features.loader.frame import LABEL_COLUMNS, TrainingFrame

JOIN_KEYS = ("user_id", "item_id")
VECTORS = "raw_vectors"
"""The view that raw vectors, and how they meet a user's, are declared in."""


def frame_schema(frame: TrainingFrame, service: str) -> ServiceSchema:
    """The columns of a frame as the features of a service: of the user where their names begin so,
    codes in a view of their own, all others of the item.
    """
    table = frame.table
    codes = f"item_sid_{frame.generation}"
    features = []
    for field in table.schema:
        if field.name in LABEL_COLUMNS:
            continue
        view = "user_activity" if field.name.startswith("user_") else "item_profile"
        tags: Mapping[str, str] = {}
        if field.name in SID_COLUMNS.values():
            view = codes
            tags = {"generation": str(frame.generation), "codebook_hash": ""}
        features.append(_feature(view, field, tags))
    keys = {"user_activity": JOIN_KEYS[:1], "item_profile": JOIN_KEYS[1:], codes: JOIN_KEYS[1:]}
    views = [_view(name, keys[name]) for name in dict.fromkeys(f.view for f in features)]
    types = {key: feast_type(table.schema.field(key).type) or "String" for key in JOIN_KEYS}
    return ServiceSchema("rows", service, tuple(views), tuple(features), types)


def with_vectors(schema: ServiceSchema, columns: Iterable[pa.Field]) -> ServiceSchema:
    """A schema with columns of raw vectors, which depend on the item and on the user."""
    features = tuple(_feature(VECTORS, field, {}) for field in columns)
    return replace(
        schema,
        views=(*schema.views, _view(VECTORS, JOIN_KEYS)),
        features=(*schema.features, *features),
    )


def _view(name: str, keys: tuple[str, ...]) -> ViewSchema:
    return ViewSchema(name, name, "batch", keys, {}, 0.0, "")


def _feature(view: str, field: pa.Field, tags: Mapping[str, str]) -> FeatureSchema:
    return FeatureSchema(f"{view}__{field.name}", view, field.name, _dtype(field.type), tags)


def _dtype(kind: pa.DataType) -> str:
    """The Feast type as text."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"Array({_dtype(kind.value_type)})"
    if pa.types.is_timestamp(kind):
        return "UnixTimestamp"
    return feast_type(kind) or "String"
