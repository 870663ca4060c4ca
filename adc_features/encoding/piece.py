"""What a worker does with some items. Reads: Arrow tables, the generation in the output's folder.
Writes: Arrow tables of codes.

The generation and the snapshot before lie in the output's own folder, which every worker reaches;
each worker process opens them once.
"""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from adc_features.artifact import MANIFEST, file_hash
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, adc_widths, open_generation
from adc_features.codes.raw_items import TYPES
from adc_features.codes.spec import BEHAVIOR
from adc_features.engines.places import Place
from adc_features.errors import ArtifactError, InputError

if TYPE_CHECKING:  # they import torch
    from adc_features.store.packed.snapshot import PackedSnapshot

GENERATION, PREVIOUS = "generation", "_partial/previous.sids"
"""Names in the output's folder."""
COUNTED = "collision_count"
"""The column that is a count over the whole catalogue, which no piece knows."""


class Reads(NamedTuple):
    """What a generation reads of an item. widths: of each modality's vector, 0 for any; raw: raw
    columns.
    """

    widths: Mapping[str, int]
    raw: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in a source of items."""
        vectors = [f"vector_{m}" for m in self.widths]
        return ("item_id", "interaction_count", *vectors, *(f"raw_{n}" for n in TYPES if self.raw))


def reads_of(generation: Generation) -> Reads:
    """What a generation reads. Of ADC-SID without torch, so that a driver whose workers encode does
    not import it.
    """
    if generation.tokenizer == "adc":
        told = adc_widths(generation)
        read = {m: told[m] for m in generation.spec.modalities}
    else:
        from adc_features.tokenizer.encode import read as read_network

        read = dict(read_network(generation).widths)
    widths = read or dict.fromkeys(generation.spec.modalities, 0)
    if generation.spec.behavior:
        widths.setdefault(BEHAVIOR, 0)
    return Reads(widths, raw=not read)


@dataclass(frozen=True)
class EncodePiece:
    """Items in Arrow to their codes in Arrow, as `SidTable.to_arrow` has them but for COUNTED.

    output: path or URI of the output. codebook_hash, previous_hash: of what lies there; the latter
    is None where no snapshot is held on to. cores: threads of torch; None: as they are.
    """

    output: str
    codebook_hash: str
    previous_hash: str | None
    as_of: datetime
    cores: int | None

    def __call__(self, piece: pa.Table) -> pa.Table:
        """Raises InputError for items that cannot be used, ArtifactError where the output's folder
        is not the one of the driver.
        """
        from adc_features.tokenizer.encode import coded

        opened = _opened(self.output, self.codebook_hash, self.previous_hash, self.cores)
        items = item_table(piece, opened.reads, self.as_of)
        held = None
        if opened.previous is not None:
            held = opened.previous.lookup(items.item_ids)
        made = coded(items, opened.generation, network=opened.network, previous=held)
        return made.to_arrow().drop_columns([COUNTED])


def item_table(piece: pa.Table, reads: Reads, as_of: datetime) -> EmbeddingTable:
    """Some rows of a source as what `encode` reads. Raises InputError as EmbeddingTable does."""
    for modality, width in reads.widths.items():
        name = f"vector_{modality}"
        column = piece[name]
        # lists without one vector do not tell their width
        if column.null_count == len(column) and width:
            absent = pa.nulls(len(column), pa.list_(pa.float32(), width))
            piece = piece.set_column(piece.column_names.index(name), name, absent)
    if piece["interaction_count"].null_count:
        raise InputError(
            f"interaction_count holds {piece['interaction_count'].null_count} nulls; write 0 for"
            " items without interactions"
        )
    return EmbeddingTable.from_arrow(piece.replace_schema_metadata({"as_of": as_of.isoformat()}))


class Opened(NamedTuple):
    """What a worker process keeps."""

    generation: Generation
    network: Any
    reads: Reads
    previous: "PackedSnapshot | None"


@lru_cache(maxsize=2)
def _opened(
    output: str, codebook_hash: str, previous_hash: str | None, cores: int | None
) -> Opened:
    import torch

    from adc_features.tokenizer.encode import read

    if cores is not None:
        torch.set_num_threads(cores)
    place = Place(output)
    try:
        found = place.json(f"{GENERATION}/{MANIFEST}")
    except ArtifactError:
        found = None
    if found is None:
        raise ArtifactError(
            f"worker on {platform.node()} finds no generation in {output}; name an output that"
            " every worker reaches by the same name: a shared file system, or an object store"
        )
    generation = open_generation(place.local_copy(GENERATION))
    if generation.codebook_hash != codebook_hash:
        raise ArtifactError(
            f"worker on {platform.node()} finds codebook {generation.codebook_hash[:12]}... in"
            f" {output}, the driver wrote {codebook_hash[:12]}...; is that folder the same one, and"
            " does one process at a time encode into it?"
        )
    network, previous = read(generation), None
    if previous_hash is not None:
        from adc_features.store.packed.snapshot import PackedSnapshot

        file = place.local_copy(PREVIOUS)
        if file_hash(file) != previous_hash:
            raise ArtifactError(
                f"{file} is not the snapshot that was put there; encode into a fresh folder"
            )
        previous = PackedSnapshot(file)
    return Opened(generation, network, reads_of(generation), previous)
