"""Columns of a table as the arrays of a batch. Reads: Arrow tables. Writes: dicts of arrays.

Legend: B rows of a batch, L length of a list, K codes per position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.sids import code_matrix, list_matrix
from adc_features.errors import InputError
from adc_features.event_times import timestamps

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Columns:
    """Which columns a batch holds, and in which form; a column that is not named is left out.

    Parameters
    ----------
    scalars : tuple of str
        Numbers, booleans and times: [B] in their own type (times: int64 microseconds since 1970
        UTC).
    lists : mapping of str to int
        Name -> L: [B, L] in the type of the values, which are numbers or booleans.
    codes : tuple of str or mapping of str to int
        Those of `lists` that hold codes, whole numbers in -1..K-1. They become int64 code + 1, so
        that 0 is "no code". A mapping gives K as well: name -> K.
    vocabularies : mapping of str to ndarray
        Name -> values: int64 [B], 1 + the place of the value, 0 for values that are not in it and
        for nulls.
    fill : mapping of str to float
        Name -> number in the place of nulls. Without one a null float becomes NaN, and any other
        null is refused.

    Raises
    ------
    InputError
        No column is named, one is named twice, or `codes` names what is not among `lists`.

    Examples
    --------
    >>> columns = Columns(scalars=("label",), lists={"sid": 2}, codes=("sid",))
    >>> batch = columns.arrays(pa.table({"label": [1.0, 0.0], "sid": [[3, -1], [0, 1]]}))
    >>> batch["sid"].tolist()
    [[4, 0], [1, 2]]
    """

    scalars: tuple[str, ...] = ()
    lists: Mapping[str, int] = field(default_factory=dict)
    codes: tuple[str, ...] | Mapping[str, int] = ()
    vocabularies: Mapping[str, np.ndarray] = field(default_factory=dict)
    fill: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [*self.scalars, *self.lists, *self.vocabularies]
        if not names:
            raise InputError("no columns are named; give scalars, lists or vocabularies")
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise InputError(f"columns {twice} are named twice; a column leaves in one form")
        if unknown := sorted(set(self.codes) - set(self.lists)):
            raise InputError(
                f"codes {unknown} are not among the lists {sorted(self.lists)}; give their lengths"
                " there"
            )

    @property
    def names(self) -> list[str]:
        """Every column that is read."""
        return [*self.scalars, *self.lists, *self.vocabularies]

    def arrays(self, table: pa.Table) -> Arrays:
        """The columns of a table as arrays.

        Parameters
        ----------
        table : pyarrow.Table
            Rows that hold every named column.

        Returns
        -------
        dict of str to ndarray
            [B] or [B, L] each.

        Raises
        ------
        InputError
            A column is missing or of another type; nulls without a fill; a fill that its column's
            type does not hold; lists of another length; a number that is no code.
        """
        if missing := sorted(set(self.names) - set(table.column_names)):
            raise InputError(
                f"the rows have no column {', '.join(missing)}; they have {table.column_names}"
            )
        out = {
            name: _scalar(_decoded(table[name]), name, self.fill.get(name)) for name in self.scalars
        }
        for name, length in self.lists.items():
            size = (
                self.codes[name] if isinstance(self.codes, Mapping) and name in self.codes else None
            )
            out[name] = _matrix(
                _decoded(table[name]),
                name,
                length,
                self.fill.get(name),
                is_code=name in self.codes,
                codebook_size=size,
            )
        for name, values in self.vocabularies.items():
            out[name] = _places(_decoded(table[name]), name, values)
        return out


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A dictionary (pandas: categorical) as its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _scalar(column: pa.ChunkedArray, name: str, fill: float | None) -> np.ndarray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        column = timestamps(column, name=name).cast(pa.int64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise InputError(
            f"column {name} is of type {kind}; a scalar is a number, boolean or timestamp, a text"
            " needs a vocabulary"
        )
    stands = None if fill is None else _fill(fill, column.type, name)
    if column.null_count:
        if stands is not None:
            column = pc.fill_null(column, pa.scalar(stands, column.type))
        elif not pa.types.is_floating(kind):
            raise InputError(
                f"column {name}: {column.null_count} nulls in a group of {kind}; say what stands"
                f" for them with fill={{{name!r}: ...}}"
            )
    return column.to_numpy()


def _matrix(
    column: pa.ChunkedArray,
    name: str,
    length: int,
    fill: float | None,
    *,
    is_code: bool,
    codebook_size: int | None,
) -> np.ndarray:
    kind = column.type
    if not (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        raise InputError(f"column {name} is of type {kind}; expected lists of {length} values")
    value = pa.int64() if is_code else kind.value_type
    known = column.drop_null() if column.null_count else column
    try:
        values = (
            code_matrix(known, length, codebook_size=codebook_size)
            if is_code
            else list_matrix(known, length, value.to_pandas_dtype())
        )
        if is_code and fill is not None:
            code_matrix(pa.array([[fill]]), 1, codebook_size=codebook_size)
    except (InputError, pa.ArrowInvalid, OverflowError) as error:
        raise InputError(f"column {name}: {error}") from error
    except NotImplementedError as error:  # structs and dictionaries have no type in numpy
        raise InputError(
            f"column {name}: a list column holds lists of {kind.value_type}; expected lists of"
            f" numbers, {length} in every row"
        ) from error
    stands = np.nan if fill is None else _fill(fill, value, name)
    if column.null_count:
        if fill is None and not pa.types.is_floating(value):
            raise InputError(
                f"column {name}: {column.null_count} null lists of {kind.value_type}; say what"
                f" stands for them with fill={{{name!r}: ...}}"
            )
        matrix = np.full((len(column), length), stands, values.dtype)
        matrix[column.is_valid().to_numpy()] = values
        values = matrix
    return values + 1 if is_code else values


def _places(column: pa.ChunkedArray, name: str, values: np.ndarray) -> np.ndarray:
    """int64 [N]: 1 + the place of each value, 0 for those that the vocabulary lacks and for
    nulls.
    """
    try:
        known = pa.array(values).cast(column.type)
        found = pc.index_in(column, value_set=known, skip_nulls=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(
            f"column {name} is of type {column.type} and its vocabulary is not ({error}); give the"
            " vocabulary in the column's type"
        ) from error
    return pc.fill_null(found, -1).to_numpy().astype(np.int64) + 1


def _fill(fill: float, kind: pa.DataType, name: str) -> bool | int | float:
    """What stands for a null, in the column's type. Raises InputError when the type does not hold
    it.
    """
    dtype = np.dtype(kind.to_pandas_dtype())
    try:
        with np.errstate(all="ignore"):
            held = dtype.type(fill)
            fits = not isinstance(fill, str | bytes) and bool(
                np.isinf(held) == np.isinf(fill) if dtype.kind == "f" else held == fill
            )
    except (OverflowError, ValueError, TypeError):
        fits = False
    if not fits:
        raise InputError(
            f"column {name} is of type {kind}, which does not hold its fill {fill!r}; give a number"
            " of that type"
        )
    return held.item()
