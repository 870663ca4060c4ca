"""One answered request as the log keeps it. Reads: Arrow tables of what was scored. Writes: the
tables `requests` and `candidates`.

The columns that a repository names stand under a prefix, so that none is taken for one of ours:
`user.` and `item.` join keys, `request.` fields, `feature.` values, `p.` the probability of a task.

Legend: N candidates.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError
from adc_features.event_times import UTC_US
from adc_features.formats import format_of, numbered

ABOUT = b"adc.served"
"""The key of a file's metadata that holds what its rows are about."""
USER, ITEM, REQUEST, FEATURE, TASK = "user.", "item.", "request.", "feature.", "p."
_OURS = 400
"""Bytes that a record takes beside its tables, roughly."""


@dataclass(frozen=True)
class About:
    """What the rows of a segment are about.

    Parameters
    ----------
    service : str
        The feature service that was read.
    ranker : str
        The name of the ranker.
    user, item : tuple of str
        Join keys that are constant within a request, and those of a candidate.
    features, request : tuple of (str, str)
        Features that were read, and fields of the request, each with its Feast type.
    tasks : tuple of str
        What the ranker predicts.
    """

    service: str
    ranker: str
    user: tuple[str, ...]
    item: tuple[str, ...]
    features: tuple[tuple[str, str], ...]
    request: tuple[tuple[str, str], ...]
    tasks: tuple[str, ...]

    def encoded(self) -> bytes:
        """As a file's metadata holds it."""
        document = asdict(self) | {n: dict(getattr(self, n)) for n in ("features", "request")}
        return json.dumps(numbered("served_log", document)).encode()

    @classmethod
    def decoded(cls, metadata: Mapping[bytes, bytes] | None, *, of: object) -> About:
        """What a file says of its rows. Raises ArtifactError, NewerFormatError."""
        try:
            found = json.loads((metadata or {})[ABOUT])
            format_of("served_log", found, of=of)
            return cls(
                found["service"],
                found["ranker"],
                tuple(found["user"]),
                tuple(found["item"]),
                tuple(found["features"].items()),
                tuple(found["request"].items()),
                tuple(found["tasks"]),
            )
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise ArtifactError(
                f"{of} is no segment of a served log ({error!r}); give the directory that"
                " `adc serve --log` writes, or take this file out of it"
            ) from error


@dataclass(frozen=True)
class Served:
    """An answered request.

    Parameters
    ----------
    about : About
    request_id : str
    received, now : datetime
        When it came; as of when its features aged. Aware.
    served_as_of : datetime, optional
        The time as of which history says what was read, where live views were.
    version, pair : str
        Of the ranker; the name of its promotion.
    generation, variant : str, optional
        Of the codes; the name of the variant that scored, None for the promoted pair.
    answered : int
        How many of the best candidates were answered.
    user_known : bool
        The user was found online.
    one, each : pyarrow.Table
        What was read of the user and the request, 1 row; of the candidates, N rows.
    score : ndarray
        float [N].
    tasks : mapping of str to ndarray
        Task -> probability, float [N].
    known : ndarray
        bool [N], the candidate was found online.
    torn : bool
        Live views were read while events were committed: history has no one time of it.
    """

    about: About
    request_id: str
    received: datetime
    now: datetime
    served_as_of: datetime | None
    version: str
    pair: str
    generation: str | None
    variant: str | None
    answered: int
    user_known: bool
    one: pa.Table
    each: pa.Table
    score: np.ndarray
    tasks: Mapping[str, np.ndarray]
    known: np.ndarray
    torn: bool = False

    @property
    def size(self) -> int:
        """Bytes that it holds in memory, roughly."""
        arrays = self.score.nbytes * (2 + len(self.tasks)) + self.known.nbytes
        # whole buffers, which is what a table keeps alive; `nbytes` takes twenty times as long
        read = self.one.get_total_buffer_size() + self.each.get_total_buffer_size()
        return int(read + arrays + _OURS)


def without_values(record: Served) -> Served:
    """The record with keys and fields of the request alone."""
    about = record.about
    one = record.one.select([*about.user, *(n for n, _ in about.request)])
    return replace(record, one=one, each=record.each.select(list(about.item)))


def share_of(request_id: str) -> float:
    """A number in [0, 1) that a request's id alone decides: it is logged where this is less than
    the share that is sampled, so that a request is kept whole or not at all.
    """
    digest = hashlib.blake2b(request_id.encode(), digest_size=8).digest()
    return float(int.from_bytes(digest, "big") >> 11) / float(1 << 53)


def requests_table(records: Sequence[Served], shares: tuple[float, float]) -> pa.Table:
    """A row for each request. shares: of requests that the log samples, and of them those with the
    values of features.
    """
    about, (p, values) = records[0].about, shares

    def column(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([getattr(record, name) for record in records], kind)

    ours: dict[str, Any] = {
        "request_id": column("request_id", pa.string()),
        **{name: column(name, UTC_US) for name in ("received", "now", "served_as_of")},
        "ranker": pa.array([about.ranker] * len(records)),
        **{n: column(n, pa.string()) for n in ("version", "pair", "generation", "variant")},
        "p": pa.array(np.full(len(records), p)),
        "p_values": pa.array(np.full(len(records), p * values)),
        "candidates": pa.array([len(record.score) for record in records], pa.int32()),
        "answered": column("answered", pa.int32()),
        "user_known": column("user_known", pa.bool_()),
        "torn": column("torn", pa.bool_()),
    }
    names = dict.fromkeys(about.user, USER) | {name: REQUEST for name, _ in about.request}
    read = pa.concat_tables([record.one for record in records])
    return _with_prefixes(ours, read, names)


def candidates_table(records: Sequence[Served]) -> pa.Table:
    """A row for each candidate, in the order asked."""
    about, counts = records[0].about, [len(record.score) for record in records]
    ids = pa.array([record.request_id for record in records])
    ours: dict[str, Any] = {
        "request_id": ids.take(pa.array(np.repeat(np.arange(len(records)), counts))),
        "place": pa.array(np.concatenate([np.arange(n, dtype=np.int32) for n in counts])),
        "rank": pa.array(np.concatenate([_ranks(record.score) for record in records])),
        "score": pa.array(np.concatenate([r.score for r in records]).astype(np.float64)),
        **{
            TASK + name: pa.array(np.concatenate([np.asarray(r.tasks[name]) for r in records]))
            for name in about.tasks
        },
        "known": pa.array(np.concatenate([record.known for record in records])),
    }
    read = pa.concat_tables([record.each for record in records])
    return _with_prefixes(ours, read, dict.fromkeys(about.item, ITEM))


def _with_prefixes(ours: Mapping[str, Any], read: pa.Table, names: Mapping[str, str]) -> pa.Table:
    found = {f"{names.get(n, FEATURE)}{n}": read[n] for n in read.column_names}
    return pa.table({**ours, **found})


def _ranks(score: np.ndarray) -> np.ndarray:
    """The place of each candidate in the answer, from 1: int32 [N]."""
    ranks = np.empty(len(score), np.int32)
    ranks[np.argsort(-score, kind="stable")] = np.arange(1, len(score) + 1, dtype=np.int32)
    return ranks


def schema_hash(*schemas: pa.Schema) -> str:
    """sha256 of the names and types of columns, hex."""
    told = [[(field.name, _type_text(field.type)) for field in schema] for schema in schemas]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _type_text(kind: pa.DataType) -> str:
    """The type, whatever the elements of lists are called: Parquet calls them otherwise."""
    if pa.types.is_list(kind):
        return f"list<{_type_text(kind.value_type)}>"
    return str(kind)
