"""Make the index of what is published. Reads: publications, statistics, items, vectors. Writes: a
directory `<repo>/data/explore/<hash>`, complete or invisible.

Items stand in one order everywhere, the most popular first, so that a list of rows is a ranking,
and a tenth of the items by popularity is a slice.

    items.sqlite                    id, title and attributes of each row, full-text search
    events.npy, labels.npy          int64, float32 [T, N] as of each cut-off, the last: in all
    <generation>/codes.npy          int16 or int32 [S, L, N], -1 = no code
    <generation>/use.npy            float64 [S, L, K, 4]: items, weight, events, labels of a code
    <generation>/posting.npy        int32 [L, N], rows by (code, falling weight), newest snapshot
    <generation>/starts.npy         int64 [L, K + 1], where each code begins in it
    <generation>/collisions.npy     int32 [S, N], how many items have an item's codes
    <generation>/crowded.json       [S] items by how many share their codes; the most crowded IDs
    vectors/<number>.npy            float16 [N, D], of length 1; 0 where there is none

Legend: N items, S snapshots, L positions, K codes, T distinct cut-offs, D dimensions.
"""

import logging
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import (
    MANIFEST,
    fresh_directory,
    json_text,
    read_manifest,
    seal,
)
from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import find_rows
from adc_features.data.attributes import attribute_problem, attribute_text
from adc_features.errors import ArtifactError, InputError
from adc_features.explore.crowding import write_crowding
from adc_features.explore.place import Place
from adc_features.explore.vectors import BLOCK, write_vectors
from adc_features.parquet_files import read_parquet
from adc_features.store.packed.timeline import PackedTimeline, open_timeline
from adc_features.store.repository import (
    publication_path,
    statistics_path,
)

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


def index_directory(place: Place, cache: Path | None = None) -> Path:
    """Where the index of this content is, or will be."""
    name = sha256(json_text(place.made_of()).encode()).hexdigest()[:16]
    return (cache or place.repo / "data" / "explore") / name


def ensure_index(place: Place, cache: Path | None = None, progress: Progress | None = None) -> Path:
    """The directory of the index, made where it is not there; indexes of what is no longer
    published are deleted. Where no codes are published it has the items that are known all the
    same.
    """
    directory, made_of = index_directory(place, cache), place.made_of()
    try:
        if read_manifest(directory, verify=False)["made_of"] == made_of:
            return directory
    except ArtifactError:
        pass
    with fresh_directory(directory) as aside:
        facts = _filled(place, aside, progress or (lambda label, done, total: None))
        seal(aside, {"made_of": made_of, **facts})
    for other in directory.parent.iterdir():
        if other != directory and len(other.name) == len(directory.name) and _is_index(other):
            shutil.rmtree(other, ignore_errors=True)
    return directory


def _is_index(directory: Path) -> bool:
    return (directory / MANIFEST).is_file() and (directory / "items.sqlite").is_file()


def _filled(place: Place, target: Path, progress: Progress) -> dict[str, Any]:
    """Fill a directory; what its manifest says."""
    generations = place.generations()
    timelines = {
        g.id: open_timeline(publication_path(place.repo, g.id)).timeline for g in generations
    }
    table = None if place.items is None else read_parquet(place.items)
    key = place.item_key(() if table is None else table.column_names)
    table = None if table is None else _keyed(table, place.items, key.join_key)
    ids = _every_id(place.repo, timelines, table, key.join_key)
    cutoffs = sorted({s.as_of for t in timelines.values() for s in t.snapshots})
    events, labels = _counts(place.repo, ids, cutoffs, progress)
    order = np.lexsort((np.arange(len(ids)), -events[-1]))
    ids, events, labels = ids[order], events[:, order], labels[:, order]
    np.save(target / "events.npy", events)
    np.save(target / "labels.npy", labels)
    _write_items(target / "items.sqlite", ids, table, key.join_key, progress)
    as_of = cutoffs[-1] if cutoffs else datetime.now(UTC)
    vectors = write_vectors(place, target / "vectors", ids, key=key, as_of=as_of)
    facts = {}
    for live in generations:
        snapshots = timelines[live.id].snapshots
        at = [cutoffs.index(s.as_of) for s in snapshots]
        folder = target / live.id
        folder.mkdir()
        counted = {"events": events[at], "labels": labels[at]}
        _write_codes(folder, timelines[live.id], ids, **counted, progress=progress)
        tokenizer, names = place.tokenizer(live)
        facts[live.id] = {
            "codebook_size": live.codebook_size,
            "positions": names,
            "tokenizer": tokenizer,
            "cutoffs": at,
        }
    return {
        "items": len(ids),
        "id_type": "int64" if ids.dtype.kind == "i" else "string",
        "has_events": bool(events[-1].any()),
        "cutoffs": cutoffs,
        "generations": facts,
        **vectors,
    }


