"""Items, interactions and the time windows they are judged in. Reads: Parquet or SQL tables.
Writes: Dataset directories.

<dataset>/items.parquet          item_id, attributes, optional vector_<modality> lists
<dataset>/interactions.parquet   user_id, item_id, time, label; sorted by time
<dataset>/manifest.json          name, resolution, text views, windows; written last
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal
from adc_features.clock import instant, moment, utc
from adc_features.data.attributes import ATTRIBUTES
from adc_features.data.table_checks import Finding, examine_interactions, examine_items
from adc_features.errors import InputError
from adc_features.event_times import timestamps
from adc_features.redaction import redacted_url, without_secrets

DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")
CSV = re.compile(r"\.(csv|tsv)(\.gz)?$", re.IGNORECASE)


class Split(NamedTuple):
    """Train on rows with time < train_end; score rows with eval_start <= time < eval_end (None: to
    the end). Aware UTC.
    """

    train_end: datetime
    eval_start: datetime
    eval_end: datetime | None


@dataclass(frozen=True)
class Windows:
    """Where training ends and scoring begins. Choices are made on [validation_start,
    validation_end); test rows start at test_start.
    """

    validation_start: datetime
    validation_end: datetime
    test_start: datetime

    def __post_init__(self) -> None:
        for name in ("validation_start", "validation_end", "test_start"):
            object.__setattr__(self, name, utc(getattr(self, name), name=name))
        if not self.validation_start < self.validation_end <= self.test_start:
            raise InputError(
                "windows are validation"
                f" {self.validation_start:%Y-%m-%d}..{self.validation_end:%Y-%m-%d}, test from"
                f" {self.test_start:%Y-%m-%d}; expected validation_start < validation_end <="
                " test_start"
            )

    def split(self, *, final: bool = False) -> Split:
        """The validation split, or with `final` the test split, whose rows are opened once, at the
        end.
        """
        if final:
            return Split(self.test_start, self.test_start, None)
        return Split(self.validation_start, self.validation_start, self.validation_end)


@dataclass(frozen=True)
class Dataset:
    """What one run works on.

    items: `item_id` (string or integer, unique), attributes, optional `vector_<modality>` list
    columns. interactions: `user_id`, `item_id`, `time` timestamp[us, UTC], `label` float 0/1;
    sorted by time here, order of ties kept. resolution: an event stamped t is known from t +
    resolution on (1 day when stamps are midnights). text_views: modality -> item columns whose text
    is embedded. complete_through: every event before this time is in the data, said by whoever made
    it; None: not said, see `end`. Raises InputError on anything the doctor calls an error.
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
        """Raise InputError for a cut-off after the data's end: time without data would look like
        time without events.
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
        """Interactions with time < as_of (exclusive)."""
        return self.interactions.slice(0, int(np.searchsorted(self._times, instant(as_of))))

    def within(self, start: datetime, end: datetime | None) -> pa.Table:
        """Interactions with start <= time < end."""
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
    """A Dataset from raw tables: resolution read off the stamps, windows at the days of the 80 %
    and 90 % quantiles unless given.

    Interactions with items that the item table lacks are left out; the doctor counts them. Integer
    `time` columns are refused by the doctor: an integer carries no unit and no zone.
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


