"""Score candidates with a ranker of the user's own feature service. Reads: a promoted ranker,
online features. Writes: Ranked.

The user and the request are read and encoded once and stand for all candidates; the arrays are
those that training made of joined rows, by the same encoder.

Legend: N candidates.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.clock import utc
from adc_features.errors import AdcError, ArtifactError, RequestError
from adc_features.inputs.compatibility import differences, refuse
from adc_features.inputs.declaration import Ranker
from adc_features.parquet_files import read_parquet
from adc_features.ranking.multitask.explained import explained
from adc_features.ranking.multitask.trained import (
    REFERENCE,
    TrainedRanker,
    check_reference,
    load_ranker,
)
from adc_features.served.record import About
from adc_features.serving.promotion import Promotion, check_promotion
from adc_features.serving.protocol import RankRequest
from adc_features.serving.ranked import ItemLookup, Ranked
from adc_features.store import OnlineSids
from adc_features.store.services.reading import ServiceReader, open_service_reader
from adc_features.store.services.schema import registry_stamp, service_schema

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeclaredBundle:
    """A ranker of a feature service and a reader of what it reads online. `open_declared` makes
    one.

    Attributes
    ----------
    promotion : Promotion
        The pair that was opened.
    trained : TrainedRanker
        The ranker with its inputs.
    reader : ServiceReader
        Of the service.
    key_types : mapping of str to str
        Join keys of the service -> Feast type.
    sids : OnlineSids or None
        Codes through time, for the codes of a user's recent items; None where no input reads them.
    warnings : tuple of str
        What changed in the registry since the ranker was trained, and does not matter to it.
    example : RankRequest or None
        A request made of the ranker's reference rows, by which the store is tried.
    """

    promotion: Promotion
    trained: TrainedRanker
    reader: ServiceReader
    key_types: Mapping[str, str]
    sids: OnlineSids | None
    warnings: tuple[str, ...] = ()
    example: RankRequest | None = None
    _looked: dict[object, tuple[str, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def recipe_name(self) -> str:
        """The ranker's name, as answers give it."""
        return self.trained.name

    @cached_property
    def about(self) -> About:
        """What a log of its answers is about."""
        declared, plan = self.trained.ranker, self.reader.plan
        return About(
            declared.service,
            self.recipe_name,
            tuple(declared.user),
            tuple(declared.item),
            tuple((name, plan.types[name]) for name in plan.order),
            tuple(sorted(self.reader.request_fields.items())),
            tuple(task.name for task in declared.tasks),
        )

    def check_online(self) -> None:
        """Raise ArtifactError when the online store does not answer.

        The store is the user's own: what it lacks is marked absent, item by item.
        """
        if (asked := self.example) is None:
            return
        user, items, _ = self._asked(asked)
        try:
            self.reader.read(user, items, request=asked.request, now=datetime.now(UTC))
        except Exception as error:  # each store has its own ways to fail
            raise ArtifactError(
                f"the features of ranker {self.recipe_name!r} cannot be read online"
                f" ({type(error).__name__}: {error}); is the store up, and was every view of"
                f" service {self.trained.ranker.service!r} applied and materialized?"
            ) from error

    def changed(self) -> tuple[str, ...]:
        """For what the registry holds now this ranker would not be opened again; it goes on with
        what it was opened on.

        The registry is read again where it may have changed: that takes a tenth of a second of
        Python, beside requests.
        """
        try:
            stamp = registry_stamp(self.promotion.repository)
            if stamp in self._looked:
                return self._looked[stamp]
            schema = service_schema(self.promotion.repository, self.trained.ranker.service)
            found = differences(self.trained.pins, schema)
        except AdcError as error:
            return (str(error),)
        told = tuple(d.message for d in found if d.serve == "refuse")
        self._looked.clear()
        if stamp is not None:
            self._looked[stamp] = told
        return told

    def rank(self, asked: RankRequest, *, now: datetime) -> Ranked:
        """Score the candidates of a request as of `now`.

        Raises
        ------
        RequestError
            Keys or fields of the request that are missing, unknown or of another type.
        ArtifactError
            The online store cannot be read.
        """
        user, items, repeated = self._asked(asked)
        now = utc(now, name="now")
        return self._ranked(user, items, asked.request, now, repeated, explain=asked.explain)

    def _asked(self, asked: RankRequest) -> tuple[dict[str, Any], dict[str, list[Any]], int]:
        """The keys of the user, those of distinct candidates, and how many were repeated."""
        keys = self.trained.ranker
        user = _keyed(asked.user, keys.user, "user")
        return (user, *_candidates(asked.items, keys.item))

    def _ranked(
        self,
        user: Mapping[str, Any],
        items: Mapping[str, Sequence[Any]],
        request: Mapping[str, Any],
        now: datetime,
        repeated: int,
        *,
        explain: bool = False,
    ) -> Ranked:
        marks = [time.perf_counter()]
        timeline = None if self.sids is None else self.sids.timeline()
        read = self.reader.read(user, items, request=request, now=now, timeline=timeline)
        marks.append(time.perf_counter())
        encoded = self.trained.encoder.encode(read.parts)
        marks.append(time.perf_counter())
        score, probability = self.trained.served(encoded)
        marks.append(time.perf_counter())
        coded = self.trained.coded(encoded)
        seconds = np.diff(marks).tolist()
        tasks = {
            f"p_{task.name}": p
            for task, p in zip(self.trained.ranker.tasks, probability, strict=True)
        }
        known = np.ones(len(score), bool) if read.items is None else read.items
        facts: dict[str, Any] = {
            "inputs": _noticed(self.trained.encoder.counts(read.parts, encoded))
        }
        if explain:
            best = int(np.argmax(score))
            told = explained(self.trained, read.parts, best).to_dict()
            facts["explained"] = {**{name: ids[best] for name, ids in items.items()}, **told}
        return Ranked(
            score,
            {**items, "score": score, **tasks, "known": known, "coded": coded},
            facts,
            known,
            coded,
            read.user is not False,
            repeated,
            dict(zip(("features", "inputs", "model"), seconds, strict=True)),
            read.parts,
            read.as_of,
            read.torn,
        )

    def items(self) -> ItemLookup:
        """None: raises RequestError, as the features are in a store of the user's own."""
        raise RequestError(
            "this ranker reads a feature service of your own; ask its store for features"
        )


