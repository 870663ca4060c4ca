"""Fit the model that a ranker declares. Reads: labelled, encoded rows. Writes: scorers.

One interface for networks and trees, so that nothing else asks which it is.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, SemanticId
from adc_features.inputs.encoder import InputEncoder
from adc_features.ranking.base import Progress, Round
from adc_features.ranking.multitask.ranker import AnyScorer
from adc_features.ranking.multitask.scorer import NetworkScorer
from training.ranker.labelled import Labelled

Rounds = int | tuple[int, ...]
"""Epochs, or trees of each task."""


def check_settings(ranker: Ranker) -> None:
    """Raise InputError for `settings` that build or train no network, before any work."""
    from adc_features.ranking.multitask.shape import network_settings
    from training.ranker.fit_network import fit_settings

    said = ranker.settings or {}
    if ranker.model == "xgboost" and said:
        raise InputError(
            f"ranker {ranker.name or ranker.service!r} has settings of a network,"
            f" {', '.join(sorted(said))}, and model='xgboost'; leave them out"
        )
    try:
        network_settings(said)
        fit_settings(said)
    except TypeError as error:
        raise InputError(
            f"ranker {ranker.name or ranker.service!r} has the settings {dict(said)}, of which one"
            f" is of another type than its default ({error}); see NetworkSettings and FitSettings"
        ) from error


@dataclass(frozen=True)
class ModelFit:
    """How the model of a ranker is fitted.

    Parameters
    ----------
    ranker : Ranker
        Its declaration.
    encoder : InputEncoder
        Made the rows.
    start : NetworkScorer or None
        An older network, for a warm start.
    cold : collection of str
        Inputs that begin anew in it.
    progress : callable, optional
        Told of each round.
    device : {"cpu", "auto", "cuda"}
        Where a network is trained, see `adc_features.devices`, or trees are grown.
    """

    ranker: Ranker
    encoder: InputEncoder
    start: AnyScorer | None = None
    cold: Collection[str] = ()
    progress: Progress | None = None
    device: str = "cpu"

    def rounds(self, rows: Labelled, holdout: Labelled, *, seed: int) -> tuple[Rounds, list[Round]]:
        """As many rounds as the held-out rows choose, and the losses by round."""
        scorer, curve = self._fit(rows, seed=seed, holdout=holdout)
        if isinstance(scorer, NetworkScorer):
            from training.ranker.fit_network import chosen_rounds

            return chosen_rounds(curve), curve
        return scorer.rounds, curve

    def fit(self, rows: Labelled, *, seed: int, rounds: Rounds) -> AnyScorer:
        """The model of one seed."""
        return self._fit(rows, seed=seed, rounds=rounds)[0]

    @property
    def least_rounds(self) -> int:
        """Of a quick answer: an epoch, or 50 trees."""
        return 50 if self.ranker.model == "xgboost" else 1

    def _fit(self, rows: Labelled, *, seed: int, **options: Any) -> tuple[AnyScorer, list[Round]]:
        fit = self._trees if self.ranker.model == "xgboost" else self._network
        return fit(rows, seed=seed, **options)

    def _network(
        self, rows: Labelled, *, seed: int, **options: Any
    ) -> tuple[AnyScorer, list[Round]]:
        from adc_features.ranking.multitask.shape import NetworkShape
        from training.ranker.fit_network import fit_network, fit_settings
        from training.ranker.next_codes import next_code_tables

        older = self.start
        shape = NetworkShape.of(self.encoder.layout, self.ranker, specs=self.encoder.specs)
        coded = {s.name: s.kind for s in self.encoder.specs if isinstance(s.kind, SemanticId)}
        epochs = {name: kind.pretrain for name, kind in coded.items() if older is None}
        tensors, curve = fit_network(
            *rows[:4],
            shape=shape,
            settings=fit_settings(self.ranker.settings),
            seed=seed,
            groups=rows.groups,
            users=rows.users,
            start=(older.shape, older.tensors) if isinstance(older, NetworkScorer) else None,
            begin=next_code_tables(rows, shape, epochs, seed=seed),
            cold=self.cold,
            progress=self.progress,
            device=self.device,
            **options,
        )
        return NetworkScorer(shape, tensors), curve

    def _trees(self, rows: Labelled, *, seed: int, **options: Any) -> tuple[AnyScorer, list[Round]]:
        from adc_features.ranking.boosted_settings import BoostedSettings
        from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
        from training.ranker.fit_boosted import fit_boosted

        counts = {name: v.counts for name, v in self.encoder.vocabularies.items()}
        return fit_boosted(
            rows.in_memory,
            *rows[1:4],
            tasks=[task.name for task in self.ranker.tasks],
            columns=BoostedColumns.of(self.encoder.layout, counts),
            settings=BoostedSettings(),
            seed=seed,
            times=rows.times,
            known=rows.known,
            progress=self.progress,
            device=self.device,
            **options,
        )
