"""Does serving see what training saw? Reads: a service's rows joined at a moment, and online.
Writes: nothing.

Legend: N rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import instant, utc
from adc_features.errors import InputError
from adc_features.inputs.rows import Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.registry import open_any_store
from adc_features.store.services.reading import ServiceReader, open_service_reader
from adc_features.store.services.training_rows import join_service
from adc_features.store.services.values import is_set, normal

MOST_ROWS = 1_000
"""Rows that are compared: each costs an online read."""
_SHOWN = 10


def materialized_until(repo: Path, schema: ServiceSchema) -> list[datetime]:
    """The moments up to which views of a service were last materialized, newest first; without
    views that never were."""
    store, found = open_any_store(repo), set()
    for view in schema.views:
        stored = store.registry.get_any_feature_view(view.name, schema.project)
        if (end := getattr(stored, "most_recent_end_time", None)) is not None:
            found.add(end if end.tzinfo else end.replace(tzinfo=UTC))
    return sorted((utc(end, name="end") for end in found), reverse=True)


class Asked(NamedTuple):
    """Rows of one user and one request, the candidates of one request.

    members: their places, int64 [n]. user, request: as `ServiceReader.read` takes them; items: of
    these rows.
    """

    members: np.ndarray
    user: dict[str, Any]
    items: dict[str, list[Any]]
    request: dict[str, Any]

    def take(self, count: int) -> Asked:
        """The first so many of them."""
        items = {name: values[:count] for name, values in self.items.items()}
        return self._replace(members=self.members[:count], items=items)


def as_requests(
    rows: pa.Table, *, user: Sequence[str], item: Sequence[str], request: Collection[str]
) -> Iterator[Asked]:
    """Rows as the requests that would ask for them, by first row."""
    fields = [name for name in request if name in rows.column_names]
    # a table without columns has no rows
    shared = rows.select([*user, *fields]).to_pylist() or [{}] * len(rows)
    candidates = rows.select(list(item)).to_pydict()
    groups: dict[str, list[int]] = {}
    for row, values in enumerate(shared):
        groups.setdefault(repr(values), []).append(row)
    for members in groups.values():
        values = shared[members[0]]
        yield Asked(
            np.array(members),
            {name: values[name] for name in user},
            {name: [candidates[name][i] for i in members] for name in item},
            {name: values[name] for name in fields},
        )


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
    tolerance: float = 0.0,
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
    tolerance : float
        Numbers that differ by at most this, or this share of the offline one, are equal.

    Returns
    -------
    dict
        `rows`: rows compared. `valued`: feature -> rows with a value on either side. `different`:
        feature -> rows that differ, those without any left out. `max_difference`: the greatest
        difference of two numbers, 0.0 where none differ. `alone`: feature -> rows that read
        otherwise alone than among others. `first_differences`: up to ten, each with the row's keys,
        `feature`, `offline` and `online`.

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
        "valued": {},
        "different": {},
        "max_difference": 0.0,
        "alone": {},
        "first_differences": [],
    }
    for name in features:
        offline = joined[name].combine_chunks()
        valued = np.asarray(offline.is_valid()) | np.asarray(online[name].is_valid())
        report["valued"][name] = int(valued.sum())
        differs, most = _different(offline, online[name], types[name], tolerance)
        if differs.any():
            report["different"][name] = int(differs.sum())
            report["max_difference"] = max(report["max_difference"], most)
        apart, _ = _different(alone[name][0], alone[name][1], types[name], tolerance)
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
    order: list[int] = []
    pieces: dict[str, list[pa.Array]] = {name: [] for name in features}
    pairs: dict[str, tuple[list, list]] = {name: ([], []) for name in features}
    for asked in as_requests(rows, user=user, item=item, request=reader.request_fields):
        many = reader.read(asked.user, asked.items, request=asked.request, now=now).parts
        one = None
        if len(asked.members) > 1:
            alone = asked.take(1)
            one = reader.read(alone.user, alone.items, request=alone.request, now=now).parts
        order += asked.members.tolist()
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
    return _different(offline, online, dtype, 0.0)[0]


def _different(
    offline: pa.Array, online: pa.Array, dtype: str, tolerance: float
) -> tuple[np.ndarray, float]:
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
        both = np.flatnonzero(differs & here & there)
        ours = offline.take(pa.array(both)).cast(pa.float64(), safe=False).to_numpy()
        theirs = online.take(pa.array(both)).cast(pa.float64(), safe=False).to_numpy()
        with np.errstate(invalid="ignore"):  # two infinities
            gaps = np.abs(ours - theirs)
            most = float(gaps.max(initial=0.0))
            differs[both[gaps <= tolerance * np.maximum(1.0, np.abs(ours))]] = False
    return differs, most


def _content(value: list | None, dtype: str) -> Any:
    if value is None:
        return None
    return sorted(set(value)) if is_set(dtype) else repr(value)
