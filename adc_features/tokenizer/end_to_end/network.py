"""The encoder with its SID and EMB tokens. Reads: RawItems. Writes: codes and vectors.

Content sees content; SID token l sees content and itself, and under `causal` the tokens before it;
EMB sees all. So states of content depend on no token, and those below the layer where tokens enter
can be kept. Legend: R packed rows, B items, L levels, K codes, D width, T word pieces of an item.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from adc_features.codes.raw_items import TYPES, RawItems
from adc_features.codes.spec import NO_CODE, SidSpec
from adc_features.errors import GenerationMismatch, InputError
from adc_features.tokenizer.end_to_end import images
from adc_features.tokenizer.end_to_end.base import Base, Layer, Packing, base_directory
from adc_features.tokenizer.end_to_end.settings import UnisidE2eSettings


class Content(NamedTuple):
    """What frozen layers made of one item: states of word pieces float16 [T, D], of which the first
    `text` are of title and brand, and of its image float16 [4, 1280], or [0, 1280] without one.
    """

    states_TD: Tensor
    text: int
    image: Tensor

    @property
    def is_empty(self) -> bool:
        return not (len(self.states_TD) or len(self.image))


class Read(NamedTuple):
    """What the tokens say of items: states float32 [B, L + 1, D], logits [B, L, K], vectors
    [B, E].
    """

    states: Tensor
    logits: Tensor
    vectors: Tensor


class UnisidNetwork(nn.Module):
    """Frozen lower layers, tuned upper layers, tokens and heads. Its parameters are those that a
    generation stores; the base model is held beside them.
    """

    widths: Mapping[str, int] = {}
    """It reads no vectors."""

    def __init__(self, spec: SidSpec, s: UnisidE2eSettings, *, base: Base | None = None) -> None:
        super().__init__()
        base = base or Base(base_directory(s.model))
        if s.first >= base.depth:
            raise InputError(
                f"tokens enter at layer {s.first}, {s.model!r} has the layers 0 to"
                f" {base.depth - 1}; lower `first`"
            )
        self._base = (base,)  # a tuple: not among the parameters
        self.settings, self.length, self.size = s, spec.length, spec.codebook_size
        width, rows = base.width, spec.length + 1
        self.layers = nn.ModuleList(_copied(layer) for layer in base.layers[s.first :])
        self.tokens = nn.Parameter(torch.randn(rows, width))
        self.heads = nn.ModuleList(nn.Linear(width, self.size) for _ in range(self.length))
        self.embedding = nn.Linear(width, s.width)
        self.image = nn.Linear(images.WIDTH, width)
        self.image_type = nn.Parameter(0.02 * torch.randn(images.ROWS, width))
        sees = torch.ones(rows, rows).tril().bool()
        if s.order == "parallel":
            sees[:-1] = torch.eye(rows)[:-1].bool()
        self._sees = sees
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def base(self) -> Base:
        return self._base[0]

    def freeze(self) -> None:
        """Round parameters to float16, as they are stored."""
        for parameter in self.parameters():
            parameter.data = parameter.data.half().float()

    def contents(self, raw: RawItems, *, names: np.ndarray | None = None) -> "list[Content]":
        """What the frozen layers make of items, each read by itself. Raises InputError on an image
        that cannot be decoded, MissingExtraError where the extra `image` is missing.
        """
        pieces = self.base.pieces(raw, attributes=self.settings.reads_attributes)
        none = torch.zeros(0, images.WIDTH, dtype=torch.float16)
        empty = torch.zeros(0, self.base.width, dtype=torch.float16)
        found = []
        with torch.inference_mode():
            for item, rows in zip(
                pieces, images.image_rows(raw.image.to_pylist(), names), strict=True
            ):
                states = self.base.lower(item, self.settings.first) if len(item.ids) else empty
                found.append(Content(states, item.text, none if rows is None else rows))
        return found

    def forward(self, contents: Sequence[Content], *, attributes: np.ndarray | None = None) -> Read:
        """What the tokens say of a batch; attributes: bool [B], whose attributes are read (None:
        all).
        """
        x_RD, packing, content = self._entered(contents, attributes)
        last, dropout = len(self.layers) - 1, self.settings.dropout
        for number, layer in enumerate(self.layers):
            # of the last layer only the tokens' states are read
            asking = content if number == last else 0
            x_RD = layer(x_RD, packing, asking=asking, dropout=dropout)
        states = x_RD.view(len(contents), self.length + 1, -1)
        logits = torch.stack([head(states[:, n]) for n, head in enumerate(self.heads)], dim=1)
        return Read(states, logits, self.embedding(states[:, -1]))

    def _entered(
        self, contents: Sequence[Content], attributes: np.ndarray | None
    ) -> tuple[Tensor, Packing, int]:
        """Packed rows with the tokens last, where they stand, and how many are content."""
        items, tokens = len(contents), self.length + 1
        with torch.no_grad():
            texts = [
                c.states_TD if attributes is None or attributes[n] else c.states_TD[: c.text]
                for n, c in enumerate(contents)
            ]
            words, pictures = (
                np.array([len(rows) for rows in parts])
                for parts in (texts, [c.image for c in contents])
            )
            rows_RD = torch.cat(texts).float()
            image_RW = torch.cat([c.image for c in contents]).float()
        types_RD = self.image_type.repeat(len(image_RW) // images.ROWS, 1)
        seen = words + pictures
        places = int(seen.max()) + tokens
        item = np.arange(items)
        place_R = np.concatenate(
            [
                np.repeat(item * places, words) + _counted(words),
                np.repeat(item * places + words, pictures) + _counted(pictures),
                np.repeat(item * places + places - tokens, tokens)
                + np.tile(np.arange(tokens), items),
            ]
        )
        is_content = np.zeros((items, places), bool)
        is_content[:, : places - tokens] = np.arange(places - tokens) < seen[:, None]
        mask_BQS = torch.from_numpy(np.repeat(is_content[:, None], places, axis=1))
        mask_BQS[:, -tokens:, -tokens:] = self._sees
        # a place that no row stands at sees itself: a softmax over nothing would be NaN
        mask_BQS |= torch.eye(places, dtype=torch.bool)
        x_RD = torch.cat([rows_RD, self.image(image_RW) + types_RD, self.tokens.repeat(items, 1)])
        packing = Packing(torch.from_numpy(place_R), items, places, mask_BQS)
        return x_RD, packing, int(seen.sum())

    def read(
        self,
        raw: RawItems | None,
        *,
        names: np.ndarray | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32 [N, L] and vectors float32 [N, E] of items, each read by itself and once;
        codes -1 and zeros where an item has neither text nor image.

        Raises InputError without raw items.
        """
        raw = self._checked(raw)
        keys = row_keys(raw)
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        new = sorted(row for key, row in first.items() if key not in self._known)
        for done, row in enumerate(new):
            part = np.array([row])
            self.learn(
                [keys[row]],
                self.contents(raw.take(part), names=None if names is None else names[part]),
            )
            if progress is not None:
                progress(done + 1, len(new))
        found = [self._known[key] for key in keys]
        return np.stack([codes for codes, _ in found]), np.stack([vector for _, vector in found])

    def learn(self, keys: Sequence[bytes], contents: Sequence[Content]) -> None:
        """Read items whose frozen states are there, each by itself, and keep what they say."""
        absent = np.full(self.length, NO_CODE, np.int32), np.zeros(self.settings.width, np.float32)
        with torch.inference_mode():
            for key, content in zip(keys, contents, strict=True):
                if content.is_empty:
                    self._known[key] = absent
                    continue
                said = self([content])
                self._known[key] = (
                    said.logits[0].argmax(-1).numpy().astype(np.int32),
                    said.vectors[0].numpy(),
                )

    def _checked(self, raw: RawItems | None) -> RawItems:
        if raw is None:
            raise InputError(
                "unisid_e2e codes raw items, and the table has vectors alone; give it"
                " `raw=raw_items(items)` (adc_features.data.raw_items)"
            )
        return raw


def check_base(network: UnisidNetwork, expected: str) -> None:
    """Raise GenerationMismatch unless the base model is the one that a generation was tuned on."""
    if network.base.hash != expected:
        raise GenerationMismatch(
            f"the generation was tuned on weights {expected[:12]} of text model"
            f" {network.settings.model!r}, here its weights are {network.base.hash[:12]}; install"
            " the version that it was fitted with, or fit it again"
        )


def row_keys(raw: RawItems) -> list[bytes]:
    """What tells the raw contents of items apart, 16 bytes each."""
    columns = [getattr(raw, name).to_pylist() for name in TYPES if name != "summary"]
    return [
        hashlib.blake2b(repr(row).encode(), digest_size=16).digest()
        for row in zip(*columns, strict=True)
    ]


def _counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each run of these lengths."""
    ends = np.cumsum(lengths)
    return np.arange(lengths.sum()) - np.repeat(ends - lengths, lengths)


def _copied(layer: nn.Module) -> Layer:
    """The layer with parameters of its own, to tune."""
    import copy

    return copy.deepcopy(layer).requires_grad_(True)  # type: ignore[return-value]
