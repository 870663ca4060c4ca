"""The stages that publish codes and statistics and load them online. Reads: codes, interactions.
Writes: the run's Feast repository and online store.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import fresh_directory, write_json
from adc_features.data.dataset import Dataset
from adc_features.pipeline.code_stages import CODES, GENERATION
from adc_features.pipeline.context import (
    dataset_of,
    generation_of,
    known_interactions,
    refresh_times,
    repository_of,
    servable_at,
    serving_time,
    snapshots_of,
)
from adc_features.pipeline.embedding_stages import DATA
from adc_features.pipeline.run import Run, Stage


def statistics_of(dataset: Dataset, log: Any, *, refresh_at: Sequence[datetime]) -> dict[str, Any]:
    """The rows of both statistics views over these interactions."""
    from adc_features.data.statistics import item_profile, user_activity

    return {
        "user_activity": user_activity(log, dataset.items, resolution=dataset.resolution),
        "item_profile": item_profile(
            log, dataset.items, resolution=dataset.resolution, refresh_at=refresh_at
        ),
    }


def _build_publication(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import apply, create_repository, publish, publish_statistics

    snapshots = snapshots_of(run)
    statistics = statistics_of(
        dataset_of(run), known_interactions(run), refresh_at=refresh_times(run)
    )
    published_at = datetime.now(UTC)
    with _repository_to_fill(run) as repo:
        create_repository(repo, project="adc_features")
        publish(
            repo,
            generation_of(run),
            snapshots,
            servable_at=servable_at(run),
            computed_at=published_at,
        )
        publish_statistics(repo, **statistics, resolution=dataset_of(run).resolution)
    apply(repository_of(run))
    rows = {
        "item_sid": sum(map(len, snapshots)),
        **{name: len(table) for name, table in statistics.items()},
    }
    facts = {
        "repository": "feature_repo",
        "snapshots": len(snapshots),
        "rows": rows,
        "published_at": published_at,
    }
    write_json(directory / "publication.json", facts)
    return facts


def _repository_to_fill(run: Run) -> AbstractContextManager[Path]:
    """The run's repository where it holds another generation, whose readers keep what they read;
    else a fresh one, which replaces it when it is complete. Raises NewerFormatError when it holds
    what a newer version wrote.
    """
    from adc_features.store.online_record import refuse_newer_online
    from adc_features.store.packed.layout import refuse_newer_file

    others = {id_ for id_, _ in _live(run) or []} - {run.settings.generation}
    repo = repository_of(run)
    refuse_newer_online(repo)
    for packed in sorted(repo.glob("data/*/packed/*.sids")):
        refuse_newer_file(packed)
    return nullcontext(repo) if others else fresh_directory(repo)


def _live(run: Run) -> list[list[str]] | None:
    """Id and codebook hash of the live generations; None when the repository is lost or broken."""
    from adc_features.store import check_repository, live_generations

    repo = repository_of(run)
    if not repo.is_dir() or check_repository(repo):
        return None
    return [[g.id, g.codebook_hash] for g in live_generations(repo)]


def _own_generation(run: Run) -> Any:
    """The run's own generation as it is published, or None when the repository is lost or broken:
    then it is published again. Further generations in the repository change nothing here.
    """
    live = _live(run)
    return live and [one for one in live if one[0] == run.settings.generation]


def online_time(run: Run) -> datetime:
    """What `adc materialize` loads as of: the run's `now`, or later where newer values were
    published or loaded since, as `loaded_as_of` bounds it.
    """
    return loaded_as_of(repository_of(run), _holds_through(run), clock=datetime.now(UTC))


def loaded_as_of(repo: Path, known: datetime, *, clock: datetime) -> datetime:
    """As of when to load the online store, where values are published that hold until `known`: as
    of then, or later where it was loaded later, since it keeps the newest values only.

    Never as of a time that has not come yet: what holds from midnight on, such as today's events
    of data that is stamped by day, would be online before a request may read it.
    """
    from adc_features.store import materialized_through

    return max([min(known, clock), *filter(None, [materialized_through(repo)])])


def _holds_through(run: Run) -> datetime:
    """When the newest of what the run scores, or has published, begins to hold."""
    from adc_features.store import newest_published

    return max([serving_time(run), *filter(None, [newest_published(repository_of(run))])])


def _online_identity(run: Run) -> Any:
    """What was published, what of it does not hold yet, and what the online store lacks: with newer
    values, when their time has come, or after a loss, it is loaded again.
    """
    from adc_features.store import online_problems, published_files

    live = _live(run)
    return live and {
        "live": live,
        "published": published_files(repository_of(run)),
        "problems": online_problems(repository_of(run)),
        **({"ahead": True} if _holds_through(run) > datetime.now(UTC) else {}),
    }


def _build_online(run: Run, directory: Path) -> Mapping[str, Any]:
    from adc_features.store import materialize

    now = online_time(run)
    materialize(repository_of(run), now=now, progress=run.progress)
    write_json(directory / "online.json", {"now": now})
    return {"now": now}


PUBLICATION = Stage(
    "publication",
    (DATA, GENERATION, CODES),
    ("publish_lag_hours",),
    _build_publication,
    _own_generation,
)
ONLINE = Stage("online", (PUBLICATION,), (), _build_online, _online_identity)
