"""What a semantic ID is made of. Reads: nothing. Writes: SidSpec, which every width below is
derived from.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from adc_features.errors import InputError

BEHAVIOR = "behavior"
"""The reserved modality name of behaviour (collaborative) vectors."""

NO_CODE = -1
"""Stored in `sid` where an item has no code at that position; its weight is 0."""


@dataclass(frozen=True)
class Position:
    """One place of a semantic ID: the modality its expert reads, or `shared` for the expert that
    reads them all.

    A `level` codes what the levels before it left of all modalities together, a `subspace` its own
    part of them; neither has a modality of its own.
    """

    kind: Literal["shared", "content", "behavior", "level", "subspace"]
    modality: str

    @property
    def name(self) -> str:
        return self.modality if self.kind in ("content", "behavior") else self.kind


Layout = Literal["experts", "levels", "subspaces"]


@dataclass(frozen=True)
class SidSpec:
    """Positions and codebook size of a semantic ID.

    The defaults are those of ADC-SID on Beauty: 1 shared, 1 of each content modality and 3
    behavioural positions, with 100 codes each.

    Parameters
    ----------
    content : mapping of str to int
        Experts per content modality (N_t, N_v, ...), in their order; a modality that is absent from
        it has no position.
    shared : int
        Experts over all modalities together (N_s).
    behavior : int
        Behavioural experts (N_b); 0 when there are no behaviour vectors.
    codebook_size : int
        K codes per position, 2 to 65,535.
    weight_dtype : {"float32", "float16"}
        The precision to which `encode` rounds weights.
    layout : {"experts", "levels", "subspaces"}
        `experts` as above. Under `levels` (residual quantisers, coarse to fine) and `subspaces`
        (product quantisers) the same counts say which modalities are read and how long the ID is,
        and no position belongs to one modality.

    Raises
    ------
    InputError
        Negative counts, no position at all, a reserved modality name, or a value out of range.

    Examples
    --------
    >>> spec = SidSpec(content={"title": 1, "image": 1}, codebook_size=300)
    >>> spec.length, spec.modalities
    (6, ('title', 'image', 'behavior'))

    Source
    ------
    ADC-SID, arXiv 2510.25622, section 4.1.3.
    """

    content: Mapping[str, int]
    shared: int = 1
    behavior: int = 3
    codebook_size: int = 100
    weight_dtype: Literal["float32", "float16"] = "float32"
    layout: Layout = "experts"
    positions: tuple[Position, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if BEHAVIOR in self.content or "shared" in self.content:
            raise InputError(
                f"content modalities are {list(self.content)}; '{BEHAVIOR}' and 'shared' are"
                " reserved names, rename the column"
            )
        counts = [self.shared, self.behavior, *self.content.values()]
        if any(not isinstance(n, int) or n < 0 for n in counts) or sum(counts) == 0:
            raise InputError(
                f"positions are shared={self.shared}, content={dict(self.content)},"
                f" behavior={self.behavior}; expected counts >= 0 and at least one position"
            )
        if not 2 <= self.codebook_size <= 65_535:
            raise InputError(f"codebook_size is {self.codebook_size}; expected 2 to 65535")
        if self.weight_dtype not in ("float32", "float16"):
            raise InputError(
                f"weight_dtype is {self.weight_dtype!r}; expected 'float32' or 'float16'"
            )
        if self.layout not in ("experts", "levels", "subspaces"):
            raise InputError(
                f"layout is {self.layout!r}; expected 'experts', 'levels' or 'subspaces'"
            )
        object.__setattr__(self, "content", dict(self.content))
        own = tuple(Position("content", m) for m, n in self.content.items() for _ in range(n))
        positions = (
            (Position("shared", "shared"),) * self.shared
            + own
            + (Position("behavior", BEHAVIOR),) * self.behavior
        )
        if self.layout != "experts":
            positions = (
                Position("level" if self.layout == "levels" else "subspace", "all"),
            ) * len(positions)
        object.__setattr__(self, "positions", positions)

    @property
    def length(self) -> int:
        """L, the number of positions."""
        return len(self.positions)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities whose vectors are read, content first, behaviour last."""
        return (*(m for m, n in self.content.items() if n), *((BEHAVIOR,) if self.behavior else ()))

    @property
    def is_behavioral(self) -> tuple[bool, ...]:
        """Per position: is it a behavioural one?"""
        return tuple(p.kind == "behavior" for p in self.positions)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values.

        Returns
        -------
        dict
            What `from_dict` reads.
        """
        fields = asdict(self)
        fields.pop("positions")
        return fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "SidSpec":
        """The inverse of `to_dict`.

        Parameters
        ----------
        fields : mapping
            What `to_dict` returned.

        Returns
        -------
        SidSpec

        Raises
        ------
        InputError
            As the class itself.
        """
        return cls(**fields)
