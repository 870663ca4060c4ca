"""Items, interactions and the time windows they are judged in. Reads: Parquet or SQL tables.
Writes: Dataset directories.

<dataset>/items.parquet          item_id, attributes, optional vector_<modality> lists
<dataset>/interactions.parquet   user_id, item_id, time, label; sorted by time
<dataset>/manifest.json          name, resolution, text views, windows; written last
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal
from adc_features.clock import instant, moment, utc
from adc_features.data.table_checks import Finding, examine_interactions, examine_items
from adc_features.data.tables import TIME, read_table, table_in
from adc_features.data.windows import (
    DAY,
    Split,
    Windows,
    quantile_windows,
    snapshot_times,
    time_resolution,
)
from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.parquet_files import write_table

__all__ = [
    "DAY",
    "TIME",
    "Dataset",
    "Split",
    "Windows",
    "dataset_from_tables",
    "known_items",
    "quantile_windows",
    "read_dataset",
    "read_table",
    "refuse",
    "snapshot_times",
    "table_in",
    "time_resolution",
    "write_dataset",
]


@dataclass(frozen=True)
class Dataset:
    """What one run works on: items, interactions, and the windows to train and score on.

    Parameters
    ----------
    name : str
        What reports call it.
    items : pyarrow.Table
        `item_id` (text or integer, unique), attributes, optional `vector_<modality>` list columns.
    interactions : pyarrow.Table
        `user_id`, `item_id`, `time` (timestamp[us, UTC]) and `label` (float, 0 or 1). They are
        sorted by time here; the order of ties is kept.
    resolution : timedelta
        An event with the stamp t is known from t + resolution on;
        one day when stamps are midnights.
    windows : Windows
        Where training ends and scoring begins.
    text_views : mapping of str to tuple of str
        Modality -> item columns whose text is embedded.
    complete_through : datetime, optional
        Whoever made the data says that every event before this time (aware) is in it; see `end` for
        what holds where nobody says so.

    Raises
    ------
    InputError
        Anything that `adc doctor` calls an error.

    Examples
    --------
    >>> from datetime import UTC
    >>> from adc_features.data.synthetic import synthetic
    >>> shop = synthetic(seed=0).dataset
    >>> before = shop.before(shop.windows.validation_start)
    >>> len(before) < len(shop.interactions), shop.vector_modalities
    (True, ('text', 'image'))
    """

    name: str
    items: pa.Table
    interactions: pa.Table
    resolution: timedelta
    windows: Windows
    text_views: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    complete_through: datetime | None = None

    def __post_init__(self) -> None:
        refuse(
            [
                *examine_items(self.items, text_views=self.text_views),
                *examine_interactions(self.interactions, self.items),
            ]
        )
        if not pc.all(known_items(self.interactions, self.items)).as_py():
            raise InputError(
                "some interactions name items that the item table lacks; make the dataset with"
                " dataset_from_tables, which leaves them out"
            )
        if self.resolution <= timedelta(0):
            raise InputError(
                f"resolution is {self.resolution}; expected a positive duration such as 1 day"
            )
        table = self.interactions.set_column(
            self.interactions.schema.get_field_index("time"),
            "time",
            _microseconds(self.interactions["time"]),
        )
        table = table.set_column(
            table.schema.get_field_index("label"), "label", table["label"].cast(pa.float32())
        )
        object.__setattr__(
            self, "interactions", table.take(np.argsort(table["time"].to_numpy(), kind="stable"))
        )
        object.__setattr__(self, "text_views", {m: tuple(c) for m, c in self.text_views.items()})
        if self.complete_through is not None:
            object.__setattr__(
                self, "complete_through", utc(self.complete_through, name="complete_through")
            )

    @property
    def vector_modalities(self) -> tuple[str, ...]:
        """Modalities whose vectors came with the items."""
        return tuple(c[7:] for c in self.items.column_names if c.startswith("vector_"))

    @property
    def last_known(self) -> datetime:
        """The time from which the last event is known: its stamp plus the resolution."""
        return moment(self._times[-1].astype("datetime64[us]")) + self.resolution

    @property
    def end(self) -> datetime:
        """The time through which the data is complete, exclusive: as said, else the end of the last
        event's day (UTC).
        """
        if self.complete_through is not None:
            return self.complete_through
        day = self._times[-1].astype("datetime64[D]") + np.timedelta64(1, "D")
        return max(moment(day.astype("datetime64[us]")), self.last_known)

    def refuse_after_end(self, as_of: datetime) -> None:
        """Raise for a cut-off after the data's end, where time without data would look like time
        without events.

        Parameters
        ----------
        as_of : datetime
            The cut-off, aware.

        Raises
        ------
        InputError
            It is later than `end`.
        """
        if utc(as_of, name="as_of") > self.end:
            how = (
                "as was said of it"
                if self.complete_through is not None
                else f"the end of the day of its last event, {moment(self._times[-1]).isoformat()}"
            )
            raise InputError(
                f"as_of is {as_of.isoformat()}, the data is known to be complete through"
                f" {self.end.isoformat()} ({how}); give an earlier time, newer data with --data,"
                " or, where nothing happened since, say so with --complete-through TIME"
            )

    def before(self, as_of: datetime) -> pa.Table:
        """Interactions with time < as_of, sorted by time.

        Parameters
        ----------
        as_of : datetime
            Aware and exclusive.
        """
        return self.interactions.slice(0, int(np.searchsorted(self._times, instant(as_of))))

    def within(self, start: datetime, end: datetime | None) -> pa.Table:
        """Interactions with start <= time < end, sorted by time.

        Parameters
        ----------
        start, end : datetime
            Aware; with None as `end` there is no end.
        """
        first = int(np.searchsorted(self._times, instant(start)))
        last = len(self._times) if end is None else int(np.searchsorted(self._times, instant(end)))
        return self.interactions.slice(first, last - first)

    @property
    def _times(self) -> np.ndarray:
        return self.interactions["time"].to_numpy()


def refuse(findings: list[Finding]) -> None:
    """Raise InputError with every finding that is an error."""
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise InputError("\n".join(str(f) for f in errors))


def dataset_from_tables(
    name: str,
    items: pa.Table,
    interactions: pa.Table,
    *,
    text_views: Mapping[str, tuple[str, ...]] | None = None,
    windows: Windows | None = None,
    complete_through: datetime | None = None,
) -> Dataset:
    """A data set from raw tables.

    Parameters
    ----------
    name : str
        What reports call it.
    items : pyarrow.Table
        `item_id` (text or integer, unique), attributes, optional `vector_<modality>` lists.
    interactions : pyarrow.Table
        `user_id`, `item_id`, `time` (timestamp with a zone, or date), `label` (0 or 1), in any
        order. Rows whose item the item table lacks are left out; the checks count them.
    text_views : mapping of str to tuple of str, optional
        Modality -> item columns whose text is embedded.
    windows : Windows, optional
        Default: validation from the day of the 80 % row, test from the day of the 90 % row.
    complete_through : datetime, optional
        Every event before this time is in the data; default see `Dataset.end`.

    Returns
    -------
    Dataset
        Its resolution is read off the stamps:
        a day where all are midnights, else a second or a microsecond.

    Raises
    ------
    InputError
        With every finding that is an error, for example integer times (no unit, no zone), labels
        other than 0 and 1, or vectors of several widths.

    Examples
    --------
    >>> from datetime import UTC
    >>> items = pa.table({"item_id": ["a", "b"], "vector_image": [[1.0, 0.0], [0.0, 1.0]]})
    >>> days = [datetime(2024, 1, day, tzinfo=UTC) for day in range(1, 11)]
    >>> log = pa.table(
    ...     {
    ...         "user_id": ["u", "v"] * 5,
    ...         "item_id": ["a", "a", "b", "b", "a"] * 2,
    ...         "time": pa.array(days, pa.timestamp("us", tz="UTC")),
    ...         "label": [0, 1] * 5,
    ...     }
    ... )
    >>> made = dataset_from_tables("shop", items, log)
    >>> made.resolution.days, len(made.before(datetime(2024, 1, 4, tzinfo=UTC)))
    (1, 3)
    """
    refuse(
        [
            *examine_items(items, text_views=text_views or {}),
            *examine_interactions(interactions, items),
        ]
    )
    interactions = interactions.filter(known_items(interactions, items))
    times = np.sort(_microseconds(interactions["time"]).to_numpy())
    return Dataset(
        name,
        items,
        interactions,
        time_resolution(times),
        windows or quantile_windows(times),
        text_views or {},
        complete_through,
    )


def known_items(interactions: pa.Table, items: pa.Table) -> pa.ChunkedArray:
    """Per interaction: does its item stand in the item table?"""
    return pc.is_in(
        interactions["item_id"],
        value_set=pc.unique(items["item_id"]).cast(interactions["item_id"].type),
    )


def write_dataset(dataset: Dataset, directory: Path) -> None:
    """Write a data set as a directory that appears only when it is complete.

    Parameters
    ----------
    dataset : Dataset
        What is written.
    directory : Path
        A new or empty directory, or an older data set's, which is replaced.

    Raises
    ------
    InputError
        The directory holds other files, which are left as they are.

    Examples
    --------
    >>> from adc_features.data.synthetic import synthetic
    >>> write_dataset(synthetic(seed=0).dataset, folder / "shop")
    >>> sorted(path.name for path in (folder / "shop").iterdir())
    ['interactions.parquet', 'items.parquet', 'manifest.json']
    """
    w, directory = dataset.windows, Path(directory).resolve()
    if (
        directory.exists()
        and not (directory / MANIFEST).is_file()
        and (not directory.is_dir() or any(directory.iterdir()))
    ):
        raise InputError(
            f"{directory} holds files but no {MANIFEST}: it is no dataset directory that could be"
            " replaced; give a new directory"
        )
    with fresh_directory(directory) as aside:
        write_table(dataset.items, aside / "items.parquet")
        write_table(dataset.interactions, aside / "interactions.parquet")
        facts = {
            "kind": "dataset",
            "name": dataset.name,
            "resolution_seconds": dataset.resolution.total_seconds(),
            "text_views": dataset.text_views,
        }
        facts |= {"complete_through": dataset.complete_through} if dataset.complete_through else {}
        seal(
            aside,
            {
                **facts,
                "windows": {
                    "validation_start": w.validation_start,
                    "validation_end": w.validation_end,
                    "test_start": w.test_start,
                },
            },
        )


def read_dataset(directory: Path) -> Dataset:
    """Read a data set that `write_dataset` wrote.

    Parameters
    ----------
    directory : Path
        With `items.parquet`, `interactions.parquet` and the manifest.

    Returns
    -------
    Dataset
        As it was written.

    Raises
    ------
    ArtifactError
        When the directory is incomplete,
        or a file is not what its manifest says; every file is hashed.

    Examples
    --------
    >>> from adc_features.data.synthetic import synthetic
    >>> write_dataset(synthetic(seed=0).dataset, folder / "shop")
    >>> read_dataset(folder / "shop").resolution.days
    1
    """
    manifest = read_manifest(directory, requires=("items.parquet", "interactions.parquet"))
    return Dataset(
        name=manifest["name"],
        items=read_table(str(Path(directory) / "items.parquet")),
        interactions=read_table(str(Path(directory) / "interactions.parquet")),
        resolution=timedelta(seconds=manifest["resolution_seconds"]),
        windows=Windows(**{k: datetime.fromisoformat(v) for k, v in manifest["windows"].items()}),
        text_views={m: tuple(c) for m, c in manifest["text_views"].items()},
        complete_through=(
            datetime.fromisoformat(said) if (said := manifest.get("complete_through")) else None
        ),
    )


def _microseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as timestamp[us, UTC]; finer ticks are floored."""
    return timestamps(times, name="time")
