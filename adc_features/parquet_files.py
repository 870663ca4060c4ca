"""Parquet files of this library, with checksums of pages. Reads: files. Writes: files, tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adc_features.errors import ArtifactError
from adc_features.uris import storage_error


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn what Arrow says of a damaged, missing or foreign file into an ArtifactError that names
    the file: Parquet pages carry checksums, but Arrow reports damage in many kinds of error. What
    an object store refuses is a StorageError.
    """
    from adc_features.damage import READ_ERRORS

    try:
        yield
    except READ_ERRORS as error:
        raise storage_error(error, path) or ArtifactError(
            f"{path} cannot be read as Parquet ({error}); it is missing, damaged or of another"
            " format, write it again"
        ) from error


def write_table(table: Any, where: Any, **options: Any) -> None:
    """Write an Arrow table as Parquet to a path or a sink, its pages with checksums.

    options: of `pyarrow.parquet.write_table`.
    """
    import pyarrow.parquet as pq

    pq.write_table(table, where, write_page_checksum=True, **options)


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    """The Arrow table of a Parquet file that this library wrote, its page checksums verified.
    Raises ArtifactError when it is missing or damaged.
    """
    import pyarrow.parquet as pq

    with reading(path):
        return pq.read_table(path, columns=columns, page_checksum_verification=True)


def parquet_pieces(path: Path, *, rows: int = 1 << 16) -> Iterator[Any]:
    """The same a piece at a time: Arrow tables of so many rows at most, in the file's order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with reading(path), path.open("rb") as opened:
        # without a buffer Arrow would hold a whole row group of every column
        file = pq.ParquetFile(
            opened, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch])


def table_format(path: str, filesystem: Any) -> str | None:
    """The format of the table whose directory this is: "Delta", "Hudi" or "Iceberg". Its Parquet
    files hold deleted rows as well. None for other directories.
    """
    from pyarrow import fs

    names = {"_delta_log": "Delta", ".hoodie": "Hudi", "metadata": "Iceberg"}
    for info in filesystem.get_file_info([f"{path}/{name}" for name in names]):
        found = names[info.base_name]
        if info.type != fs.FileType.Directory:
            continue
        if found != "Iceberg":
            return found
        inside = filesystem.get_file_info(fs.FileSelector(f"{path}/metadata"))
        if any(".metadata.json" in file.base_name for file in inside):
            return found
    return None
