"""New items as they arrive. Reads: JSON objects. Writes: ItemChange, and what is wrong with the
others.

An item is an object of `id` and what describes it: `vectors` (modality -> numbers), `text` (a
sentence, or modality -> sentence) and `attributes` (name -> value), at least one of the first two,
or of `id` and `"removed": true`. Other fields are refused: a misspelt one would be missing in
silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple, Protocol

import numpy as np
from pydantic_core import from_json

from adc_features.codes.sids import SidTable
from adc_features.errors import RequestError
from adc_features.store.repository import LiveGeneration

FIELDS = frozenset({"id", "vectors", "text", "attributes", "removed"})
LONGEST_ID = 256
LONGEST_TEXT = 20_000
"""Characters of one text at most."""
MOST_ATTRIBUTES = 256
_INT64 = 1 << 63


@dataclass(frozen=True)
class ItemShape:
    """What an item of a generation consists of.

    id_type: "string" or "int64". widths: modality -> numbers of its vector. texts: modality that a
    text is embedded for -> the attributes that its text is made of, where it is not given.
    """

    id_type: str
    widths: Mapping[str, int]
    texts: Mapping[str, Sequence[str]]


class ItemChange(NamedTuple):
    """One item that comes, changes or goes.

    vectors: modality -> float32. texts: modality -> text that is to be embedded.
    """

    id: str | int
    vectors: Mapping[str, np.ndarray]
    texts: Mapping[str, str]
    attributes: Mapping[str, Any]
    removed: bool


class Encoder(Protocol):
    """What makes codes of items; `items_encoding.open_encoder` opens the frozen tokenizer."""

    @property
    def live(self) -> LiveGeneration:
        """The published generation."""
        ...

    @property
    def shape(self) -> ItemShape:
        """What an item consists of."""
        ...

    def described(
        self, changes: Sequence[ItemChange]
    ) -> tuple[list[dict[str, np.ndarray]], dict[bytes, bytes]]:
        """The vectors of each item by modality, its texts embedded; and what was made of texts, as
        the cache of texts has it.
        """
        ...

    def encode(
        self,
        changes: Sequence[ItemChange],
        vectors: Sequence[Mapping[str, np.ndarray]],
        as_of: datetime,
    ) -> SidTable:
        """The codes of items that come, and rows without codes of those that go."""
        ...


class ItemFault(NamedTuple):
    """An item that cannot be taken: which one of its request, from 0, its id as far as it could be
    read, and every reason.
    """

    place: int
    id: str | int | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ItemRequest:
    """The items of a request: those that can be taken, and what is wrong with the others."""

    changes: Sequence[ItemChange]
    faults: Sequence[ItemFault] = field(default_factory=tuple)


def items_of(body: bytes) -> list[Any]:
    """The items of a request: a JSON array, an object with the array `items`, or one item.

    Raises RequestError for what is no such JSON.
    """
    try:
        sent = from_json(body, cache_strings="keys")
    except ValueError as error:
        raise RequestError(f"the body is no JSON: {error}; send an array of items") from error
    if isinstance(sent, dict) and "items" in sent:
        if unknown := sorted(set(sent) - {"items"}):
            raise RequestError(f"unknown field {unknown[0]!r}; send {{'items': [...]}}")
        sent = sent["items"]
    elif isinstance(sent, dict):
        sent = [sent]
    if not isinstance(sent, list):
        raise RequestError("expected an item, an array of items, or an object with `items`")
    return sent


def incoming_items(shape: ItemShape, items: Sequence[Any]) -> ItemRequest:
    """What of a request can be taken, and every reason why the others cannot.

    Parameters
    ----------
    shape : ItemShape
    items : sequence
        JSON values.
    """
    changes: list[ItemChange] = []
    faults: list[ItemFault] = []
    seen: set[str | int] = set()
    for place, item in enumerate(items):
        change, reasons = _change(shape, item)
        if change is not None and change.id in seen:
            reasons.append("id stands in this request before; send each item once")
        if change is None or reasons:
            given = item.get("id") if isinstance(item, dict) else None
            told = given if isinstance(given, str | int) else None
            faults.append(ItemFault(place, told, tuple(reasons)))
        else:
            seen.add(change.id)
            changes.append(change)
    return ItemRequest(changes, faults)


def _change(shape: ItemShape, item: Any) -> tuple[ItemChange | None, list[str]]:
    if not isinstance(item, dict):
        return None, [f"an item is an object, this is {_kind(item)}"]
    reasons = [
        f"unknown field {name[:50]!r}; there are {', '.join(sorted(FIELDS))}"
        for name in sorted(set(item) - FIELDS)[:3]
    ]
    reasons += _id_faults(item.get("id"), shape.id_type)
    removed = item.get("removed", False)
    if not isinstance(removed, bool):
        reasons.append(f"removed is {_kind(removed)}; expected true or false")
    if removed is True:
        if others := sorted((set(item) & FIELDS) - {"id", "removed"}):
            reasons.append(f"a removed item has no {', '.join(others)}; leave them out")
        return (None if reasons else ItemChange(item["id"], {}, {}, {}, True)), reasons
    attributes = _attributes(item.get("attributes"), reasons)
    vectors = _vectors(item.get("vectors"), shape, reasons)
    texts = _texts(item.get("text"), attributes, shape, vectors, reasons)
    if not reasons and not vectors and not texts:
        reasons.append(
            "neither vectors nor a text; its codes are made of one of"
            f" {', '.join(shape.widths) or 'none'}"
        )
    return (None if reasons else ItemChange(item["id"], vectors, texts, attributes, False)), reasons


def _id_faults(value: Any, id_type: str) -> list[str]:
    if id_type == "int64":
        if isinstance(value, bool) or not isinstance(value, int):
            return [f"id is {_kind(value)}; expected a whole number, as this catalogue's ids"]
        return [] if -_INT64 <= value < _INT64 else ["id lies outside 64 bits"]
    if not isinstance(value, str):
        return [f"id is {_kind(value)}; expected text, as this catalogue's ids"]
    if not value or len(value) > LONGEST_ID or value.endswith("\0") or not _is_unicode(value):
        return [f"id is empty, longer than {LONGEST_ID} characters, or no sound text"]
    return []


def _attributes(given: Any, reasons: list[str]) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, dict) or len(given) > MOST_ATTRIBUTES:
        reasons.append(
            f"attributes is {_kind(given)}; expected an object of at most {MOST_ATTRIBUTES} values"
        )
        return {}
    for name, value in given.items():
        if value is not None and not isinstance(value, str | int | float):
            reasons.append(f"attribute {name[:50]!r} is {_kind(value)}; expected text or a number")
        elif isinstance(value, float) and not math.isfinite(value):
            reasons.append(f"attribute {name[:50]!r} is {value}; expected a finite number, or null")
        elif isinstance(value, str) and len(value) > LONGEST_TEXT:
            reasons.append(f"attribute {name[:50]!r} is longer than {LONGEST_TEXT} characters")
    return given


def _vectors(given: Any, shape: ItemShape, reasons: list[str]) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    if not isinstance(given, dict):
        reasons.append(f"vectors is {_kind(given)}; expected modality -> list of numbers")
        return {}
    vectors = {}
    for modality, values in given.items():
        if modality not in shape.widths:
            reasons.append(
                f"vectors of {modality[:50]!r}; this generation reads {', '.join(shape.widths)}"
            )
            continue
        if values is None:
            continue
        fault, vector = _vector(values, shape.widths[modality])
        if vector is None:
            reasons.append(f"vector {modality!r} {fault}")
        else:
            vectors[modality] = vector
    return vectors


def _vector(values: Any, width: int) -> tuple[str, np.ndarray | None]:
    if not isinstance(values, list):
        return f"is {_kind(values)}; expected a list of {width} numbers", None
    if len(values) != width:
        return f"has {len(values)} numbers; expected {width}, embed with the same encoder", None
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return "holds something that is no number", None
    try:
        with np.errstate(over="ignore"):
            vector = np.array(values, np.float64).astype(np.float32)
    except OverflowError:
        return "holds a number beyond 32-bit floats", None
    if not np.isfinite(vector).all():
        return "holds NaN, an infinite number or one beyond 32-bit floats", None
    return "", vector


def _texts(
    given: Any,
    attributes: Mapping[str, Any],
    shape: ItemShape,
    vectors: Mapping[str, np.ndarray],
    reasons: list[str],
) -> dict[str, str]:
    if isinstance(given, str):
        if len(shape.texts) != 1:
            reasons.append(
                "text is one sentence; expected modality -> text, the modalities with text are"
                f" {', '.join(shape.texts) or 'none'}"
            )
            return {}
        given = {next(iter(shape.texts)): given}
    if given is not None and not isinstance(given, dict):
        reasons.append(f"text is {_kind(given)}; expected text, or modality -> text")
        return {}
    texts: dict[str, str] = {}
    for modality, text in (given or {}).items():
        if modality not in shape.texts:
            reasons.append(
                f"text of {modality[:50]!r}; the modalities with text are"
                f" {', '.join(shape.texts) or 'none'}"
            )
        elif modality in vectors:
            reasons.append(f"{modality!r} has a vector and a text; send one of them")
        elif not isinstance(text, str) or len(text) > LONGEST_TEXT or not _is_unicode(text):
            reasons.append(
                f"text of {modality!r} is {_kind(text)}; expected at most {LONGEST_TEXT} characters"
            )
        elif text.strip():
            texts[modality] = text.strip()
    for modality, columns in shape.texts.items():
        if modality not in texts and modality not in vectors and modality not in (given or {}):
            # as the pipeline makes an item's text of its columns
            parts = [str(attributes[c]).strip() for c in columns if attributes.get(c) is not None]
            if text := ". ".join(filter(None, parts)):
                texts[modality] = text
    return texts


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "missing"
    return names.get(type(value), f"the number {value}"[:40])
