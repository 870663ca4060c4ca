"""One retraining of a ranker of a feature service: what it is made of, found out before any row is
joined. Reads: what serves, the registry, a label log. Writes: RetrainTask.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.clock import utc
from adc_features.inputs.changes import Accept, Difference
from adc_features.inputs.compatibility import differences, pins, refuse
from adc_features.inputs.resolution import Resolution, resolution
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.refresh import RefreshSchedule
from training.deployment.decisions import content_hash
from training.deployment.declared.champion import Champion, champion_of
from training.deployment.declared.service_windows import RetrainWindows, retrain_windows
from training.deployment.places import retrain_place
from training.deployment.settings import RetrainSettings
from training.ranker.joined import request_fields
from training.ranker.label_sources import LabelSource, source_name
from training.ranker.labels import LabelLog, read_labels
from training.ranker.refresh import chosen_refresh, refresh_facts

ANEW = ("definition", "codebook")
"""Differences that a retraining goes on with, by fitting the inputs anew."""


@dataclass(frozen=True)
class RetrainTask:
    """What a retraining is made of.

    champion: what serves. schema, resolution: the inputs of the challenger. found: how the registry
    differs from what the champion was trained on. anew: inputs that start anew. log: its rows;
    source: where they are from, in words. as_of: exclusive end of the log. made_of: JSON values
    that name all of it. refresh: view -> how it is refreshed online.
    """

    champion: Champion
    schema: ServiceSchema
    resolution: Resolution
    found: tuple[Difference, ...]
    anew: frozenset[str]
    log: LabelLog
    source: str
    settings: RetrainSettings
    as_of: datetime
    made_of: dict[str, Any]
    refresh: Mapping[str, RefreshSchedule] = field(default_factory=dict)

    @cached_property
    def windows(self) -> RetrainWindows:
        """Its rows. Raises InputError where they do not suffice."""
        return retrain_windows(
            self.log,
            through=self.champion.through,
            end=self.as_of,
            days=self.settings.window_days,
            min_rows=self.settings.min_rows,
        )

    @property
    def name(self) -> str:
        """The directory of the retraining, relative to those of the ranker."""
        return retrain_place(self.as_of, self.made_of)

    @property
    def directory(self) -> Path:
        """Where the challenger and the decision are kept."""
        return self.champion.place.directory / self.name


def checked_registry(
    repo: Path, champion: Champion, source: LabelSource, accept: Collection[Accept]
) -> tuple[ServiceSchema, tuple[Difference, ...]]:
    """The service as it is applied, and how it, or the types of the label log, differ. Raises
    InputError with every difference that a retraining does not go on with.
    """
    from adc_features.store.services.schema import service_schema

    schema = service_schema(repo, champion.trained.ranker.service)
    pinned = champion.trained.pins
    refuse(differences(pinned, schema), use="retrain", accept=accept)  # before the log is looked at
    found = tuple(differences(pinned, schema, log=request_fields(source, schema)))
    refuse(found, use="retrain", accept=accept)
    return schema, found


def retrain_task(
    repo: Path,
    name: str,
    source: LabelSource,
    *,
    as_of: datetime | None,
    settings: RetrainSettings,
    accept: Collection[Accept],
) -> RetrainTask:
    """What a retraining of a promoted ranker is made of. Raises InputError for a registry that
    differs, or a log that cannot be learned from.
    """
    champion = champion_of(repo, name)
    schema, found = checked_registry(repo, champion, source, accept)
    resolved, anew = challenger_inputs(champion, schema, found, request_fields(source, schema))
    end = None if as_of is None else utc(as_of, name="as_of")
    log = read_labels(source, schema=schema, ranker=resolved.ranker, end=end)
    end = log.end + timedelta(microseconds=1) if end is None else end
    made_of = {
        "champion": champion.pair.ranker_hash,
        "as_of": end.isoformat(),
        "labels": _table_hash(log.table),
        "registry": content_hash(pins(schema, resolved.inputs, resolved.ranker)),
        "settings": asdict(settings),
    }
    refresh = chosen_refresh(repo, schema, trained=champion.trained.facts)
    if refresh:
        made_of["refresh"] = {v: f["schedule"] for v, f in refresh_facts(refresh).items()}
    return RetrainTask(
        champion=champion,
        schema=schema,
        resolution=resolved,
        found=found,
        anew=anew,
        log=log,
        source=source_name(source),
        settings=settings,
        as_of=end,
        made_of=made_of,
        refresh=refresh,
    )


def challenger_inputs(
    champion: Champion,
    schema: ServiceSchema,
    found: Sequence[Difference],
    columns: dict[str, str],
) -> tuple[Resolution, frozenset[str]]:
    """The champion's inputs, those that start anew as the declaration resolves now; and their
    names. What the service offers beside them is not taken.
    """
    accepted = [f for f in found if f.accept == "inputs" and f.retrain == "refuse"]
    anew = {n for f in found if f in accepted or f.what in ANEW for n in f.inputs}
    ranker, pinned = champion.trained.ranker, champion.trained.encoder.specs
    if not any(f.retrain != "fine" or f.serve != "fine" for f in found if f.what != "added"):
        return Resolution(ranker, pinned, ()), frozenset(anew)
    now = resolution(ranker, schema, columns=columns)
    again = {spec.name: spec for spec in now.inputs}
    named = {n for f in accepted for n in f.inputs}
    kept: list[ResolvedInput] = []
    for spec in pinned:
        if spec.name in named:
            if spec.name in again:
                kept.append(again[spec.name])
        else:
            kept.append(_retyped(spec, schema))
    gates = [g for g in ranker.gates if g in {s.name for s in kept}]
    ranker = replace(ranker, gates=tuple(gates))
    return Resolution(ranker, tuple(kept), ()), frozenset(anew & {s.name for s in kept})


def _retyped(spec: ResolvedInput, schema: ServiceSchema) -> ResolvedInput:
    """An input that is kept, its columns of the types that they have now."""
    columns = {}
    for role, column in spec.columns.items():
        feature = schema.feature(column.name)
        dtype = feature.dtype if feature else schema.join_keys.get(column.name, column.dtype)
        columns[role] = replace(column, dtype=dtype)
    return replace(spec, columns=columns)


def _table_hash(table: pa.Table) -> str:
    """sha256 of the rows."""
    sink = _Hashed()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.digest.hexdigest()


class _Hashed:
    """A file that keeps nothing but the hash of what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._written = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.digest.update(data)
        self._written += size
        return size

    def tell(self) -> int:
        return self._written

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False
