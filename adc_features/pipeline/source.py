"""The data that a run begins from. Reads: a data source. Writes: a Dataset."""

from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST
from adc_features.data.beauty import beauty, is_beauty
from adc_features.data.dataset import (
    Dataset,
    Split,
    dataset_from_tables,
    read_dataset,
    read_table,
    table_in,
)
from adc_features.errors import InputError
from adc_features.pipeline.run import Run
from adc_features.redaction import redacted_url


def load_source(source: str, *, seed: int) -> Dataset:
    """The data of a run: `synthetic`, a dataset directory, the Beauty files, or a directory with
    items.parquet and interactions.parquet.
    """
    from adc_features.data.synthetic import synthetic

    if source == "synthetic":
        return synthetic(seed=seed).dataset
    directory = Path(source)
    if not directory.is_dir():
        raise InputError(
            f"{redacted_url(source)} is not a directory; give a directory with items.parquet and"
            " interactions.parquet, or 'synthetic'"
        )
    if (directory / MANIFEST).is_file():
        return read_dataset(directory)
    if is_beauty(directory):
        return beauty(directory)
    return dataset_from_tables(
        directory.name,
        read_table(table_in(directory, "items")),
        read_table(table_in(directory, "interactions")),
    )


def refuse_split(dataset: Dataset, split: Split) -> None:
    """Before hours of work: both sides of the split must hold rows of both classes."""
    train, scored = (
        dataset.before(split.train_end),
        dataset.within(split.eval_start, split.eval_end),
    )
    scored_span = (
        f"from {split.eval_start.isoformat()} to"
        f" {split.eval_end.isoformat() if split.eval_end else 'the end'}"
    )
    for rows, span in (
        (train, f"before the cut-off {split.train_end.isoformat()}"),
        (scored, scored_span),
    ):
        if not len(rows):
            raise InputError(f"no interaction lies {span}; choose other windows")
        if len(labels := np.unique(rows["label"].to_numpy())) < 2:
            raise InputError(
                f"all {len(rows)} rows {span} have label {labels[0]:g}; a ranker needs both"
                " classes, choose other windows"
            )


def source_files(run: Run) -> Any:
    """Names, sizes and modification times of the source files: a changed source is loaded again."""
    directory = Path(run.settings.source)
    # a table may be a directory; a run may lie in the source's directory
    files = [*directory.glob("*"), *directory.glob("*.parquet/**/*")]
    return (
        [[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in sorted(files) if f.is_file()]
        if directory.is_dir()
        else None
    )
