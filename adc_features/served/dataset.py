"""Labels joined to what was served. Reads: a served log, events. Writes: a label log, a report.

An event belongs to a candidate by the request's id and the item's keys, and makes a label where it
came within the attribution window of its task after the request was received. A request whose
window is not over is not learned from yet: its label is absent, not 0.

Legend: N candidates of a segment, E events, R rows that are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant, moment
from adc_features.errors import InputError
from adc_features.event_times import UTC_US, microseconds
from adc_features.served.dataset_settings import DatasetReport, DatasetSettings
from adc_features.served.outcomes import IMPRESSION, TIME, Outcomes, Target, read_outcomes
from adc_features.served.record import ITEM
from adc_features.served.segments import Segment, as_of, sealed_segments


def served_dataset(
    log: Path,
    events: pa.Table,
    targets: Sequence[Target],
    *,
    ranker: str | Collection[str] | None = None,
    settings: DatasetSettings | None = None,
) -> tuple[pa.Table, DatasetReport]:
    """A label log of what was served.

    Parameters
    ----------
    log : Path
        Of `adc serve --log`.
    events : pyarrow.Table
        As `read_outcomes` takes them.
    targets : sequence of Target
        The tasks.
    ranker : str or collection of str, optional
        Take the answers of this ranker, or of these; by default the log must hold those of one.
    settings : DatasetSettings, optional

    Returns
    -------
    pyarrow.Table, R rows
        By time: join keys, `event_timestamp` (the moment as of which features were read), the
        request's id and fields, what was answered (`rank`, and `served_score`, `served_pair`,
        `served_variant`), a float32 column for each task (null where it is immature), the times at
        which positives became known where a task wants them.
    DatasetReport

    Raises
    ------
    InputError, ArtifactError
        As `sealed_segments` and `read_outcomes` raise; the log holds several rankers or none of
        this name, or nothing of it is ripe.
    """
    settings = settings or DatasetSettings()
    if not targets:
        raise InputError("no task is named; give --repo and --ranker, or --task NAME")
    segments = _of_ranker(sealed_segments(log), ranker)
    if settings.logged_values:
        segments = [segment for segment in segments if segment.has_values]
        if not segments:
            raise InputError(
                f"{log} holds no request with the values that it read, `adc serve --log-values`;"
                " leave --logged-values out, and join the features"
            )
    item = segments[0].about.item
    outcomes = read_outcomes(events, request=settings.request, item=item, targets=targets)
    if not len(outcomes) and settings.until is None:
        raise InputError(
            "there is no event, so it cannot be told which windows are over; give the time until"
            " which events are complete, --until TIME"
        )
    until = settings.until or moment(outcomes.times.max())
    report = DatasetReport(
        until,
        "impressions" if outcomes.tells_impressions else "assumed",
        duplicates=outcomes.duplicates,
        tasks={
            t.name: {"window": t.window.total_seconds(), "positives": 0, "negatives": 0}
            | {"immature": 0}
            for t in targets
        },
        outside={target.name: 0 for target in targets},
    )
    last = _last_answers(segments, report)
    used, pieces = np.zeros(len(outcomes), bool), []
    for number, segment in enumerate(segments):
        kept = last[number]
        if len(kept):
            joined = _Joined(
                segment,
                kept,
                outcomes=outcomes,
                targets=targets,
                settings=settings,
                until=until,
            )
            used |= joined.matched
            pieces.append(joined.rows(report))
    _count_events(report, outcomes, used, targets)
    # a field that the ranker's requests had for a part of the time is absent in the others
    found = pa.concat_tables(pieces, promote_options="default") if pieces else pa.table({})
    if not len(found):
        raise InputError(
            f"no request of {log} is ripe: {report.immature_requests} of {report.requests} have no"
            f" window that is over at {until.isoformat()}; wait, or shorten a window"
        )
    order = np.argsort(microseconds(found[TIME]), kind="stable")
    report.rows = len(found)
    return found.take(pa.array(order)), report


def _of_ranker(segments: Sequence[Segment], ranker: str | Collection[str] | None) -> list[Segment]:
    names = sorted({segment.about.ranker for segment in segments})
    if ranker is None and len(names) > 1:
        raise InputError(
            f"the log holds answers of the rankers {', '.join(names)}; name one, --ranker NAME"
        )
    wanted = names if ranker is None else [ranker] if isinstance(ranker, str) else ranker
    found = [s for s in segments if s.about.ranker in wanted]
    if not found:
        raise InputError(
            f"the log holds no answer of ranker {ranker!r}; it holds those of {', '.join(names)}"
        )
    keys = {(s.about.user, s.about.item) for s in found}
    if len(keys) > 1:
        raise InputError(
            f"ranker {found[0].about.ranker!r} was served with several join keys, {sorted(keys)};"
            " keep the segments of each in a log of their own"
        )
    return found


def _last_answers(segments: Sequence[Segment], report: DatasetReport) -> list[np.ndarray]:
    """The rows of each segment's requests that count, bool: an id that came again is a client that
    asked again because it saw no answer.
    """
    read = [s.request_rows(["request_id", "received"]) for s in segments]
    whole = pa.concat_tables(read)
    number = whole["request_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((microseconds(whole["received"]), number))
    counts = np.zeros(len(whole), bool)
    counts[order[np.diff(number[order], append=-1) != 0]] = True
    report.requests = int(counts.sum())
    report.repeated_requests = len(whole) - report.requests
    return np.split(counts, np.cumsum([len(table) for table in read])[:-1])


class _Joined:
    """The candidates of a segment with the events that belong to them.

    matched: bool [E], events that belong to a candidate of this segment.
    """

    def __init__(
        self,
        segment: Segment,
        counts: np.ndarray,
        *,
        outcomes: Outcomes,
        targets: Sequence[Target],
        settings: DatasetSettings,
        until: datetime,
    ) -> None:
        self._segment, self._targets, self._settings = segment, targets, settings
        self._outcomes, self._until = outcomes, until
        whole = segment.request_rows()
        sizes = whole["candidates"].to_numpy()
        self._requests = whole.filter(pa.array(counts))
        keys = [ITEM + key for key in segment.about.item]
        read = None if settings.logged_values else ["request_id", "rank", "score", *keys]
        candidates = segment.candidate_rows(read)
        self._candidates = candidates.filter(pa.array(np.repeat(counts, sizes)))
        self._of = np.repeat(np.arange(len(self._requests)), sizes[counts])
        self._received = microseconds(self._requests["received"])
        self._event, self._row = self._pairs()
        self.matched = np.zeros(len(outcomes), bool)
        self.matched[self._event] = True

    def _pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Each event that belongs to a candidate, and the candidate's row."""
        item = self._segment.about.item
        names = ["request_id", *item]
        columns = ["request_id", *(ITEM + key for key in item)]
        rows = self._candidates.select(columns).rename_columns(names)
        events = self._outcomes.keys
        for name in item:
            kind = rows[name].type
            if events[name].type != kind:
                events = _in_type(events, name, kind)
        rows = rows.append_column("row", pa.array(np.arange(len(rows))))
        events = events.append_column("event", pa.array(np.arange(len(events))))
        found = events.join(rows, names, join_type="inner")
        return found["event"].to_numpy(), found["row"].to_numpy()

    def _events(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The candidate's row and the time, int64 microseconds, of each event of this name."""
        chosen = self._outcomes.names[self._event] == name
        return self._row[chosen], self._outcomes.times[self._event[chosen]].astype(np.int64)

    def rows(self, report: DatasetReport) -> pa.Table:
        """The label log of this segment."""
        never = np.iinfo(np.int64).max
        end = instant(self._until).astype(np.int64)
        shown = np.zeros(len(self._of), bool)
        shown[self._events(IMPRESSION)[0]] = True
        ripe = np.zeros(len(self._requests), bool)
        labels: dict[str, Any] = {}
        counted = []
        for target in self._targets:
            window = np.timedelta64(target.window, "us").astype(np.int64)
            row, times = self._events(target.name)
            after = times - self._received[self._of[row]]
            inside = (after >= 0) & (after <= window)
            first = np.full(len(self._of), never)
            np.minimum.at(first, row[inside], times[inside])
            over = self._received + window <= end
            positive, usable = first != never, over[self._of]
            shown[row] = True
            report.outside[target.name] += int((~inside).sum())
            ripe |= over
            counted.append((target, positive, usable))
            value = np.where(positive, np.float32(1), np.float32(0))
            labels[target.column] = pa.array(value, mask=~usable)
            if target.known_at:
                known = np.where(positive, first, 0).astype("datetime64[us]")
                times = pa.array(known, mask=~(positive & usable))
                labels[target.known_at] = times.cast(UTC_US)
        report.immature_requests += int((~ripe).sum())
        keep = self._kept(shown, ripe, report)
        for target, positive, usable in counted:
            told = report.tasks[target.name]
            told["positives"] += int((positive & usable & keep).sum())
            told["negatives"] += int((~positive & usable & keep).sum())
            told["immature"] += int((keep & ~usable).sum())
        columns = self._described(keep)
        if taken := sorted(set(columns) & set(labels)):
            raise InputError(
                f"the labels {', '.join(taken)} have names of columns that the log has; name other"
                " columns in the ranker's tasks (Task(..., column=...))"
            )
        place = pa.array(np.flatnonzero(keep))
        return pa.table({**columns, **{n: column.take(place) for n, column in labels.items()}})

    def _kept(self, shown: np.ndarray, ripe: np.ndarray, report: DatasetReport) -> np.ndarray:
        """Which candidates become rows, bool [N]."""
        settings, rank = self._settings, self._candidates["rank"].to_numpy()
        chosen = shown.copy()
        if settings.negatives == "all":
            chosen[:] = True
        elif settings.ranked is not None:
            chosen |= rank <= settings.ranked
        elif report.shown == "assumed":
            chosen |= rank <= self._requests["answered"].to_numpy()[self._of]
        return chosen & ripe[self._of]

    def _described(self, keep: np.ndarray) -> dict[str, Any]:
        """Keys, time, request and values of the rows that are kept."""
        settings, requests = self._settings, self._requests
        rows = self._candidates.filter(pa.array(keep))
        of = pa.array(self._of[keep])
        columns = self._segment.keys(requests, rows, of)
        columns |= {TIME: as_of(requests).take(of), settings.request: rows["request_id"]}
        columns |= {"rank": rows["rank"], "served_score": rows["score"]}
        columns |= {f"served_{name}": requests[name].take(of) for name in ("pair", "variant")}
        if settings.rank_as:
            place = rows["rank"].to_numpy().astype(np.int64) - 1
            columns[settings.rank_as] = pa.array(place)
        p = requests["p_values" if settings.logged_values else "p"].to_numpy()
        if settings.weight or (p < 1).any():
            columns[settings.weight or "sample_weight"] = pa.array(1 / p).take(of)
        if settings.logged_values:
            columns |= self._segment.values(requests, rows, of)
        return columns


def _in_type(events: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    place = events.column_names.index(name)
    found = events[name].type
    both_text = all(pa.types.is_string(t) or pa.types.is_large_string(t) for t in (found, kind))
    both_whole = pa.types.is_integer(found) and pa.types.is_integer(kind)
    coded = pa.types.is_dictionary(found)
    if not (both_text or both_whole or coded):
        raise InputError(
            f"{name!r} of the events is of type {found}, and it was served as {kind}; cast the"
            " column where events are written: an id is never cast here, as 12 and '12' are two ids"
        )
    try:
        return events.set_column(place, name, events[name].cast(kind))
    except pa.ArrowInvalid as error:
        raise InputError(f"{name!r} of the events does not fit {kind} ({error})") from error


def _count_events(
    report: DatasetReport, outcomes: Outcomes, used: np.ndarray, targets: Sequence[Target]
) -> None:
    wanted = {IMPRESSION, *(target.name for target in targets)}
    for name in sorted({*wanted, *outcomes.names.tolist()}, key=str):
        mine = outcomes.names == name
        if name in wanted:
            report.orphans[name] = int((mine & ~used).sum())
        else:
            report.ignored[str(name)] = int(mine.sum())
