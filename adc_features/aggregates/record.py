"""A declaration as JSON, which live directories keep and compare. Reads: views. Writes: text."""

import json
from dataclasses import asdict
from hashlib import sha256

from adc_features.aggregates.declaration import AggregateView, microseconds_of

FORMAT = 1


def declaration_hash(view: AggregateView) -> str:
    """sha256 of the JSON form, hex: what the tags of live views hold."""
    return sha256(to_json(view).encode()).hexdigest()


def to_json(view: AggregateView) -> str:
    """A declaration as JSON, the same text for the same declaration. What becomes of events of
    unknown items is no part of it: it does not say what is computed.
    """
    facts = asdict(view)
    for policy in ("item", "unknown_items"):
        del facts["stream"][policy]
    return json.dumps({"format": FORMAT, **facts}, default=microseconds_of)
