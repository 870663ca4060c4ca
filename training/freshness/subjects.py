"""Rankers whose freshness is judged: recipes of a run or of any joined frame, and declared rankers
of a repository. Reads: joined rows. Writes: models, scores.

Legend: n scored rows, S seeds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.inputs.declaration import Ranker
from adc_features.inputs.resolution import resolution
from adc_features.inputs.schema import ServiceSchema
from adc_features.loader.frame import TrainingFrame
from adc_features.pipeline.run import Run
from adc_features.ranking.base import Progress
from adc_features.ranking.multitask.trained import TrainedRanker
from adc_features.ranking.recipes import Sources
from adc_features.ranking.recipes import recipe as recipe_named
from adc_features.ranking.trained import Trained
from training.evaluation.metrics import PairedBootstrap
from training.freshness.curve import NOTHING, Refresh
from training.ranker.fitting import TrainSettings, fit_ranker, fit_then_refit, predictions
from training.ranker.joined import JoinedRows, join_log, request_fields
from training.ranker.label_sources import LabelSource
from training.ranker.labels import read_labels
from training.ranker.splits import LabelWindow, Splits, split_labels
from training.ranker.workflow import Period

EVENT_TIME = "_event_time"


class FrameRows(NamedTuple):
    """Rows of a recipe. read: as `curve.Rows`."""

    train: TrainingFrame
    scored: TrainingFrame
    sources: Sources
    read: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class RecipeSubject:
    """A recipe on joined frames. join: refresh -> its rows. seeds: how many models. schema: the
    service whose features were joined, see `training.fit`.
    """

    name: str
    window: str
    join: Callable[[Refresh], FrameRows]
    seeds: int = 1
    seed: int = 0
    schema: ServiceSchema | None = None

    @cached_property
    def _fresh(self) -> FrameRows:
        return self.join({})

    @property
    def times(self) -> np.ndarray:
        """Of the scored rows."""
        return self._fresh.scored.times.astype("datetime64[us]").astype(np.int64)

    @cached_property
    def bootstrap(self) -> PairedBootstrap:
        """Of the scored rows."""
        scored = self._fresh.scored
        return PairedBootstrap(scored.labels, scored.user_ids, seed=self.seed)

    def rows(self, refresh: Refresh) -> FrameRows:
        """As they would have been online."""
        return self.join(refresh) if refresh else self._fresh

    def fit(self, rows: FrameRows) -> Trained:
        """The recipe's rankers."""
        from training.fit import train

        return train(
            rows.train,
            self.name,
            sources=rows.sources,
            seeds=range(self.seed, self.seed + self.seeds),
            schema=self.schema,
        )

    def scores(self, model: Trained, rows: FrameRows) -> np.ndarray:
        """float [S, n]."""
        return model.predict(rows.scored, rows.sources)


def run_subject(run: Run, recipe: str, *, seeds: int = 1) -> RecipeSubject:
    """A recipe on the rows of a run."""
    from training.stages import (
        checked_frame,
        joined_rows,
        repository_of,
        schema_of,
        sources_of,
        split_frame,
        split_of,
    )

    split = split_of(run)
    schema = schema_of(repository_of(run), run.settings.generation, recipe_named(recipe))

    def join(refresh: Refresh) -> FrameRows:
        joined = joined_rows(run, refresh)
        train, scored = split_frame(run, checked_frame(run, joined))
        return FrameRows(train, scored, sources_of(run, refresh), read_columns(scored.table))

    window = "test" if run.settings.final else "validation"
    if run.settings.final:
        run.record("test_rows_opened", split=split._asdict(), recipes=[recipe])
    return RecipeSubject(recipe, window, join, seeds, run.settings.seed, schema)


def read_columns(table: pa.Table) -> dict[str, np.ndarray]:
    """View -> when what was read became valid, from the columns that a join adds."""
    return {
        name.removesuffix(EVENT_TIME): _microseconds_or_nothing(table[name])
        for name in table.column_names
        if name.endswith(EVENT_TIME)
    }


