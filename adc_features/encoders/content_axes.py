"""Content of all modalities on a few common axes. Reads: content. Writes: ContentAxes.

Legend: K items, C axes.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from adc_features.encoders.evidence import Content
from adc_features.errors import InputError

CENTRE, AXES = "content centre ", "content axes "


class ContentAxes(NamedTuple):
    """By modality: its mean float32 [W], and what turns a centred vector into its share of the
    axes, float32 [W, C].
    """

    centre: Mapping[str, np.ndarray]
    axes: Mapping[str, np.ndarray]

    def of(self, content: Content) -> np.ndarray:
        """Items on the axes, float32 [K, C]; a modality that an item lacks adds nothing. Raises
        InputError where modalities or widths are not those that the axes were made of.
        """
        found = {m: vectors.shape[1] for m, (vectors, _) in content.items()}
        expected = {m: len(centre) for m, centre in self.centre.items()}
        if found != expected:
            raise InputError(
                f"content has the widths {found}, behaviour was learned with {expected}; bring the"
                " same modalities, or start a new run"
            )
        total = np.zeros((0, 0), np.float32)
        for m, (vectors, present) in content.items():
            part = np.where(present[:, None], vectors - self.centre[m], 0) @ self.axes[m]
            total = part if not total.size else total + part
        return np.ascontiguousarray(total, np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        """The same by names, to be kept among parameters."""
        return {CENTRE + m: v for m, v in self.centre.items()} | {
            AXES + m: v for m, v in self.axes.items()
        }


def content_axes(
    content: Content, *, width: int, earlier: Mapping[str, np.ndarray] | None
) -> ContentAxes:
    """The axes among `earlier` parameters; else at most `width` principal components of these
    items, every modality with a mean squared length of 1.
    """
    if earlier is not None:
        return ContentAxes(
            {m.removeprefix(CENTRE): v for m, v in earlier.items() if m.startswith(CENTRE)},
            {m.removeprefix(AXES): v for m, v in earlier.items() if m.startswith(AXES)},
        )
    centre, scaled, scale = {}, [], {}
    for m, (vectors, present) in content.items():
        some = present.any()
        centre[m] = (vectors[present].mean(0) if some else np.zeros(vectors.shape[1])).astype(
            np.float32
        )
        left = np.where(present[:, None], vectors - centre[m], 0).astype(np.float64)
        scale[m] = 1 / max(np.sqrt(np.square(left).sum() / max(present.sum(), 1)), 1e-6)
        scaled.append(left * scale[m])
    joint = np.concatenate(scaled, axis=1)
    found = np.linalg.eigh(joint.T @ joint)[1][:, ::-1][:, :width]
    splits = np.cumsum([len(v) for v in centre.values()])[:-1]
    parts = np.split(found, splits, axis=0)
    return ContentAxes(
        centre,
        {m: (part * scale[m]).astype(np.float32) for m, part in zip(centre, parts, strict=True)},
    )
