"""Train-only inputs: the stated default in the place of their column. Reads: Parts. Writes: Parts.

A model sees the real value (a position) in training only. There, a tenth of the rows carry the
default, so that it knows the value that every other score is made with.
"""

import re
import zlib
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import FeatureRows, Parts

SHARE = 0.1
"""Of the training rows carry the default."""
_TYPES = {
    "Float32": pa.float32(),
    "Float64": pa.float64(),
    "Int32": pa.int32(),
    "Int64": pa.int64(),
    "String": pa.string(),
    "Uuid": pa.string(),
    "TimeUuid": pa.string(),
    "Bool": pa.bool_(),
    "UnixTimestamp": pa.timestamp("us", "UTC"),
    "ZonedTimestamp": pa.timestamp("us", "UTC"),
}
_LIST = re.compile(r"(?:Array|Set)\((\w+)\)")


def served(spec: ResolvedInput, parts: Parts) -> Parts:
    """What an input is scored on: of a train-only one its column is one row of its default, which
    stands for all."""
    if not spec.kind.train_only:
        return parts
    default = _default(spec)
    side = spec.columns["source"].side
    times = parts.sides[side].times[:1] if side in parts.sides else None
    if times is None or not len(times):
        times = np.zeros(1, "datetime64[us]")
    table = pa.table({spec.columns["source"].name: pa.array([default.as_py()], default.type)})
    return replace(parts, sides={**parts.sides, side: FeatureRows(table, times)})


def with_some_default(spec: ResolvedInput, parts: Parts, *, seed: int) -> Parts:
    """Parts in which a tenth of the rows of the input's column carry its default. The choice
    follows from the seed, the input's name and where the rows stand among all training rows."""
    default, source = _default(spec), spec.columns.get("source")
    assert source is not None
    rows = parts[source.side]
    chance = np.random.PCG64([seed, zlib.crc32(spec.name.encode())])
    chance.advance(parts.first)  # a row takes one number
    drawn = np.random.Generator(chance)
    if parts.places is None:
        numbers = drawn.random(len(rows))
    else:
        places = parts.places - parts.first
        numbers = drawn.random(int(places.max(initial=-1)) + 1)[places]
    chosen = pa.array(numbers < SHARE)
    try:
        column = pc.if_else(chosen, default, rows.column(source.name).cast(default.type))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise InputError(
            f"input {spec.name!r} reads column {source.name}, which is no {source.dtype} ({error});"
            " convert the column"
        ) from error
    table = pa.table({source.name: column})
    return replace(parts, sides={**parts.sides, source.side: FeatureRows(table, rows.times)})


def _default(spec: ResolvedInput) -> pa.Scalar:
    """The stated default in the declared type. Raises InputError where it has another, or where the
    input reads several columns."""
    if set(spec.columns) != {"source"}:
        raise InputError(
            f"input {spec.name!r} is train_only and reads {len(spec.columns)} columns"
            f" ({', '.join(c.name for c in spec.columns.values())}); only an input of one column"
            " can be: leave train_only out, or split it"
        )
    dtype, value = spec.columns["source"].dtype, spec.kind.default
    list_of = _LIST.fullmatch(dtype)
    type_ = _TYPES.get(list_of[1] if list_of else dtype)
    try:
        if type_ is None:
            raise pa.ArrowInvalid("this type has no default")
        return pa.scalar(value, pa.list_(type_) if list_of else type_)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            f"input {spec.name!r} is train_only with default={value!r}, which is no {dtype}"
            f" ({error}); give a value of that type, or None for absent"
        ) from error
