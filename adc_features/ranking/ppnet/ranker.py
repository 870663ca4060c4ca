"""A trained PPNet that scores with numpy alone. Reads: ranker directories, Inputs. Writes: ranker
directories, probabilities.

<seed>/weights.safetensors       the parameters of `network.LevelledPPNet`
<seed>/ppnet.json                settings and shape
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import numpy as np

from adc_features.ranking.inputs import Inputs
from adc_features.ranking.ppnet.fused import FusedPPNet
from adc_features.ranking.ppnet.shape import PPNetSettings, PPNetShape


class PPNetRanker:
    """A trained PPNet as a `Ranker`, without torch.

    Parameters
    ----------
    settings : PPNetSettings
        What it was built and trained with.
    shape : PPNetShape
        The widths of its inputs.
    tensors : mapping of str to ndarray
        Parameters of `network.LevelledPPNet` by name, float32.

    Examples
    --------
    >>> ranker = PPNetRanker.load(Path("ranker/seed_0"))  # doctest: +SKIP
    >>> ranker.predict(inputs)  # doctest: +SKIP
    array([0.81, 0.37], dtype=float32)

    Source
    ------
    PEPNet, arXiv 2302.01115; what differs from the paper stands in `network`.
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
            P(label = 1), float32 [N]; equal to what torch computes to within 1e-6.
        """
        with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is 0
            return 1.0 / (1.0 + np.exp(-self._fused.logits(inputs)))

    def save(self, directory: Path) -> None:
        """Write the checkpoint into an existing directory."""
        from safetensors.numpy import save_file

        save_file(
            {name: np.ascontiguousarray(tensor) for name, tensor in self.tensors.items()},
            directory / "weights.safetensors",
        )
        (directory / "ppnet.json").write_text(
            json.dumps({"settings": asdict(self.settings), "shape": self.shape._asdict()}),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        facts = json.loads((directory / "ppnet.json").read_text(encoding="utf-8"))
        return cls(
            PPNetSettings.of(facts["settings"]),
            PPNetShape(**facts["shape"]),
            load_file(directory / "weights.safetensors"),
        )
