"""A trained PPNet of the former format. Reads: ranker directories, Inputs. Writes: probabilities.

<seed>/weights.safetensors       its parameters
<seed>/ppnet.json                settings and shape
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np

from adc_features.ranking.legacy.fused import FusedPPNet
from adc_features.ranking.legacy.inputs import Inputs
from adc_features.ranking.legacy.shape import PPNetSettings, PPNetShape


class PPNetRanker:
    """A trained PPNet as a `Ranker`, without torch.

    Parameters
    ----------
    settings : PPNetSettings
        What it was built and trained with.
    shape : PPNetShape
        The widths of its inputs.
    tensors : mapping of str to ndarray
        Parameters by name, float32.

    Examples
    --------
    >>> ranker = PPNetRanker.load(Path("ranker/seed_0"))  # doctest: +SKIP
    >>> ranker.predict(inputs)  # doctest: +SKIP
    array([0.81, 0.37], dtype=float32)

    Source
    ------
    PEPNet, arXiv 2302.01115.
    """

    def __init__(
        self, settings: PPNetSettings, shape: PPNetShape, tensors: Mapping[str, np.ndarray]
    ) -> None:
        self.settings, self.shape, self.tensors = settings, shape, tensors
        self._fused = FusedPPNet(settings, shape, tensors)

    def predict(self, inputs: Inputs) -> np.ndarray:
        """Score rows.

        Parameters
        ----------
        inputs : Inputs
            Rows as the ranker's encoder makes them.

        Returns
        -------
        ndarray
            P(label = 1), float32 [N]; equal to what torch computed to within 1e-6.
        """
        with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is 0
            return 1.0 / (1.0 + np.exp(-self._fused.logits(inputs)))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read the directory of one seed."""
        from safetensors.numpy import load_file

        facts = json.loads((directory / "ppnet.json").read_text(encoding="utf-8"))
        return cls(
            PPNetSettings.of(facts["settings"]),
            PPNetShape(**facts["shape"]),
            load_file(directory / "weights.safetensors"),
        )
