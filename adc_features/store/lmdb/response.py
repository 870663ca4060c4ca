"""What `get_online_features` returns when nothing had to become a proto. Reads: columns. Writes:
what Feast's response does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adc_features.store import _compat as feast
from adc_features.store.lmdb.feature_values import protos, python_values
from adc_features.store.lmdb.request import by_column, join_keys_of, row_keys
from adc_features.store.lmdb.row_table import Answer

_MICROSECONDS = 1_000_000


class ViewAnswer(NamedTuple):
    """The features of one view: names as asked -> names as shown.

    version: (name, number) when it is to be told.
    """

    answer: Answer
    features: Mapping[str, str]
    version: tuple[str, int] | None


class ColumnarResponse(feast.OnlineResponse):
    """Feast's OnlineResponse, over columns.

    `proto` is built when somebody asks for it, as the feature servers do.
    """

    def __init__(
        self,
        entities: Mapping[str, Sequence[Any]],
        views: Sequence[ViewAnswer],
        feature_types: dict[str, feast.ValueType],
    ) -> None:
        self._entities, self._views, self._feature_types = entities, views, feature_types

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Name -> values in the order of the request, None where absent.

        include_event_timestamps: add name__ts -> seconds since 1970.
        """
        shown: dict[str, Any] = {}
        for name, values in self._entities.items():
            shown[name] = list(values)
            if include_event_timestamps:
                shown[name + feast.TIMESTAMP_POSTFIX] = [0] * len(values)
        for view in self._views:
            seconds = (
                (view.answer.event // _MICROSECONDS).tolist() if include_event_timestamps else []
            )
            for asked, name in view.features.items():
                shown[name] = python_values(view.answer, asked, self._feature_types.get(name))
                if include_event_timestamps:
                    shown[name + feast.TIMESTAMP_POSTFIX] = list(seconds)
        return shown

    @functools.cached_property
    def proto(self) -> Any:  # type: ignore[override]
        """The response as Feast's servers send it.

        An expired row is OUTSIDE_MAX_AGE, without its values.
        """
        response = feast.GetOnlineFeaturesResponse(results=[])
        vector, status = feast.GetOnlineFeaturesResponse.FeatureVector, feast.FieldStatus
        timestamp = vector().event_timestamps.add
        nothing = timestamp()
        for name, values in self._entities.items():
            kind = (
                "string_val"
                if isinstance(values[0], str)
                else feast.VALUE_TYPE_TO_PROTO_VALUE_MAP[self._feature_types[name]]
            )
            response.metadata.feature_names.val.append(name)
            n = len(values)
            response.results.append(
                vector(
                    values=[feast.ValueProto(**{kind: v}) for v in values],
                    statuses=[status.PRESENT] * n,
                    event_timestamps=[nothing] * n,
                )
            )
        for view in self._views:
            answer = view.answer
            times = []
            for microseconds in answer.event.tolist():
                times.append(timestamp())
                times[-1].seconds, rest = divmod(microseconds, _MICROSECONDS)
                times[-1].nanos = rest * 1000
            for asked, name in view.features.items():
                statuses = np.where(
                    answer.held(asked),
                    status.PRESENT,
                    np.where(answer.expired, status.OUTSIDE_MAX_AGE, status.NOT_FOUND),
                )
                response.metadata.feature_names.val.append(name)
                response.results.append(
                    vector(
                        values=protos(answer, asked),
                        statuses=statuses.tolist(),
                        event_timestamps=times,
                    )
                )
            if view.version:
                told = response.metadata.feature_view_metadata.add()
                told.name, told.version = view.version
        return response


def columnar_response(  # noqa: PLR0917  (Feast's own order)
    store: Any,
    config: Any,
    features: Any,
    entity_rows: Any,
    registry: Any,
    project: str,
    *,
    full_feature_names: bool,
    tell_versions: bool,
) -> ColumnarResponse | None:
    """What `store` (an LmdbOnlineStore) answers without a proto.

    None where Feast has to answer: on-demand views, delegated views, and keys that are not plainly
    of their types.
    """
    asked = by_column(entity_rows)
    if asked is None or getattr(features, "precompute_online", False):
        return None
    _, on_demand, join_key_of, entity_types, join_keys, grouped, _, request_data, entityless = (
        feast._get_cached_request_context(registry, project, features, full_feature_names)
    )
    asked = {name: values for name, values in asked.items() if name in join_keys}
    if (
        on_demand
        or request_data
        or entityless
        or not asked
        or len({len(values) for values in asked.values()}) > 1
    ):
        return None
    views, types = [], {name: entity_types[name] for name in asked if name in entity_types}
    for table, names in grouped:
        own = feast._get_table_entity_values(table, join_key_of, asked)
        keys = row_keys(own, join_keys_of(table)) if len(own) == len(table.entities) else None
        if keys is None or not store.holds(config, table):
            return None
        prefix = f"{table.projection.name_to_use()}__" if full_feature_names else ""
        version = None
        if tell_versions:
            shown_as = table.projection.name_alias or table.projection.name
            version = shown_as, getattr(table, "current_version_number", 0) or 0
        answer = store.read(config, table, keys, names)
        shown = {name: prefix + name for name in names}
        types |= {
            shown[field.name]: field.dtype.to_value_type()
            for field in table.features
            if field.name in shown
        }
        held = sum(int(answer.held(name).sum()) for name in names)
        feast.track_feature_statuses(table.name, held, len(names) * len(keys) - held)
        views.append(ViewAnswer(answer, shown, version))
    return ColumnarResponse(asked, views, types)
