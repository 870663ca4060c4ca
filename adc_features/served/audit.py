"""Is what was served what history says? Reads: a served log, a Feast repository. Writes: a report.

Each logged value is compared, bit for bit, with the point-in-time join of the same keys: as of
`served_as_of` where live views were read, else as of the request's `now`. Requests that read live
views while events were committed (`torn`) have no one time and are left out. Null and NaN are both
absent, and -0.0 is 0.0, as encoders see them.

Legend: N values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.aggregates.finalise import READ_AT
from adc_features.errors import InputError
from adc_features.event_times import UTC_US
from adc_features.inputs.schema import ServiceSchema
from adc_features.served.record import FEATURE
from adc_features.served.segments import Segment, as_of, sealed_segments
from adc_features.store.services.parity import differing
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service
from adc_features.store.services.values import normal

EXAMPLES = 20
"""Differences of a feature that a report shows."""
_ROWS = 500_000
"""Candidates that are joined at a time, roughly."""


@dataclass
class FeatureSkew:
    """One feature, as it was served and as history has it.

    n: values compared; both_absent, one_absent: of them; different: values that are both there and
    differ in any bit. max_difference: the greatest |a - b| of two numbers, 0 where none differ.
    examples: keys, time, pair, the served value and the joined one.
    """

    feature: str
    n: int = 0
    both_absent: int = 0
    one_absent: int = 0
    different: int = 0
    max_difference: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class SkewReport:
    """What was compared.

    requests, candidates: of the log, as far as they were drawn. torn: requests that were left out,
    because live views changed while they were read. without_values: segments whose requests were
    logged without them. features: by name. gone: features that were served and that the service no
    longer offers: they cannot be compared.
    """

    requests: int = 0
    candidates: int = 0
    torn: int = 0
    without_values: int = 0
    features: dict[str, FeatureSkew] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    @property
    def different(self) -> int:
        """Values that are not what history says; those that are absent on one side count."""
        return sum(one.different + one.one_absent for one in self.features.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        told = {n: getattr(self, n) for n in ("requests", "candidates", "torn", "without_values")}
        features = [asdict(one) for one in self.features.values()]
        return {**told, "different": self.different, "gone": self.gone, "features": features}


def served_skew(log: Path, repo: Path, *, sample: int | None = None, seed: int = 0) -> SkewReport:
    """Compare a served log with the point-in-time join.

    Parameters
    ----------
    log : Path
        Of `adc serve --log`.
    repo : Path
        The Feast repository that was served.
    sample : int, optional
        Compare this many requests, drawn at random; by default all.
    seed : int
        Of the sample.

    Returns
    -------
    SkewReport

    Raises
    ------
    InputError, ArtifactError
        As `sealed_segments` and `join_service` raise.
    """
    found, report = sealed_segments(log), SkewReport()
    segments = [segment for segment in found if segment.has_values]
    report.without_values = len(found) - len(segments)
    if not segments:
        raise InputError(
            f"{log} holds no request with the values that it read; serve with --log-values more"
            " than 0"
        )
    counts = [len(segment.request_rows(["request_id"])) for segment in segments]
    drawn = np.ones(sum(counts), bool)
    if sample is not None and sample < len(drawn):
        drawn[:] = False
        drawn[np.random.default_rng(seed).choice(len(drawn), sample, replace=False)] = True
    chosen = np.split(drawn, np.cumsum(counts)[:-1])
    schemas: dict[str, ServiceSchema] = {}
    for segment, mask in zip(segments, chosen, strict=True):
        service = segment.about.service
        if service not in schemas:
            schemas[service] = service_schema(repo, service)
        _compare_segment(report, segment, mask, repo=repo, schema=schemas[service])
    return report


def _compare_segment(
    report: SkewReport, segment: Segment, mask: np.ndarray, *, repo: Path, schema: ServiceSchema
) -> None:
    requests, candidates = segment.request_rows(), segment.candidate_rows()
    sizes = requests["candidates"].to_numpy()
    starts = np.cumsum(sizes) - sizes
    offered = {feature.key for feature in schema.features}
    names = [name for name, _ in segment.about.features]
    report.gone += [n for n in names if n not in offered and n not in report.gone]
    names = [name for name in names if name in offered]
    if not names:
        raise InputError(
            f"service {schema.service!r} offers none of the features that were served"
            f" ({', '.join(report.gone)}); give the repository that was served"
        )
    torn = np.asarray(requests["torn"])
    report.torn += int((mask & torn).sum())
    places = np.flatnonzero(mask & ~torn)
    cuts = np.searchsorted(np.cumsum(sizes[places]), np.arange(_ROWS, sizes[places].sum(), _ROWS))
    for some in np.split(places, cuts):
        if not len(some):
            continue
        at = np.concatenate([np.arange(starts[r], starts[r] + sizes[r]) for r in some])
        asked = requests.take(pa.array(some))
        rows = candidates.take(pa.array(at))
        of = np.repeat(np.arange(len(some)), sizes[some])
        entity = _entity_rows(segment, asked, rows, of)
        joined = join_service(repo, schema, entity, features=names)
        first = np.cumsum(sizes[some]) - sizes[some]
        report.requests += len(some)
        report.candidates += len(rows)
        for name in names:
            _compare(report, name, (asked, rows), joined, first=first, schema=schema)


def _entity_rows(segment: Segment, requests: pa.Table, rows: pa.Table, of: np.ndarray) -> pa.Table:
    """Keys, fields and time of each candidate."""
    place = pa.array(of)
    return pa.table(
        {
            **segment.keys(requests, rows, place),
            "event_timestamp": as_of(requests).take(place),
            # what is computed as of the request's time was so, whatever its rows were as of
            READ_AT: requests["now"].cast(UTC_US).cast(pa.int64()).take(place),
            _PAIR: requests["pair"].take(place),
            _ID: rows["request_id"],
        }
    )


_PAIR, _ID = "served.pair", "served.request_id"


def _compare(
    report: SkewReport,
    name: str,
    logged: tuple[pa.Table, pa.Table],
    joined: pa.Table,
    *,
    first: np.ndarray,
    schema: ServiceSchema,
) -> None:
    """Compare one feature: of each request where it is of the user or the request, else of each
    candidate.
    """
    column, (requests, rows) = FEATURE + name, logged
    if column in rows.column_names:
        served, history, keys = rows[column], joined[name], joined
    else:
        at = pa.array(first)
        served, history, keys = requests[column], joined[name].take(at), joined.take(at)
    served, history = served.combine_chunks(), history.combine_chunks()
    dtype = schema.feature(name)
    different = differing(history, served, dtype.dtype if dtype else "")
    here, there = (np.asarray(normal(side).is_valid()) for side in (served, history))
    found = report.features.setdefault(name, FeatureSkew(name))
    found.n += len(served)
    found.both_absent += int((~here & ~there).sum())
    found.one_absent += int((here != there).sum())
    both = np.flatnonzero(different & here & there)
    found.different += len(both)
    found.max_difference = max(found.max_difference, _most(served, history, both))
    features = {feature.key for feature in schema.features}
    told = [n for n in keys.column_names if n not in features]
    for place in np.flatnonzero(different)[: EXAMPLES - len(found.examples)].tolist():
        row = {n.removeprefix("served."): keys[n][place].as_py() for n in told}
        values = {"served": served[place].as_py(), "joined": history[place].as_py()}
        found.examples.append(row | values)


def _most(served: pa.Array, history: pa.Array, places: np.ndarray) -> float:
    """The greatest |a - b| at these places, of numbers."""
    number = pa.types.is_floating(served.type) or pa.types.is_integer(served.type)
    if not len(places) or not number or served.type != history.type:
        return 0.0
    at = pa.array(places)
    a, b = (side.take(at).cast(pa.float64(), safe=False).to_numpy() for side in (served, history))
    with np.errstate(invalid="ignore"):  # two infinities
        return float(np.nanmax(np.abs(a - b), initial=0.0))


def skew_rows(report: SkewReport) -> list[Mapping[str, Any]]:
    """A line for each feature, those that differ first."""
    found = sorted(report.features.values(), key=lambda one: -(one.different + one.one_absent))
    return [{k: v for k, v in asdict(one).items() if k != "examples"} for one in found]
