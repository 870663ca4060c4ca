"""A trained recipe: load it, score with it. Reads: ranker directories, frames. Writes: ranker
directories.

<ranker>/encoder.npz             vocabularies and scales
<ranker>/seed_<n>/               the files of one seed's model
<ranker>/manifest.json           written last: recipe, generation, rounds, curves
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal, within
from adc_features.errors import ArtifactError, GenerationMismatch
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.base import Ranker, Round
from adc_features.ranking.inputs import InputEncoder
from adc_features.ranking.recipes import Exchange, Recipe, Sources, recipe_inputs


@dataclass(frozen=True)
class Trained:
    """One recipe's trained rankers, one for each seed, with all they need to score a frame.

    Parameters
    ----------
    recipe : Recipe
        What the rankers read.
    generation : str or None
        Id of the generation whose codes they read; None for a recipe without codes.
    encoder : InputEncoder
        Vocabularies and scales of the training rows.
    rankers : mapping of int to Ranker
        Seed -> ranker.
    rounds : int
        Epochs or trees, chosen on the newest tenth of the training rows.
    curve : sequence of Round
        Losses by round of the first seed, held-out rows included.
    exchanged : Exchange, optional
        For a control: which item was given whose weights.
    refresh : mapping
        View -> what is known of the refresh schedule that its rows were joined by; empty for fresh
        rows.

    Examples
    --------
    >>> from datetime import timedelta
    >>> from adc_features.loader import label_table, training_frame
    >>> from adc_features.store import published_timeline, training_features
    >>> labels = label_table(log)
    >>> joined = training_features(shop, labels, service="ranker_g1")
    >>> frame = training_frame(
    ...     joined, labels, generation="g1", codebook_size=8, resolution=timedelta(days=1)
    ... )
    >>> trained = load_trained(ranker, generation="g1")
    >>> trained.predict(frame, Sources(sids=published_timeline(shop, "g1"))).shape
    (1, 2)

    Source
    ------
    PEPNet, arXiv 2302.01115, for PPNet; XGBoost, arXiv 1603.02754.
    """

    recipe: Recipe
    generation: str | None
    encoder: InputEncoder
    rankers: Mapping[int, Ranker]
    rounds: int
    curve: Sequence[Round]
    exchanged: Exchange | None = None
    refresh: Mapping[str, Any] = field(default_factory=dict)

    def predict(self, frame: TrainingFrame, sources: Sources) -> np.ndarray:
        """Score the rows of a frame with every seed's ranker.

        Parameters
        ----------
        frame : TrainingFrame
            Joined rows, of the generation that the rankers read.
        sources : Sources
            Codes and vectors through time, as for training.

        Returns
        -------
        ndarray
            P(label = 1), float32 [seeds, N].

        Raises
        ------
        GenerationMismatch
            The frame holds codes of another generation.
        InputError
            The recipe reads codes or vectors that are not given.
        """
        if self.generation is not None and frame.generation != self.generation:
            raise GenerationMismatch(
                f"the ranker was trained on generation {self.generation!r}, the frame holds"
                f" {frame.generation!r}; join the generation it knows or retrain"
            )
        inputs = recipe_inputs(frame, self.recipe, self.encoder, sources, exchanged=self.exchanged)
        return np.stack([ranker.predict(inputs) for ranker in self.rankers.values()])

    def save(self, directory: Path) -> None:
        """Write a complete ranker directory, which `load_trained` reads.

        Parameters
        ----------
        directory : Path
            A new directory, or an older ranker's, which is replaced.

        Raises
        ------
        ValueError
            A control with exchanged weights: it is for comparison and is not served.
        """
        if self.exchanged is not None:
            raise ValueError(f"{self.recipe.name} is a control; save codes_weights instead")
        with fresh_directory(directory) as aside:
            self.encoder.write(aside / "encoder.npz")
            for seed, ranker in self.rankers.items():
                (aside / f"seed_{seed}").mkdir()
                ranker.save(aside / f"seed_{seed}")
            facts = {
                "kind": "ranker",
                "recipe": asdict(self.recipe),
                "generation": self.generation,
                "seeds": list(self.rankers),
                "rounds": self.rounds,
                **({"refresh": self.refresh} if self.refresh else {}),
            }
            seal(aside, {**facts, "curve": [r._asdict() for r in self.curve]})


def load_trained(directory: Path, *, generation: str | None) -> Trained:
    """Open a ranker directory. Neither the files nor the scores need torch.

    Parameters
    ----------
    directory : Path
        What `Trained.save` wrote, or `adc run` under `ranker_<recipe>/model`.
    generation : str or None
        Id of the generation whose codes will be offered; None for no codes.

    Returns
    -------
    Trained
        With rankers that score as those that were saved, to within 1e-6.

    Raises
    ------
    ArtifactError
        The directory is incomplete or was altered.
    GenerationMismatch
        The ranker was trained on another generation.

    Examples
    --------
    >>> trained = load_trained(ranker, generation="g1")
    >>> trained.recipe.name, list(trained.rankers)
    ('codes_weights', [0])

    Source
    ------
    PEPNet, arXiv 2302.01115, for PPNet; XGBoost, arXiv 1603.02754.
    """
    manifest = read_manifest(directory)
    if unnamed := [
        s
        for s in manifest["seeds"]
        if not any(
            name.startswith(f"seed_{s}/") or name.startswith(f"seed_{s}.")
            for name in manifest["files"]
        )
    ]:
        raise ArtifactError(
            f"{directory}/{MANIFEST} names no file of seed {unnamed[0]}: it was altered, train the"
            " ranker again"
        )
    if manifest["generation"] is not None and manifest["generation"] != generation:
        raise GenerationMismatch(
            f"{directory} was trained on generation {manifest['generation']!r}, the codes offered"
            f" are {generation!r}; serve the generation it knows"
        )
    recipe = Recipe(**manifest["recipe"])
    load = _ranker_class(recipe).load
    return Trained(
        recipe=recipe,
        generation=manifest["generation"],
        encoder=InputEncoder.read(Path(directory) / "encoder.npz"),
        rankers={
            seed: load(within(Path(directory), f"seed_{seed}", said_by=f"{directory}/{MANIFEST}"))
            for seed in manifest["seeds"]
        },
        rounds=manifest["rounds"],
        curve=[Round(**r) for r in manifest["curve"]],
        refresh=manifest.get("refresh", {}),
    )


def _ranker_class(recipe: Recipe) -> type[Ranker]:
    if recipe.model == "xgboost":
        from adc_features.ranking.boosted import BoostedRanker

        return BoostedRanker
    from adc_features.ranking.ppnet.ranker import PPNetRanker

    return PPNetRanker
