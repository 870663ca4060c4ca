"""The codes in a deployment's traffic beside those of a baseline. Reads: a run, its traffic, a
baseline profile. Writes: nothing.

The baseline is the traffic before the generation was frozen, unless one was kept.
"""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant, moment, utc
from adc_features.codes.drift import DriftThresholds, drift, traffic_profile
from adc_features.codes.embeddings import id_array
from adc_features.data.dataset import Dataset, read_table
from adc_features.errors import ArtifactError, InputError
from adc_features.pipeline.context import dataset_of, known_interactions, repository_of
from adc_features.pipeline.run import Run
from adc_features.serving.promotion import PROMOTION, read_promotion

DIRECTORY = "monitor"


def traffic_drift(
    run: Run,
    *,
    traffic: str | None = None,
    as_of: datetime | None = None,
    days: int = 30,
    baseline: Path | None = None,
    thresholds: DriftThresholds | None = None,
) -> dict[str, Any]:
    """The traffic of the `days` before as_of beside the baseline: {"generation", "beyond": [...],
    "drift", "now", "baseline"}.

    traffic: Parquet or SQL table with item_id and time of what was shown; default the interactions
    that the run may look at. as_of: exclusive; default just after the last impression. The
    generation is the promoted one's, else the run's. baseline: a profile's file; default the kept
    one, else the traffic of as many days before the generation's trained_through. Raises InputError
    when a window holds no traffic, GenerationMismatch for a baseline of other codes, ArtifactError
    for a file that is no profile.
    """
    from adc_features.store.repository import live_generation

    path = run.directory / PROMOTION
    promoted = read_promotion(path).generation if path.exists() else None
    generation = promoted or run.settings.generation
    live, dataset = live_generation(repository_of(run), generation), dataset_of(run)
    ids, times = _traffic(known_interactions(run) if traffic is None else read_table(traffic))
    end = utc(as_of, name="as_of") if as_of else moment(times.max()) + dataset.resolution
    profile = _profiler(run, live, dataset, days=days)
    now = profile(end, ids, times)
    kept = baseline_path(run, generation)
    if baseline is not None or kept.is_file():
        before = _read(baseline or kept)
    else:
        before = profile(live.trained_through, *_traffic(known_interactions(run)))
    found = drift(before, now, thresholds or DriftThresholds())
    return {
        "generation": generation,
        "beyond": [name for name, f in found.items() if f["beyond"]],
        "drift": found,
        "now": now,
        "baseline": before,
    }


def baseline_path(run: Run, generation: str) -> Path:
    """Where the baseline of a generation is kept."""
    return run.directory / DIRECTORY / f"baseline_{generation}.json"


def _traffic(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Item ids and times (datetime64[us]) of what was shown; InputError without either, or without
    rows.
    """
    if missing := sorted({"item_id", "time"} - set(table.column_names)):
        raise InputError(
            f"the traffic lacks {missing}, it has {table.column_names}; give item_id and time of"
            " what was shown"
        )
    if not len(table):
        raise InputError("the traffic is empty; give what was shown")
    return id_array(table["item_id"]), table["time"].to_numpy().astype("datetime64[us]")


def _profiler(
    run: Run, live: Any, dataset: Dataset, *, days: int
) -> Callable[[datetime, np.ndarray, np.ndarray], dict[str, Any]]:
    """(end, item ids, times) -> the profile of so many days of that traffic before the end."""
    from adc_features.store import published_timeline

    timeline = published_timeline(repository_of(run), live.id)
    catalogue = id_array(dataset.items["item_id"])

    def profile(until: datetime, ids: np.ndarray, times: np.ndarray) -> dict[str, Any]:
        inside = (times >= instant(until - timedelta(days=days))) & (times < instant(until))
        if not inside.any():
            raise InputError(
                f"no impression lies in the {days} days before {until.isoformat()}; widen --days,"
                " or give the traffic of that time"
            )
        return traffic_profile(
            ids[inside],
            times[inside],
            timeline,
            codebook_size=live.codebook_size,
            codebook_hash=live.codebook_hash,
            catalogue=catalogue,
        )

    return profile


def _read(path: Path) -> dict[str, Any]:
    try:
        profile: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        if missing := sorted(
            {"codebook_hash", "usage", "weight", "reliability", "entropy", "coverage", "unknown"}
            - set(profile)
        ):
            raise ValueError(f"it lacks {missing}")
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{path} is not a traffic profile ({error}); make one with `adc monitor --keep`"
        ) from error
    return profile
