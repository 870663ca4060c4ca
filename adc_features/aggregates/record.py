"""A declaration as JSON, which manifests pin. Reads: views, text. Writes: text, views."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from hashlib import sha256
from typing import Any

from adc_features.aggregates.declaration import (
    Aggregate,
    AggregateView,
    EventStream,
    Grid,
    Residual,
    microseconds_of,
)
from adc_features.errors import InputError

FORMAT = 1


def declaration_hash(view: AggregateView) -> str:
    """What manifests pin: sha256 of the JSON form, hex."""
    return sha256(to_json(view).encode()).hexdigest()


def to_json(view: AggregateView) -> str:
    """A declaration as JSON, the same text for the same declaration."""
    return json.dumps({"format": FORMAT, **asdict(view)}, default=microseconds_of)


def from_json(text: str) -> AggregateView:
    """The declaration that `to_json` wrote. Raises InputError when it is none."""
    try:
        record = json.loads(text)
        if record.pop("format") != FORMAT:
            raise InputError(
                "the declaration of aggregates is of another format; upgrade adc-features"
            )
        return _view(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"this is no declaration of aggregates ({error}); expected what `to_json` wrote"
        ) from error


def _view(record: Mapping[str, Any]) -> AggregateView:
    stream = record["stream"]
    durations = {n: _duration(stream[n]) for n in ("lateness", "tick", "resolution")}
    values = {name: Grid(**grid) for name, grid in stream["values"].items()}
    attributes = tuple(stream["attributes"])
    return AggregateView(
        record["name"],
        EventStream(**stream | durations | {"values": values, "attributes": attributes}),
        tuple(record["key"]),
        {name: _aggregate(one) for name, one in record["features"].items()},
        record["known"],
    )


def _aggregate(record: Mapping[str, Any]) -> Aggregate:
    of, by = record["of"], record["by"]
    if isinstance(of, dict):
        of = Residual(**of | {"against": tuple(of["against"])})
    durations = {n: _duration(record[n]) for n in ("window", "hop")}
    by = None if by is None else tuple(by)
    return Aggregate(**{**record, **durations, "of": of, "by": by})


def _duration(microseconds: int | None) -> Any:
    return None if microseconds is None else microseconds * timedelta(microseconds=1)
