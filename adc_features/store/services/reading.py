"""The features of a service for one request. Reads: an online store, keys and request fields.
Writes: Parts, from which a ranker's inputs are encoded.

What is read is planned when the reader is opened: views of the user once, views of the item and of
both for each candidate, on-demand views on the side of what they read. The registry is not resolved
again: what is applied later needs another reader.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.aggregates.finalise import READ_AT
from adc_features.clock import instant, utc
from adc_features.codes.sids import CodeTimeline
from adc_features.errors import InputError, RequestError
from adc_features.inputs.rows import FeatureRows, Parts
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.registry import open_any_store
from adc_features.store.services.asked import key_column, request_columns
from adc_features.store.services.lookups import Found, Lookup, OurStore, read_by_feast
from adc_features.store.services.on_demand import computed
from adc_features.store.services.plan import OnDemandView, ServicePlan, service_plan
from adc_features.store.services.publish_time import TRIES, PublishTime, as_of
from adc_features.store.services.stored import arrow_of

if TYPE_CHECKING:
    from adc_features.store._compat import FeatureStore


class Reading(NamedTuple):
    """What was read for a request.

    parts: the rows, by side. user: whether any view of the user has a row that has not expired;
    items: the same of each candidate, bool [N]. None where the service has no view of that side.
    as_of: the time as of which history says the same, where live views were read. torn: they were
    read while events were committed, so that no one time is it.
    """

    parts: Parts
    user: bool | None
    items: np.ndarray | None
    as_of: datetime | None = None
    torn: bool = False


class ServiceReader:
    """A service, open for many requests; `open_service_reader` makes one.

    Parameters
    ----------
    store : feast.FeatureStore
    schema : ServiceSchema
    plan : ServicePlan
        What is looked up.
    user, item : sequence of str
        Join keys that are constant within a request, and those of a candidate.
    request : mapping of str to str
        Every field of the request -> Feast type.
    optional : collection of str
        Fields that may be missing.
    """

    def __init__(
        self,
        store: FeatureStore,
        schema: ServiceSchema,
        plan: ServicePlan,
        *,
        user: Sequence[str],
        item: Sequence[str],
        request: Mapping[str, str],
        optional: Collection[str],
    ) -> None:
        self._store, self._schema, self._plan = store, schema, plan
        self._types = {name: schema.join_keys[name] for name in (*user, *item)}
        self._user, self._item = tuple(user), tuple(item)
        self._request, self._optional = dict(request), frozenset(optional)
        self._ours, self._publish_time = OurStore(store), PublishTime(store, plan)
        self._single, self._many = _lookups(plan, self._item, ours=self._ours)

    @property
    def plan(self) -> ServicePlan:
        """What is looked up."""
        return self._plan

    @property
    def request_fields(self) -> dict[str, str]:
        """Every field of the request -> Feast type."""
        return dict(self._request)

    @property
    def required_fields(self) -> frozenset[str]:
        """Those that a request must carry."""
        return frozenset(self._request) - self._optional

    def read(
        self,
        user: Mapping[str, Any],
        items: Mapping[str, Sequence[Any]],
        *,
        request: Mapping[str, Any],
        now: datetime,
        timeline: CodeTimeline | None = None,
    ) -> Reading:
        """The rows of a request, by side, and what is known.

        Where events are committed meanwhile, live views are read a second time.

        Parameters
        ----------
        user : mapping of str to object
            The value of each join key of the user.
        items : mapping of str to sequence
            N values of each join key of the candidates; repeats are kept.
        request : mapping of str to object
            Fields of the request.
        now : datetime
            The moment of the request, aware: values expire by it.
        timeline : CodeTimeline, optional
            Handed on to the encoders.

        Returns
        -------
        Reading
            Of its parts user, request and global have one row, item and pair N. Columns of one row
            share a table, and so do those of N: an on-demand view stands where its sources put it.

        Raises
        ------
        RequestError
            A key or a required field is missing, a field is unknown, a value is of another type,
            or a number is not finite.
        ArtifactError
            The store holds values of another type than declared.
        """
        now = utc(now, name="now")
        single, many = self._user_keys(user), self._item_keys(items)
        fields = request_columns(request, self._request, optional=self._optional)
        if not self._publish_time.is_read:
            return self._read(single, many, fields, now=now, timeline=timeline)
        for _ in range(TRIES):
            before = self._publish_time.last()
            found = self._read(single, many, fields, now=now, timeline=timeline)
            if self._publish_time.last() == before:
                return found._replace(as_of=as_of(before, now))
        return found._replace(torn=True)

    def _read(
        self,
        single: dict[str, pa.Array],
        many: dict[str, pa.Array],
        fields: Mapping[str, pa.Array],
        *,
        now: datetime,
        timeline: CodeTimeline | None,
    ) -> Reading:
        """single, many: the keys of the user, and those of the candidates."""
        rows = len(next(iter(many.values()))) if many else 1
        found = self._looked_up(self._single, single, 1, now)
        found |= self._looked_up(self._many, self._broadcast(single, rows) | many, rows, now)
        times = instant(now)
        columns = self._columns(found, {**single, **fields}, many, rows, times)
        one = FeatureRows.of_columns({**single, **fields, **columns[0]}, np.array([times]))
        each = FeatureRows.of_columns({**many, **columns[1]}, np.full(rows, times))
        sides: Any = {"user": one, "request": one, "global": one, "item": each, "pair": each}
        return Reading(
            Parts(sides, rows, timeline),
            self._any(self._single, found, self._user),
            self._each(found, rows),
        )

    def _user_keys(self, user: Mapping[str, Any]) -> dict[str, pa.Array]:
        _check_names(user, self._user, "user")
        return {n: key_column([user[n]], self._types[n], name=n) for n in self._user}

    def _item_keys(self, items: Mapping[str, Sequence[Any]]) -> dict[str, pa.Array]:
        _check_names(items, self._item, "item")
        lengths = {name: len(items[name]) for name in self._item}
        if len(set(lengths.values())) > 1:
            raise RequestError(f"the item keys have {lengths} values; give as many of each")
        if not all(lengths.values()):
            raise RequestError("there are no candidates; send at least one item")
        return {n: key_column(items[n], self._types[n], name=n) for n in self._item}

    @staticmethod
    def _broadcast(columns: Mapping[str, pa.Array], rows: int) -> dict[str, pa.Array]:
        return {name: pa.repeat(column[0], rows) for name, column in columns.items()}

    def _looked_up(
        self, lookups: Sequence[Lookup], keys: Mapping[str, pa.Array], rows: int, now: datetime
    ) -> dict[int, Found]:
        answers: dict[int, Found] = {}
        distinct: dict[tuple[str, ...], Any] = {}
        for lookup in lookups:
            asked = {own: keys[column] for own, column in lookup.keys.items()}
            # within a request the user's keys are constant, so the candidate's tell rows apart
            varying = tuple(sorted(set(lookup.keys.values()) & set(self._item)))
            if varying not in distinct:
                distinct[varying] = _distinct({name: keys[name] for name in varying}, rows)
            first, place = distinct[varying]
            if place is not None:
                asked = {name: column.take(first) for name, column in asked.items()}
            count = rows if place is None else len(first)
            if lookup.ours:
                shared = bool(varying) and len(varying) == len(set(lookup.keys.values()))
                found = self._ours.read(lookup, asked, count, now=now, keep=shared)
            else:
                found = read_by_feast(self._store, lookup, asked, count, now=now)
            answers |= found if place is None else {i: _spread(f, place) for i, f in found.items()}
        return answers

    def _columns(
        self,
        found: Mapping[int, Found],
        single: Mapping[str, pa.Array],
        many: Mapping[str, pa.Array],
        rows: int,
        times: np.datetime64,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The feature columns of one row, and those of N. times: of the request."""
        ones = {i for lookup in self._single for i in lookup.views}
        one: dict[str, Any] = {}
        each: dict[str, Any] = {}
        for key, place in self._plan.places.items():
            side = one if place.stored in ones else each
            side[key] = found[place.stored].columns[place.feature]
        for view in self._plan.on_demand.values():
            read = {
                name: arrow_of(found[p.stored].columns[p.feature])
                for name, p in view.inputs.items()
            }
            wide = self._is_wide(view, ones)
            read |= {n: (many if n in many else single)[n] for n in (*view.keys, *view.request)}
            if view.at_read:
                at = int(times.astype("datetime64[us]").astype(np.int64))
                read[READ_AT] = pa.array([at])
            if wide:
                read |= self._broadcast(
                    {n: c for n, c in read.items() if len(c) == 1 != rows}, rows
                )
            for name, column in computed(view, read, rows if wide else 1).items():
                (each if wide else one)[f"{view.projected}__{name}"] = column
        return one, each

    def _is_wide(self, view: OnDemandView, ones: Collection[int]) -> bool:
        """Whether an on-demand view has a row for each candidate."""
        return any(place.stored not in ones for place in view.inputs.values())

    def _any(
        self, lookups: Sequence[Lookup], found: Mapping[int, Found], keys: Collection[str]
    ) -> bool | None:
        """Whether a view of these keys alone has a row; None where there is none."""
        places = [
            i for lookup in lookups if set(lookup.keys.values()) & set(keys) for i in lookup.views
        ]
        return bool(any(found[i].stored.any() for i in places)) if places else None

    def _each(self, found: Mapping[int, Found], rows: int) -> np.ndarray | None:
        """Of each candidate: whether a view of the item alone has a row."""
        places = [
            i
            for lookup in self._many
            if set(lookup.keys.values()) <= set(self._item)
            for i in lookup.views
        ]
        if not places:
            return None
        return np.logical_or.reduce([found[i].stored for i in places])


