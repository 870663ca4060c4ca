"""What every trial of a comparison reads. Reads: the stages of `<out>/run`. Writes:

<out>/behavior/<fit>/     behaviour vectors as of every cut-off, from one chronological pass
<out>/frame/              all labelled rows with the statistics that were knowable at each
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features import __version__
from adc_features.artifact import ensure_directory, fresh_directory
from adc_features.clock import instant, moment
from adc_features.codes.embeddings import EmbeddingTable, id_array
from adc_features.codes.sids import CodeTimeline
from adc_features.codes.spec import BEHAVIOR
from adc_features.data.dataset import Dataset, snapshot_times
from adc_features.data.raw_items import raw_items
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.parquet_files import read_parquet
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import content_vectors, dataset_of, statistics_of
from adc_features.ranking.inputs import lists_of
from training.comparison.plan import (
    CODES_VIEW,
    ComparisonSettings,
    Window,
    refresh_schedules,
)

FRAME = "frame.parquet"


def rows_of(out: Path) -> TrainingFrame:
    """All labelled rows with the statistics that were knowable at each; no codes."""
    run = Run.open(Path(out) / "run")
    return training_frame(
        read_parquet(Path(out) / "frame" / FRAME),
        label_table(dataset_of(run).interactions),
        generation=None,
        codebook_size=0,
        resolution=dataset_of(run).resolution,
    )


def ensure_behavior(
    run: Run, out: Path, settings: ComparisonSettings, windows: Sequence[Window], fit: int
) -> None:
    """Behaviour as of every cut-off that any window uses, from one chronological pass."""
    from adc_features.encoders.behavior import RECIPES, behavior_series

    dataset = dataset_of(run)
    starts = sorted(w.start for w in windows)
    grid = snapshot_times(
        dataset.interactions["time"].to_numpy(), split=starts[-1], count=settings.snapshots
    )
    cutoffs = sorted({*grid, *starts})
    seed = settings.seed + fit
    made_of = {
        "version": __version__,
        "data": run.facts("data")["files"],
        "cutoffs": [t.isoformat() for t in cutoffs],
        "seed": seed,
    }

    def fill(directory: Path) -> None:
        series = behavior_series(
            dataset.before(cutoffs[-1]),
            id_array(dataset.items["item_id"]),
            cutoffs=cutoffs,
            settings=RECIPES["full_softmax"](),
            seed=seed,
            checkpoint=Path(out) / ".behavior" / str(fit),
            progress=run.progress,
        )
        np.savez(
            directory / "series.npz",
            vectors=np.stack([s.vectors for s in series]),
            present=np.stack([s.present for s in series]),
            interaction_count=np.stack([s.interaction_count for s in series]),
            as_of=np.array([instant(s.as_of) for s in series]),
        )

    ensure_directory(Path(out) / "behavior" / str(fit), made_of, fill)


def ensure_frame(run: Run, out: Path, settings: ComparisonSettings) -> None:
    """Labels joined point-in-time with the statistics as they would be online, through Feast; codes
    are gathered later, a tokenizer at a time (the late join).
    """
    from adc_features.store import apply, service_name, training_features, write_parquet

    def fill(directory: Path) -> None:
        repository = Path(out) / "repository"
        with fresh_directory(repository) as repo:
            publish_monthly(repo, dataset, project="comparison")
        apply(repository)
        labels = label_table(dataset.interactions)
        joined = training_features(repository, labels, service=service_name(None), refresh=refresh)
        write_parquet([joined], directory / FRAME)

    dataset = dataset_of(run)
    refresh = refresh_schedules(settings)
    refresh.pop(CODES_VIEW, None)
    made_of: dict[str, Any] = {"version": __version__, "data": run.facts("data")["files"]}
    if refresh:
        made_of["refresh"] = {view: str(schedule) for view, schedule in refresh.items()}
    ensure_directory(Path(out) / "frame", made_of, fill)


def publish_monthly(repo: Path, dataset: Dataset, *, project: str) -> None:
    """Create a repository of the statistics of a data set. Every item's profile is published anew
    at the start of each month, with events or without."""
    from adc_features.store import create_repository, publish_statistics

    times = dataset.interactions["time"].to_numpy()
    months = np.arange(times[0].astype("datetime64[M]") + 1, times[-1].astype("datetime64[M]") + 1)
    refresh_at = [moment(t) for t in months.astype("datetime64[us]")]
    create_repository(repo, project=project)
    statistics = statistics_of(dataset, dataset.interactions, refresh_at=refresh_at)
    publish_statistics(repo, **statistics, resolution=dataset.resolution)


def tables_until(
    out: Path, start: datetime, fit: int = 0, *, raw: bool = False
) -> list[EmbeddingTable]:
    """Vectors of all items as of every cut-off up to `start`, oldest first. raw: with the items'
    raw columns.
    """
    run = Run.open(Path(out) / "run")
    dataset, text = dataset_of(run), run.output("text")
    vectors, present = content_vectors(
        dataset, lambda view: (np.load(text / f"{view}.npy"), np.load(text / f"{view}.present.npy"))
    )
    item_ids = id_array(dataset.items["item_id"])
    columns = raw_items(dataset.items) if raw else None
    with np.load(Path(out) / "behavior" / str(fit) / "series.npz") as series:
        arrays = [series[name] for name in ("vectors", "present", "interaction_count", "as_of")]
    return [
        EmbeddingTable(
            item_ids,
            {**vectors, BEHAVIOR: v},
            {**present, BEHAVIOR: p},
            count,
            moment(as_of),
            columns,
        )
        for v, p, count, as_of in zip(*arrays, strict=True)
        if as_of <= instant(start)
    ]


def interactions_until(out: Path, start: datetime) -> pa.Table:
    """All interactions before `start`."""
    return dataset_of(Run.open(Path(out) / "run")).before(start)


def coded_frame(
    frame: TrainingFrame, timeline: CodeTimeline, *, codebook_size: int
) -> TrainingFrame:
    """The frame with the codes that were servable at each row's time: the late join."""
    sid, weight, reliability = timeline.gather(frame.item_ids, frame.times)
    which = np.searchsorted(timeline.servable_at, frame.times, side="right") - 1
    as_of = pa.array(
        timeline.servable_at[np.maximum(which, 0)], pa.timestamp("us"), mask=which < 0
    ).cast(pa.timestamp("us", tz="UTC"))
    columns = {
        "sid": lists_of(sid),
        "sid_weight": lists_of(weight),
        "reliability": pa.array(reliability),
        "sid_as_of": as_of,
    }
    if timeline.has_second:
        second, chance = timeline.gather_second(frame.item_ids, frame.times)
        columns |= {"sid_second": lists_of(second), "sid_second_weight": lists_of(chance)}
    table = frame.table
    for name, column in columns.items():
        table = table.append_column(name, column)
    return TrainingFrame(table, timeline.generation, codebook_size, frame.resolution)
