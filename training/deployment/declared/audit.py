"""Did a ranker learn from the future, and does serving see what training saw? Reads: a label log,
the features of a service, the sources of its views, the online store. Writes: findings.
"""

from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.errors import ArtifactError, InputError, LeakError
from adc_features.inputs.resolution import Resolution
from adc_features.pipeline.audit import ViewAudit
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import load_ranker
from adc_features.serving.workspace import Workspace
from training.ranker.joined import join_log
from training.ranker.label_sources import LabelSource
from training.ranker.labels import read_labels

ROWS, ONLINE_ROWS = 10_000, 200
"""Rows of the log that are audited, and of them those that are read online."""


def audit_ranker(
    repo: Path,
    name: str,
    source: LabelSource,
    *,
    at: datetime,
    rows: int = ROWS,
    close: timedelta = timedelta(0),
    online: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Join a sample of a label log, and find the row of its source that each value stands in.

    Parameters
    ----------
    repo : Path
        A Feast repository.
    name : str
        Of a ranker of which there is a trained version: its features are audited.
    source : LabelSource
        The label log.
    at : datetime
        Now, aware: sources are read up to here, and the online store is compared as of it.
    rows : int
        Of the log, drawn by chance.
    close : timedelta
        A feature that became valid at most so long before its row is counted as suspicious.
    online : bool
        Whether to compare the online store with the offline one for some of the rows.
    seed : int
        Of the draw.
    progress : callable, optional
        Called with a label, steps done and their number.

    Returns
    -------
    dict
        {"rows", "views": ages by view, "different", "first", "online"}; `require_clean` judges it.

    Raises
    ------
    InputError
        The ranker, the service or the log is wrong.
    """
    from adc_features.store.services.parity import service_parity
    from adc_features.store.services.provenance import source_rows
    from adc_features.store.services.schema import service_schema

    trained = load_ranker(Workspace(repo, name).newest())
    schema = service_schema(repo, trained.ranker.service)
    log = read_labels(source, schema=schema, ranker=trained.ranker)
    if len(log) > rows:
        drawn = np.random.default_rng(seed).choice(len(log), rows, replace=False)
        log = log.take(np.sort(drawn))
    resolved = Resolution(trained.ranker, trained.encoder.specs, ())
    # found again in the sources as of each row's time, hence fresh
    joined = join_log(repo, schema, resolved, log, refresh={}, progress=progress)
    found = source_rows(repo, schema, joined.table, features=joined.features, until=at)
    times = log.times.astype(np.int64)
    views: dict[str, Any] = {}
    for view, of in found.items():
        ages = ViewAudit(view)
        microseconds = close // timedelta(microseconds=1)
        ages.add(times, of.times.astype(np.int64), of.known, times, close=microseconds)
        ages.future = int(of.future.sum())
        different = int(of.different.sum())
        views[view] = {**asdict(ages), "different": different, "first": of.first}
    compared = None
    if online:
        keys = [*trained.ranker.user, *trained.ranker.item, *schema.request_fields]
        compared = service_parity(
            repo,
            schema,
            _sample(log.table, keys),
            at,
            user=trained.ranker.user,
            item=trained.ranker.item,
            features=joined.features,
        )
    return {"ranker": name, "rows": len(log), "views": views, "online": compared}


def _sample(table: pa.Table, keys: list[str]) -> pa.Table:
    return table.select(list(dict.fromkeys(keys))).slice(0, ONLINE_ROWS)


def require_clean(found: dict[str, Any]) -> None:
    """Raise LeakError for a feature from the future, ArtifactError for values that no source has or
    that are otherwise online.
    """
    views = found["views"].items()
    if leaks := [
        f"{of['future']} of {of['rows']} rows read view {view} from the future (first:"
        f" {of['first']})"
        for view, of in views
        if of["future"]
    ]:
        raise LeakError(
            "; ".join(leaks) + "; join as of the row's time, and give features the time at which"
            " they could first be known"
        )
    if wrong := [
        f"{of['different']} of {of['rows']} rows of view {view} (first: {of['first']})"
        for view, of in views
        if of["different"]
    ]:
        raise ArtifactError(
            "joined values are not those of the source: " + "; ".join(wrong) + "; the source was"
            " written meanwhile, or the offline store joins otherwise"
        )
    if (online := found["online"]) and online["different"]:
        told = ", ".join(f"{name} ({rows} rows)" for name, rows in online["different"].items())
        raise InputError(
            f"online differs from offline in {told} of {online['rows']} rows; materialize up to"
            " now, or audit with --no-online"
        )
