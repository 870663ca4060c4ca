"""Rankers that serve beside the promoted one: a stated share of the users, or in shadow. Reads,
writes: the promotion file.

A user's place is a hash of its keys in [0, 1). Variants with a share take disjoint intervals of the
places, so a user has one variant, the same in every process and as long as the variant lasts, and
the end of one variant moves nobody into another.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.serving.promotion import (
    VARIANTS,
    Promotion,
    as_promotion,
    check_promotion,
    pair_facts,
    pair_of,
    read_facts,
    write_promotion,
)

SAMPLED = 0.1
"""Share of the requests that a shadow scores, where none is stated."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_OWN = ("name", "share", "start", "salt", "sampled")


@dataclass(frozen=True)
class Variant:
    """A pair that serves beside the promoted one.

    Parameters
    ----------
    name : str
        What answers and metrics call it: letters, digits, `_`, `.` and `-`.
    pair : Promotion
        What scores.
    share : float
        Of the users, in [0, 1]; 0 for a shadow.
    start : float
        Where its interval of places begins.
    salt : str
        Of the hash of users; that of all variants that serve at one time.
    sampled : float
        For a shadow: the share of the requests that it scores, after they are answered; 0 for a
        variant with a share.

    Raises
    ------
    InputError
        A name that is none, or a share that is none.
    """

    name: str
    pair: Promotion
    share: float = 0.0
    start: float = 0.0
    salt: str = ""
    sampled: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise InputError(
                f"variant {str(self.name)[:80]!r} has no name; use letters, digits, '_', '.' and"
                " '-', at most 64, the first a letter or digit"
            )
        if not isinstance(self.salt, str):
            raise InputError(f"the salt of variant {self.name!r} is {self.salt!r}; expected text")
        for name in ("share", "start", "sampled"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InputError(f"{name} of variant {self.name!r} is {value!r}; expected a number")
            if not (math.isfinite(value) and 0 <= value <= 1):
                raise InputError(f"{name} of variant {self.name!r} is {value}; expected 0 to 1")
        if (self.share > 0) == (self.sampled > 0):
            raise InputError(
                f"variant {self.name!r} has share {self.share} and samples {self.sampled}; give it"
                " a share of the users or let it score in shadow, one of both"
            )

    @property
    def shadow(self) -> bool:
        """It scores after the answer, and its scores are not answered."""
        return self.sampled > 0

    @property
    def part(self) -> dict[str, float]:
        """What it scores, as answers and metrics tell it: {"share": ...} or {"shadow": ...}."""
        return {"shadow": self.sampled} if self.shadow else {"share": self.share}

    def serves(self, place: float) -> bool:
        """Whether a user at this place is its own."""
        return self.start <= place < self.start + self.share


@dataclass(frozen=True)
class Deployment:
    """What a promotion file names: the pair that serves, and its variants."""

    promotion: Promotion
    variants: tuple[Variant, ...] = ()

    def variant(self, name: str) -> Variant:
        """The variant of this name. Raises InputError when there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        known = ", ".join(v.name for v in self.variants) or "none"
        raise InputError(f"variant {name!r} does not serve; those that do: {known}")


def place_of(user: Any, salt: str) -> float:
    """Where a user stands in [0, 1): the start of the SHA-256 of the salt and its keys.

    Parameters
    ----------
    user : str, int or mapping of str to (str or int)
        An id, or join key -> id. One key in a mapping is that key alone.
    salt : str
        Other salts give independent places.

    Examples
    --------
    >>> place_of("u1", "spring") == place_of({"customer_id": "u1"}, "spring")
    True
    >>> place_of("u1", "spring") == place_of("u1", "autumn")
    False
    """
    if isinstance(user, Mapping) and len(user) == 1:
        (user,) = user.values()
    text = json.dumps(user, sort_keys=True, ensure_ascii=False, default=str)
    digest = hashlib.sha256(f"{salt}\0{text}".encode(errors="surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def read_deployment(path: Path) -> Deployment:
    """The pair and the variants that a promotion file names. Raises as `read_promotion`."""
    path = Path(path)
    facts = read_facts(path)
    with as_promotion(path):
        variants = []
        for given in facts.pop(VARIANTS):
            own = {name: given[name] for name in _OWN}
            pair = {name: value for name, value in given.items() if name not in _OWN}
            variants.append(Variant(**own, pair=pair_of(pair, path.parent)))
        if len({v.name for v in variants}) < len(variants):
            raise ValueError("two variants have one name")
        return Deployment(pair_of(facts, path.parent), tuple(variants))


def start_variant(path: Path, variant: Variant) -> Variant:
    """Let a variant serve beside what the promotion file names; returns it with its interval.

    A share gets the first interval that is free, and the salt of the others; where there are none,
    a salt of its own, so that not the same users are asked in every experiment.

    Raises
    ------
    InputError
        Its name is taken, or the users that are left are fewer than its share.
    ArtifactError, GenerationMismatch
        As `check_promotion` and `read_promotion`; the file is left as it was.
    """
    check_promotion(variant.pair)
    served = read_deployment(path)
    if variant.name in {v.name for v in served.variants}:
        raise InputError(
            f"variant {variant.name!r} serves already; end it first, `adc promote --end"
            f" {variant.name}`, or give another name"
        )
    others = sorted((v for v in served.variants if not v.shadow), key=lambda v: v.start)
    if not variant.shadow:
        own = f"{variant.name} {variant.pair.promoted_at.isoformat()}"
        salt = others[0].salt if others else own
        variant = replace(variant, salt=salt, start=_free(variant, others))
    _write(path, Deployment(served.promotion, (*served.variants, variant)))
    return variant


def end_variant(path: Path, name: str) -> Variant:
    """End a variant: its users are served by the promoted pair again. Returns what it was; raises
    InputError when it does not serve.
    """
    served = read_deployment(path)
    ended = served.variant(name)
    _write(path, replace(served, variants=tuple(v for v in served.variants if v.name != name)))
    return ended


def _free(variant: Variant, others: list[Variant]) -> float:
    """Where the first interval begins that no other variant has."""
    start = 0.0
    for other in others:
        if other.start - start >= variant.share - 1e-9:
            return start
        start = max(start, other.start + other.share)
    if 1 - start < variant.share - 1e-9:
        raise InputError(
            f"variant {variant.name!r} asks for {variant.share:g} of the users, in one piece; of"
            f" them {1 - start:g} are left beside {', '.join(v.name for v in others)}: end one of"
            " these, or ask for less"
        )
    return start


def _write(path: Path, served: Deployment) -> None:
    base = Path(path).parent
    variants = [
        {**{name: getattr(v, name) for name in _OWN}, **pair_facts(v.pair, base)}
        for v in served.variants
    ]
    write_promotion(path, served.promotion, variants)
