"""Data sets: items, interactions and the windows that rows are fitted, trained and scored on."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.data.dataset import Dataset, dataset_from_tables, read_dataset, write_dataset
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "Dataset": "dataset",
            "dataset_from_tables": "dataset",
            "read_dataset": "dataset",
            "write_dataset": "dataset",
        },
    )

__all__ = ["Dataset", "dataset_from_tables", "read_dataset", "write_dataset"]
