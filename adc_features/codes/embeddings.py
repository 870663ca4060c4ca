"""Item vectors as of a time. Reads: arrays or Parquet. Writes: EmbeddingTable.

Legend: N items, D dims of one modality.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import utc
from adc_features.codes.raw_items import TYPES, RawItems
from adc_features.errors import InputError
from adc_features.parquet_files import read_parquet, write_table

ROWS_A_GROUP = 48 * 1024
"""Rows of a row group of a file: what one worker encodes in one go."""


@dataclass(frozen=True)
class EmbeddingTable:
    """Vectors of N items, per modality, computed from what was known before `as_of`.

    Parameters
    ----------
    item_ids : int64 or str [N]
        Unique, in any order.
    vectors : mapping of str to ndarray
        Modality -> float32 [N, D]; rows without a vector are zero.
    present : mapping of str to ndarray
        Modality -> bool [N], whether the item has a vector.
    interaction_count : int64 [N]
        Interactions of each item with time < as_of.
    as_of : datetime
        Aware, kept as UTC; exclusive.
    raw : RawItems, optional
        The items themselves, in the same order, for a tokenizer that tunes its own encoder
        (`unisid_e2e`). Every other tokenizer reads vectors alone.

    Raises
    ------
    InputError
        Duplicate ids, NaN or infinite values, widths or row counts that differ, a naive as_of.

    Examples
    --------
    >>> from datetime import UTC
    >>> table = EmbeddingTable(
    ...     item_ids=np.array(["a", "b"]),
    ...     vectors={"title": np.array([[1, 0], [0, 0]], np.float32)},
    ...     present={"title": np.array([True, False])},
    ...     interaction_count=np.array([3, 0]),
    ...     as_of=datetime(2024, 5, 1, tzinfo=UTC),
    ... )
    >>> table.width("title"), table.take(np.array([1])).item_ids.tolist()
    (2, ['b'])

    Source
    ------
    ADC-SID, arXiv 2510.25622: what Eq. 2 reads.
    """

    item_ids: np.ndarray
    vectors: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    interaction_count: np.ndarray
    as_of: datetime
    raw: RawItems | None = None

    def __post_init__(self) -> None:
        n = len(self.item_ids)
        if n == 0:
            raise InputError("the embedding table is empty; expected at least one item")
        check_unique_ids(self.item_ids)
        if set(self.vectors) != set(self.present):
            raise InputError(
                f"vectors are given for {sorted(self.vectors)} but presence masks for"
                f" {sorted(self.present)}; give both for each modality"
            )
        if not self.vectors:
            raise InputError("no modality given; expected at least one matrix of vectors")
        for modality, matrix in self.vectors.items():
            mask = self.present[modality]
            if (
                matrix.ndim != 2
                or len(matrix) != n
                or matrix.dtype != np.float32
                or mask.shape != (n,)
                or mask.dtype != bool
            ):
                raise InputError(
                    f"modality {modality!r}: vectors {matrix.dtype}{list(matrix.shape)}, mask"
                    f" {mask.dtype}{list(mask.shape)}; expected float32 [{n}, D] and bool [{n}]"
                )
            if matrix[~mask].any():
                raise InputError(
                    f"modality {modality!r}: a row that is marked absent holds values; expected"
                    " zeros where the mask is False"
                )
            broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
            if len(broken):
                raise InputError(
                    f"modality {modality!r}: {len(broken)} vectors hold NaN or infinite values"
                    f" (first item {self.item_ids[broken[0]]!r}); drop them or mark them absent"
                )
        if (
            self.interaction_count.shape != (n,)
            or self.interaction_count.dtype != np.int64
            or (self.interaction_count < 0).any()
        ):
            raise InputError(
                "interaction_count is"
                f" {self.interaction_count.dtype}{list(self.interaction_count.shape)}; expected"
                f" int64 [{n}], none negative"
            )
        if self.raw is not None and len(self.raw) != n:
            raise InputError(
                f"raw items are {len(self.raw)}, the table has {n}; give one of each, in one order"
            )
        object.__setattr__(self, "as_of", utc(self.as_of, name="as_of"))

    def __len__(self) -> int:
        return len(self.item_ids)

    def width(self, modality: str) -> int:
        """The width D of a modality's vectors.

        Parameters
        ----------
        modality : str
            For example "title" or "behavior".

        Returns
        -------
        int

        Raises
        ------
        InputError
            The table has no such modality.
        """
        if modality not in self.vectors:
            raise InputError(
                f"modality {modality!r} is missing; this table has {sorted(self.vectors)}"
            )
        return self.vectors[modality].shape[1]

    def take(self, rows: np.ndarray) -> "EmbeddingTable":
        """Some of the items.

        Parameters
        ----------
        rows : int64 [M] or bool [N]
            Row numbers, or a mask.

        Returns
        -------
        EmbeddingTable
            Those items, in that order.
        """
        return EmbeddingTable(
            self.item_ids[rows],
            {m: v[rows] for m, v in self.vectors.items()},
            {m: p[rows] for m, p in self.present.items()},
            self.interaction_count[rows],
            self.as_of,
            None if self.raw is None else self.raw.take(rows),
        )

    def to_arrow(self) -> pa.Table:
        """The table in Arrow, as `write` stores it.

        Returns
        -------
        pyarrow.Table, N rows
            `item_id`, `interaction_count`, and `vector_<modality>` as fixed-size lists, null when
            absent; `raw_<column>` of raw items, where it has them; `as_of` is in the metadata.
        """
        columns: dict[str, pa.Array] = {
            "item_id": pa.array(self.item_ids),
            "interaction_count": pa.array(self.interaction_count),
        }
        for modality, matrix in self.vectors.items():
            columns[f"vector_{modality}"] = pa.FixedSizeListArray.from_arrays(
                pa.array(matrix.reshape(-1)),
                matrix.shape[1],
                mask=pa.array(~self.present[modality]),
            )
        if self.raw is not None:
            columns |= {f"raw_{name}": getattr(self.raw, name) for name in TYPES}
        return pa.table(columns).replace_schema_metadata({"as_of": self.as_of.isoformat()})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "EmbeddingTable":
        """The inverse of `to_arrow`.

        Parameters
        ----------
        table : pyarrow.Table
            What `to_arrow` returned.

        Returns
        -------
        EmbeddingTable

        Raises
        ------
        InputError
            The table did not come from `to_arrow`.
        """
        metadata = table.schema.metadata or {}
        if b"as_of" not in metadata:
            raise InputError(
                f"the table has columns {table.column_names} but no as_of in its metadata; read"
                " what EmbeddingTable.write wrote"
            )
        ids = id_array(table["item_id"])
        vectors, present = {}, {}
        for name in table.column_names:
            if name.startswith("vector_"):
                vectors[name[7:]], present[name[7:]] = vector_matrix(table[name], name=name)
        return cls(
            ids,
            vectors,
            present,
            table["interaction_count"].to_numpy().astype(np.int64),
            datetime.fromisoformat(metadata[b"as_of"].decode()),
            RawItems.of(**{name: table[f"raw_{name}"] for name in TYPES})
            if "raw_title" in table.column_names
            else None,
        )

    def write(self, path: Path) -> None:
        """Write the table as a Parquet file.

        Parameters
        ----------
        path : Path
            The file; one that exists is replaced.
        """
        write_table(self.to_arrow(), path, row_group_size=ROWS_A_GROUP)

    @classmethod
    def read(cls, path: Path) -> "EmbeddingTable":
        """Read a table that `write` wrote.

        Parameters
        ----------
        path : Path
            The Parquet file.

        Returns
        -------
        EmbeddingTable

        Raises
        ------
        ArtifactError
            The file is missing or is not Parquet.
        InputError
            It holds another table.
        """
        return cls.from_arrow(read_parquet(path))


def check_unique_ids(ids: np.ndarray) -> None:
    """Raise InputError when an item id stands twice."""
    unique, counts = np.unique(ids, return_counts=True)
    if len(unique) < len(ids):
        twice = unique[counts > 1]
        raise InputError(
            f"{len(twice)} item ids stand more than once (first {twice[0]!r}); keep one row an item"
        )


def id_array(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """An id column as numpy: int64 for integers, fixed-width unicode for strings. Raises InputError
    on nulls or other types.
    """
    if column.null_count:
        raise InputError(f"{column.null_count} ids are null; drop these rows")
    if pa.types.is_integer(column.type):
        return column.to_numpy().astype(np.int64)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return (
            column.to_numpy(zero_copy_only=False).astype(str)
            if isinstance(column, pa.Array)
            else column.to_numpy().astype(str)
        )
    raise InputError(f"ids are of type {column.type}; expected integers or strings")


def vector_matrix(column: pa.ChunkedArray, *, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A list column as (float32 [N, D], present bool [N]); null lists become zero rows that are
    marked absent.

    Raises InputError when the lists differ in width or hold nulls.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], array.type)
    present = ~np.asarray(array.is_null())
    kept = array.drop_null() if array.null_count else array
    flat = kept.flatten()
    if flat.null_count:
        raise InputError(
            f"column {name!r} holds {flat.null_count} nulls inside its vectors; drop these rows or"
            " make the whole vector null"
        )
    widths = np.unique(np.asarray(pc.list_value_length(kept))) if len(kept) else np.array([0])
    if len(widths) != 1 or (len(kept) and widths[0] == 0):
        raise InputError(
            f"column {name!r} holds vectors of widths {widths.tolist()}; expected one width above 0"
        )
    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else int(widths[0])
    values = np.asarray(flat, dtype=np.float32).reshape(-1, width)
    if not array.null_count:
        return values.copy(), present
    matrix = np.zeros((len(array), width), np.float32)
    matrix[present] = values
    return matrix, present
