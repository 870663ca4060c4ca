"""Are the features online as fresh as those that rankers were trained on? Reads: manifests of
rankers, the log of refreshes, feature_store.yaml. Writes: findings.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.data.findings import Finding
from adc_features.errors import AdcError
from adc_features.serving.promotion import read_promotion
from adc_features.serving.workspace import Workspace, promoted_names, trained_names
from adc_features.store.durations import duration_text
from adc_features.store.freshness import declared_refresh
from adc_features.store.refresh import RefreshSchedule
from adc_features.store.refresh_log import real_refreshes

LEAST, NEWEST = 3, 30
"""Refreshes of a view from which a rule is read, and how many of the last are looked at."""
TOLERANCE, SLACK = 1.25, timedelta(minutes=1)
"""How much older what is online may be than what was learned from."""
ARCHIVE = timedelta(days=30)
"""Rows that are online so long after their cut are a replayed archive, of which nothing is said."""


def freshness_findings(repo: Path, rankers: Iterable[Path] | None = None) -> list[Finding]:
    """A warning for each ranker and view that is staler online than in training, and for each view
    whose refreshes are not what feature_store.yaml says.

    rankers: directories of trained rankers; by default those that are promoted in the repository,
    and the newest version of the others.
    """
    where = str(repo)
    try:
        real, declared = _really(repo), declared_refresh(repo)
    except AdcError as error:
        return [Finding("error", where, str(error))]
    findings = [
        Finding(
            "warning",
            where,
            f"feature_store.yaml says that view {view} is refreshed {_words(said)}; its last"
            f" refreshes were {_words(real[view])}",
            f"refresh it as is said, or say what is done (adc_features.refresh: {view}: {rule})",
        )
        for view, said in declared.items()
        if view in real and _staler(real[view], said.mean_age) and (rule := str(real[view]))
    ]
    online = declared | real
    for directory in _rankers(repo) if rankers is None else rankers:
        findings += _of_ranker(directory, online)
    return findings


def _really(repo: Path) -> dict[str, RefreshSchedule]:
    """View -> the rule of its last refreshes, where there are enough to tell."""
    rules = {
        view: RefreshSchedule(refreshes=refreshes[-NEWEST:]).regular
        for view, refreshes in real_refreshes(repo).items()
        if len(refreshes) >= LEAST
    }
    return {view: rule for view, rule in rules.items() if rule.delay < ARCHIVE}


def _rankers(repo: Path) -> list[Path]:
    promoted = promoted_names(repo)
    found = [read_promotion(Workspace(repo, name).promotion).ranker for name in promoted]
    return found + [Workspace(repo, n).newest() for n in trained_names(repo) if n not in promoted]


def _of_ranker(directory: Path, online: Mapping[str, RefreshSchedule]) -> list[Finding]:
    if not (directory / MANIFEST).is_file():
        return []  # told by other checks
    manifest = read_manifest(directory, verify=False)
    trained: Mapping[str, Any] = manifest.get("refresh") or manifest.get("facts", {}).get(
        "refresh", {}
    )
    findings = []
    for view, schedule in online.items():
        if not _reads(manifest, view):
            continue
        learned = timedelta(seconds=float(_part(trained, view).get("mean_age_seconds", 0)))
        if _staler(schedule, learned):
            rule = _part(trained, view).get("rule", "0")
            findings.append(
                Finding(
                    "warning",
                    str(directory),
                    f"view {view} is refreshed online {_words(schedule)}, and the ranker was"
                    f" trained on rows that read it {_learned(rule)}: it scores older values than"
                    " it learned from",
                    f"train it on what is served (adc train --refresh {view}={schedule}), or"
                    " refresh the view more often; `adc freshness` tells what that earns",
                )
            )
    return findings


def _part(facts: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of facts; empty where there is none."""
    found = facts.get(name)
    return found if isinstance(found, Mapping) else {}


def _reads(manifest: Mapping[str, Any], view: str) -> bool:
    """Whether a ranker reads a view: declared ones list features, recipes read every view but the
    codes of other generations."""
    if "features" in manifest:
        return any(str(key).startswith(f"{view}__") for key in manifest["features"])
    return not view.startswith("item_sid_") or view == f"item_sid_{manifest.get('generation')}"


def _staler(online: RefreshSchedule, learned: timedelta) -> bool:
    return online.mean_age > learned * TOLERANCE + SLACK


def _words(schedule: RefreshSchedule) -> str:
    age = duration_text(timedelta(seconds=round(schedule.mean_age.total_seconds())))
    return f"as {schedule} ({age} old on average)"


def _learned(rule: str) -> str:
    return "fresh" if rule == "0" else f"as {rule}"