def open_service_reader(
    repo: Path,
    schema: ServiceSchema,
    *,
    features: Sequence[str],
    user: Sequence[str],
    item: Sequence[str],
    request: Mapping[str, str] | None = None,
    optional: Collection[str] = (),
) -> ServiceReader:
    """Open a service for many requests.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied; its online store may be any.
    schema : ServiceSchema
        The service, as `service_schema` reads it.
    features : sequence of str
        Keys of the features that are read (`<view>__<feature>`).
    user, item : sequence of str
        Join keys that are constant within a request, and those of a candidate.
    request : mapping of str to str, optional
        Fields of the request beside those that on-demand views read: name -> Feast type.
    optional : collection of str, optional
        Fields that may be missing, and are absent then.

    Returns
    -------
    ServiceReader

    Raises
    ------
    InputError
        A feature is not offered, a join key is on no side or on both, or an online view needs a
        field of the request.
    """
    store = open_any_store(repo, pinned=True)
    plan = service_plan(store, schema, features)
    if both := sorted(set(user) & set(item)):
        raise InputError(f"join keys {both} are of the user and of the item; name each once")
    if unknown := [k for k in (*user, *item) if k not in schema.join_keys]:
        raise InputError(
            f"{unknown} are no join keys of service {schema.service!r}; those are"
            f" {sorted(schema.join_keys)}"
        )
    if missing := [k for k in plan.keys if k not in (*user, *item)]:
        raise InputError(
            f"join keys {missing} are on no side; say which are the user's and which the item's"
            f" (user={list(user)}, item={list(item)})"
        )
    fields = {**(request or {}), **plan.request}
    return ServiceReader(
        store, schema, plan, user=user, item=item, request=fields, optional=optional
    )


