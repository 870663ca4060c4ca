"""Train, judge and promote the rankers of a Feast repository. Reads: a repository, a label log.
Writes: trained rankers, an evaluation, promotions.

    labels + service -> joined rows -> train | validation | test -> trained version -> evaluation
                                                                             `-> promotion

Choices (rounds, calibration, which ranker) are made on training and validation rows; test rows are
opened with `final` alone.
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import read_manifest, write_json
from adc_features.data.windows import Windows
from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import TrainedRanker, load_ranker
from adc_features.serving.promoted import promote_on_record
from adc_features.serving.promotion import Promotion, trained_pair
from adc_features.serving.workspace import Workspace, evaluation_path
from training.evaluation.choice import Candidate, Choice, chosen
from training.ranker.about import about_ranker
from training.ranker.fitting import (
    TrainSettings,
    fit_ranker,
    fit_then_refit,
    predictions,
    require_unseen,
)
from training.ranker.joined import JoinedRows, declared_inputs, join_labels
from training.ranker.joined_files import join_files, own_directory, refuse_files
from training.ranker.label_sources import LabelSource, source_name
from training.ranker.metrics import evaluate_rankers
from training.ranker.models import check_settings
from training.ranker.results import RankerEvaluation
from training.ranker.splits import LabelWindow, Splits, split_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Period:
    """Which rows of the log count.

    start, end: rows with start <= time < end, aware; None leaves a side open. windows: where
    validation and test begin; by default the days of the 80 % and the 90 % row.
    """

    start: datetime | None = None
    end: datetime | None = None
    windows: Windows | None = None


@dataclass(frozen=True)
class Judged:
    """Rankers that were trained on the same rows, and judged on the same later ones.

    versions: ranker -> directory. window: "validation" or "test". evaluation: of all of them.
    """

    versions: Mapping[str, Path]
    window: str
    evaluation: RankerEvaluation
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "window": self.window,
            "versions": {name: str(path.name) for name, path in self.versions.items()},
            **self.facts,
            **self.evaluation.to_dict(),
        }


def train_rankers(
    repo: Path,
    rankers: Mapping[str, Ranker],
    source: LabelSource,
    *,
    at: datetime,
    settings: TrainSettings | None = None,
    period: Period | None = None,
    final: bool = False,
    importance: bool = True,
    refresh: Mapping[str, str] | None = None,
    logged: bool = False,
    rows_in_files: bool = False,
    progress: Progress | None = None,
) -> Judged:
    """Train rankers on one label log, and judge them together on later rows.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied.
    rankers : mapping of str to Ranker
        By name; their tasks are the same.
    source : LabelSource
        The label log.
    at : datetime
        Now, aware: names the versions.
    settings, period : optional
        How is trained, and on which rows.
    final : bool
        Train on all rows before the test and judge on the test rows: once, at the end.
    importance : bool
        Also measure what each ranker leans on; never with `settings.quick`.
    refresh : mapping of str to str, optional
        View -> how it is refreshed online, as `join_labels`.
    logged : bool
        Learn from the values that the log holds of what was served, in place of a join.
    rows_in_files : bool
        Join and encode the rows into files below the directory of each ranker, which are removed at
        the end, and learn from them: for networks, on logs whose joined rows are more than memory
        holds. In memory are the label log itself (keys, times, labels, weights), some numbers of 8
        bytes for each row (what windows, losses and scores count), the distinct values of each
        vocabulary, the history of the features, and a buffer of rows; see `join_files`,
        `fit_in_pieces` and `RowFiles`. Where the rows learned from fit into one
        buffer (262,144 rows), parameters are those of rows in memory, to the bit, and scores
        differ by the order of sums alone.
    progress : callable, optional
        Called with a label, steps done and their number.

    Raises
    ------
    InputError
        Before anything is written: what is wrong with service, declaration, log or windows, or does
        not learn from files. Another process trains the ranker from files.
    """
    settings, period = settings or TrainSettings(), period or Period()
    asked: dict[str, Any] = {"start": period.start, "end": period.end}
    asked |= {"refresh": refresh, "logged": logged, "progress": progress}
    places = {name: Workspace(repo, name) for name in rankers}
    _require_same_tasks(rankers)
    for ranker in rankers.values():
        check_settings(ranker)
        _, resolved = declared_inputs(repo, ranker, source)  # all, before the first is trained
        if rows_in_files:
            refuse_files(resolved, logged=logged)
    scores: dict[str, np.ndarray] = {}
    about: dict[str, dict[str, Any]] = {}
    fitted: dict[str, tuple[TrainedRanker, dict[str, Any]]] = {}
    judged: tuple[JoinedRows, LabelWindow] | None = None
    for name, ranker in rankers.items():
        with _joined(places[name], ranker, source, in_files=rows_in_files, **asked) as joined:
            splits = split_labels(joined.log, period.windows)
            trained = _fitted(joined, splits, settings, final=final, progress=progress)
            window = splits.test if final else splits.validation
            scores[name] = predictions(trained, joined, window)
            judged = judged or (joined, window)
            about[name] = about_ranker(
                trained,
                joined,
                splits,
                window,
                scores[name],
                importance=importance and not settings.quick,
                seed=settings.seed,
                progress=progress,
            )
            fitted[name] = trained, {"reference": joined.reference, "timeline": joined.timeline}
    assert judged is not None
    evaluation = evaluate_window(*judged, scores, seed=settings.seed)
    versions = {name: places[name].version(at) for name in fitted}
    for name, (trained, kept) in fitted.items():  # all of them, or none
        trained.save(versions[name], **kept)
    facts = {"labels": source_name(source), "trained_at": at, "quick": settings.quick}
    facts |= {"about": about}
    result = Judged(versions, "test" if final else "validation", evaluation, facts)
    write_json(evaluation_path(repo), result.to_dict())
    return result


@contextmanager
def _joined(
    place: Workspace,
    ranker: Ranker,
    source: LabelSource,
    *,
    in_files: bool,
    logged: bool,
    **asked: Any,
) -> Iterator[JoinedRows]:
    """A ranker's rows for the block, in memory or in files that are gone afterwards."""
    if not in_files:
        yield join_labels(place.repo, ranker, source, logged=logged, **asked)
        return
    with own_directory(place.directory) as directory:
        yield join_files(place.repo, ranker, source, directory=directory, **asked)


