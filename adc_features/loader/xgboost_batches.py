"""Row groups as an XGBoost iterator: a QuantileDMatrix without the frame in memory. Reads:
RowGroups. Writes: a QuantileDMatrix. Imports xgboost.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from adc_features.errors import InputError
from adc_features.extras import extra_modules
from adc_features.loader.batches import Columns
from adc_features.loader.row_groups import RowGroups

with extra_modules():
    import xgboost as xgb


class GroupIter(xgb.DataIter):
    """Groups in the order of the source, each as float32 [rows, features].

    A list gives one feature for each of its values. Codes and vocabulary columns are categories:
    their numbers are those of `Columns` (0: none). XGBoost holds numbers as float32: integers
    beyond 2**24, such as times in microseconds, lose their last digits, so derive ages before.

    Parameters
    ----------
    source : RowGroups
        Where the rows come from.
    columns : Columns
        Label and features.
    label : str
        A scalar of `columns`.

    Raises
    ------
    InputError
        The label is not among the scalars.
    """

    def __init__(self, source: RowGroups, columns: Columns, *, label: str) -> None:
        if label not in columns.scalars:
            raise InputError(
                f"label {label!r} is not among the scalars {columns.scalars}; name it there"
            )
        self.source, self.columns, self.label = source, columns, label
        widths = {name: columns.lists.get(name, 0) for name in columns.names if name != label}
        self.names = [
            name if not width else f"{name}_{place}"
            for name, width in widths.items()
            for place in range(width or 1)
        ]
        categories = {*columns.codes, *columns.vocabularies}
        self.types = [
            "c" if name in categories else "float"
            for name, width in widths.items()
            for _ in range(width or 1)
        ]
        self.group = 0
        super().__init__()

    def reset(self) -> None:
        self.group = 0

    def next(self, input_data: Callable[..., Any]) -> bool:
        while self.group < len(self.source.rows) and not self.source.rows[self.group]:
            self.group += 1
        if self.group == len(self.source.rows):
            return False
        arrays = self.columns.arrays(self.source.read(self.group))
        label = arrays.pop(self.label)
        matrix = np.empty((len(label), len(self.names)), np.float32)
        place = 0
        for values in arrays.values():
            wide = values.reshape(len(label), -1)
            matrix[:, place : place + wide.shape[1]] = wide
            place += wide.shape[1]
        input_data(
            data=matrix,
            label=label.astype(np.float32),
            feature_names=self.names,
            feature_types=self.types,
        )
        self.group += 1
        return True


def quantile_matrix(
    source: RowGroups,
    columns: Columns,
    *,
    label: str = "label",
    max_bin: int = 256,
    ref: xgb.DMatrix | None = None,
) -> xgb.QuantileDMatrix:
    """The quantised matrix of all rows, without the frame in memory.

    Parameters
    ----------
    source : RowGroups
        Where the rows come from.
    columns : Columns
        Label and features. A list gives one feature for each of its values; codes and vocabulary
        columns are categories.
    label : str
        A scalar of `columns`.
    max_bin : int
        Bins of a feature.
    ref : xgboost.DMatrix, optional
        The training matrix, for a matrix to evaluate on.

    Returns
    -------
    xgboost.QuantileDMatrix
        Its features in the order of `columns`, float32.

    Raises
    ------
    InputError
        A source without rows; all that `Columns.arrays` raises.

    Examples
    --------
    >>> import pyarrow as pa
    >>> from adc_features.loader.row_groups import TableGroups
    >>> source = TableGroups(pa.table({"label": [0.0, 1.0], "x": [2.0, 3.0]}))
    >>> quantile_matrix(source, Columns(scalars=("label", "x"))).num_row()
    2
    """
    if not source.rows.sum():
        raise InputError("the source has no rows; give at least one")
    return xgb.QuantileDMatrix(
        GroupIter(source, columns, label=label), max_bin=max_bin, enable_categorical=True, ref=ref
    )
