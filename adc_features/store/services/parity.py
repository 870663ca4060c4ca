"""Does serving see what training saw? Reads: a service's rows joined at a moment, and online.
Writes: nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant
from adc_features.errors import InputError
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.services.reading import ServiceReader, open_service_reader
from adc_features.store.services.training_rows import join_service
from adc_features.store.services.values import is_set, normal

MOST_ROWS = 1_000
"""Rows that are compared: each costs an online read."""
_SHOWN = 10


def service_parity(
    repo: Path,
    schema: ServiceSchema,
    keys: pa.Table,
    now: datetime,
    *,
    user: Sequence[str],
    item: Sequence[str],
    features: Sequence[str] | None = None,
    request: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Compare a service joined at a moment with what is online, feature by feature.

    Parameters
    ----------
    repo : Path
        A repository that was materialized as of `now`.
    schema : ServiceSchema
    keys : pyarrow.Table, N rows
        Join keys and request fields; the first 1,000 rows are compared.
    now : datetime
        The moment, aware.
    user, item, features, request, optional
        As `open_service_reader` takes them; by default all features but labels.

    Returns
    -------
    dict
        `rows`: rows compared. `different`: feature -> rows that differ, those without any left
        out. `max_difference`: the greatest difference of two numbers, 0.0 where none differ.
        `alone`: feature -> rows that read otherwise alone than among others. `first_differences`:
        up to ten, each with the row's keys, `feature`, `offline` and `online`.

    Raises
    ------
    InputError
        There is no row, or as `join_service` and `open_service_reader` raise.
    """
    labels = {view.projected for view in schema.views if view.kind == "label"}
    if features is None:
        features = [f.key for f in schema.features if f.view not in labels]
    if not len(keys):
        raise InputError("there is no row to compare; give keys of at least one")
    keys = keys.slice(0, MOST_ROWS)
    times = pa.array(np.full(len(keys), instant(now)), pa.timestamp("us", "UTC"))
    if "event_timestamp" in keys.column_names:
        keys = keys.drop_columns("event_timestamp")
    joined = join_service(
        repo, schema, keys.append_column("event_timestamp", times), features=features
    )
    reader = open_service_reader(
        repo, schema, features=features, user=user, item=item, request=request, optional=optional
    )
    online, alone = _read(reader, joined, features, user=user, item=item, now=now)
    types = {f.key: f.dtype for f in schema.features}
    report: dict[str, Any] = {
        "rows": len(keys),
        "different": {},
        "max_difference": 0.0,
        "alone": {},
        "first_differences": [],
    }
    for name in features:
        offline = joined[name].combine_chunks()
        differs, most = _different(offline, online[name], types[name])
        if differs.any():
            report["different"][name] = int(differs.sum())
            report["max_difference"] = max(report["max_difference"], most)
        apart, _ = _different(alone[name][0], alone[name][1], types[name])
        if apart.any():
            report["alone"][name] = int(apart.sum())
        for row in np.flatnonzero(differs)[: _SHOWN - len(report["first_differences"])].tolist():
            shown = {key: joined[key][row].as_py() for key in (*user, *item)}
            values = {"offline": offline[row].as_py(), "online": online[name][row].as_py()}
            report["first_differences"].append({**shown, "feature": name, **values})
    return report


def _read(
    reader: ServiceReader,
    rows: pa.Table,
    features: Sequence[str],
    *,
    user: Sequence[str],
    item: Sequence[str],
    now: datetime,
) -> tuple[dict[str, pa.Array], dict[str, tuple[pa.Array, pa.Array]]]:
    """The features of all rows, in their order; and of the first row of every request with more
    than one, as it read among them and as it reads alone.

    Rows of one user and one request are candidates of one request.
    """
    fields = [name for name in reader.request_fields if name in rows.column_names]
    shared = rows.select([*user, *fields]).to_pylist()
    candidates = rows.select(list(item)).to_pydict()
    requests: dict[str, list[int]] = {}
    for row, values in enumerate(shared):
        requests.setdefault(repr(values), []).append(row)
    order: list[int] = []
    pieces: dict[str, list[pa.Array]] = {name: [] for name in features}
    pairs: dict[str, tuple[list, list]] = {name: ([], []) for name in features}
    for members in requests.values():
        values = shared[members[0]]
        of_user = {name: values[name] for name in user}
        request = {name: values[name] for name in fields}

        def parts(chosen: list[int], of_user: Any = of_user, request: Any = request) -> Parts:
            items = {name: [candidates[name][i] for i in chosen] for name in item}
            return reader.parts(of_user, items, request=request, now=now)

        many = parts(members)
        order += members
        one = parts(members[:1]) if len(members) > 1 else None
        for name in features:
            column = _of(many, name)
            pieces[name].append(column)
            if one is not None:
                pairs[name][0].append(column[:1])
                pairs[name][1].append(_of(one, name))
    back = pa.array(np.argsort(order))
    columns = {name: _concatenated(column).take(back) for name, column in pieces.items()}
    return columns, {
        name: (_concatenated(a, columns[name].type), _concatenated(b, columns[name].type))
        for name, (a, b) in pairs.items()
    }


def _concatenated(arrays: Sequence[pa.Array], kind: pa.DataType | None = None) -> pa.Array:
    return pa.concat_arrays(arrays) if arrays else pa.nulls(0, kind)


def _of(parts: Parts, name: str) -> pa.Array:
    """A feature for each of N rows, whichever side has it."""
    item, user = parts["item"], parts["user"]
    if name in item.table.column_names:
        return item.column(name)
    return user.column(name).take(pa.array(np.zeros(parts.rows, np.int64)))


def differing(offline: pa.Array, online: pa.Array, dtype: str) -> np.ndarray:
    """Which rows differ, bool [N]: null and NaN are both absent, sets have no order."""
    return _different(offline, online, dtype)[0]


def _different(offline: pa.Array, online: pa.Array, dtype: str) -> tuple[np.ndarray, float]:
    """Which rows differ, bool [N], and the greatest difference of two numbers.

    Null and NaN are both absent; sets have no order.
    """
    if offline.type != online.type:
        return np.ones(len(offline), bool), 0.0
    if pa.types.is_nested(offline.type):
        pairs = zip(offline.to_pylist(), online.to_pylist(), strict=True)
        same = [_content(a, dtype) == _content(b, dtype) for a, b in pairs]
        return ~np.array(same, bool), 0.0
    offline, online = normal(offline), normal(online)
    here, there = np.asarray(offline.is_valid()), np.asarray(online.is_valid())
    equal = np.asarray(pc.equal(offline, online).fill_null(False))
    differs = (here != there) | (here & there & ~equal)
    most = 0.0
    if pa.types.is_floating(offline.type) or pa.types.is_integer(offline.type):
        both = pa.array(differs & here & there)
        gaps = pc.abs(
            pc.subtract(
                offline.filter(both).cast(pa.float64(), safe=False),
                online.filter(both).cast(pa.float64(), safe=False),
            )
        )
        most = float(pc.max(gaps).as_py() or 0.0)
    return differs, most


def _content(value: list | None, dtype: str) -> Any:
    if value is None:
        return None
    return sorted(set(value)) if is_set(dtype) else repr(value)
