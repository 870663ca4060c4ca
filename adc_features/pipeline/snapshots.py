"""Codes of a run as of further cut-offs, and in a further generation. Reads: a run, newer data.
Writes: the directories below, rows of the run's repository.

<run>/snapshots/<as_of>/state.npz       behaviour, for later cut-offs to continue from
<run>/snapshots/<as_of>/codes.parquet   the whole snapshot
<run>/snapshots/<as_of>/manifest.json   written last: what it was made of
<run>/generations/<id>/                 generations after the run's first
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal
from adc_features.clock import utc
from adc_features.codes.churn import churn_report
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.generation import Generation, generation_place, open_generation
from adc_features.codes.sids import SidTable, changed_rows
from adc_features.codes.spec import BEHAVIOR
from adc_features.data.dataset import Dataset
from adc_features.encoders.behavior_state import BehaviorState, read_state, write_state
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import (
    content_vectors,
    dataset_of,
    embedding_tables,
    generation_of,
    load_source,
    refresh_times,
    repository_of,
    serving_time,
    split_of,
    statistics_of,
)
from adc_features.store import live_generations, publish, published_snapshots, published_timeline

log = logging.getLogger(__name__)


def snapshot(
    run: Run,
    as_of: datetime,
    *,
    source: str | None = None,
    backfill: bool = False,
    complete_through: datetime | None = None,
) -> dict[str, Any]:
    """Encode every item as of a cut-off with the run's frozen generation and publish the rows that
    changed; returns what was done.

    as_of: aware, exclusive. source: newer data than the run's own, its items and interactions from
    the start on; new items are coded, those without an event are cold. Behaviour continues from the
    newest state before as_of, on events before as_of only. A snapshot that exists is not made
    again. complete_through: the data is complete up to here, whatever its last event is
    (`Dataset.end`). Raises InputError, nothing changed, when as_of lies before the generation's
    trained_through and it is no backfill, before every behaviour state, or after the data that the
    run may look at; when no event lies between; when another process works on the run.
    """
    as_of, generation = utc(as_of, name="as_of"), generation_of(run)
    if as_of < generation.trained_through and not backfill:
        raise InputError(
            f"as_of {as_of.isoformat()} lies before {generation.trained_through.isoformat()},"
            f" through which generation {generation.id!r} was trained: its codes would be made in"
            " hindsight; ask for a backfill if that is what you want, or train a generation on"
            " data before as_of"
        )
    with run.lock():
        repo = repository_of(run)
        if any(s.as_of == as_of for s in published_snapshots(repo, generation.id)):
            return {"as_of": as_of, "generation": generation.id, "reused": True}
        directory = run.directory / "snapshots" / f"{as_of:%Y%m%dT%H%M%S%f}"
        if not _is_current(run, directory):
            dataset = _data(run, as_of, source)
            replace(
                dataset, complete_through=complete_through or dataset.complete_through
            ).refuse_after_end(as_of)
            state = _state(run, dataset, as_of)
            table = _table(run, dataset, state, own=source is None)
            with fresh_directory(directory) as aside:
                write_state(aside / "state.npz", state)
                pq.write_table(_encoded(run, generation, table).to_arrow(), aside / "codes.parquet")
                seal(
                    aside,
                    {
                        "as_of": as_of,
                        "made_of": _made_of(run),
                        "alignment_residual": state.alignment_residual,
                    },
                )
        made = SidTable.from_arrow(pq.read_table(directory / "codes.parquet"))
        return {
            **_published(run, generation, made),
            "alignment_residual": read_manifest(directory)["alignment_residual"],
            "reused": False,
        }


def refresh_statistics(run: Run, until: datetime, *, source: str | None = None) -> bool:
    """Publish the statistics of users and items through `until` where those of the run end before
    it; True when it did.

    source: newer data than the run's own. Raises InputError when the run may not look at its data
    as far as that.
    """
    from adc_features.store import apply, publish_statistics

    until = utc(until, name="until")
    if source is None and until <= serving_time(run):
        return False
    dataset = _data(run, until, source)
    statistics = statistics_of(dataset, dataset.before(until), refresh_at=refresh_times(run, until))
    with run.lock():
        publish_statistics(repository_of(run), **statistics, resolution=dataset.resolution)
        apply(repository_of(run))
    return True


def renew(
    run: Run, generation_id: str, *, warm: bool = True, churn_budget: float | None = None
) -> dict[str, Any]:
    """A further generation, aligned with the run's own: fitted on the run's cut-offs and its
    snapshots since, and published beside it with codes for all of them.

    warm: start from the run's generation and hold its codes; else the codes of a new fit are only
    named after it. churn_budget: share of codes that may change. Rankers of the older generation
    read on what they know. The answer is the fit's churn report, and changed_served: share of codes
    that a reader sees change when it goes from the newest published snapshot of the parent to that
    of the child. Raises InputError when the id is taken or there is no snapshot after the run's
    own; QualityError over the budget.
    """
    from adc_features.store import apply
    from adc_features.tokenizer.encode import encode_series
    from adc_features.tokenizer.fit import fit
    from adc_features.tokenizer.line import Line
    from adc_features.tokenizer.model import AdcSettings

    directory = run.directory / generation_place(generation_id)
    parent, repo = generation_of(run), repository_of(run)
    with run.lock():
        later = sorted(
            d for d in (run.directory / "snapshots").glob("[0-9]*") if _is_current(run, d)
        )
        tables = embedding_tables(run)
        tables += [
            t
            for t in (
                _table(run, dataset_of(run), read_state(d / "state.npz"), own=True) for d in later
            )
            if t.as_of > tables[-1].as_of
        ]
        if tables[-1].as_of <= parent.trained_through:
            raise InputError(
                f"no snapshot lies after {parent.trained_through.isoformat()}, through which"
                f" {parent.id!r} was trained; make one with `adc snapshot` first"
            )
        if generation_id in {g.id for g in live_generations(repo)}:
            raise InputError(f"generation {generation_id!r} is published in {repo}; give a new id")
        line, settings = (
            Line(parent, warm=warm, churn_budget=churn_budget),
            AdcSettings(**parent.settings["adc"]),
        )
        child = _unpublished(directory, parent, tables[-1].as_of) or fit(
            tables,
            parent.spec,
            settings=settings,
            generation_id=generation_id,
            directory=directory,
            seed=run.settings.seed,
            line=line,
            progress=run.progress,
        )
        of_parent = {s.as_of: s.table()[0] for s in published_timeline(repo, parent.id).snapshots}
        # a reader changes from parent to child at a cut-off, not through the child's history, which
        # would drift away hold by hold
        snapshots = list(encode_series(tables, child, held_by=of_parent if warm else None))
        lag = timedelta(hours=run.settings.publish_lag_hours)
        publish(
            repo,
            child,
            snapshots,
            servable_at=[s.as_of + lag for s in snapshots],
            computed_at=datetime.now(UTC),
        )
        apply(repo)
        newest = snapshots[-1]
        served = of_parent.get(newest.as_of)
        changed = (
            churn_report(served, newest, tables[-1].interaction_count, spec=child.spec)["changed"]
            if served
            else float("nan")
        )
        run.record(
            "renew",
            generation=child.id,
            parent=parent.id,
            churn=child.quality["churn"]["changed"],
            changed_served=changed,
        )
    return {
        "generation": child.id,
        "parent": parent.id,
        "snapshots": len(snapshots),
        "directory": directory,
        "changed_served": changed,
        **child.quality["churn"],
    }


def _unpublished(directory: Path, parent: Generation, through: datetime) -> Generation | None:
    """The generation that a renewal wrote before it was killed, when it is whole and of the same
    parent and time.
    """
    if not (directory / MANIFEST).is_file():
        return None
    found = open_generation(directory)
    same = (
        found.trained_through == through
        and found.settings["aligned"]["parent_codebook_hash"] == parent.codebook_hash
    )
    return found if same else None


def backfill_times(start: datetime, end: datetime, every: str) -> list[datetime]:
    """start, start + every, ... up to and including end. every: '<n>d' days, '<n>w' weeks or
    '<n>mo' calendar months.
    """
    match = re.fullmatch(r"([1-9]\d{0,3})(d|w|mo)", every)
    if not match:
        raise InputError(
            f"every is {every!r}; expected a number of days, weeks or months such as 30d, 2w or 1mo"
        )
    start, end = utc(start, name="from"), utc(end, name="to")
    if end < start:
        raise InputError(f"from {start.isoformat()} lies after to {end.isoformat()}; exchange them")
    if match[2] == "mo" and start.day > 28:
        raise InputError(
            f"from {start.isoformat()} is a day that not every month has; start on the 28th or"
            " before, or step by days"
        )
    return list(_steps(start, end, int(match[1]), match[2]))


def _steps(start: datetime, end: datetime, count: int, unit: str) -> Iterator[datetime]:
    at, number = start, 0
    while at <= end:
        yield at
        number += count
        months = start.year * 12 + start.month - 1 + number
        at = (
            start.replace(year=months // 12, month=months % 12 + 1)
            if unit == "mo"
            else start + timedelta(days=number * (7 if unit == "w" else 1))
        )


def _data(run: Run, as_of: datetime, source: str | None) -> Dataset:
    """What the run may look at: its own data up to the end of its scored window, or the newer data
    that was given.
    """
    if source is not None:
        return load_source(source, seed=run.settings.seed)
    if (end := split_of(run).eval_end) is not None:
        refuse_after_window(as_of, end)
    return dataset_of(run)


def refuse_after_window(as_of: datetime, end: datetime) -> None:
    """Raise InputError for a cut-off after the end of the run's scored window, whose later rows
    nobody may look at yet.
    """
    if utc(as_of, name="as_of") > end:
        raise InputError(
            f"the run may look at its data up to {end.isoformat()}, as_of is {as_of.isoformat()};"
            " give newer data with --data, or an earlier cut-off"
        )


def _made_of(run: Run) -> dict[str, Any]:
    """The generation and the behaviour that a snapshot rests on; another one makes it stale."""
    return {
        "codebook_hash": generation_of(run).codebook_hash,
        "behavior": run.facts("behavior")["files"],
    }


def _is_current(run: Run, directory: Path) -> bool:
    """Is the snapshot complete, unaltered and of the run as it is now?"""
    if not (directory / MANIFEST).is_file():
        return False
    try:
        return bool(read_manifest(directory)["made_of"] == _made_of(run))
    except ArtifactError as error:
        log.warning("stage=snapshot rebuilt=true reason=%s", error)
        return False


def _state(run: Run, dataset: Dataset, as_of: datetime) -> BehaviorState:
    """Behaviour as of the cut-off, continued from the newest state before it: of the run's own
    cut-offs and its earlier snapshots.
    """
    from adc_features.encoders.behavior import RECIPES, continued

    paths = {path.name[:21]: path for path in (run.output("behavior") / "states").iterdir()}
    paths |= {
        d.name: d / "state.npz"
        for d in (run.directory / "snapshots").glob("[0-9]*")
        if _is_current(run, d)
    }
    earlier = sorted(name for name in paths if name < f"{as_of:%Y%m%dT%H%M%S%f}")
    if not earlier:
        raise InputError(
            f"as_of {as_of.isoformat()} is not after the run's first cut-off, {min(paths)}: there"
            " is no behaviour to continue from; choose a later one"
        )
    settings = RECIPES[run.settings.behavior]()
    item_ids = id_array(dataset.items["item_id"])
    return continued(
        read_state(paths[earlier[-1]]),
        dataset.before(as_of),
        item_ids,
        as_of=as_of,
        settings=settings,
        seed=run.settings.seed,
        progress=run.progress,
    )


def _table(run: Run, dataset: Dataset, state: BehaviorState, *, own: bool) -> EmbeddingTable:
    from adc_features.encoders.text import cache_directory, item_texts, text_vectors

    def text(view: str) -> tuple[np.ndarray, np.ndarray]:
        if own:
            return np.load(run.output("text") / f"{view}.npy"), np.load(
                run.output("text") / f"{view}.present.npy"
            )
        texts = item_texts(dataset.items, dataset.text_views[view])
        return text_vectors(
            texts, model=run.settings.text_model, cache=cache_directory(), progress=run.progress
        )

    vectors, present = content_vectors(dataset, text)
    item_ids = id_array(dataset.items["item_id"])
    behavior = state.over(item_ids)
    return EmbeddingTable(
        item_ids,
        {**vectors, BEHAVIOR: behavior.vectors},
        {**present, BEHAVIOR: behavior.present},
        behavior.interaction_count,
        behavior.as_of,
    )


def _encoded(run: Run, generation: Generation, table: EmbeddingTable) -> SidTable:
    from adc_features.tokenizer.encode import encode

    return encode(
        table, generation, previous=_before(run, generation, table.as_of), progress=run.progress
    )


def _before(run: Run, generation: Generation, as_of: datetime) -> SidTable | None:
    """The published snapshot before this time, whole."""
    whole = published_timeline(repository_of(run), generation.id).snapshots
    newest = max((s for s in whole if s.as_of < as_of), key=lambda s: s.as_of, default=None)
    return newest.table()[0] if newest else None


def _published(run: Run, generation: Generation, made: SidTable) -> dict[str, Any]:
    """Publish what differs from the snapshot before. A later snapshot that was published as a
    difference from that one is published whole first.
    """
    repo, lag = repository_of(run), timedelta(hours=run.settings.publish_lag_hours)
    before = _before(run, generation, made.as_of)
    for entry, whole in zip(
        published_snapshots(repo, generation.id),
        published_timeline(repo, generation.id).snapshots,
        strict=True,
    ):
        if entry.as_of > made.as_of and entry.items + entry.removed < len(whole):
            publish(
                repo,
                generation,
                [whole.table()[0]],
                servable_at=[entry.servable_at],
                computed_at=entry.computed_at,
            )
            break
    rows = changed_rows(before, made) if before is not None else made
    rows = rows if len(rows) else made
    publish(repo, generation, [rows], servable_at=[made.as_of + lag], computed_at=datetime.now(UTC))
    run.record("snapshot", as_of=made.as_of, generation=generation.id, rows=len(rows))
    facts = {
        "as_of": made.as_of,
        "servable_at": made.as_of + lag,
        "generation": generation.id,
        "hindsight": made.as_of < generation.trained_through,
    }
    facts |= {
        "items": len(made),
        "cold_items": int(made.is_cold.sum()),
        "published_rows": len(rows),
    }
    if before is not None:
        old = before.lookup(made.item_ids)
        both, behavioral = (
            old.found & ~old.is_cold & ~made.is_cold,
            np.array(generation.spec.is_behavioral),
        )
        kept = (old.sid == made.sid)[both]
        facts |= {
            "new_items": int((~old.found).sum()),
            "kept_codes": float(kept.mean()),
            "kept_behavioral_codes": float(kept[:, behavioral].mean()),
        }
    return facts
