"""Joined rows as batches, for the rankers here or for a training loop of one's own."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.loader.batches import Columns, Order, array_batches
    from adc_features.loader.frame import TrainingFrame, label_table, training_frame
    from adc_features.loader.row_groups import CodedGroups, JoinedGroups, ParquetGroups, TableGroups
    from adc_features.loader.torch_batches import TrainingLoader
    from adc_features.loader.xgboost_batches import quantile_matrix
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "CodedGroups": "row_groups",
            "Columns": "batches",
            "JoinedGroups": "row_groups",
            "Order": "batches",
            "ParquetGroups": "row_groups",
            "TableGroups": "row_groups",
            "TrainingFrame": "frame",
            "TrainingLoader": "torch_batches",
            "array_batches": "batches",
            "label_table": "frame",
            "quantile_matrix": "xgboost_batches",
            "training_frame": "frame",
        },
    )

__all__ = [
    "CodedGroups",
    "Columns",
    "JoinedGroups",
    "Order",
    "ParquetGroups",
    "TableGroups",
    "TrainingFrame",
    "TrainingLoader",
    "array_batches",
    "label_table",
    "quantile_matrix",
    "training_frame",
]