def _fitted(
    joined: JoinedRows,
    splits: Splits,
    settings: TrainSettings,
    *,
    final: bool,
    progress: Progress | None,
) -> TrainedRanker:
    """Fitted on the training window and calibrated on the validation window; with `final` fitted
    again on both, with the same calibration."""
    if not final:
        return fit_ranker(
            joined, splits.train, settings, validation=splits.validation, progress=progress
        )
    log.info("stage=train ranker=%s test_rows_opened=%d", joined.name, len(splits.test))
    windows = splits.train, splits.validation, splits.final_train
    return fit_then_refit(joined, *windows, settings, progress=progress)


def evaluate_window(
    joined: JoinedRows, window: LabelWindow, scores: Mapping[str, np.ndarray], *, seed: int
) -> RankerEvaluation:
    """Rankers on the rows of a window: ranker -> calibrated P(task) [S, T, n]."""
    rows, labels = window.rows, joined.log
    return evaluate_rankers(
        scores,
        window.labels,
        window.mask,
        tasks=[task.name for task in joined.ranker.tasks],
        user=None if labels.users is None else labels.users[rows],
        request=None if labels.requests is None else labels.requests[rows],
        weights=labels.weights[rows],
        seed=seed,
    )


def evaluate_trained(
    repo: Path,
    names: Sequence[str],
    source: LabelSource,
    *,
    period: Period | None = None,
    final: bool = False,
    importance: bool = True,
    refresh: Mapping[str, str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judged:
    """Judge the newest trained version of rankers on the validation window of a label log (or, with
    `final`, on its test window). refresh: as `join_labels`. Raises as `train_rankers`, and
    InputError for a ranker that was trained on rows of the window.

    What was judged on the validation window is what `best_ranker` chooses from afterwards.
    """
    period = period or Period()
    asked: dict[str, Any] = {"start": period.start, "end": period.end, "refresh": refresh}
    versions = {name: Workspace(repo, name).newest() for name in names}
    loaded = {name: load_ranker(path) for name, path in versions.items()}
    _require_same_tasks({name: trained.ranker for name, trained in loaded.items()})
    scores, about, judged = {}, {}, None
    for name, trained in loaded.items():
        joined = join_labels(repo, trained.ranker, source, **asked, progress=progress)
        splits = split_labels(joined.log, period.windows)
        window = splits.test if final else splits.validation
        require_unseen(trained, window)
        scores[name] = predictions(trained, joined, window)
        judged = judged or (joined, window)
        about[name] = about_ranker(
            trained,
            joined,
            splits,
            window,
            scores[name],
            importance=importance,
            seed=seed,
            progress=progress,
        )
    assert judged is not None
    evaluation = evaluate_window(*judged, scores, seed=seed)
    facts = {"labels": source_name(source), "about": about}
    result = Judged(versions, "test" if final else "validation", evaluation, facts)
    if not final:  # a look at test rows is nothing that a ranker is chosen by
        write_json(evaluation_path(repo), result.to_dict())
    return result


def _require_same_tasks(rankers: Mapping[str, Ranker]) -> None:
    """Raise InputError unless all rankers learn the same tasks from the same rows."""
    if not rankers:
        raise InputError("no ranker is named; declare one in the repository, or give --service")
    kinds = {name: (tuple(r.tasks), r.request) for name, r in rankers.items()}
    if len(set(kinds.values())) > 1:
        told = {name: [task.name for task in tasks] for name, (tasks, _) in kinds.items()}
        raise InputError(
            f"rankers that are judged together need the same tasks and request column; these have"
            f" {told}: train them one by one"
        )


# ---- promotion


def best_ranker(repo: Path) -> Choice:
    """The ranker to promote where none is named.

    Of the rankers that were trained or judged last, on the validation window, by the GAUC of the
    first task (by request where requests are known; AUC where no user has rows of both classes)
    and the number of inputs, see `training.evaluation.choice`.

    Raises InputError when nothing was trained, or the last evaluation was on test rows, on which
    nothing is chosen.
    """
    path = evaluation_path(repo)
    if not path.is_file():
        raise InputError(
            f"{repo} has no evaluation yet; train its rankers first, `adc train --repo {repo}"
            " --labels FILE`, or name the ranker, --ranker NAME"
        )
    facts = _judged_last(repo)
    if facts["window"] != "validation":
        raise InputError(
            f"{path} is of test rows, on which no ranker is chosen; name the ranker to promote,"
            " --ranker NAME"
        )
    task = next(iter(facts["tasks"].values()))
    metric = "request_gauc" if task["requests"] else "gauc" if task["users"] else "auc"
    versions = facts["versions"]
    candidates = {}
    for name, scores in task["rankers"].items():
        count = _inputs(Workspace(repo, name).directory / versions[name])
        candidates[name] = Candidate(scores[metric]["mean"], count, f"{count} inputs")

    def paired(best: str, other: str) -> Any:
        found = task["paired"]
        pair = found.get(f"{best}_minus_{other}") or found.get(f"{other}_minus_{best}")
        return pair[metric] if pair else None

    return chosen(candidates, paired, metric=metric)


def _judged_last(repo: Path) -> dict[str, Any]:
    """What was trained or judged last, `Judged.to_dict`."""
    facts: dict[str, Any] = json.loads(evaluation_path(repo).read_text(encoding="utf-8"))
    return facts


def _inputs(version: Path) -> int:
    return len(read_manifest(version, verify=False)["pins"]["inputs"])


def promote_ranker(repo: Path, name: str | None, *, at: datetime) -> dict[str, Any]:
    """Let the newest version of a ranker serve; without a name the version that was judged best on
    the validation window, see `best_ranker`.

    It is opened once first, which checks it against the registry, and its reference rows go through
    the offline and the online store: a ranker that cannot serve, or would see other values than it
    was trained on, is not promoted.

    Raises
    ------
    InputError, ArtifactError, GenerationMismatch
        As `best_ranker`, `trained_pair`, `open_declared` and `DeclaredBundle.check_online`.
    ParityError
        As `check_both_paths`.
    """
    choice, pair, warnings = servable(repo, name, at=at)
    place = Workspace(repo, choice.name)
    number = promote_on_record(place, pair, why=choice.why)
    return {
        "ranker": choice.name,
        "why": choice.why,
        "version": pair.ranker.name,
        "pair": pair.name,
        "number": number,
        "promotion": str(place.promotion),
        "warnings": warnings,
    }


def servable(repo: Path, name: str | None, *, at: datetime) -> tuple[Choice, Promotion, list[str]]:
    """The version that `promote_ranker` lets serve, after its checks, and what they noticed."""
    from adc_features.serving.both_paths import check_both_paths
    from adc_features.serving.declared import open_declared

    choice = best_ranker(repo) if name is None else Choice(name, "named")
    place = Workspace(repo, choice.name)
    version = place.newest()
    if name is None:  # a newer one was not judged
        version = place.directory / _judged_last(repo)["versions"][choice.name]
    pair = trained_pair(repo, version, at=at)
    bundle = open_declared(pair)
    bundle.check_online()
    noticed = check_both_paths(bundle, at=at)
    return choice, pair, [*bundle.warnings, *noticed]
