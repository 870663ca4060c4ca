"""A trained ranker of a feature service: load it, score with it. Reads: ranker directories,
encoded rows. Writes: ranker directories.

<ranker>/inputs/                 the fitted encoders and vocabularies
<ranker>/seed_<n>/               the model of one seed
<ranker>/reference.parquet       some joined rows, and what they scored
<ranker>/manifest.json           written last: declaration, pins, tasks, calibration, facts

Legend: S seeds, T tasks, N rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.artifact import fresh_directory, read_manifest, seal, within
from adc_features.codes.sids import CodeTimeline
from adc_features.errors import ArtifactError
from adc_features.inputs.declaration import ItemHistory, Ranker, SemanticId
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.facts import ranker_from_facts, ranker_to_facts
from adc_features.inputs.rows import Parts
from adc_features.parquet_files import read_parquet
from adc_features.ranking.multitask.boosted import BoostedScorer
from adc_features.ranking.multitask.ranker import AnyScorer, load_model, save_model
from adc_features.ranking.multitask.score import Calibration, served_score

KIND = "service_ranker"
REFERENCE = "reference.parquet"
REFERENCE_ROWS = 50
TOLERANCE = 1e-6
"""How far the reference rows may score from what they scored when the ranker was written."""


@dataclass(frozen=True)
class TrainedRanker:
    """A declared ranker with all that it needs to score rows of its feature service.

    Parameters
    ----------
    name : str
        Of the ranker.
    ranker : Ranker
        Its declaration; `user` and `item` are filled in.
    pins : mapping
        What the registry said of everything it reads, see `inputs.compatibility`.
    encoder : InputEncoder
        Vocabularies and scales of the training rows.
    models : mapping of int to AnyScorer
        Seed -> model; the first serves.
    features : tuple of str
        Keys of the features that the inputs read.
    calibration : tuple of Calibration
        Of each task.
    generation : str or None
        Id of the generation whose codes it reads.
    facts : mapping
        How it was trained: cut-offs, rows, rounds, losses.
    """

    name: str
    ranker: Ranker
    pins: Mapping[str, Any]
    encoder: InputEncoder
    models: Mapping[int, AnyScorer]
    features: tuple[str, ...]
    calibration: tuple[Calibration, ...]
    generation: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def reads_timeline(self) -> bool:
        """Whether an input reads the codes of a user's recent items."""
        kinds = [spec.kind for spec in self.encoder.specs]
        return any(isinstance(kind, ItemHistory) and kind.codes for kind in kinds)

    def probabilities(self, encoded: Encoded) -> np.ndarray:
        """Calibrated P(task), float32 [S, T, N]."""
        return np.stack([self.calibrated(m.predict(encoded)) for m in self.models.values()])

    def served(self, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """What serves: the score, float64 [N], and P(task), float32 [T, N], of the first seed's
        model."""
        model = next(iter(self.models.values()))
        probability = self.calibrated(model.predict(encoded))
        return served_score(probability, self.ranker), probability

    def calibrated(self, probability: np.ndarray) -> np.ndarray:
        """P(task) of a model, float32 [T, N], calibrated."""
        each = zip(self.calibration, probability, strict=True)
        return np.stack([c.apply(p) for c, p in each]).astype(np.float32)

    @property
    def _boosted(self) -> bool:
        return any(isinstance(model, BoostedScorer) for model in self.models.values())

    def coded(self, encoded: Encoded) -> np.ndarray:
        """bool [N]: the candidate has a code; all False for a ranker without codes."""
        coded = np.zeros(len(encoded), bool)
        for spec in self.encoder.specs:
            if isinstance(spec.kind, SemanticId):  # whose last number says that there is none
                coded |= encoded.blocks[spec.name].dense[:, -1] == 0
        return coded

    def save(
        self,
        directory: Path,
        *,
        reference: pa.Table | None = None,
        timeline: CodeTimeline | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a complete ranker directory, which `load_ranker` reads.

        reference: joined rows (REFERENCE_ROWS are enough) that every load scores again. timeline:
        codes through time, where an input reads those of a user's recent items. facts: what the
        manifest says otherwise, or beside.
        """
        with fresh_directory(directory) as aside:
            self.encoder.save(aside / "inputs")
            for seed, model in self.models.items():
                (aside / f"seed_{seed}").mkdir()
                save_model(model, aside / f"seed_{seed}")
            if reference is not None:
                self._save_reference(aside / REFERENCE, reference, timeline)
            seal(
                aside,
                {
                    "kind": KIND,
                    "name": self.name,
                    "ranker": ranker_to_facts(self.ranker),
                    "pins": self.pins,
                    "generation": self.generation,
                    "seeds": list(self.models),
                    "features": self.features,
                    "calibration": [c.to_dict() for c in self.calibration],
                    "needs": ["numpy", *(["xgboost"] if self._boosted else [])],
                    "facts": self.facts,
                    **(facts or {}),
                },
            )

    def _save_reference(self, path: Path, rows: pa.Table, timeline: CodeTimeline | None) -> None:
        from adc_features.store.parquet import write_parquet  # the one writer, with page checksums

        _, probability = self.served(self.encoder.encode(joined_parts(rows, timeline)))
        expected = pa.FixedSizeListArray.from_arrays(
            pa.array(probability.T.ravel()), len(probability)
        )
        write_parquet([rows.append_column("expected", expected)], path)


def joined_parts(table: pa.Table, timeline: CodeTimeline | None = None) -> Parts:
    """Joined rows as parts; their time stands in `event_timestamp`."""
    times = table["event_timestamp"].cast(pa.timestamp("us", tz="UTC")).to_numpy()
    return Parts.joined(table, times.astype("datetime64[us]"), timeline=timeline)


def load_ranker(directory: Path) -> TrainedRanker:
    """Open a ranker directory; a network needs no torch.

    The reference rows of one that reads codes through time are left to `check_reference`.

    Raises
    ------
    ArtifactError
        The directory is incomplete or was altered, holds a ranker of another kind, or its reference
        rows no longer score as they did.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if manifest.get("kind") != KIND:
        raise ArtifactError(
            f"{directory} holds {manifest.get('kind')!r}, not the ranker of a feature service; give"
            " a directory that `adc train --repo` wrote"
        )
    trained = ranker_in(directory, manifest)
    if not trained.reads_timeline:
        check_reference(trained, directory)
    return trained


def ranker_in(directory: Path, manifest: Mapping[str, Any]) -> TrainedRanker:
    """The ranker of a directory whose manifest was read and checked."""
    seeds = {
        seed: within(directory, f"seed_{seed}", said_by=f"{directory}/manifest.json")
        for seed in manifest["seeds"]
    }
    return TrainedRanker(
        name=manifest["name"],
        ranker=ranker_from_facts(manifest["ranker"]),
        pins=manifest["pins"],
        encoder=InputEncoder.load(directory / "inputs"),
        models={seed: load_model(place) for seed, place in seeds.items()},
        features=tuple(manifest["features"]),
        calibration=tuple(Calibration.from_dict(c) for c in manifest["calibration"]),
        generation=manifest["generation"],
        facts=manifest["facts"],
    )


def check_reference(
    trained: TrainedRanker, directory: Path, timeline: CodeTimeline | None = None
) -> None:
    """Raise ArtifactError unless the reference rows of its directory score as they did."""
    if not (path := directory / REFERENCE).is_file():
        return
    rows = read_parquet(path)
    expected = np.stack(rows["expected"].to_pylist()).T
    _, found = trained.served(
        trained.encoder.encode(joined_parts(rows.drop(["expected"]), timeline))
    )
    if not (difference := np.abs(found - expected).max()) <= TOLERANCE:
        raise ArtifactError(
            f"{path}: the rows score up to {difference:.2g} from what they scored when the ranker"
            " was written: a library that it uses, or what is published of its generation, changed"
            " its answers; train the ranker again"
        )
