"""A trained recipe of a run: load it, score with it. Reads: ranker directories, frames. Writes:
ranker directories.

A recipe is a ranker that was declared on the run's own feature service; its directory is that of
`ranking.multitask.trained`, and its manifest names the recipe too. Rankers of the former format are
read by `ranking.legacy`.

Legend: S seeds, N rows or candidates.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, read_manifest, require_files
from adc_features.codes.sids import CodeTimeline
from adc_features.errors import ArtifactError, GenerationMismatch
from adc_features.formats import KEY
from adc_features.inputs.candidates import SID_COLUMNS
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.rows import Parts
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.base import Round
from adc_features.ranking.inputs import (
    RequestSide,
    columns_read,
    keyed,
    own_name,
    recipe_table,
    request_parts,
)
from adc_features.ranking.legacy.trained import LegacyTrained, read_legacy
from adc_features.ranking.multitask.explained import Explained, explained
from adc_features.ranking.multitask.trained import TrainedRanker, ranker_in
from adc_features.ranking.recipes import Exchange, Recipe, Sources, check_generation

DECLARED = 2
"""Format of a recipe's directory from which on it is a declared ranker's."""
_SIDE_OF = {"user_id": "user", "item_id": "item"}


@dataclass(frozen=True)
class Trained:
    """One recipe's trained rankers, one for each seed, with all they need to score a frame.

    Parameters
    ----------
    recipe : Recipe
        What the rankers read.
    ranker : TrainedRanker
        The declared ranker of the recipe: declaration, pins, encoder and the model of each seed.
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
    ranker: TrainedRanker
    exchanged: Exchange | None = None
    refresh: Mapping[str, Any] = field(default_factory=dict)

    @property
    def generation(self) -> str | None:
        """Id of the generation whose codes the rankers read; None for a recipe without codes."""
        return self.ranker.generation

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the rankers; that of the first serves."""
        return tuple(self.ranker.models)

    @property
    def rounds(self) -> int:
        """Epochs or trees, chosen on the newest tenth of the training rows."""
        rounds = self.ranker.facts["rounds"]
        return int(rounds if isinstance(rounds, int) else rounds[0])

    @property
    def curve(self) -> Sequence[Round]:
        """Losses by round of the first seed, held-out rows included."""
        return [Round(**point) for point in self.ranker.facts["curve"]]

    def reads(self, key: str) -> frozenset[str]:
        """Names of the features that are read of a key, but for codes.

        Parameters
        ----------
        key : str
            `user_id` or `item_id`.

        Returns
        -------
        frozenset of str
        """
        columns = columns_read(self.ranker.encoder.specs).values()
        names = {own_name(c.name) for c in columns if c.side == _SIDE_OF[key]}
        return frozenset(names - {key, *SID_COLUMNS.values()})

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
        check_generation(self.generation, frame)
        table = recipe_table(frame, self.recipe, sources, self.exchanged)
        encoder = self.ranker.encoder
        timeline = None if self.generation is None else sources.sids
        parts = Parts.joined(keyed(table, encoder.specs), frame.times, timeline=timeline)
        return self.ranker.probabilities(encoder.encode(parts))[:, 0]

    def request(
        self, user: RequestSide, offered: RequestSide, timeline: CodeTimeline | None
    ) -> Encoded:
        """A request as `scored` reads it.

        Parameters
        ----------
        user : RequestSide
            The asker, one row.
        offered : RequestSide
            N candidates.
        timeline : CodeTimeline or None
            Codes through time, for recipes that read them.

        Returns
        -------
        Encoded
            N rows.
        """
        return self.ranker.encoder.encode(self._parts(user, offered, timeline))

    def explained(
        self, user: RequestSide, offered: RequestSide, timeline: CodeTimeline | None, *, row: int
    ) -> Explained:
        """Why a candidate of a request scored as it did.

        Parameters
        ----------
        user, offered, timeline
            As of `request`.
        row : int
            Of the candidate.

        Returns
        -------
        Explained
            What was served of it, and what each group of inputs contributed.
        """
        return explained(self.ranker, self._parts(user, offered, timeline), row)

    def _parts(
        self, user: RequestSide, offered: RequestSide, timeline: CodeTimeline | None
    ) -> Parts:
        return request_parts(self.ranker.encoder.specs, user, offered, timeline=timeline)

    def scored(self, request: Encoded) -> np.ndarray:
        """The probabilities of the first seed's ranker.

        Parameters
        ----------
        request : Encoded
            What `request` gave, N rows.

        Returns
        -------
        ndarray
            P(label = 1), float32 [N].
        """
        return self.ranker.served(request)[1][0]

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
        facts = {
            "kind": "ranker",
            "recipe": asdict(self.recipe),
            **({"refresh": self.refresh} if self.refresh else {}),
        }
        self.ranker.save(directory, facts=facts)


def load_trained(directory: Path, *, generation: str | None) -> Trained | LegacyTrained:
    """Open a ranker directory. Neither the files nor the scores need torch.

    Parameters
    ----------
    directory : Path
        What `Trained.save` wrote, or `adc run` under `ranker_<recipe>/model`.
    generation : str or None
        Id of the generation whose codes will be offered; None for no codes.

    Returns
    -------
    Trained or LegacyTrained
        With rankers that score as those that were saved, to within 1e-6; the latter where an older
        version trained them.

    Raises
    ------
    ArtifactError
        The directory is incomplete or was altered.
    GenerationMismatch
        The ranker was trained on another generation.

    Examples
    --------
    >>> trained = load_trained(ranker, generation="g1")
    >>> trained.recipe.name, trained.seeds
    ('codes_weights', (0,))

    Source
    ------
    PEPNet, arXiv 2302.01115, for PPNet; XGBoost, arXiv 1603.02754.
    """
    directory = Path(directory)
    manifest = ranker_manifest(directory)
    if manifest["generation"] is not None and manifest["generation"] != generation:
        raise GenerationMismatch(
            f"{directory} was trained on generation {manifest['generation']!r}, the codes offered"
            f" are {generation!r}; serve the generation it knows"
        )
    if manifest.get(KEY, 0) < DECLARED:
        return read_legacy(directory, manifest)
    return Trained(
        Recipe(**manifest["recipe"]),
        ranker_in(directory, manifest),
        refresh=manifest.get("refresh", {}),
    )


def ranker_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a whole ranker directory of a run, of either format. Raises ArtifactError
    when a file is missing, altered, or not named though every ranker has it.
    """
    manifest = read_manifest(directory)
    declared = manifest.get(KEY, 0) >= DECLARED
    require_files(directory, manifest, [f"inputs/{MANIFEST}" if declared else "encoder.npz"])
    for seed in manifest["seeds"]:
        if not any(
            name.startswith((f"seed_{seed}/", f"seed_{seed}.")) for name in manifest["files"]
        ):
            raise ArtifactError(
                f"{directory}/{MANIFEST} names no file of seed {seed}: it was altered, train the"
                " ranker again"
            )
    return manifest
