"""Aggregates over a history that memory does not hold. Reads: Parquet files of events. Writes: a
directory of Parquet files of point-in-time rows, complete or invisible.

The events are spread over files by the hash of the view's key, and the rows of each file's keys are
made alone by the code that makes them all at once (`batch`): they are the same, bit for bit. What
has to be known of other keys is fetched before: sums over everybody as of any time (`timeline`),
then what other keys say to each event (`passes`).

Each pass is a directory that exists only when complete, in a working directory beside the target: a
run that was stopped goes on after its last complete pass, and after its last file of rows.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.aggregates.batch import Elsewhere, row_schema, rows_of_part
from adc_features.aggregates.declaration import AggregateView, Residual
from adc_features.aggregates.event_files import event_pieces, sampled_times
from adc_features.aggregates.events import Events, event_schema, in_order, refuse_repeated
from adc_features.aggregates.partitions import buckets
from adc_features.aggregates.parts import Part
from adc_features.aggregates.passes import Needs, Question, answer, answers_of, ask
from adc_features.aggregates.record import declaration_hash
from adc_features.aggregates.timeline import (
    MOST_RANGES,
    RANGE_EVENTS,
    Timeline,
    TimelineWriter,
)
from adc_features.artifact import (
    ensure_directory,
    fresh_directory,
    fresh_file,
    json_text,
    write_json,
)
from adc_features.errors import ArtifactError, InputError
from adc_features.input_files import InputFiles, unchanged
from adc_features.partition_files import MOST_FILES, PartitionWriter, read_partition

ROWS = "rows"
"""The directory of the files of rows, beside the manifest."""
MEMORY = 2 << 30
PIECE_ROWS = 500_000
FORMAT = 1
"""Rises when the same events and declaration would give other rows or other files: what an earlier
version left is then made anew.
"""
_ROW_GROUP = 100_000
"""Rows that are made and written at a time."""
_ID_FILES, _HALVES = 64, pa.schema([("high", pa.uint64()), ("low", pa.uint64())])
_EVENT_BYTES, _LISTED_BYTES = 600, 60
"""What an event takes while its rows are made, and each value of its lists: measured, rounded up.
"""
_log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]
"""Told the pass, how much of it is done, and of how much."""


def write_rows(
    view: AggregateView,
    files: Sequence[Path],
    target: Path,
    *,
    memory: int = MEMORY,
    partitions: int | None = None,
    piece_rows: int = PIECE_ROWS,
    jobs: int = 1,
    progress: Progress = lambda label, done, total: None,
) -> int:
    """The rows of `batch_rows(view, events)`, of events that memory need not hold.

    Parameters
    ----------
    files : sequence of Path
        Parquet files of events, as `Events.of` reads them. Where they have no `event_id`, a row is
        known by its number in their order.
    target : Path
        The directory to make: a manifest and, in a directory `rows` that a Feast source may name,
        files `part-00000.parquet` and so on, each with all rows of its keys sorted by (key, time).
        An existing one is kept when it is made of the same events and declaration, else replaced.
    memory : int
        Bytes that the making of rows may take, about, in each job; it says how many partitions
        there are. All events of one key are in memory together, whatever it is.
    partitions : int, optional
        How many files of rows instead.
    piece_rows : int
        Events that are read at a time.
    jobs : int
        Processes that make rows; the passes before are of one. They change no row.
    progress : callable
        Told the pass, how much of it is done, and of how much.

    Returns
    -------
    int
        How many rows there are.

    Raises
    ------
    InputError
        The events cannot be counted, as `Events.of` says.
    ArtifactError
        A file cannot be read or changed during the work, or a job was killed; finished files of
        rows are kept.
    """
    if not files:
        raise InputError("no files of events were given; name at least one Parquet file")
    rows, times = sampled_times(files, piece_rows)
    if jobs < 1:
        raise InputError(f"jobs is {jobs}; expected at least 1 process")
    count = partitions or partitions_for(view, rows, memory=memory)
    if not 1 <= count <= MOST_FILES:
        raise InputError(f"partitions is {count}; expected 1 to {MOST_FILES}, open at once")
    inputs = InputFiles.at(files)
    made_of = {
        "rows_format": FORMAT,
        "declaration": declaration_hash(view),
        "files": [[path, *state[:2]] for path, state in inputs.states.items()],
        "partitions": count,
    }
    told: dict[str, Any] = {"piece_rows": piece_rows, "jobs": jobs, "progress": progress}
    job = _Job(view, files, Path(target), count=count, total=rows, times=times, **told)
    ensure_directory(Path(target), made_of, unchanged([inputs])(partial(job.fill, made_of)))
    shutil.rmtree(job.work, ignore_errors=True)
    return sum(
        pq.read_metadata(f).num_rows for f in sorted((Path(target) / ROWS).glob("*.parquet"))
    )


def partitions_for(view: AggregateView, events: int, *, memory: int) -> int:
    """How many partitions there are of so many events."""
    listed = sum(one.n or 0 for one in view.features.values() if one.kind.startswith("last"))
    each = _EVENT_BYTES + _LISTED_BYTES * listed
    return max(1, min(MOST_FILES, -(-events * each // max(1, memory // 2))))


@dataclass(frozen=True)
class _Job:
    """One history on its way: the passes, in the order of `fill`. times: some of the events'."""

    view: AggregateView
    files: Sequence[Path]
    target: Path
    count: int
    total: int
    times: np.ndarray
    piece_rows: int
    jobs: int
    progress: Progress

    @cached_property
    def work(self) -> Path:
        return self.target.with_name(f"{self.target.name}.unfinished")

    @cached_property
    def needs(self) -> Needs:
        return Needs(self.view)

    @cached_property
    def edges(self) -> np.ndarray:
        """Where the ranges of times end that are summed one after the other."""
        ranges = max(1, min(MOST_RANGES, self.total // RANGE_EVENTS))
        places = np.linspace(0, len(self.times), ranges + 1)[1:-1].astype(np.int64)
        return np.sort(self.times)[places]

    def fill(self, made_of: dict[str, Any], aside: Path) -> dict[str, Any]:
        """Write the files of rows into `aside`; what is finished already is taken as it is."""
        self._begin(made_of)
        self._pass("events", self._split)
        for k, question in enumerate(self.needs.questions):
            if not (self.work / f"answers-{k}").exists():
                self._pass(f"asked-{k}", partial(self._ask, k, question))
                self._pass(f"answers-{k}", partial(self._answer, k, question))
            shutil.rmtree(self.work / f"asked-{k}", ignore_errors=True)
        (self.work / ROWS).mkdir(exist_ok=True)
        (aside / ROWS).mkdir()
        held = 0
        try:
            with ExitStack() as opened:
                for number in self._folded(opened):
                    path = self._path(number)
                    held += pq.read_metadata(path).num_rows
                    os.link(path, aside / ROWS / path.name)
                    self.progress("rows", number + 1, self.count)
        except BrokenProcessPool as error:
            raise ArtifactError(
                f"a process that made rows of {self.view.name!r} was killed, as where memory is"
                " short; take fewer jobs and run the same again, finished files are kept"
            ) from error
        _log.info("stage=aggregates view=%s events=%d rows=%d", self.view.name, self.total, held)
        return {"view": self.view.name, "events": self.total, "rows": held}

    def _begin(self, made_of: dict[str, Any]) -> None:
        """Keep what a stopped run left when it was of the same, else start anew."""
        said, path = json_text(made_of), self.work / "made_of.json"
        if not path.exists() or path.read_text(encoding="utf-8") != said + "\n":
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            write_json(path, made_of)

    def _pass(self, name: str, fill: Callable[[Path], None]) -> None:
        if not (self.work / name).exists():
            with fresh_directory(self.work / name) as aside:
                fill(aside)

    # -- passes

    def _split(self, aside: Path) -> None:
        """The events by the view's key, and the sums over everybody."""
        stream, schema = self.view.stream, event_schema(self.view.stream)
        everybody, ids = aside / "everybody", aside / "ids"
        everybody.mkdir()
        ids.mkdir()
        done = 0
        with (
            TimelineWriter(everybody, self.view, self.needs.everybody, self.edges) as line,
            PartitionWriter(aside, schema, self.count) as parts,
            PartitionWriter(ids, _HALVES, _ID_FILES) as known,
        ):
            for raw, named in event_pieces(self.files, self.view.stream, self.piece_rows):
                events = Events.of(stream, raw)
                line.add(events, partial(_added, events))
                parts.add(events.table, buckets(stream, events.table, self.view.key, self.count))
                if named:  # else each has a number of its own
                    high, low = events.id_halves
                    file = ((high ^ low) % np.uint64(_ID_FILES)).astype(np.int64)
                    known.add(pa.table([high, low], schema=_HALVES), file)
                done += len(events)
                self.progress("events", done, self.total)
            line.finish()
        for number in range(_ID_FILES):
            table = read_partition(ids, number)
            refuse_repeated(table["high"].to_numpy(), table["low"].to_numpy())
        shutil.rmtree(ids)
        if done != self.total or int(parts.rows.sum()) != done:
            raise InputError(
                f"{done:,} events were read where the files hold {self.total:,}; they were changed"
                " meanwhile, start again"
            )
        write_json(aside / "sizes.json", parts.rows.tolist())

    def _ask(self, k: int, question: Question, aside: Path) -> None:
        ask(
            self.view,
            question,
            self.work / "events",
            aside,
            count=self.count,
            known=self._residuals,
            step=partial(self.progress, f"asked {','.join(question.columns)}"),
        )

    def _answer(self, k: int, question: Question, aside: Path) -> None:
        summed = self._summed(question)
        place = {residual: n for n, residual in enumerate(question.residuals)}
        (aside / "everybody").mkdir()
        with TimelineWriter(aside / "everybody", self.view, summed, self.edges) as line:

            def told(events: Events, found: Sequence[np.ndarray]) -> None:
                if summed:
                    ones = np.ones(len(events), np.int64)
                    columns = [found[place[p.of]] for p in summed if isinstance(p.of, Residual)]
                    line.add_sums(events.times, [ones, *columns])

            answer(
                self.view,
                question,
                self.work / f"asked-{k}",
                aside,
                count=self.count,
                everybody=self._everybody,
                told=told,
                step=partial(self.progress, f"answered {','.join(question.columns)}"),
            )
            line.finish()

    def _folded(self, opened: ExitStack) -> Iterable[int]:
        """The partitions in their order, each once its file of rows is there."""
        if self.jobs == 1:
            return map(self._fold, range(self.count))
        # a fork would share locks of threads; progress is told here, and may not be picklable
        pool = ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn"))
        fold = replace(self, progress=_silent)._fold
        return opened.enter_context(pool).map(fold, range(self.count))

    def _path(self, number: int) -> Path:
        return self.work / ROWS / f"part-{number:05d}.parquet"

    def _fold(self, number: int) -> int:
        """The rows of a partition's keys as a file, unless it is there; the partition's number."""
        if (path := self._path(number)).exists():
            return number
        table = read_partition(self.work / "events", number)
        order = in_order(table)
        groups = {
            part: column[order]
            for k, question in enumerate(self.needs.questions)
            if question.parts
            for part, column in zip(question.parts, self._answers(k, question, number), strict=True)
        }
        found = {r: column[order] for r, column in self._residuals(number).items()}
        events = Events(self.view.stream, table.take(pa.array(order)).combine_chunks())
        del table
        elsewhere = Elsewhere(self._everybody, found, groups)
        # Rows of a key follow each other and repeat most of its history: as plain values, which
        # zstd finds again, lists take a tenth of what dictionaries make of them
        with (
            fresh_file(path) as file,
            pq.ParquetWriter(
                file,
                row_schema(self.view),
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                write_page_checksum=True,
            ) as writer,
        ):
            for rows in rows_of_part(self.view, events, elsewhere, most=_ROW_GROUP):
                writer.write_table(rows)
        return number

    # -- what passes left

    @cached_property
    def _sizes(self) -> list[int]:
        sizes: list[int] = json.loads((self.work / "events/sizes.json").read_text(encoding="utf-8"))
        return sizes

    def _answers(self, k: int, question: Question, number: int) -> list[np.ndarray]:
        return answers_of(question, self.work / f"answers-{k}", number, self._sizes[number])

    def _residuals(self, number: int) -> dict[Residual, np.ndarray]:
        return {
            residual: column
            for k, question in enumerate(self.needs.questions)
            if question.residuals
            for residual, column in zip(
                question.residuals, self._answers(k, question, number), strict=True
            )
        }

    def _summed(self, question: Question) -> tuple[Part, ...]:
        """The sums over everybody of the residuals that are an answer to a question."""
        found = self.needs.everybody_residuals
        return tuple(p for p in found if p.of in question.residuals)

    def _everybody(self, part: Part, cut: np.ndarray) -> np.ndarray:
        return self._line(part).everybody(part, cut)

    def _line(self, part: Part) -> Timeline:
        """The sums over everybody in which a part is found."""
        directory, parts = self.work / "events/everybody", self.needs.everybody
        if isinstance(part.of, Residual):
            for k, question in enumerate(self.needs.questions):
                if part.of in question.residuals:
                    directory = self.work / f"answers-{k}/everybody"
                    parts = self._summed(question)
        if directory not in self._lines:
            self._lines[directory] = Timeline.open(directory, self.view, parts)
        return self._lines[directory]

    @cached_property
    def _lines(self) -> dict[Path, Timeline]:
        return {}


def _silent(label: str, done: int, total: int) -> None:
    """Progress that nobody hears."""


def _added(events: Events, part: Part) -> np.ndarray:
    """int64 [N]: what each event adds to a count or sum of a value."""
    if part.of is None:
        return np.ones(len(events), np.int64)
    values, valid = events.value(str(part.of))
    if part.kind == "sum":
        return values
    return np.ones(len(events), np.int64) if valid is None else valid.astype(np.int64)
