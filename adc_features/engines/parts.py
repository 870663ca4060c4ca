"""A Parquet source in parts, and the function that writes one. Reads: Parquet files. Writes: one
Parquet file a part.

A part is some row groups of one file: what one worker reads in one go, and what is kept when the
work stops. Inside a part rows stream through the function a piece at a time, so that memory depends
on the size of a piece and not on that of the source.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from adc_features.engines.places import Place
from adc_features.errors import AdcError, ArtifactError, InputError
from adc_features.extras import extra_modules
from adc_features.input_files import FileState, InputFiles, states_of
from adc_features.parquet_files import reading, table_format

PIECE = 16 * 1024
"""Rows that go through the function at once. Encoding three vectors of 128 takes 0.65 GB in all;
with pieces of 48k it took 0.9 GB, and was no faster.
"""
PART = 48 * 1024
"""Rows of small row groups that are taken together as one part."""


class Part(NamedTuple):
    """Some row groups of a file. file: relative to the source, empty where that is a file."""

    number: int
    file: str
    row_groups: tuple[int, ...]
    rows: int

    @property
    def name(self) -> str:
        """The file that is written of it."""
        return f"part-{self.number:05d}.parquet"


@dataclass(frozen=True)
class Source:
    """A Parquet file, or the Parquet files of a folder, as they were when it was opened.

    schema: of every file, with the metadata of the first. files: name -> size, time of change and
    rows. parts: in the order of file names. inputs: tells whether they are the same later.
    """

    place: Place
    schema: pa.Schema
    files: Mapping[str, Sequence[int]]
    parts: Sequence[Part]
    inputs: InputFiles

    @property
    def rows(self) -> int:
        """Of all files."""
        return sum(part.rows for part in self.parts)


def open_source(uri: str, *, rows_a_part: int = PART) -> Source:
    """A source, its footers read. rows_a_part: row groups are taken together up to so many rows.

    Raises InputError when there are no Parquet files or no rows, when two files have other columns,
    and for the folder of a Delta, Hudi or Iceberg table.
    """
    place = Place.named(uri)
    inputs = InputFiles.seen(partial(_states, place))
    schema, files, parts = None, dict[str, list[int]](), list[Part]()
    for path, state in inputs.states.items():
        name = "" if path == place.path else os.path.relpath(path, place.path)
        with reading(path), place.files.open_input_file(path) as file:
            footer = pq.read_metadata(file)
        mine = footer.schema.to_arrow_schema()
        if schema is None:
            schema = mine
        elif not schema.equals(mine):
            raise InputError(
                f"{path} has columns {_columns(mine)}, another file of {uri} has"
                f" {_columns(schema)}; write all files of a source with one schema"
            )
        files[name] = [state.size, state.changed, footer.num_rows]
        counts = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
        for groups in _grouped(counts, rows_a_part):
            parts.append(Part(len(parts), name, groups, sum(counts[g] for g in groups)))
    if schema is None or not parts:
        raise InputError(f"{uri} holds no rows in Parquet files; give a file, or a folder of them")
    return Source(place, schema, files, parts, inputs)


def _states(place: Place) -> dict[str, FileState]:
    return states_of(_found(place), place.files)


def _found(place: Place) -> list[fs.FileInfo]:
    one = place.info()
    if one.type == fs.FileType.File:
        return [one]
    if kind := table_format(place.path.rstrip("/"), place.files):
        raise InputError(
            f"{place.uri} is a {kind} table, whose Parquet files hold deleted rows as well; write"
            " what it holds now as Parquet, and give that"
        )
    hidden = ("_", ".")
    return [
        info
        for info in place.listed(recursive=True)
        if info.path.endswith((".parquet", ".pq"))
        and not any(
            step.startswith(hidden) for step in os.path.relpath(info.path, place.path).split("/")
        )
    ]


def _columns(schema: pa.Schema) -> list[str]:
    return [f"{field.name} {field.type}" for field in schema]


def _grouped(counts: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Neighbouring row groups of at most so many rows together, at least one."""
    taken: list[int] = []
    held = 0
    for group, rows in enumerate(counts):
        if not rows:
            continue
        if taken and held + rows > most:
            yield tuple(taken)
            taken, held = [], 0
        taken.append(group)
        held += rows
    if taken:
        yield tuple(taken)


def pieces(
    place: Place, part: Part, columns: Sequence[str], *, rows: int = PIECE
) -> Iterator[pa.Table]:
    """The rows of a part in order, so many at a time at most; columns in the order asked."""
    path = place.of(part.file)
    with reading(path), place.files.open_input_file(path) as opened:
        # without a buffer Arrow would hold a whole row group of every column
        file = pq.ParquetFile(
            opened, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True
        )
        for batch in file.iter_batches(rows, row_groups=list(part.row_groups), columns=columns):
            yield pa.Table.from_batches([batch]).select(columns)


@dataclass(frozen=True)
class PartWork:
    """What a worker does with one part: read, call the function piece by piece, write.

    source, into: paths or URIs that every worker opens. function: picklable; rows in the order in
    which they came.
    """

    source: str
    columns: tuple[str, ...]
    function: Callable[[pa.Table], pa.Table]
    into: str
    rows: int = PIECE

    def __call__(self, part: Part, told: Callable[[int], None] | None = None) -> int:
        """Write the part, unless it is there; its rows.

        Raises ArtifactError when the function returns other rows than it got.
        """
        target = Place(self.into)
        if target.info(part.name).type == fs.FileType.File:
            return part.rows
        done = 0
        with target.writing(part.name) as file, ExitStack() as opened:
            writer = None
            for piece in pieces(Place(self.source), part, self.columns, rows=self.rows):
                made = self._made(piece, part)
                if writer is None:
                    writer = pq.ParquetWriter(file, made.schema, write_page_checksum=True)
                    opened.enter_context(writer)
                writer.write_table(made)
                done += len(made)
                if told is not None:
                    told(len(made))
        return done

    def _made(self, piece: pa.Table, part: Part) -> pa.Table:
        made = self.function(piece)
        if len(made) != len(piece):
            raise ArtifactError(
                f"{len(piece)} rows of {part.file or self.source} became {len(made)}; expected as"
                " many, report this"
            )
        return made


class Outcome(NamedTuple):
    """What a worker says of a part. kind, said: of an error that this library raised."""

    number: int
    rows: int
    kind: str = ""
    said: str = ""


def outcome(work: PartWork, part: Part) -> Outcome:
    """Do the work where another process waits for the answer: an error of ours is part of it, and
    the engine does not try again what cannot succeed.
    """
    try:
        with extra_modules():
            return Outcome(part.number, work(part))
    except AdcError as error:
        return Outcome(part.number, 0, type(error).__name__, str(error))


def rows_of(outcomes: Sequence[Outcome]) -> dict[int, int]:
    """Part number -> rows. Raises the error of the first part that has one, as its own class."""
    from adc_features import errors

    for one in sorted(outcomes):
        if one.kind:
            kind = getattr(errors, one.kind, AdcError)
            raise (AdcError if kind is errors.MissingExtraError else kind)(one.said)
    return {one.number: one.rows for one in outcomes}


def stopped(engine: str, error: Exception, place: str) -> ArtifactError:
    """What to say when an engine gave up: a worker died too often, or the cluster went away."""
    words = " ".join(str(error).split())
    return ArtifactError(
        f"{engine} stopped: {words[:600]}; finished parts are kept in {place}, run the same command"
        " again to go on"
    )
