"""Does a ranker score online what it was trained on? Reads: its reference rows, the offline and
the online store. Writes: nothing.

A feature agrees where the online store holds what the offline store says as of now, or as of the
last materialization: rows that arrived since are late, not wrong. Scores are compared at a moment
at which all features agree.

Legend: N rows, T tasks.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant, utc
from adc_features.errors import ParityError
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.parquet_files import read_parquet
from adc_features.ranking.multitask.trained import REFERENCE, joined_parts
from adc_features.serving.declared import DeclaredBundle
from adc_features.store.services.parity import (
    as_requests,
    materialized_until,
    service_parity,
)
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service

TOLERANCE = 1e-6
"""How far numbers and scores of both paths may differ."""


def check_both_paths(bundle: DeclaredBundle, *, at: datetime) -> tuple[str, ...]:
    """Run the reference rows of a ranker through the offline join and the online read.

    Parameters
    ----------
    bundle : DeclaredBundle
        The opened ranker.
    at : datetime
        Now, aware.

    Returns
    -------
    tuple of str
        What cannot be told, and should be known: views without any value, no rows to compare.

    Raises
    ------
    ParityError
        A feature differs by more than 1e-6 between the two paths, or between a row alone and the
        same row among others; or a score does. The message names view and feature.
    """
    path = bundle.promotion.ranker / REFERENCE
    if not path.is_file():
        return (f"{path.name} is missing: online and offline values were not compared",)
    repo, trained = bundle.promotion.repository, bundle.trained
    schema = service_schema(repo, trained.ranker.service)
    keys = _askable(read_parquet(path), bundle, schema)
    if not len(keys):
        return (
            "every reference row lacks a required field of the request: online and offline values"
            " were not compared",
        )
    reports: list[dict[str, Any]] = []
    differing = set(trained.features)
    for moment in [utc(at, name="at"), *materialized_until(repo, schema)]:
        reports.append(_compared(bundle, schema, keys, moment))
        wrong = {*reports[-1]["different"], *reports[-1]["alone"]}
        differing &= wrong
        if not wrong:
            _compare_scores(bundle, keys, moment)
        if not differing:
            break
    if differing:
        raise _refusal(reports[0], differing, trained.name, schema)
    return _without_values(schema, trained.features, reports, len(keys))


def _askable(rows: pa.Table, bundle: DeclaredBundle, schema: ServiceSchema) -> pa.Table:
    """Keys and fields of the rows that a request may carry: those that have what it requires."""
    fields = {**bundle.reader.request_fields, **schema.request_fields}
    names = [n for n in rows.column_names if n in schema.join_keys or n in fields]
    rows = rows.select(names)
    for name in names:
        if name in bundle.reader.required_fields:
            usable = pc.is_valid(rows[name])
            if pa.types.is_floating(rows[name].type):
                usable = pc.and_(usable, pc.is_finite(rows[name]))
            rows = rows.filter(usable)
    return rows


def _compared(
    bundle: DeclaredBundle, schema: ServiceSchema, keys: pa.Table, moment: datetime
) -> dict[str, Any]:
    ranker = bundle.trained.ranker
    return service_parity(
        bundle.promotion.repository,
        schema,
        keys,
        moment,
        user=ranker.user,
        item=ranker.item,
        features=bundle.trained.features,
        request=bundle.reader.request_fields,
        optional=set(bundle.reader.request_fields) - bundle.reader.required_fields,
        tolerance=TOLERANCE,
    )


def _compare_scores(bundle: DeclaredBundle, keys: pa.Table, moment: datetime) -> None:
    """Raise ParityError unless joined rows, the candidates of requests, and a candidate alone
    score alike."""
    ranker = bundle.trained.ranker
    timeline = None if bundle.sids is None else bundle.sids.timeline()
    joined, scored = joined_scores(bundle, keys, moment)
    offline = scored[0]
    for asked in as_requests(
        joined, user=ranker.user, item=ranker.item, request=bundle.reader.request_fields
    ):
        for part in (asked, asked.take(1)):
            read = bundle.reader.read(
                part.user, part.items, request=part.request, now=moment, timeline=timeline
            )
            gaps = np.abs(_scores(bundle, read.parts) - offline[part.members])
            if not gaps.max() <= TOLERANCE:
                row = int(gaps.argmax())
                item = {name: values[row] for name, values in part.items.items()}
                raise ParityError(
                    f"ranker {bundle.trained.name!r} scores {part.user} with {item} {gaps[row]:.2g}"
                    " apart online and offline, although their features are equal; report this,"
                    " and train the ranker again"
                )


def joined_scores(
    bundle: DeclaredBundle, keys: pa.Table, moment: datetime
) -> tuple[pa.Table, np.ndarray]:
    """Rows joined as of a moment, and their score and P(task), float64 [1 + T, N]. keys: N join
    keys and fields of the request.
    """
    repo, trained = bundle.promotion.repository, bundle.trained
    times = pa.array(np.full(len(keys), instant(moment)), pa.timestamp("us", "UTC"))
    joined = join_service(
        repo,
        service_schema(repo, trained.ranker.service),
        keys.append_column("event_timestamp", times),
        features=trained.features,
    )
    timeline = None if bundle.sids is None else bundle.sids.timeline()
    return joined, np.vstack(trained.served(trained.encoder.encode(joined_parts(joined, timeline))))


def _scores(bundle: DeclaredBundle, parts: Parts) -> np.ndarray:
    score, _ = bundle.trained.served(bundle.trained.encoder.encode(parts))
    return score


def _refusal(
    report: Mapping[str, Any], differing: set[str], name: str, schema: ServiceSchema
) -> ParityError:
    lines = []
    for key in sorted(differing):
        feature = schema.feature(key)
        of = f"{key} (view {schema.view(feature.view).name})" if feature else key
        rows, alone = report["different"].get(key, 0), report["alone"].get(key, 0)
        told = [f"{rows} of {report['rows']} rows differ"] if rows else []
        told += [f"{alone} rows read otherwise alone than among others"] if alone else []
        example = next((d for d in report["first_differences"] if d["feature"] == key), None)
        if example:
            at = {k: v for k, v in example.items() if k not in ("feature", "offline", "online")}
            told.append(f"{at}: offline {example['offline']!r}, online {example['online']!r}")
        lines.append(f"\n- {of}: {'; '.join(told)}")
    return ParityError(
        f"ranker {name!r} would not see online what it was trained on; {len(lines)} of its features"
        f" differ:{''.join(lines)}\nmaterialize their views (`feast materialize`), or mend what"
        " writes them online, and promote again",
        first_differences=[_plain(d) for d in report["first_differences"]],
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Without NaN, which JSON lacks."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _without_values(
    schema: ServiceSchema, features: Sequence[str], reports: Sequence[Mapping[str, Any]], rows: int
) -> tuple[str, ...]:
    """A sentence for each view of which no row has any value."""
    valued = {name for report in reports for name, count in report["valued"].items() if count}
    by_view: dict[str, list[str]] = {}
    for key in features:
        if feature := schema.feature(key):
            by_view.setdefault(feature.view, []).append(key)
    return tuple(
        f"view {view!r} has no value for any of the {rows} rows that were compared, neither offline"
        " nor online: all of its inputs are absent; materialize it, or check its ttl"
        for view, keys in by_view.items()
        if not valued & set(keys)
    )
