"""Which variant of a ranker did better on the users that it served. Reads: a served log, events, a
deployment. Writes: numbers.

A variant is compared with the promoted pair over the time in which the variant served: what the
pair answered before and after it says something of other days.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.clock import moment
from adc_features.errors import InputError
from adc_features.event_times import microseconds
from adc_features.served.dataset import served_dataset
from adc_features.served.dataset_settings import DatasetSettings
from adc_features.served.outcomes import TIME, Target
from adc_features.served.segments import Segment, sealed_segments
from adc_features.serving.variants import Deployment
from training.evaluation.variants import DRAWS, PROMOTED, compare_variants
from training.ranker.labels import group_numbers

_WEIGHT = "sample_weight"


def compare_served(
    log: Path,
    events: pa.Table,
    targets: Sequence[Target],
    *,
    ranker: str | None = None,
    settings: DatasetSettings | None = None,
    deployment: Deployment | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare each variant that a log tells of with the promoted pair.

    Parameters
    ----------
    log : Path
        Of `adc serve --log`.
    events : pyarrow.Table
        What came of it, as `read_outcomes` takes them.
    targets : sequence of Target
        The tasks.
    ranker : str, optional
        The ranker that is promoted; by default the only one of the log that was.
    settings : DatasetSettings, optional
        Which candidates count as seen, and until when events are complete.
    deployment : Deployment, optional
        What serves now: it states the shares of the variants that still do.
    draws, seed : int
        Of users, for the 95 % intervals; of the draws.

    Returns
    -------
    dict
        `ranker`; `log`: what became of requests and events; `tasks`: task -> variant ->
        `since`, `until` (its first and its last request), `stated_share`, `variant` and `promoted`
        (each with `pairs`, `requests`, `users`, `rows`, their `share` of the users, and with mean,
        low and high the `label` and the `gauc`), `difference` (variant less promoted),
        `users_of_several`; `not_compared`: task -> variant -> why not.

    Raises
    ------
    InputError, ArtifactError
        As `served_dataset`; several rankers are promoted and none is named, no variant served, or
        none can be compared.
    """
    segments = sealed_segments(log)
    name, rankers = _rankers(segments, ranker)
    settings = settings or DatasetSettings()
    table, told = served_dataset(log, events, targets, ranker=rankers, settings=settings)
    (user,) = {s.about.user for s in segments if s.about.ranker in rankers}
    rows = _Rows(table, user, settings)
    if not rows.variants:
        raise InputError(
            f"no variant of {name!r} served a request of {log} whose window is over; start one,"
            " `adc promote --as NAME --share P`, or wait. A shadow's scores are not in the log"
        )
    stated = {v.name: v.share for v in deployment.variants} if deployment else {}
    found: dict[str, Any] = {
        "ranker": name,
        "tasks": {target.name: {} for target in targets},
        "not_compared": {},
        "draws": draws,
        "log": told.to_dict(),
    }
    for target in targets:
        for variant in rows.variants:
            try:
                one = rows.compared(variant, target.column, draws=draws, seed=seed)
            except InputError as error:
                found["not_compared"].setdefault(target.name, {})[variant] = str(error)
            else:
                one["stated_share"] = stated.get(variant)
                found["tasks"][target.name][variant] = one
    if not any(found["tasks"].values()):
        reasons = found["not_compared"].items()
        told_of = [f"{v} on {task}: {why}" for task, of in reasons for v, why in of.items()]
        raise InputError("no variant can be compared; " + "; ".join(told_of))
    return found


def _rankers(segments: Sequence[Segment], name: str | None) -> tuple[str, list[str]]:
    """The promoted ranker, and it with those that served as its variants alone."""
    promoted, all_names = set[str](), sorted({s.about.ranker for s in segments})
    for segment in segments:
        if segment.request_rows(["variant"])["variant"].null_count:
            promoted.add(segment.about.ranker)
    if name is None and len(promoted) > 1:
        raise InputError(
            f"the log holds answers of the promoted rankers {', '.join(sorted(promoted))}; name"
            " one, --ranker NAME"
        )
    name = name or next(iter(promoted or all_names))
    return name, [n for n in all_names if n == name or n not in promoted]


class _Rows:
    """Rows of what was served, with what is asked of them several times."""

    def __init__(self, table: pa.Table, user: Sequence[str], settings: DatasetSettings) -> None:
        self._table = table
        self._times = microseconds(table[TIME])
        self._user = group_numbers(table, user)
        self._request = group_numbers(table, [settings.request])
        self._variant = np.array(table["served_variant"].to_pylist(), dtype=object)
        self._promoted = table["served_variant"].is_null().to_numpy()
        weight = settings.weight or _WEIGHT
        known = weight in table.column_names
        self._weight = table[weight].to_numpy() if known else np.ones(len(table))
        self.variants = sorted(set(self._variant) - {None})

    def compared(self, variant: str, label: str, *, draws: int, seed: int) -> dict[str, Any]:
        """One variant with the promoted pair, on the column of one task. Raises InputError."""
        own = self._variant == variant
        since, until = self._times[own].min(), self._times[own].max()
        beside = self._promoted & (self._times >= since) & (self._times <= until)
        usable = self._table[label].is_valid().to_numpy()
        rows = np.flatnonzero((own | beside) & usable)
        taken = self._table.take(pa.array(rows))
        found = compare_variants(
            self._variant[rows],
            self._user[rows],
            taken[label].to_numpy().astype(float),
            taken["served_score"].to_numpy(),
            weight=self._weight[rows],
            draws=draws,
            seed=seed,
        )
        sides = {"variant": variant, "promoted": PROMOTED}
        people = sum(found["variants"][of]["users"] for of in sides.values())
        return {
            "since": moment(np.datetime64(int(since), "us")).isoformat(),
            "until": moment(np.datetime64(int(until), "us")).isoformat(),
            **{
                side: {
                    **self._served(rows, None if side == "promoted" else variant),
                    "share": found["variants"][of]["users"] / people,
                    **found["variants"][of],
                }
                for side, of in sides.items()
            },
            "difference": found["against"][variant],
            "users_of_several": found["users_of_several"],
        }

    def _served(self, rows: np.ndarray, variant: str | None) -> dict[str, Any]:
        mine = rows[self._variant[rows] == variant]
        pairs = pc.unique(self._table["served_pair"].take(pa.array(mine)))
        return {
            "pairs": sorted(pairs.to_pylist()),
            "requests": len(np.unique(self._request[mine])),
        }


def verdicts(found: Mapping[str, Any]) -> list[str]:
    """A sentence for each task and variant: whether its interval excludes no difference."""
    told = []
    for task, variants in found["tasks"].items():
        for name, one in variants.items():
            low, high = (one["difference"]["label"][side] for side in ("low", "high"))
            word = "is above" if low > 0 else "is below" if high < 0 else "cannot be told from"
            told.append(
                f"{task}: the mean label of {name} {word} that of the promoted pair"
                f" (95 % interval of the difference {low:.4g} to {high:.4g})"
            )
    return told
