"""Train one recipe. Reads: TrainingFrame, Sources. Writes: Trained, ranker directories.

<ranker>/encoder.npz             vocabularies and scales
<ranker>/seed_<n>/               the files of one seed's model
<ranker>/manifest.json           written last: recipe, generation, rounds, curves
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal, within
from adc_features.errors import ArtifactError, GenerationMismatch
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.inputs import InputEncoder, Inputs
from training.evaluation.metrics import check_two_classes
from adc_features.ranking.base import Progress, Ranker, Round
from adc_features.ranking.recipes import MIN_COUNT, Exchange, Recipe, Sources, exchange, recipe_inputs
from adc_features.ranking.recipes import recipe as recipe_named

log = logging.getLogger(__name__)
HOLDOUT = 0.1
"""Share of the training rows, the newest, that choose the number of rounds."""


@dataclass(frozen=True)
class Trained:
    """One recipe's rankers, one for each seed, with all they need to score a frame.

    generation: of the codes that they read, None without codes. curve: losses by round of the first seed, held-out rows included.
    """

    recipe: Recipe
    generation: str | None
    encoder: InputEncoder
    rankers: Mapping[int, Ranker]
    rounds: int
    curve: Sequence[Round]
    exchanged: Exchange | None = None

    def predict(self, frame: TrainingFrame, sources: Sources) -> np.ndarray:
        """Probabilities, float32 [seeds, N]. Raises GenerationMismatch when the frame holds codes of another generation."""
        if self.generation is not None and frame.generation != self.generation:
            raise GenerationMismatch(
                f"the ranker was trained on generation {self.generation!r}, the frame holds {frame.generation!r}; join the generation it knows or retrain"
            )
        inputs = recipe_inputs(frame, self.recipe, self.encoder, sources, exchanged=self.exchanged)
        return np.stack([ranker.predict(inputs) for ranker in self.rankers.values()])

    def save(self, directory: Path) -> None:
        """Write a complete ranker directory. Controls with exchanged weights are for comparison and are not served."""
        if self.exchanged is not None:
            raise ValueError(f"{self.recipe.name} is a control; save codes_weights instead")
        with fresh_directory(directory) as aside:
            self.encoder.write(aside / "encoder.npz")
            for seed, ranker in self.rankers.items():
                (aside / f"seed_{seed}").mkdir()
                ranker.save(aside / f"seed_{seed}")
            facts = {"kind": "ranker", "recipe": asdict(self.recipe), "generation": self.generation, "seeds": list(self.rankers), "rounds": self.rounds}
            seal(aside, {**facts, "curve": [r._asdict() for r in self.curve]})


def load_trained(directory: Path, *, generation: str | None) -> Trained:
    """Open a ranker directory for codes of `generation`.

    Raises ArtifactError when it is incomplete or altered, GenerationMismatch when it was trained on another generation.
    """
    manifest = read_manifest(directory)
    if unnamed := [s for s in manifest["seeds"] if not any(name.startswith(f"seed_{s}/") or name.startswith(f"seed_{s}.") for name in manifest["files"])]:
        raise ArtifactError(f"{directory}/{MANIFEST} names no file of seed {unnamed[0]}: it was altered, train the ranker again")
    if manifest["generation"] is not None and manifest["generation"] != generation:
        raise GenerationMismatch(
            f"{directory} was trained on generation {manifest['generation']!r}, the codes offered are {generation!r}; serve the generation it knows"
        )
    recipe = Recipe(**manifest["recipe"])
    load = _ranker_class(recipe).load
    return Trained(
        recipe=recipe,
        generation=manifest["generation"],
        encoder=InputEncoder.read(Path(directory) / "encoder.npz"),
        rankers={seed: load(within(Path(directory), f"seed_{seed}", said_by=f"{directory}/{MANIFEST}")) for seed in manifest["seeds"]},
        rounds=manifest["rounds"],
        curve=[Round(**r) for r in manifest["curve"]],
    )


def train(
    frame: TrainingFrame,
    recipe: Recipe | str,
    *,
    sources: Sources,
    seeds: Sequence[int] = (0, 1, 2),
    start: Ranker | None = None,
    progress: Progress | None = None,
) -> Trained:
    """Train a recipe on every row of `frame`, once for each seed.

    start: an older ranker on the same codes, or on a generation that keeps them, whose knowledge of them the new ones begin with.

    How many rounds is chosen by log loss on the newest tenth of these rows, with a model of the first seed that did not see them.
    Raises InputError when the labels have one class or the recipe lacks what it reads.
    """
    recipe = recipe_named(recipe) if isinstance(recipe, str) else recipe
    check_two_classes(frame.labels)
    encoder = InputEncoder.fit(frame, min_count=MIN_COUNT)
    exchanged = None
    if recipe.permuted != "no" and sources.sids is not None:
        items = np.concatenate([sources.sids.item_ids, frame.item_ids])
        exchanged = exchange(frame, items, within=recipe.permuted, seed=seeds[0])
    inputs = recipe_inputs(frame, recipe, encoder, sources, exchanged=exchanged)
    older, newer = _by_time(frame)
    ranker = _ranker(recipe, inputs, frame, encoder)
    if start is not None:
        ranker.begin_at(start)
    curve = ranker.fit(inputs.take(older), seed=seeds[0], holdout=inputs.take(newer), progress=progress)
    losses = np.array([r.holdout for r in curve], np.float64)
    rounds = 1 + int((losses + ranker.round_cost * np.arange(len(losses))).argmin())
    rankers = {}
    for seed in seeds:
        rankers[seed] = _ranker(recipe, inputs, frame, encoder)
        if start is not None:
            rankers[seed].begin_at(start)
        rankers[seed].fit(inputs, seed=seed, rounds=rounds, progress=progress)
    log.info("stage=train recipe=%s rows=%d seeds=%d rounds=%d holdout_logloss=%.4f", recipe.name, len(frame), len(seeds), rounds, losses[rounds - 1])
    return Trained(recipe, frame.generation if recipe.codes != "none" else None, encoder, rankers, rounds, curve, exchanged)


def _by_time(frame: TrainingFrame) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the older rows and of the newest HOLDOUT of them, split between two times."""
    times = frame.times
    cut = np.sort(times)[int(len(times) * (1 - HOLDOUT))]
    return np.flatnonzero(times < cut), np.flatnonzero(times >= cut)


def _ranker(recipe: Recipe, inputs: Inputs, frame: TrainingFrame, encoder: InputEncoder) -> Ranker:
    codebook_size = frame.codebook_size if recipe.codes != "none" else 0
    if recipe.model == "xgboost":
        from adc_features.ranking.boosted import BoostedRanker, BoostedSettings

        return BoostedRanker(BoostedSettings(), codebook_size=codebook_size)
    from adc_features.ranking.ppnet.network import PPNetRanker, PPNetSettings, PPNetShape

    shape = PPNetShape.of(inputs, id_rows=encoder.id_rows, users=len(encoder.users) + 1, codebook_size=codebook_size, item_id=recipe.item_id)
    return PPNetRanker(PPNetSettings(), shape)


def _ranker_class(recipe: Recipe) -> type[Ranker]:
    if recipe.model == "xgboost":
        from adc_features.ranking.boosted import BoostedRanker

        return BoostedRanker
    from adc_features.ranking.ppnet.network import PPNetRanker

    return PPNetRanker
