"""The inputs of a retraining, where some of them mean something else now. Reads: a fitted
InputEncoder, resolved inputs, joined rows. Writes: InputEncoder.

What is as it was keeps its scales, and every row of its vocabulary; the rest is fitted anew.
"""

from collections.abc import Collection, Sequence

import numpy as np

from adc_features.inputs.declaration import ItemHistory, Match
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.encoders.base import State
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.tables import shared_tables


def cold_inputs(specs: Sequence[ResolvedInput], anew: Collection[str]) -> frozenset[str]:
    """The inputs that begin anew with those named.

    Inputs that share a table do so together, as its rows are given once; so do histories and
    matches that read a column of one, as they are coded by what that one has fitted.
    """
    cold = {s.name for s in specs if s.name in anew}
    tables = [{s.name for s in group} for group in shared_tables(specs).values()]
    before: set[str] = set()
    while cold != before:
        before = set(cold)
        for names in tables:
            if names & cold:
                cold |= names
        read = {c.name for s in specs if s.name in cold for c in s.columns.values()}
        cold |= {
            s.name
            for s in specs
            if isinstance(s.kind, ItemHistory | Match)
            and read & {c.name for c in s.columns.values()}
        }
    return frozenset(cold)


def renewed(
    encoder: InputEncoder,
    specs: Sequence[ResolvedInput],
    parts: Parts,
    *,
    anew: Collection[str] = (),
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> InputEncoder:
    """The encoder of a retraining: vocabularies grow and keep every row, and inputs in `anew`, or
    that the older encoder lacks, are fitted on these rows.

    Parameters
    ----------
    encoder : InputEncoder
        Of the older ranker.
    specs : sequence of ResolvedInput
        The inputs as they are resolved now; those that are kept may read a wider type.
    parts : Parts
        N joined training rows.
    anew : collection of str
        Inputs to fit anew; see `cold_inputs`.
    weights : ndarray, optional
        Sample weights [N].
    seed : int
        As `InputEncoder.fit` takes it.

    Raises
    ------
    InputError
        What cannot be encoded, naming input, column and value.
    """
    cold = cold_inputs(specs, {*anew, *(s.name for s in specs if s.name not in encoder.encoders)})
    kept = [s for s in specs if s.name not in cold]
    older = {s.name: encoder.encoders[s.name] for s in kept}
    own = InputEncoder(
        {
            s.name: type(older[s.name]).restore(s, older[s.name].state(), encoder.vocabularies)
            for s in kept
        },
        encoder.vocabularies,
    )
    grown = own.grown(parts, seed=seed)
    if not cold:
        return grown
    fitted = InputEncoder.fit(specs, parts, weights=weights, seed=seed)
    tables = set(shared_tables(kept))
    vocabularies = {
        name: grown.vocabularies[name] if name in tables else vocabulary
        for name, vocabulary in fitted.vocabularies.items()
    }
    encoders = {}
    for spec in specs:
        found = (fitted if spec.name in cold else grown).encoders[spec.name]
        state: State = found.state()
        encoders[spec.name] = type(found).restore(spec, state, vocabularies)
    return InputEncoder(encoders, vocabularies)