def _keyed(table: pa.Table, path: Path | None, join_key: str) -> pa.Table:
    """The table, its ids under the name of the key."""
    if join_key not in table.column_names and "item_id" in table.column_names:
        table = table.rename_columns(
            [join_key if n == "item_id" else n for n in table.column_names]
        )
    if join_key not in table.column_names:
        raise InputError(
            f"{path} has columns {table.column_names[:10]}; expected {join_key!r} and 'title'"
        )
    return table


def _every_id(
    repo: Path, timelines: dict[str, PackedTimeline], table: pa.Table | None, join_key: str
) -> np.ndarray:
    """Every item of any snapshot or of the table, sorted, int64 or str [N]; without snapshots those
    of the statistics too.
    """
    known = [t.snapshots[-1].item_ids for t in timelines.values()]
    statistics = statistics_path(repo) / "item_profile.parquet"
    if not known and statistics.is_file():
        known.append(id_array(read_parquet(statistics, columns=["item_id"])["item_id"]))
    if table is not None:
        named = id_array(table[join_key])
        if known and named.dtype.kind != known[0].dtype.kind:
            raise InputError(
                f"ids of the items table are {named.dtype}, the published ones {known[0].dtype};"
                " convert one, the two never meet"
            )
        known.append(named)
    return np.unique(np.concatenate(known)) if known else np.zeros(0, np.str_)