def _microseconds_or_nothing(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Times int64 [n], NOTHING for nulls."""
    filled = pc.fill_null(column.cast(pa.int64()), NOTHING)
    return np.asarray(filled)


class ServiceRows(NamedTuple):
    """Rows of a declared ranker. read: as `curve.Rows`."""

    joined: JoinedRows
    read: Mapping[str, np.ndarray]


class ServiceSubject:
    """A declared ranker on the label log of its repository, judged on its first task.

    Raises InputError as `join_labels`, before any fit.
    """

    def __init__(
        self,
        repo: Path,
        ranker: Ranker,
        source: LabelSource,
        *,
        settings: TrainSettings | None = None,
        period: Period | None = None,
        final: bool = False,
        progress: Progress | None = None,
    ) -> None:
        from adc_features.store.services.schema import service_schema

        period = period or Period()
        self._repo, self._progress = repo, progress
        self._settings = settings or TrainSettings()
        self.schema = service_schema(repo, ranker.service)
        self._resolved = resolution(
            ranker, self.schema, columns=request_fields(source, self.schema)
        )
        declared = self._resolved.ranker
        self._log = read_labels(
            source, schema=self.schema, ranker=declared, start=period.start, end=period.end
        )
        self._splits: Splits = split_labels(self._log, period.windows)
        self._final = final
        self.name = declared.name or declared.service
        self.window = "test" if final else "validation"
        self._labelled = np.flatnonzero(self._judged.mask[0])

    @property
    def views(self) -> set[str]:
        """The views that its inputs read, in the registry's names, with those that on-demand
        features are computed of."""
        read = {c.name for i in self._resolved.inputs for c in i.columns.values()}
        projected = {f.view for f in self.schema.features if f.key in read}
        by_name = {view.projected: view for view in self.schema.views}
        projected |= {s for p in projected for s in by_name[p].sources}
        return {by_name[p].name for p in projected if p in by_name}

    @property
    def _judged(self) -> LabelWindow:
        return self._splits.test if self._final else self._splits.validation

    @property
    def _scored(self) -> np.ndarray:
        """Rows of the log that are scored."""
        return self._judged.rows[self._labelled]

    @property
    def times(self) -> np.ndarray:
        """Of the scored rows."""
        return self._log.times[self._scored].astype("datetime64[us]").astype(np.int64)

    @cached_property
    def bootstrap(self) -> PairedBootstrap:
        """Users are resampled; rows where no key tells the user."""
        users, label = self._log.users, self._judged.labels[0][self._labelled]
        each = np.arange(len(label)) if users is None else users[self._scored]
        return PairedBootstrap(label.astype(np.float64), each, seed=self._settings.seed)

    def rows(self, refresh: Refresh) -> ServiceRows:
        """As they would have been online."""
        from adc_features.store.services.training_rows import read_times

        joined = join_log(
            self._repo,
            self.schema,
            self._resolved,
            self._log,
            refresh=refresh,
            progress=self._progress,
        )
        asked = self._log.entity_rows.take(pa.array(self._scored))
        read = read_times(self._repo, self.schema, asked, features=joined.features, refresh=refresh)
        found = {view: _microseconds_or_nothing(times) for view, times in read.items()}
        return ServiceRows(joined, found)

    def fit(self, rows: ServiceRows) -> TrainedRanker:
        """As `adc train` fits it."""
        splits, joined = self._splits, rows.joined
        if self._final:
            windows = splits.train, splits.validation, splits.final_train
            return fit_then_refit(joined, *windows, self._settings, progress=self._progress)
        return fit_ranker(
            joined,
            splits.train,
            self._settings,
            validation=splits.validation,
            progress=self._progress,
        )

    def scores(self, model: TrainedRanker, rows: ServiceRows) -> np.ndarray:
        """float [S, n] of the first task."""
        return predictions(model, rows.joined, self._judged)[:, 0][:, self._labelled]
