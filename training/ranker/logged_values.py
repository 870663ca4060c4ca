"""Features of labelled rows as a service scored them. Reads: a label log that `adc dataset
--from-log --logged-values` wrote. Writes: the rows with their features, as the join gives them.
"""

from collections.abc import Sequence
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.services.values import MISFITS, in_declared_type
from training.ranker.label_sources import TIME, LabelSource, open_labels, source_name
from training.ranker.labels import LabelLog


def logged_table(
    source: LabelSource,
    log: LabelLog,
    schema: ServiceSchema,
    features: Sequence[str],
    *,
    start: datetime | None = None,
    end: datetime | None = None,
) -> pa.Table:
    """The entity rows of a log with the values that its source holds of these features.

    Raises InputError when the source lacks a feature, or holds another type than the service
    declares, and when its rows are not those of the log.
    """
    scan, name = open_labels(source), source_name(source)
    if missing := [f for f in features if f not in scan.schema.names]:
        raise InputError(
            f"{name} has no logged values of {', '.join(missing)}; write it by `adc dataset"
            " --from-log DIR --logged-values`, or join the features: leave --logged-values out."
            " A feature that was not served yet has no logged value"
        )
    if TIME not in scan.schema.names:
        raise InputError(f"{name} has no column {TIME!r}; logged values belong to its times")
    rows = scan.table([TIME, *log.keys, *features], time=TIME, start=start, end=end)
    times = microseconds(rows[TIME])
    if (np.diff(times) < 0).any():
        order = np.argsort(times, kind="stable")
        rows, times = rows.take(pa.array(order)), times[order]
    if len(rows) != len(log) or (times != log.times.astype(np.int64)).any():
        raise _changed(name)
    table = log.entity_rows
    for key in log.keys:
        if not pc.all(pc.equal(rows[key].cast(table[key].type), table[key])).as_py():
            raise _changed(name)
    for key in features:
        feature = schema.feature(key)
        assert feature is not None
        try:
            column = in_declared_type(rows[key], feature.dtype, name=key)
        except MISFITS as error:
            raise InputError(
                f"{name}: {key} was served as {rows[key].type} and is declared {feature.dtype} now"
                f" ({error}); join the features: leave --logged-values out"
            ) from error
        table = table.append_column(key, column)
    return table


def _changed(name: str) -> InputError:
    return InputError(f"{name} changed while it was read; run the command again")
