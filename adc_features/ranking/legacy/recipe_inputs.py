"""The arrays that a recipe of the former format showed to its ranker. Reads: a Frame, Recipe.
Writes: Inputs.
"""

import numpy as np

from adc_features.errors import InputError
from adc_features.loader.frame import Frame
from adc_features.ranking.legacy.inputs import InputEncoder, Inputs
from adc_features.ranking.legacy.match import code_match
from adc_features.ranking.recipes import Recipe, Sources


def recipe_inputs(
    frame: Frame,
    recipe: Recipe,
    encoder: InputEncoder,
    sources: Sources,
    *,
    user: Frame | None = None,
) -> Inputs:
    """The arrays that this recipe shows to its ranker.

    user: one row with the user's features, where `frame` holds candidates of one request and item
    features alone; else each row of `frame` has its own. Raises InputError when the recipe needs
    codes that are not given, or read raw vectors, GenerationMismatch when frame and timeline
    disagree.
    """
    if recipe.vectors:
        raise InputError(
            f"recipe {recipe.name!r} reads raw vectors, and was trained by an older version, whose"
            " rankers score with codes or statistics alone now; train it again"
        )
    rows = len(frame)
    user = frame if user is None else user
    sid, weight, reliability, match = (
        np.zeros((rows, 0), t) for t in (np.int64, np.float32, np.float32, np.float32)
    )
    if recipe.codes != "none":
        timeline = sources.codes(frame, recipe)
        codes, weight, known = frame.codes(timeline.length)
        weight = np.where(codes >= 0, weight if recipe.codes == "weighted" else 1.0, 0.0).astype(
            np.float32
        )
        reliability = known[:, None] if recipe.codes == "weighted" else reliability
        match = code_match(user, timeline, codes, weight, weighted=recipe.codes == "weighted")
        sid = codes.astype(np.int64) + 1
    return Inputs(
        label=frame.labels,
        user=_for_each(encoder.user_rows(user), rows),
        ids=encoder.ids(frame, user),
        item=encoder.item(frame, user),
        user_state=_for_each(encoder.user_state(user), rows),
        settled=_for_each(encoder.settled(user), rows),
        sid=sid,
        weight=weight,
        reliability=reliability,
        match=match,
    )


def _for_each(user: np.ndarray, rows: int) -> np.ndarray:
    """What is known of the users for each row: one a row already, or the same for all."""
    return user if len(user) == rows else np.repeat(user, rows, axis=0)