def _noticed(counts: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """Inputs of which some row is absent or unknown, and how many are."""
    found = {
        name: {state: n for state, n in states.items() if n and state != "present"}
        for name, states in counts.items()
    }
    return {name: states for name, states in found.items() if states}


def _keyed(given: Any, names: Sequence[str], of: str) -> dict[str, Any]:
    """The keys of a user or a candidate by name. Raises RequestError when one is missing or
    unknown."""
    if not names and given != {}:
        raise RequestError(f"this ranker reads no key of the {of}; send {{}} in place of it")
    keys = given if isinstance(given, dict) else {names[0]: given} if len(names) == 1 else None
    if keys is None or set(keys) != set(names):
        told = "an id" if keys is None else f"the keys {sorted(keys)}"
        raise RequestError(f"{of} has {told}; expected an object of {list(names)}")
    return {name: keys[name] for name in names}


def _candidates(given: Sequence[Any], names: Sequence[str]) -> tuple[dict[str, list[Any]], int]:
    """The distinct candidates, key -> its values; and how many were repeated."""
    rows: list[Any]
    if len(names) == 1 and not any(issubclass(kind, dict) for kind in set(map(type, given))):
        columns = [rows := list(dict.fromkeys(given))]
    else:
        keyed = (_keyed(item, names, "items") for item in given)
        rows = list(dict.fromkeys(tuple(keys.values()) for keys in keyed))
        columns = [[row[i] for row in rows] for i in range(len(names))]
    return dict(zip(names, columns, strict=True)), len(given) - len(rows)


def open_declared(promotion: Promotion) -> DeclaredBundle:
    """Load a promoted ranker of a feature service and check it against the registry.

    Parameters
    ----------
    promotion : Promotion
        The pair.

    Raises
    ------
    ArtifactError, GenerationMismatch
        As `check_promotion`.
    InputError
        What the ranker reads is gone, renamed, retyped or defined otherwise: every difference, by
        input.
    """
    check_promotion(promotion)
    trained = load_ranker(promotion.ranker)
    schema = service_schema(promotion.repository, trained.ranker.service)
    found = differences(trained.pins, schema)
    refuse(found, use="serve")
    generation = promotion.generation
    sids = (
        OnlineSids(promotion.repository, generation)
        if generation and trained.reads_timeline
        else None
    )
    if sids is not None:
        check_reference(trained, promotion.ranker, sids.timeline())
    fields = [spec for spec in trained.encoder.specs if not spec.kind.train_only]
    request = {
        column.name: column.dtype
        for spec in fields
        for column in spec.columns.values()
        if column.side == "request" and column.name not in schema.request_fields
    }
    reader = open_service_reader(
        promotion.repository,
        schema,
        features=trained.features,
        user=trained.ranker.user,
        item=trained.ranker.item,
        request=request,
        optional=[c.name for s in fields if s.kind.optional for c in s.columns.values()],
    )
    bundle = DeclaredBundle(
        promotion=promotion,
        trained=trained,
        reader=reader,
        key_types=schema.join_keys,
        sids=sids,
        warnings=tuple(d.message for d in found if d.serve == "warn"),
        example=_example(promotion.ranker, trained.ranker, reader),
    )
    _warm(bundle)
    return bundle


def _example(directory: Path, keys: Ranker, reader: ServiceReader) -> RankRequest | None:
    """The reference rows' candidates for the user and the request of the first row that has what a
    request must carry; None where no row has."""
    if not (directory / REFERENCE).is_file():
        return None
    rows = read_parquet(directory / REFERENCE)
    for row in rows.to_pylist():
        request = {n: row[n] for n in reader.request_fields if _is_given(row.get(n))}
        if reader.required_fields <= set(request):
            return RankRequest.model_construct(  # keys of any type: they are not of a JSON body
                user={name: row[name] for name in keys.user},
                items=rows.select(list(keys.item)).to_pylist(),
                request=request,
            )
    return None


def _is_given(value: Any) -> bool:
    """Whether a request may carry this value of a label log."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _warm(bundle: DeclaredBundle) -> None:
    """Rank once, so that the first request is as fast as the rest. A store that does not answer yet
    is none of an opened ranker's faults: it refuses requests until it does."""
    if bundle.example is None:
        return
    try:
        bundle.rank(bundle.example, now=datetime.now(UTC))
    except Exception as error:
        log.warning("stage=serve ranker=%s warm=no reason=%s", bundle.recipe_name, error)