def _lookups(
    plan: ServicePlan, item: Collection[str], *, ours: OurStore
) -> tuple[list[Lookup], list[Lookup]]:
    """The calls of one row, and those of N rows: views of the same keys share one.

    Views of our own store do not share with others; two versions of a view do not share.
    """
    groups: dict[Any, dict[int, Any]] = {}
    for place, view in enumerate(plan.stored):
        wide = any(column in item for column in view.keys.values())
        base = (wide, ours.holds(view.view), tuple(sorted(view.keys.items())))
        turn = 0
        while any(v.view.name == view.view.name for v in groups.get((base, turn), {}).values()):
            turn += 1
        groups.setdefault((base, turn), {})[place] = view
    made: tuple[list[Lookup], list[Lookup]] = [], []
    for (base, _), views in groups.items():
        made[base[0]].append(Lookup(views, dict(base[2]), ours=base[1]))
    return made


def _check_names(given: Mapping[str, Any], known: Sequence[str], side: str) -> None:
    if set(given) != set(known):
        missing, extra = sorted(set(known) - set(given)), sorted(set(given) - set(known))
        raise RequestError(
            f"the {side} keys are {sorted(given)}; expected {sorted(known)}"
            + (f", missing {missing}" if missing else "")
            + (f", unknown {extra}" if extra else "")
        )


def _distinct(keys: Mapping[str, pa.Array], rows: int) -> tuple[Any, np.ndarray | None]:
    """The first row of each distinct key, and every row's place among them; (None, None) where all
    are distinct."""
    if rows == 1 or not keys:
        return None, None
    # numpy's values: Arrow makes an object of its own of each first
    lists = [column.to_numpy(zero_copy_only=False).tolist() for column in keys.values()]
    values = lists[0] if len(lists) == 1 else list(zip(*lists, strict=True))
    if len(set(values)) == rows:
        return None, None
    places: dict[Any, int] = {}
    place = [places.setdefault(value, len(places)) for value in values]
    first = np.unique(place, return_index=True)[1]
    return pa.array(first), np.array(place)


def _spread(found: Found, place: np.ndarray) -> Found:
    at = pa.array(place)
    columns: dict[str, Any] = {n: arrow_of(c).take(at) for n, c in found.columns.items()}
    return Found(columns, found.stored[place])