def _counts(
    repo: Path, ids: np.ndarray, cutoffs: list[datetime], progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Events int64 and label sums float32 [T + 1, N] of each item as of each cut-off and in all,
    as the published statistics have them; 0 where there are none.
    """
    shape = len(cutoffs) + 1, len(ids)
    events, labels = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    path = statistics_path(repo) / "item_profile.parquet"
    wanted = ["item_id", "event_timestamp", "item_event_count", "item_label_sum"]
    if not path.is_file():
        return events, labels
    try:
        table = read_parquet(path, columns=wanted)
    except ArtifactError:  # statistics of the user's own need not have these columns
        return events, labels
    if set(wanted) - set(table.column_names):
        return events, labels
    table = table.sort_by("event_timestamp")
    for n, end in enumerate([*cutoffs, None]):
        progress("statistics", n + 1, shape[0])
        part = table
        if end is not None:
            part = table.filter(
                pc.less_equal(
                    table["event_timestamp"],
                    pa.scalar(instant(end)).cast(table["event_timestamp"].type),
                )
            )
        if not len(part):
            continue
        last = part.group_by("item_id", use_threads=False).aggregate(
            [("item_event_count", "last"), ("item_label_sum", "last")]
        )
        rows, known = find_rows(ids, id_array(last["item_id"]))
        events[n, rows[known]] = last["item_event_count_last"].to_numpy()[known]
        labels[n, rows[known]] = last["item_label_sum_last"].to_numpy()[known]
    return events, labels


def _write_items(
    path: Path, ids: np.ndarray, table: pa.Table | None, join_key: str, progress: Progress
) -> None:
    """SQLite: one row an item, 1 the most popular, and full-text search over words and id."""
    titles = about = None
    if table is not None:
        rows, known = find_rows(id_array(table[join_key]), ids)
        at = pa.array(rows, mask=~known)
        column = next((c for c in ("title", "name") if c in table.column_names), None)
        if column is not None:
            titles = table[column].cast(pa.string()).take(at)
        readable = [a for a in ("brand", "category") if not attribute_problem(table, a)]
        texts = [attribute_text(table, a).take(at).fill_null("") for a in readable]
        if texts:
            # skipping nulls instead, Arrow 26 drops the rows in which all are null
            joined = pc.binary_join_element_wise(*texts, " · ")
            about = pc.utf8_trim(joined, characters=" ·")
    kind = "INTEGER" if ids.dtype.kind == "i" else "TEXT"
    database = sqlite3.connect(path)
    try:
        database.execute("PRAGMA journal_mode = OFF")
        database.execute(
            f"CREATE TABLE items (row INTEGER PRIMARY KEY, id {kind} NOT NULL, title TEXT,"
            " about TEXT)"
        )
        for start in range(0, len(ids), BLOCK):
            progress("items", start, len(ids))
            part = slice(start, start + BLOCK)
            of = ids[part].tolist()
            columns = [
                [None] * len(of) if c is None else c.slice(start, len(of)).to_pylist()
                for c in (titles, about)
            ]
            numbers = range(start + 1, start + len(of) + 1)
            database.executemany(
                "INSERT INTO items VALUES (?, ?, ?, ?)", zip(numbers, of, *columns, strict=True)
            )
        database.execute("CREATE UNIQUE INDEX by_id ON items (id)")
        # rows rise with falling popularity: the first matches are the most popular ones. Without an
        # index of its length, a beginning that many words share is merged whole at every search.
        database.execute(
            "CREATE VIRTUAL TABLE words USING fts5(title, about, id, content='items',"
            " content_rowid='row', prefix='2 3 4 5 6', detail='none')"
        )
        database.execute("INSERT INTO words (words) VALUES ('rebuild')")
        database.commit()
    finally:
        database.close()


def _write_codes(
    folder: Path,
    timeline: PackedTimeline,
    ids: np.ndarray,
    *,
    events: np.ndarray,
    labels: np.ndarray,
    progress: Progress,
) -> None:
    """The arrays of one generation. events, labels: [S, N], as of each snapshot."""
    snapshots, length, size = timeline.snapshots, timeline.length, timeline.codebook_size
    shape, kind = (len(snapshots), length, len(ids)), np.int16 if size < 1 << 15 else np.int32
    codes = np.lib.format.open_memmap(folder / "codes.npy", "w+", kind, shape)
    use = np.zeros((len(snapshots), length, size, 4))
    weights = np.zeros((length, len(ids)), np.float32)
    for n, snapshot in enumerate(snapshots):
        progress(f"codes of {timeline.generation}", n, len(snapshots))
        for start in range(0, len(ids), BLOCK):
            part = slice(start, start + BLOCK)
            found = snapshot.gather(ids[part])
            codes[n, :, part] = found.sid.T
            weights[:, part] = found.sid_weight.T
            counted = np.ones(len(found.sid)), events[n, part], labels[n, part]
            for p in range(length):
                there = found.sid[:, p] >= 0
                one, event, label = (c[there] for c in counted)
                columns = one, found.sid_weight[there, p], event, label
                for m, values in enumerate(columns):
                    use[n, p, :, m] += np.bincount(found.sid[there, p], values, size)
    codes.flush()
    np.save(folder / "use.npy", use)
    _write_postings(folder, codes[-1], weights, size)
    write_crowding(folder, codes, size)


def _write_postings(folder: Path, codes: np.ndarray, weights: np.ndarray, size: int) -> None:
    """Rows of each code, the heaviest first, equal weights by popularity."""
    length, items = codes.shape
    posting = np.lib.format.open_memmap(folder / "posting.npy", "w+", np.int32, (length, items))
    starts = np.zeros((length, size + 1), np.int64)
    for p in range(length):
        posting[p] = np.lexsort((np.arange(items), -weights[p], codes[p]))
        none = int((codes[p] < 0).sum())
        count = np.bincount(codes[p][codes[p] >= 0], minlength=size)
        starts[p] = none + np.concatenate([[0], np.cumsum(count)])
    posting.flush()
    np.save(folder / "starts.npy", starts)
