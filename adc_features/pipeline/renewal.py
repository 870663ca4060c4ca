"""A further generation of a run, aligned with its own. Reads: a run and its snapshots. Writes:
`<run>/generations/<id>/`, rows of the run's repository.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST
from adc_features.codes.churn import churn_report
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, generation_place, open_generation
from adc_features.encoders.behavior_state import read_state
from adc_features.errors import InputError
from adc_features.pipeline.continuation import is_current, table_of
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import (
    dataset_of,
    embedding_tables,
    generation_of,
    repository_of,
)
from adc_features.store import live_generations, publish, published_timeline


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
    from adc_features.tokenizer.fit import fit
    from adc_features.tokenizer.line import Line
    from adc_features.tokenizer.recipes import settings_of

    directory = run.directory / generation_place(generation_id)
    parent, repo = generation_of(run), repository_of(run)
    with run.lock():
        tables = _tables_since(run, parent)
        if generation_id in {g.id for g in live_generations(repo)}:
            raise InputError(f"generation {generation_id!r} is published in {repo}; give a new id")
        child = _unpublished(directory, parent, tables[-1].as_of) or fit(
            tables,
            parent.spec,
            settings=settings_of(parent),
            generation_id=generation_id,
            directory=directory,
            seed=run.settings.seed,
            line=Line(parent, warm=warm, churn_budget=churn_budget),
            progress=run.progress,
            device=run.settings.device,
        )
        snapshots, changed = _published(run, parent, child, tables, warm=warm)
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
        "snapshots": snapshots,
        "directory": directory,
        "changed_served": changed,
        **child.quality["churn"],
    }


def _published(
    run: Run, parent: Generation, child: Generation, tables: list[EmbeddingTable], *, warm: bool
) -> tuple[int, float]:
    """Publish the child's codes of every table beside the parent's; how many snapshots that made,
    and the share of codes that changed between the newest of both (NaN without one of the parent).
    """
    from adc_features.store import apply
    from adc_features.tokenizer.encode import encode_series

    repo, lag = repository_of(run), timedelta(hours=run.settings.publish_lag_hours)
    of_parent = {s.as_of: s.table()[0] for s in published_timeline(repo, parent.id).snapshots}
    # a reader changes from parent to child at a cut-off, not through the child's history, which
    # would drift away hold by hold
    snapshots = list(encode_series(tables, child, held_by=of_parent if warm else None))
    publish(
        repo,
        child,
        snapshots,
        servable_at=[s.as_of + lag for s in snapshots],
        computed_at=datetime.now(UTC),
    )
    apply(repo)
    newest, changed = snapshots[-1], float("nan")
    if served := of_parent.get(newest.as_of):
        counts = tables[-1].interaction_count
        changed = churn_report(served, newest, counts, spec=child.spec)["changed"]
    return len(snapshots), changed


def _tables_since(run: Run, parent: Generation) -> list[EmbeddingTable]:
    """The vectors of the run's cut-offs and of its snapshots since, oldest first. Raises InputError
    when none is newer than what the parent was trained through.
    """
    tables = embedding_tables(run)
    later = sorted(d for d in (run.directory / "snapshots").glob("[0-9]*") if is_current(run, d))
    for directory in later:
        table = table_of(run, dataset_of(run), read_state(directory / "state.npz"), own=True)
        if table.as_of > tables[-1].as_of:
            tables.append(table)
    if tables[-1].as_of <= parent.trained_through:
        raise InputError(
            f"no snapshot lies after {parent.trained_through.isoformat()}, through which"
            f" {parent.id!r} was trained; make one with `adc snapshot` first"
        )
    return tables


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
