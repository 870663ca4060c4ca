"""What a trained ranker leans on, in a window of its label log. Reads: a Feast repository, a label
log, trained versions. Writes: Explained.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.data.windows import Windows
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import TrainedRanker, load_ranker
from adc_features.serving.workspace import Workspace
from training.evaluation.covers import EXCHANGES
from training.ranker.fitting import require_unseen
from training.ranker.importance import (
    MOST_ROWS,
    PERMUTATIONS,
    Importance,
    check_asked,
    importance,
    sampled_rows,
)
from training.ranker.joined import JoinedRows, join_labels
from training.ranker.label_sources import LabelSource, source_name
from training.ranker.splits import LabelWindow, split_labels


@dataclass(frozen=True)
class Explained:
    """What a ranker leans on. version: its directory. window: "validation" or "test". labels: the
    name of the label log."""

    ranker: str
    version: Path
    window: str
    labels: str
    importance: Importance

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "ranker": self.ranker,
            "version": self.version.name,
            "window": self.window,
            "labels": self.labels,
            **self.importance.to_dict(),
        }


def explain_ranker(
    repo: Path,
    name: str,
    source: LabelSource,
    *,
    task: str | None = None,
    windows: Windows | None = None,
    final: bool = False,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    progress: Progress | None = None,
) -> Explained:
    """The importance of the inputs of a ranker's newest version, on the validation window of a
    label log or, with `final`, on its test window.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied.
    name : str
        Of the ranker.
    source : LabelSource
        The label log.
    task : str, optional
        By default the ranker's first.
    windows : Windows, optional
        As `split_labels`.
    final, seed, permutations, progress : optional
        The test window; and as `importance`.

    Raises
    ------
    InputError
        It was never trained, or on rows of the window; the log is wrong, or the task is unknown.
    """
    version = Workspace(repo, name).newest()
    trained = load_ranker(version)
    check_asked(trained, task=task, permutations=permutations)
    joined = join_labels(repo, trained.ranker, source, progress=progress)
    splits = split_labels(joined.log, windows)
    window = splits.test if final else splits.validation
    require_unseen(trained, window)
    found = window_importance(
        trained,
        joined,
        window,
        task=task,
        seed=seed,
        permutations=permutations,
        progress=progress,
    )
    return Explained(name, version, window.name, source_name(source), found)


def window_importance(
    trained: TrainedRanker,
    joined: JoinedRows,
    window: LabelWindow,
    *,
    task: str | None = None,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    most_rows: int = MOST_ROWS,
    progress: Progress | None = None,
) -> Importance:
    """`importance` on the rows of a window."""
    names = [t.name for t in trained.ranker.tasks]
    place = names.index(task) if task in names else 0
    log, label = joined.log, np.where(window.mask[place], window.labels[place], np.nan)
    user = None if log.users is None else log.users[window.rows]
    request = None if log.requests is None else log.requests[window.rows]
    kept = sampled_rows(label, user=user, request=request, seed=seed, most_rows=most_rows)
    return importance(
        trained,
        trained.encoder.encode(joined.parts(window.rows[kept])),
        label[kept],
        task=task,
        user=None if user is None else user[kept],
        request=None if request is None else request[kept],
        seed=seed,
        permutations=permutations,
        most_rows=most_rows,
        of=int(np.isfinite(label).sum()),
        progress=progress,
    )


def importance_text(facts: Mapping[str, Any]) -> str:
    """What `Explained.to_dict` says, for people."""
    from adc_features.cli.console import table

    metrics = list(facts["base"])
    sampled = "" if facts["rows"] == facts["of"] else f" of {facts['of']}"
    lines = [
        f"ranker {facts['ranker']} {facts['version']}, task {facts['task']}, {facts['window']}"
        f" window: {facts['rows']}{sampled} rows, {facts['positives']} positive",
        ", ".join(f"{m} {facts['base'][m]['mean']:.4f}" for m in metrics),
        "",
        f"how much worse when exchanged among rows ({facts['permutations']} times), with 95 %"
        " intervals; log loss rises by it, the others fall",
    ]
    for part, rest in (("groups", "inputs"), ("inputs", "kind")):
        rows = [
            {
                part[:-1]: name,
                **({"inputs": len(one["inputs"])} if rest == "inputs" else _kind(one)),
                **{m: _change(one["drop"][m]) for m in metrics},
            }
            for name, one in facts[part].items()
        ]
        lines += ["", table(rows)]
    return "\n".join([*lines, "", EXCHANGES])


def _kind(one: Mapping[str, Any]) -> dict[str, str]:
    return {"side": one["side"], "kind": one["kind"]}


def _change(found: Mapping[str, float]) -> str:
    if found["mean"] != found["mean"]:
        return "-"
    return f"{found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
