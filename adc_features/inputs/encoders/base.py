"""What every encoder does. Reads: Parts. Writes: Blocks, fitted state.

Everything fitted (vocabularies, scales, bin edges) is fitted on training rows only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from adc_features.inputs.encoded import Block, InputLayout
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts


class State(NamedTuple):
    """What an encoder learned. facts: JSON values; arrays: by name. Vocabularies are held once for
    all inputs (`Fitting.vocabularies`) and are no part of it."""

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]


@dataclass
class Fitting:
    """What is shared while the inputs of a ranker are fitted, and by their encoders afterwards.

    Parameters
    ----------
    weights : ndarray
        float64 [N], sample weights of the training rows; scales are weighted as the loss is.
    vocabularies : dict of str to Vocabulary
        Table -> vocabulary. Inputs that share a table share the vocabulary; it is fitted by the
        first of them, on the values of all.
    layouts : dict of str to InputLayout
        Of the inputs that are fitted already: a history reads the candidate's tables.
    specs : tuple of ResolvedInput
        Every input of the ranker: which of them reads a column, and shares its table.
    """

    weights: np.ndarray
    vocabularies: dict[str, Any] = field(default_factory=dict)
    layouts: dict[str, InputLayout] = field(default_factory=dict)
    specs: tuple[ResolvedInput, ...] = ()


def table_of(spec: ResolvedInput) -> str:
    """The table that an input with a vocabulary reads: the one it shares, else its own."""
    return getattr(spec.kind, "share", None) or spec.name


class Encoder(Protocol):
    """The fitted encoder of one input; restored from its state it gives the same bits.

    Two more may stand on a class, where they apply:

    values(spec, parts) -> Array or ChunkedArray, a classmethod
        What its vocabulary is fitted on, truncated as it will be read. With it, `InputEncoder` fits
        and grows the vocabulary of `table_of(spec)`, on the values of all inputs that share it, and
        `fit` finds it in `Fitting.vocabularies`.
    tables -> dict of str to int, a property
        Tables of its slots that are no vocabulary's, with their rows.

    Train-only inputs need nothing here: `InputEncoder` puts the stated default in the column's
    place.
    """

    spec: ResolvedInput

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        """Learn from training rows. Raises InputError for what cannot be encoded, naming the
        input, its column and the first value."""
        ...

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        """From `state()`."""
        ...

    @property
    def layout(self) -> InputLayout: ...

    def encode(self, parts: Parts) -> Block:
        """n rows: those of the spec's side."""
        ...

    def counts(self, parts: Parts) -> dict[str, int]:
        """How many of the n rows are "absent", "unknown" and "present"."""
        ...

    def state(self) -> State: ...