def time_resolution(times: np.ndarray) -> timedelta:
    """The coarsest of day, second and microsecond that every stamp is a multiple of."""
    ticks = times.astype("datetime64[us]").astype(np.int64)
    for unit in (DAY, timedelta(seconds=1)):
        if (ticks % (unit // timedelta(microseconds=1)) == 0).all():
            return unit
    return timedelta(microseconds=1)


def quantile_windows(times: np.ndarray) -> Windows:
    """Validation from the day of the 80 % row, test from the day of the 90 % row. `times`
    sorted.
    """
    start, test = (
        times[int(len(times) * q)].astype("datetime64[D]").astype("datetime64[us]")
        for q in (0.8, 0.9)
    )
    if not times[0] < start < test:
        raise InputError(
            f"80 % of the rows lie before {start}, 90 % before {test}, the first at {times[0]}: too"
            " little time for a training, a validation and a test window; choose them with `adc"
            " data tables --validation-start TIME --test-start TIME`"
        )
    return Windows(moment(start), moment(test), moment(test))


def snapshot_times(times: np.ndarray, *, split: datetime, count: int) -> list[datetime]:
    """`count` cut-offs at equal quantiles of the rows before `split`, at midnights, then the split
    itself; strictly increasing.

    times: datetime64[us], sorted. Quantiles that fall on one day, or before the second day of data,
    are merged.
    """
    train = times[times < instant(split)]
    if not len(train):
        raise InputError(
            f"no interaction lies before the cut-off {split.isoformat()}; the first is at"
            f" {moment(times[0]).isoformat() if len(times) else 'nowhere'}, choose a later cut-off"
        )
    picks = (
        train[[int(len(train) * k / (count + 1)) for k in range(1, count + 1)]]
        .astype("datetime64[D]")
        .astype("datetime64[us]")
    )
    return [moment(t) for t in np.unique(picks) if train[0] < t < instant(split)] + [utc(split)]


def write_dataset(dataset: Dataset, directory: Path) -> None:
    """Write a dataset directory, manifest last. Raises InputError rather than replace a directory
    that holds other files.
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
        pq.write_table(dataset.items, aside / "items.parquet")
        pq.write_table(dataset.interactions, aside / "interactions.parquet")
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
    """Read a dataset directory; raises ArtifactError when it is incomplete or altered."""
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


def read_table(source: str) -> pa.Table:
    """A Parquet file or directory, or a CSV file (*.csv, *.tsv, also *.gz), by path, or a SQL table
    or view as `<SQLAlchemy URL>#[<schema>.]<table>`.

    A `time` column may also hold dates (midnight UTC) or ISO 8601 text with offsets, since SQLite
    has no times with a zone, and a `vector_<modality>` column may hold JSON text, since few
    databases have arrays. Raises InputError when it cannot be read.
    """
    if "://" in source and "#" in source:
        return _read_sql(*source.rsplit("#", 1))
    if "://" in source:
        raise InputError(
            f"{redacted_url(source)} names a database but no table; give '<SQLAlchemy"
            " URL>#[<schema>.]<table>'"
        )
    if not Path(source).exists():
        raise InputError(
            f"{source} does not exist; give a Parquet or CSV file or '<SQLAlchemy URL>#<table>'"
        )
    if Path(source).is_file() and CSV.search(Path(source).name):
        return _plain_types(_read_csv(source))
    try:
        table = pq.read_table(source)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} is not readable as Parquet ({error}); write the file again, or name a CSV"
            " file *.csv"
        ) from error
    return _plain_types(table)


def table_in(directory: Path, name: str) -> str:
    """The path of a table in a data directory: its Parquet file or directory, or else its
    CSV file.
    """
    parquet, csv = directory / f"{name}.parquet", directory / f"{name}.csv"
    return str(csv if csv.is_file() and not parquet.exists() else parquet)


def _read_csv(source: str) -> pa.Table:
    """Ids, times and attributes stay text, so that leading zeros and offsets survive; an empty
    field is null.
    """
    from pyarrow import csv

    text = {
        name: pa.string()
        for name in (
            "user_id",
            "item_id",
            "time",
            *{c for columns in ATTRIBUTES.values() for c in columns},
        )
    }
    convert = csv.ConvertOptions(
        column_types=text,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
    )
    delimiter = "\t" if ".tsv" in Path(source).name else ","
    try:
        return csv.read_csv(
            source,
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=convert,
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{source} is not readable as CSV ({error}); give one header line, UTF-8, and as many"
            " fields in every line"
        ) from error


def _read_sql(url: str, table: str) -> pa.Table:
    import pandas as pd
    from sqlalchemy import create_engine, exc
    from sqlalchemy.pool import NullPool

    schema, _, name = table.rpartition(".")
    try:
        with create_engine(url, poolclass=NullPool).connect() as connection:
            frame = pd.read_sql_table(name, connection, schema=schema or None)
        return _plain_types(pa.Table.from_pandas(frame, preserve_index=False))
    except (exc.SQLAlchemyError, pa.ArrowException, ImportError, ValueError) as error:
        raise InputError(
            f"table {table!r} at {redacted_url(url)} cannot be read"
            f" ({without_secrets(str(error), url)}); check the URL, its driver, the table name and"
            " the rights: passwords are hidden here and kept nowhere, so give one on the command"
            " line again, or in what the driver reads, such as PGPASSWORD"
        ) from None  # the driver's own error may hold the password


def _microseconds(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Timestamps as timestamp[us, UTC]; finer ticks are floored."""
    return timestamps(times, name="time")


def _plain_types(table: pa.Table) -> pa.Table:
    """The types that the rest of the library knows; what cannot be converted stays, for the doctor
    to name.
    """
    table = _plain_strings(table)
    for i, column in enumerate(table.column_names):
        if column == "time":
            table = table.set_column(i, column, _times(table[column]))
        elif column.startswith("vector_") and pa.types.is_string(table[column].type):
            with suppress(ValueError, TypeError, pa.ArrowException):
                table = table.set_column(
                    i,
                    column,
                    pa.chunked_array(
                        [[json.loads(v or "null") for v in table[column].to_pylist()]],
                        pa.list_(pa.float32()),
                    ),
                )
    return table


def _times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates and ISO 8601 text with offsets as timestamps; Arrow refuses text without an offset, and
    so do we.
    """
    if pa.types.is_string(column.type):
        for kind in (TIME, pa.date32()):
            with suppress(pa.ArrowInvalid):
                column = pc.cast(column, kind)
                break
    return pc.cast(column, TIME) if pa.types.is_date(column.type) else column


def _plain_strings(table: pa.Table) -> pa.Table:
    """Dictionary and large strings as plain strings, so that one id type meets the other
    everywhere.
    """
    for i, column in enumerate(table.schema):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_large_string(kind) or (
            pa.types.is_dictionary(column.type) and pa.types.is_string(kind)
        ):
            table = table.set_column(i, column.name, pc.cast(table.column(i), pa.string()))
    return table.replace_schema_metadata(None)
