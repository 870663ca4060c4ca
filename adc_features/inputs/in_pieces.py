"""Fit the inputs of a ranker on rows that come a piece at a time. Reads: ResolvedInput, Parts.
Writes: InputEncoder.

What is counted is counted on all rows: the values of a vocabulary, of which the distinct ones are
in memory. What is measured (means, deviations, quantiles, combinations of codes) is measured on at
most `SAMPLE_ROWS` rows, evenly spaced: a mean of so many is within 0.2 % of a standard deviation of
that of all. With no more rows than that, the encoder is that of `InputEncoder.fit` on all of them.

Legend: N training rows, n rows of a piece.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from adc_features.errors import InputError
from adc_features.inputs.counting import Tally
from adc_features.inputs.encoder import InputEncoder, check_columns, seen_parts
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts
from adc_features.inputs.tables import described_all, shared_tables, table_values

SAMPLE_ROWS = 262_144
"""Rows that scales are fitted on."""


def fit_in_pieces(
    specs: Sequence[ResolvedInput],
    pieces: Iterable[tuple[np.ndarray, Parts]],
    *,
    weights: np.ndarray,
    seed: int = 0,
    sample_rows: int = SAMPLE_ROWS,
) -> InputEncoder:
    """Fit all inputs on training rows that are read once, piece by piece.

    Parameters
    ----------
    specs : sequence of ResolvedInput
        The inputs, in the order of the layout.
    pieces : iterable of (ndarray, Parts)
        Joined rows, and which of the N training rows they are: int64 [n]. Each row once.
    weights : ndarray
        Sample weights [N], >= 0.
    seed : int
        As for `InputEncoder.fit`.
    sample_rows : int
        As `SAMPLE_ROWS`.

    Returns
    -------
    InputEncoder

    Raises
    ------
    InputError
        As `InputEncoder.fit`. An input without a value in the rows of the sample is refused as one
        without a value in all rows is.
    """
    tables = shared_tables(specs)
    tallies = {table: Tally() for table in tables}
    count = len(weights)
    chosen = np.arange(count)
    if count > sample_rows:
        chosen = np.linspace(0, count - 1, sample_rows).astype(np.int64)
    sampled = np.zeros(count, bool)
    sampled[chosen] = True
    kept: list[pa.Table] = []
    places: list[np.ndarray] = []
    times: list[np.ndarray] = []
    timeline = None
    for where, parts in pieces:
        check_columns(specs, parts)
        seen = seen_parts(specs, parts, seed=seed)
        for table, group in tables.items():
            values = table_values(group, parts, seen)
            tallies[table].add(values, of=described_all(group))
        mine = np.flatnonzero(sampled[where])
        rows = parts["request"]  # every side has the same rows
        kept.append(rows.table.take(pa.array(mine)))
        places.append(where[mine])
        times.append(rows.times[mine])
        timeline = parts.timeline
    if not kept:
        raise InputError("there are no training rows to fit inputs on; check the time window")
    order = np.argsort(np.concatenate(places), kind="stable")
    whole = pa.concat_tables(kept)
    if (np.diff(order) != 1).any():
        whole = whole.take(pa.array(order))
    sample = Parts.joined(whole, np.concatenate(times)[order], timeline=timeline)
    return InputEncoder.fit(
        specs,
        sample,
        weights=weights[chosen],
        seed=seed,
        counted={table: tally.counted() for table, tally in tallies.items()},
    )
