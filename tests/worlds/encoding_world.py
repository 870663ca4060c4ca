"""A catalogue in files, and what its codes are compared by."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from items_world import day, table, vectors

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.sids import SidTable


def catalogue() -> EmbeddingTable:
    """300 items as of day 1: half of them new, the last 40 cold, one without an image."""
    of = vectors(300, seed=5)
    made = table([f"i{n:03d}" for n in range(50, 350)], of, day(1), cold=40)
    present = {m: p.copy() for m, p in made.present.items()}
    present["image"][7] = False
    of = {m: np.where(present[m][:, None], v, 0).astype("f4") for m, v in made.vectors.items()}
    return replace(made, vectors=of, present=present)


def write(items: EmbeddingTable | pa.Table, folder: Path, *, files: int = 3) -> Path:
    """The items in several files of unequal size, in row groups of 32."""
    folder.mkdir(parents=True)
    arrow = items if isinstance(items, pa.Table) else items.to_arrow()
    cuts = np.linspace(0, 1, files + 1) ** 0.7 * len(items)
    for number, (a, b) in enumerate(zip(cuts[:-1].astype(int), cuts[1:].astype(int), strict=True)):
        pq.write_table(arrow.slice(a, b - a), folder / f"{number}.parquet", row_group_size=32)
    return folder


def same(made: SidTable, expected: SidTable) -> bool:
    """Whether two tables of codes are equal in every value and bit."""
    arrays = [n for n, v in vars(expected).items() if isinstance(v, np.ndarray)]
    return all(
        getattr(made, n).dtype.kind == getattr(expected, n).dtype.kind
        and np.array_equal(getattr(made, n), getattr(expected, n))
        for n in arrays
    ) and (made.generation, made.as_of, made.codebook_size) == (
        expected.generation,
        expected.as_of,
        expected.codebook_size,
    )
