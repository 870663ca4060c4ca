"""Codes of a catalogue as files. Reads, writes: the folder below.

<out>/codes/part-00000.parquet  codes and weights, in the order of the items
<out>/generation/               the frozen tokenizer that they come from
<out>/manifest.json             written last: what they were made of

While the work goes on, finished parts lie in <out>/_partial.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, json_text, read_manifest, sealed
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.list_columns import list_matrix
from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable
from adc_features.encoding.catalogue import count_collisions
from adc_features.encoding.piece import COUNTED, GENERATION
from adc_features.encoding.work import PARTIAL
from adc_features.engines.parts import Part
from adc_features.engines.places import Place
from adc_features.errors import ArtifactError
from adc_features.parquet_files import read_parquet, reading, write_table

CODES = "codes"
KIND = "encoded_items"


@dataclass(frozen=True)
class EncodedItems:
    """Codes that `encode_files` wrote, complete and unaltered.

    Parameters
    ----------
    place : Place
        Their folder, on this machine.
    manifest : mapping
        What its manifest says.

    Examples
    --------
    >>> from adc_features.encoding import encode_files
    >>> vectors.write(folder / "items.parquet")
    >>> made = encode_files(str(folder / "items.parquet"), str(folder / "out"), fitted)
    >>> made.as_of == vectors.as_of, made.generation.id, [len(p) for p in made.pieces()]
    (True, 'g1', [300])
    """

    place: Place
    manifest: Mapping[str, Any]

    def __len__(self) -> int:
        return self.manifest["items"]

    @property
    def as_of(self) -> datetime:
        """The cut-off of the items, exclusive, aware UTC."""
        return datetime.fromisoformat(self.manifest["as_of"])

    @property
    def generation(self) -> Generation:
        """The tokenizer that the codes come from."""
        return open_generation(self.place.local_copy(GENERATION))

    def pieces(self) -> Iterator[SidTable]:
        """The items in their order, a part at a time."""
        for name in sorted(n for n in self.manifest["files"] if n.startswith(f"{CODES}/")):
            yield SidTable.from_arrow(read_parquet(self.place.local_copy(name)))

    def codes(self) -> SidPieces:
        """The same, to be read as often as needed."""
        first = next(self.pieces())
        return SidPieces(
            self.pieces,
            first.generation,
            first.codebook_size,
            first.length,
            self.as_of,
            first.has_second,
        )

    def table(self) -> SidTable:
        """All items in their order, in memory."""
        parts = list(self.pieces())
        return SidTable.from_arrow(pa.concat_tables([p.to_arrow() for p in parts]).combine_chunks())


def open_encoded(uri: str) -> EncodedItems:
    """Open codes that `encode_files` wrote, after checking the hash of each file.

    Parameters
    ----------
    uri : str
        The folder: a path or a URI. What lies elsewhere is copied here for as long as the process
        lives.

    Returns
    -------
    EncodedItems

    Raises
    ------
    ArtifactError
        A file is missing, altered or of a newer format, or the encode did not end.

    Examples
    --------
    >>> from adc_features.encoding import encode_files
    >>> vectors.write(folder / "items.parquet")
    >>> made = encode_files(str(folder / "items.parquet"), str(folder / "out"), fitted)
    >>> len(open_encoded(str(folder / "out")))
    300
    """
    place = Place.named(uri)
    if place.json(MANIFEST) is None:
        raise ArtifactError(
            f"{uri} has no {MANIFEST}: no encode ended there; run adc encode again, which goes on"
            " where it stopped"
        )
    directory = place.local_copy("")
    manifest = read_manifest(directory, requires=(f"{GENERATION}/{MANIFEST}",))
    if manifest.get("kind") != KIND:
        raise ArtifactError(
            f"{uri} is of kind {manifest.get('kind')!r}; give the folder that adc encode wrote"
        )
    return EncodedItems(Place(str(directory)), manifest)


def complete(
    out: Place, parts: Sequence[Part], generation: Generation, as_of: datetime
) -> dict[str, Any]:
    """Write the final parts: what the workers wrote, and in how many items' company each item has
    its codes. Facts about all of them.

    Raises ArtifactError when a part is missing or has other rows than its items.
    """
    partial, spec = out.below(PARTIAL), generation.spec
    rows = sum(part.rows for part in parts)
    counts = count_collisions(
        lambda: (
            list_matrix(_part(partial, part, ["sid"])["sid"], spec.length, np.int32)
            for part in parts
        ),
        rows,
        codebook_size=spec.codebook_size,
    )
    meta = {
        "generation": generation.id,
        "codebook_size": str(spec.codebook_size),
        "as_of": as_of.isoformat(),
        "length": str(spec.length),
    }
    out.delete(CODES)  # what a killed process may have left half-way
    start, cold = 0, 0
    for part in parts:
        made = _part(partial, part, None)
        mine = pa.array(counts[start : start + part.rows])
        made = made.add_column(made.column_names.index("found"), COUNTED, mine)
        cold += int(np.count_nonzero(made["is_cold"]))
        with out.writing(f"{CODES}/{part.name}") as file:
            write_table(made.replace_schema_metadata(meta), file)
        start += part.rows
    return {
        "items": rows,
        "cold_items": cold,
        "distinct_codes": round(float((1 / counts).sum())),
        "largest_collision": int(counts.max()),
    }


def _part(partial: Place, part: Part, columns: Sequence[str] | None) -> pa.Table:
    name = partial.of(part.name)
    with reading(name):
        made = pq.read_table(
            io.BytesIO(partial.read(part.name)), columns=columns, page_checksum_verification=True
        )
    if len(made) != part.rows:
        raise ArtifactError(
            f"{name} holds {len(made)} rows, its items are {part.rows}; delete it and run the same"
            " command again"
        )
    return made


def seal_output(out: Place, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the manifest, last, and delete what the work left; the manifest."""
    files = out.hashes(CODES) | out.hashes(GENERATION)
    text = json_text(sealed({"kind": KIND, **facts}, files)) + "\n"
    out.write(MANIFEST, text.encode())
    out.delete(PARTIAL)
    return json.loads(text)
