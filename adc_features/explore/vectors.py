"""Vectors of items, by which the explorer says what is like an item. Reads: the stages of a run;
what `--vectors` names, else what the tokenizer of a repository was fitted on, else the vectors that
the repository declares of its items. Writes: one array a modality.

Texts are not embedded here: of a generation that was fitted on texts alone nothing is found.

Legend: N items in the index's order, M items of a source, D dimensions.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.codes.embeddings import id_array, vector_matrix
from adc_features.codes.sids import find_rows
from adc_features.encoders.behavior_state import read_state
from adc_features.errors import AdcError, InputError
from adc_features.explore.place import TOKENIZERS, Place
from adc_features.parquet_files import read_parquet
from adc_features.store.repository import ItemKey, LiveGeneration
from adc_features.store.services.item_files import (
    VECTOR_TYPES,
    is_file,
    item_file,
    newest_rows,
    vector_columns,
)

log = logging.getLogger(__name__)
BLOCK = 65_536
"""Items whose vectors are written at a time."""


class Vectors(NamedTuple):
    """Vectors of one modality. of: where they are from; ids [M]; rows: slice -> float32 [m, D], 0
    where an item has none; width: D.
    """

    modality: str
    of: str
    ids: np.ndarray
    rows: Callable[[Any], np.ndarray]
    width: int


def write_vectors(
    place: Place, folder: Path, ids: np.ndarray, *, key: ItemKey, as_of: datetime
) -> dict[str, Any]:
    """One array float16 [N, D] of length 1 a modality, as known before a time.

    key: of the items. Returns what the index says of them: `vectors`, by the name of their file the
    modality and where it is from; `no_vectors`, why a source could not be read, or None. Raises
    InputError for a source of `--vectors` that is no such source.
    """
    folder.mkdir()
    told: dict[str, Any] = {}
    if not len(ids):
        return {"vectors": told, "no_vectors": None}
    try:
        for one in _found(place, key, as_of):
            if one.ids.dtype.kind != ids.dtype.kind:
                raise InputError(
                    f"ids of {one.of} are {one.ids.dtype}, those of the items {ids.dtype}; convert"
                    " one, the two never meet"
                )
            if not one.width:
                continue
            name = f"{len(told)}"
            _write(folder / f"{name}.npy", one, ids)
            told[name] = {"modality": one.modality, "of": one.of}
    except Exception as error:  # a repository's store may be of anyone's; the pages show the rest
        if place.vectors and isinstance(error, AdcError):
            raise
        log.warning("stage=explore vectors=none reason=%s", error)
        return {"vectors": told, "no_vectors": str(error) or repr(error)}
    return {"vectors": told, "no_vectors": None}


def _write(path: Path, one: Vectors, ids: np.ndarray) -> None:
    rows, known = find_rows(one.ids, ids)
    target = np.lib.format.open_memmap(path, "w+", np.float16, (len(ids), one.width))
    for start in range(0, len(ids), BLOCK):
        part = slice(start, start + BLOCK)
        vectors = np.where(known[part, None], one.rows(rows[part]), 0).astype(np.float32)
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        target[part] = vectors / np.where(length > 0, length, 1)
    target.flush()


def _found(place: Place, key: ItemKey, as_of: datetime) -> Iterator[Vectors]:
    """The vectors of a place, a modality at a time."""
    if place.run is not None:
        yield from _of_run(place.run)
    if place.vectors:
        yield from _of_sources(place.repo, place.vectors, key, as_of)
    elif place.run is None:
        recorded = tokenized(place.repo, place.generations())
        if recorded is not None:
            names, states = recorded
            yield from _of_sources(place.repo, names, key, as_of)
            yield from _of_states(states, as_of)
        else:
            yield from _declared(place.repo, key, as_of)


# ---- a run


def _of_run(run: Path) -> Iterator[Vectors]:
    """Those of its stages, behaviour as of the last cut-off."""
    path = run / "data" / "dataset" / "items.parquet"
    if not path.is_file():
        return
    table = read_parquet(path)
    ids = id_array(table["item_id"])
    for name, of, found in _stages(run, table):
        if found.ndim == 2 and len(found) == len(ids):
            yield Vectors(name, of, ids, found.__getitem__, found.shape[1])


def _stages(run: Path, table: pa.Table) -> Iterator[tuple[str, str, np.ndarray]]:
    """(modality, where from, vectors [M, D] in the table's order, 0 where there is none)."""
    for column in table.column_names:
        if column.startswith("vector_"):
            vectors, present = vector_matrix(table[column], name=column)
            yield (
                column.removeprefix("vector_"),
                "the run's data",
                np.where(present[:, None], vectors, 0),
            )
    for path in sorted((run / "text").glob("*.npy")):
        if not path.name.endswith(".present.npy"):
            yield path.stem, "the run's texts", np.load(path, mmap_mode="r")
    series = run / "behavior" / "series.npz"
    if series.is_file():
        with np.load(series) as arrays:
            vectors, present = arrays["vectors"][-1], arrays["present"][-1]
        yield "behavior", "the run's behaviour", np.where(present[:, None], vectors, 0)


# ---- a repository


def tokenized(
    repo: Path, generations: Sequence[LiveGeneration]
) -> tuple[list[str], list[Path]] | None:
    """What the tokenizer of the newest generation was fitted on, by its own record: vectors, as
    `--vectors` names them, and the states of its behaviour. None without a record of either.
    """
    for live in reversed(generations):
        place = repo / TOKENIZERS / live.id
        if not (place / MANIFEST).is_file():
            continue
        asked = read_manifest(place, verify=False).get("asked", {}).get("sources", {})
        names = [str(repo / n) if is_file(n) else n for n in asked.get("vectors", [])]
        states = sorted((place / "behavior").glob("*.npz"))
        if names or states:
            return names, states
    return None


def _of_sources(
    repo: Path, names: Sequence[str], key: ItemKey, as_of: datetime
) -> Iterator[Vectors]:
    """Features `<view>__<feature>` and Parquet files, under the names that `adc tokenize` gives."""
    from adc_features.store.services.item_rows import item_features, item_rows

    for name in names:
        if is_file(name):
            yield from _of_file(Path(name), key, as_of)
            continue
        features = item_features(repo, [name])
        if features[0].dtype not in VECTOR_TYPES:
            raise InputError(
                f"feature {name!r} is {features[0].dtype}; expected {' or '.join(VECTOR_TYPES)}"
            )
        column = item_rows(repo, features, as_of=as_of)[name]
        yield from _matrix(name, name, id_array(pa.chunked_array([column.ids])), column.values)


def _of_file(path: Path, key: ItemKey, as_of: datetime) -> Iterator[Vectors]:
    table = item_file(path)
    own = next((n for n in (key.join_key, "item_id") if n in table.column_names), None)
    if own is None or not (columns := vector_columns(table, own)):
        raise InputError(
            f"{path} has columns {table.column_names[:10]}; expected {key.join_key!r} and a column"
            " of lists of floating-point numbers"
        )
    table = newest_rows(table, own, as_of)
    for column in columns:
        name = column.removeprefix("vector_")
        yield from _matrix(name, path.name, id_array(table[own]), table[column])


def _of_states(paths: Sequence[Path], as_of: datetime) -> Iterator[Vectors]:
    """Behaviour, of the newest state before a time or at it."""
    for path in reversed(paths):
        state = read_state(path)
        if state.as_of <= as_of:
            vectors = state.vectors
            yield Vectors(
                "behavior", path.name, state.item_ids, vectors.__getitem__, vectors.shape[1]
            )
            return


def _declared(repo: Path, key: ItemKey, as_of: datetime) -> Iterator[Vectors]:
    """Every vector that is declared of the items alone."""
    from adc_features.store.services.item_rows import features_of_items

    names = features_of_items(repo, key, VECTOR_TYPES)
    yield from _of_sources(repo, names, key, as_of)


def _matrix(modality: str, of: str, ids: np.ndarray, values: pa.ChunkedArray) -> Iterator[Vectors]:
    if values.null_count == len(values):
        return
    values = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    vectors, present = vector_matrix(values, name=modality)
    found = np.where(present[:, None], vectors, 0).astype(np.float32)
    yield Vectors(modality, of, ids, found.__getitem__, found.shape[1])
