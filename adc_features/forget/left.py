"""What still holds a user when all that can be deleted is gone. Reads: trained rankers, sources of
views. Writes: nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds

from adc_features.artifact import MANIFEST
from adc_features.damage import READ_ERRORS
from adc_features.errors import InputError
from adc_features.forget.online import View
from adc_features.forget.subject import Subject
from adc_features.inputs.encoders.base import table_of
from adc_features.inputs.facts import input_from_facts
from adc_features.inputs.vocabulary import Vocabulary
from adc_features.parquet_files import read_parquet
from adc_features.ranking.inputs import own_name
from adc_features.serving.workspace import Workspace, trained_names
from adc_features.store.offline.places import location_of

REFERENCE = "reference.parquet"
TRAIN = (
    "train it anew without them, `adc train`, and delete this version: a retraining that starts"
    " warm keeps the ids of its vocabulary"
)


class Left(NamedTuple):
    """What holds an id still. what: of which kind; where: its name or place; remedy: what to do;
    looked_into: False where it may hold one.
    """

    what: str
    where: str
    remedy: str
    looked_into: bool = True


def left_in_rankers(repo: Path, subject: Subject) -> Iterator[Left]:
    """Trained versions whose vocabularies or reference rows hold one of the ids."""
    for name in trained_names(repo):
        for version in Workspace(repo, name).versions():
            where = f"{name}/{version.name}"
            if any(_in_vocabularies(m.parent, subject) for m in _encoders(version)):
                yield Left("vocabulary of a trained ranker", where, TRAIN)
            if any(_in_rows(path, subject) for path in version.rglob(REFERENCE)):
                yield Left("reference rows of a trained ranker", where, TRAIN)


def left_in_a_run(repo: Path) -> Iterator[Left]:
    """The run that made the repository: it was made of interactions of users."""
    run = Path(repo).resolve().parent
    if (run / "run.json").is_file():
        yield Left(
            "run",
            run.name,
            "its data set, frames and rankers may hold them; take their interactions out of the"
            " data, and make the run again, `adc run`",
            looked_into=False,
        )


def left_online(views: list[View], subject: Subject) -> Iterator[Left]:
    """Views in another online store than ours that hold a row of one of the ids, or that have
    other keys beside it, which nobody knows there.
    """
    for view in views:
        if subject.key not in view.keys or not view.elsewhere:
            continue
        if len(view.keys) == 1 and not _is_online(view, subject):
            continue
        yield Left(
            "online rows",
            view.name,
            f"they lie in {view.elsewhere}, and Feast has no call that deletes the row of one"
            " entity: delete it with the store's own means, or let its ttl end it",
            looked_into=len(view.keys) == 1,
        )


def _is_online(view: View, subject: Subject) -> bool:
    """Whether Feast serves any value of an id."""
    kind = pa.int64() if view.keys[subject.key] else pa.string()
    rows = [{subject.key: one} for one in subject.typed(kind).to_pylist()]
    names = [f"{view.name}:{field.name}" for field in view.declared.features]
    served = view.store.get_online_features(names, rows).to_dict()
    return any(
        value is not None
        for name, values in served.items()
        if name != subject.key
        for value in values
    )


def left_in_sources(repo: Path, views: list[View], subject: Subject) -> Iterator[Left]:
    """Batch sources of views that hold one of the ids, or that cannot be looked into from here:
    the next materialization takes them online again.
    """
    for view in views:
        if subject.key not in view.keys:
            continue
        source = view.declared.batch_source
        column = {n: o for o, n in (source.field_mapping or {}).items()}.get(
            subject.key, subject.key
        )
        try:
            files, path = location_of(source, Path(repo).resolve())
            rows = ds.dataset(path, filesystem=files, format="parquet")
            theirs = subject.typed(rows.schema.field(column).type)
            count = rows.count_rows(filter=ds.field(column).isin(theirs))
        except FileNotFoundError:
            continue
        except (InputError, KeyError, *READ_ERRORS):
            yield Left("source of a view", view.name, "delete them there", looked_into=False)
            continue
        if count:
            yield Left(
                "source of a view",
                view.name,
                f"{count:,} rows; delete them there before the next materialization, which would"
                " take them online again",
            )


def _encoders(version: Path) -> Iterator[Path]:
    """The manifests of fitted inputs below a version."""
    return (p for p in version.rglob(f"inputs/{MANIFEST}"))


def _in_vocabularies(directory: Path, subject: Subject) -> bool:
    """Whether a vocabulary that an input of this key fills holds one of the ids."""
    manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
    specs = [input_from_facts(one["spec"]) for one in manifest["inputs"]]
    tables = {
        table_of(spec)
        for spec in specs
        if any(own_name(c.name) == subject.key for c in spec.columns.values())
    }
    for place, table in enumerate(manifest["vocabularies"]):
        if table in tables:
            ids = Vocabulary.load(directory / f"vocabulary_{place}.arrow").ids
            if pa.types.is_binary(ids.type) or pa.types.is_large_binary(ids.type):
                ids = ids.cast(pa.string())
            if subject.among(ids).any():
                return True
    return False


def _in_rows(path: Path, subject: Subject) -> bool:
    rows = read_parquet(path)
    held = (rows[name] for name in rows.column_names if own_name(name) == subject.key)
    return any(subject.among(column).any() for column in held)
