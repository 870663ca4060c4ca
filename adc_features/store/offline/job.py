"""What the offline store gives back to Feast: a job that runs when its result is asked for.

Reads: the batches of a join or a scan. Writes: saved datasets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from adc_features.errors import InputError
from adc_features.store import _compat as feast
from adc_features.store.offline.places import location_of
from adc_features.store.parquet.additions import exists, is_directory, write_whole


class AsofRetrievalJob(feast.RetrievalJob):
    """A join or a scan that runs when its result is asked for.

    batches: the result in pieces, of one schema. tables: view (of a scan: source) -> format,
    address and version of the Delta or Iceberg table that it reads, chosen when the job was made.
    """

    def __init__(
        self,
        batches: Callable[[], Iterator[pa.Table]],
        *,
        full_feature_names: bool = False,
        on_demand: list[Any] | None = None,
        metadata: Any = None,
        repo_path: Path | None = None,
        tables: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        super().__init__()
        self._batches, self._full_feature_names = batches, full_feature_names
        self._on_demand, self._metadata = on_demand or [], metadata
        self._repo_path = repo_path
        self.tables = dict(tables or {})

    @property
    def full_feature_names(self) -> bool:
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[Any]:
        return self._on_demand

    @property
    def metadata(self) -> Any:
        return self._metadata

    def to_batches(self) -> Iterator[pa.Table]:
        """The result in pieces, for frames larger than memory.

        Without on-demand views, which Feast computes on whole tables.
        """
        if self._on_demand:
            raise InputError(
                f"on-demand views {[v.name for v in self._on_demand]} are computed on the whole"
                " result; use to_arrow, or leave them out"
            )
        return self._batches()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return pa.concat_tables(self._batches())

    def _to_df_internal(self, timeout: int | None = None) -> Any:
        return self._to_arrow_internal().to_pandas()

    def persist(
        self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Write the result, on-demand features included, as Parquet.

        A reader sees the file when it is complete.
        """
        source = storage.to_data_source()
        filesystem, path = location_of(source, self._repo_path)
        if not allow_overwrite and exists(filesystem, path):
            raise feast.SavedDatasetLocationAlreadyExists(location=source.path)
        tables = iter([self.to_arrow()]) if self._on_demand else self._batches()
        write_whole(tables, path, filesystem, as_directory=is_directory(filesystem, path))
