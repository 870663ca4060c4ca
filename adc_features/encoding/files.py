"""Encode a catalogue from files to files. Reads: items in Parquet, a generation, perhaps the
snapshot before. Writes: the folder of `encoding.output`.

The plan says what is made of what; parts that are finished under the same plan are kept, so that
the same command goes on where it stopped. Workers see the plan's folder only: the generation and
the snapshot before are copied there.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.artifact import file_hash
from adc_features.clock import utc
from adc_features.codes.generation import Generation, open_generation
from adc_features.encoding.catalogue import check_ids
from adc_features.encoding.output import (
    CODES,
    EncodedItems,
    complete,
    open_encoded,
    seal_output,
)
from adc_features.encoding.piece import GENERATION, PREVIOUS, EncodePiece, Reads, reads_of
from adc_features.encoding.work import PARTIAL, Progress, finished, prepare, run_parts
from adc_features.engines import Engine, engine_of
from adc_features.engines.parts import PART, PartWork, Source, open_source, pieces
from adc_features.engines.places import Place
from adc_features.errors import InputError
from adc_features.extras import extra_modules
from adc_features.one_writer import only_writer

log = logging.getLogger(__name__)


def encode_files(
    items: str,
    out: str,
    generation: Path,
    *,
    engine: Engine | None = None,
    as_of: datetime | None = None,
    previous: Path | Callable[[datetime], Path | None] | None = None,
    progress: Progress | None = None,
) -> EncodedItems:
    """Codes and weights of a catalogue in Parquet files, whatever its size.

    The codes, weights, reliabilities and collision counts are those of `encode` over all items at
    once, to the bit, on every engine.

    Parameters
    ----------
    items : str
        A Parquet file or a folder of them, as a path or a URI: columns `item_id`,
        `interaction_count` and `vector_<modality>`, as `EmbeddingTable.write` has them. Row groups
        are the units that are spread over workers; about 50,000 rows are a good size.
    out : str
        The folder to write, a path or a URI; on several machines one that all of them reach.
    generation : Path
        The directory of the frozen tokenizer.
    engine : Engine, optional
        Where the work is done, from `engine_of`; default this process.
    as_of : datetime, optional
        The cut-off of the items, aware and exclusive, where the files do not say it.
    previous : Path or callable, optional
        The packed file of the snapshot before, whose codes are held (`encode`), or what tells it
        by the cut-off.
    progress : callable, optional
        Called with ("encode", items done, items in all).

    Returns
    -------
    EncodedItems
        What was written, or what was there of the same items, generation and snapshot.

    Raises
    ------
    InputError
        Items cannot be used, an id stands twice, no cut-off is told or two are, or `out` holds
        something else.
    GenerationMismatch
        `previous` is of a generation that this one is not aligned with.
    ArtifactError
        A file is damaged or changed during the work, or the engine gave up; finished parts are
        kept.
    MissingExtraError
        torch, the engine, or Java for Spark is not installed.

    Examples
    --------
    >>> vectors.write(folder / "items.parquet")
    >>> made = encode_files(str(folder / "items.parquet"), str(folder / "out"), fitted)
    >>> len(made), made.table().sid.shape
    (300, (300, 3))
    """
    engine, frozen = engine or engine_of("local"), open_generation(generation)
    with extra_modules():
        reads = reads_of(frozen)
    source, target = open_source(items), Place.named(out)
    _check_columns(source, reads)
    as_of = _cut_off(source, as_of)
    previous = previous(as_of) if callable(previous) else previous
    held = _previous_hash(previous, frozen, as_of)
    made_of = {
        "items": source.files,
        "generation": frozen.id,
        "codebook_hash": frozen.codebook_hash,
        "as_of": as_of.isoformat(),
        "previous": held,
    }
    with only_writer(target.uri):
        if finished(target, made_of):
            return open_encoded(target.uri)
        check_ids(lambda: _ids(source), source.rows)
        _prepare(target, {**made_of, "parts": PART}, generation, previous)
        function = EncodePiece(target.uri, frozen.codebook_hash, held, as_of, engine.cores)
        work = PartWork(source.place.uri, reads.columns, function, target.below(PARTIAL).uri)
        run_parts(engine, source, work, "encode", progress)
        facts = complete(target, source.parts, frozen, as_of)
        seal_output(target, {**facts, "generation": frozen.id, "as_of": as_of, "made_of": made_of})
    log.info(
        "stage=encode engine=%s generation=%s items=%d cold=%d",
        engine.name,
        frozen.id,
        facts["items"],
        facts["cold_items"],
    )
    return open_encoded(out)


def _check_columns(source: Source, reads: Reads) -> None:
    """Before any work: what the generation reads is there, in the widths it was trained on."""
    names = source.schema.names
    if missing := [c for c in reads.columns if c not in names]:
        raise InputError(
            f"{source.place.uri} lacks {missing}, which the generation reads; it has {names}"
        )
    for modality, width in reads.widths.items():
        kind = source.schema.field(f"vector_{modality}").type
        if pa.types.is_fixed_size_list(kind) and width not in (0, kind.list_size):
            raise InputError(
                f"modality {modality!r} has width {kind.list_size}, the generation was fitted on"
                f" {width}; embed with the same encoder"
            )


def _cut_off(source: Source, asked: datetime | None) -> datetime:
    said = (source.schema.metadata or {}).get(b"as_of")
    if said is None and asked is None:
        raise InputError(
            f"{source.place.uri} does not say as of when its items are; give the cut-off, --as-of"
        )
    if said is None:
        assert asked is not None
        return utc(asked, name="as_of")
    told = datetime.fromisoformat(said.decode())
    if asked is not None and utc(asked, name="as_of") != told:
        raise InputError(
            f"{source.place.uri} says that its items are as of {told.isoformat()}, asked is"
            f" {asked.isoformat()}; leave --as-of out, or embed the items as of that time"
        )
    return told


def _previous_hash(previous: Path | None, generation: Generation, as_of: datetime) -> str | None:
    """The sha256 of the snapshot before, checked; None where there is none."""
    if previous is None:
        return None
    from adc_features.store.packed.snapshot import PackedSnapshot
    from adc_features.tokenizer.encode import check_previous

    snapshot = PackedSnapshot(previous)
    snapshot.verify()
    check_previous(snapshot, generation, as_of)
    return file_hash(previous)


def _ids(source: Source) -> Iterator[pa.ChunkedArray]:
    for part in source.parts:
        for piece in pieces(source.place, part, ["item_id"]):
            yield piece["item_id"]


def _prepare(
    target: Place, plan: Mapping[str, Any], generation: Path, previous: Path | None
) -> None:
    """Keep the parts that were finished under this plan; else begin anew."""

    def put() -> None:
        target.take(generation, GENERATION)
        if previous is not None:
            target.write(PREVIOUS, Path(previous).read_bytes())

    prepare(target, plan, (GENERATION, CODES), put)
