"""Train one recipe. Reads: TrainingFrame, Sources. Writes: Trained.

A recipe is a declaration like any other (`training.recipes`): it is resolved against the service
whose features were joined, encoded and fitted by `training.ranker`.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from adc_features.clock import moment
from adc_features.errors import InputError
from adc_features.inputs.resolution import Resolution, resolution
from adc_features.inputs.schema import ServiceSchema
from adc_features.loader.frame import TrainingFrame, check_two_classes
from adc_features.ranking.base import Progress
from adc_features.ranking.inputs import keyed, recipe_table
from adc_features.ranking.recipes import Exchange, Recipe, Sources, exchange
from adc_features.ranking.recipes import recipe as recipe_named
from adc_features.ranking.trained import Trained
from training.frame_schema import JOIN_KEYS, frame_schema, with_vectors
from training.ranker.fitting import TrainSettings, fit_ranker
from training.ranker.joined import JoinedRows
from training.ranker.label_sources import TIME
from training.ranker.labels import LabelLog
from training.ranker.splits import LabelWindow
from training.recipes import declared_recipe

KEPT = "sid"
"""The input whose embeddings a warm start keeps: a code means the same in a generation and in those
that continue it, all else is learned anew."""


def train(
    frame: TrainingFrame,
    recipe: Recipe | str,
    *,
    sources: Sources,
    seeds: Sequence[int] = (0, 1, 2),
    schema: ServiceSchema | None = None,
    start: Trained | None = None,
    one_round: bool = False,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Trained:
    """Train a recipe on every row of `frame`, once for each seed.

    schema: the service whose features were joined; by default what the frame's columns tell. start:
    an older ranker on the same codes, or on a generation that keeps them, for a warm start: the new
    ones begin with its embeddings of the codes.

    How many rounds is chosen by log loss on the newest tenth of these rows, with a model of the
    first seed that did not see them; with `one_round` it is one, or 50 trees. device: where models
    are trained. Raises InputError
    when the labels have one class or the recipe lacks what it reads.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    check_two_classes(frame.labels)
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        raise InputError(f"seeds are {list(seeds)}; expected numbers that follow one another")
    exchanged = _exchanged(frame, recipe, sources, seed=seeds[0])
    rows = recipe_rows(frame, recipe, sources, schema=schema, exchanged=exchanged)
    warm = start.ranker if start is not None and recipe.codes != "none" else None
    ranker = fit_ranker(
        rows,
        _every_row(frame),
        TrainSettings(seeds=len(seeds), seed=seeds[0], quick=one_round, device=device),
        start=warm,
        anew=[i.name for i in rows.resolution.inputs if i.name != KEPT],
        progress=progress,
    )
    return Trained(recipe, ranker, exchanged)


def recipe_rows(
    frame: TrainingFrame,
    recipe: Recipe,
    sources: Sources,
    *,
    schema: ServiceSchema | None = None,
    exchanged: Exchange | None = None,
) -> JoinedRows:
    """The rows of a frame as a declared ranker learns from them."""
    table = recipe_table(frame, recipe, sources, exchanged)
    schema = schema or frame_schema(frame, recipe.name)
    if recipe.vectors:
        added = set(table.column_names) - set(frame.table.column_names)
        schema = with_vectors(schema, [f for f in table.schema if f.name in added])
    resolved = _resolved(recipe, schema, sources)
    features = keyed(table, resolved.inputs)
    log = frame.table.select(["row_id", *JOIN_KEYS, TIME, "label"])
    features = features.drop_columns([name for name in JOIN_KEYS if name in features.column_names])
    return JoinedRows(
        schema=schema,
        resolution=resolved,
        log=LabelLog(log, tuple(resolved.ranker.tasks), JOIN_KEYS, JOIN_KEYS[:1], {}),
        table=_beside(log, features),
        matched={},
        generation=frame.generation if recipe.codes != "none" else None,
        timeline=sources.sids if recipe.codes != "none" else None,
    )


def _resolved(recipe: Recipe, schema: ServiceSchema, sources: Sources) -> Resolution:
    modalities = sources.vectors.modalities if recipe.vectors and sources.vectors else ()
    return resolution(declared_recipe(recipe, schema.service, modalities=modalities), schema)


def _beside(left: pa.Table, right: pa.Table) -> pa.Table:
    names = [*left.column_names, *right.column_names]
    return pa.table(dict(zip(names, [*left.columns, *right.columns], strict=True)))


def _exchanged(
    frame: TrainingFrame, recipe: Recipe, sources: Sources, *, seed: int
) -> Exchange | None:
    """Who gets whose weights, in a control."""
    if recipe.permuted == "no" or sources.sids is None:
        return None
    items = np.concatenate([sources.sids.item_ids, frame.item_ids])
    return exchange(frame, items, within=recipe.permuted, seed=seed)


def _every_row(frame: TrainingFrame) -> LabelWindow:
    """All rows, with labels that are known at the end of the newest."""
    end = moment(frame.times.max()) + frame.resolution
    count = len(frame)
    return LabelWindow(
        "train", None, end, end, np.arange(count), frame.labels[None], np.ones((1, count), bool), 0
    )
