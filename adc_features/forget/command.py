"""Everything that `adc forget` does. Reads: a repository. Writes: all of it that holds a user."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.forget.left import (
    Left,
    left_in_a_run,
    left_in_rankers,
    left_in_sources,
    left_online,
)
from adc_features.forget.live import bury, forget_live
from adc_features.forget.online import forget_online, stored_views
from adc_features.forget.served_log import forget_served
from adc_features.forget.subject import Subject, is_whole
from adc_features.live.repository import Live, declared_views, open_live
from adc_features.served.segments import REQUESTS
from adc_features.store.registry import open_any_store
from adc_features.store.services.rankers import declared_rankers

REPEAT = "a service writes it still; repeat this when it is sealed, or the service has stopped"


def live_of(repo: Path) -> Live | None:
    """The live directory of a repository; None where it declares no live views."""
    return open_live(repo) if declared_views(repo) else None


def subject_of(repo: Path, ids: Sequence[str], key: str | None = None) -> Subject:
    """Ids of a join key of a repository.

    key: by default that of the users: what the declared rankers call their user, else `user_id`.
    Raises InputError where that is not one key of the repository, or an id is not of its type.
    """
    kinds = _keys(repo)
    if key is None:
        users = {name for ranker in declared_rankers(repo).values() for name in ranker.user}
        users = users or {"user_id"} & set(kinds)
        if len(users) != 1:
            raise InputError(
                f"{repo} does not say by which key users are known; name it, --key KEY, one of"
                f" {', '.join(sorted(kinds)) or 'none: nothing is applied there'}"
            )
        (key,) = users
    if key not in kinds:
        raise InputError(
            f"{repo} has no join key {key!r}; give --key, one of {', '.join(sorted(kinds))}"
        )
    subject = Subject(key, tuple(dict.fromkeys(ids)))
    wrong = [one for one in subject.ids if kinds[key] and not is_whole(one)]
    if wrong:
        raise InputError(
            f"{key} is a whole number in {repo}, and {wrong[0]!r} is none; give the ids as they"
            " are in the events"
        )
    return subject


def forget(
    repo: Path,
    subject: Subject,
    *,
    now: datetime,
    live: Live | None = None,
    logs: Sequence[Path] = (),
    dry_run: bool = False,
) -> dict[str, Any]:
    """Delete what a repository knows of some ids, and list what still holds them.

    Parameters
    ----------
    repo : Path
    subject : Subject
    now : datetime
        Aware.
    live : Live, optional
        As `live_of` opens it.
    logs : sequence of Path
        Served logs.
    dry_run : bool
        Change nothing, only count.

    Returns
    -------
    dict
        deleted: counts by kind of data. left: what holds an id still, and what to do about it.

    Raises
    ------
    InputError
        A log is none; nothing was deleted.
    ArtifactError
        Something cannot be read or written; what was deleted stays so: repeat the call.
    """
    for log in logs:
        if not (Path(log) / REQUESTS).is_dir():
            raise InputError(f"{log} is no served log; give the directory of `adc serve --log`")
    views = stored_views(repo)
    if live is not None:
        deleted = forget_live(live, subject, dry_run=dry_run)
    else:
        deleted = {} if dry_run else bury(repo, subject, now)
    deleted["online_rows"] = forget_online(views, subject, dry_run=dry_run)
    served = [forget_served(log, subject, dry_run=dry_run) for log in logs]
    deleted["served_requests"] = sum(one["requests"] for one in served)
    left = [
        *left_online(views, subject),
        *left_in_sources(repo, views, subject),
        *left_in_rankers(repo, subject),
        *left_in_a_run(repo),
        *(
            Left("open segment of a log", str(log), REPEAT, looked_into=False)
            for log, one in zip(logs, served, strict=True)
            if one["open_segments"]
        ),
    ]
    return {
        "key": subject.key,
        "ids": len(subject.ids),
        "dry_run": dry_run,
        "found": any(deleted.values()) or any(one.looked_into for one in left),
        "deleted": deleted,
        "left": [one._asdict() for one in left],
    }


def _keys(repo: Path) -> dict[str, bool]:
    """The join keys of a repository, and whether each is a whole number."""
    return {
        field.name: "INT" in field.dtype.to_value_type().name
        for view in open_any_store(repo).list_feature_views()
        for field in view.entity_columns
    }
