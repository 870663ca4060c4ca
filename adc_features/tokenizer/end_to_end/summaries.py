"""What codes and vector must tell of an item (L_rec). Reads: RawItems, the base model. Writes:
targets, and the network that reads them off.

Legend: B rows, N items, V words, L levels, K codes, D width.
"""

import re
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adc_features.codes.raw_items import RawItems
from adc_features.errors import InputError
from adc_features.tokenizer.end_to_end.base import Base
from adc_features.tokenizer.end_to_end.network import Read
from adc_features.tokenizer.end_to_end.settings import UnisidE2eSettings
from adc_features.tokenizer.end_to_end.template import template_texts

SEEN = 3
"""Rarer words are left out."""
HIDDEN = 256


class Targets(NamedTuple):
    """vocabulary: words of a bag (empty for vectors). word, weight: of each item its words' numbers
    and shares. vectors: float32 [N, D], zeros without. known: bool [N], who has a target.
    """

    vocabulary: list[str]
    words: list[np.ndarray]
    weights: list[np.ndarray]
    vectors: np.ndarray
    known: np.ndarray


def summary_texts(raw: RawItems, s: UnisidE2eSettings) -> list[str]:
    """The text of each item that is reconstructed; "" where there is none. Raises InputError where
    no item has one, or the summary is the title.
    """
    if s.summary == "column":
        texts = [text or "" for text in raw.summary.to_pylist()]
        titles = raw.title.to_pylist()
        if not any(texts):
            raise InputError(
                "summary='column' needs raw items with a summary, and none has one; name a column"
                " in raw_items(items, summary=...), or take summary='attributes'"
            )
        if all(a == b for a, b in zip(texts, titles, strict=True) if a):
            raise InputError(
                "every summary equals its item's title, which the encoder reads: there is nothing"
                " to reconstruct; give another column, or take summary='attributes'"
            )
        return texts
    if s.summary == "template":
        return template_texts(raw, s.template)
    columns = (raw.path.to_pylist(), raw.brand.to_pylist(), raw.further.to_pylist())
    return [
        ", ".join([*(path or []), *([brand] if brand else []), *(further or [])])
        for path, brand, further in zip(*columns, strict=True)
    ]


def targets(raw: RawItems, base: Base, s: UnisidE2eSettings) -> Targets | None:
    """What is reconstructed of each item; None where no item has anything."""
    if not s.reconstruction_weight:
        return None
    texts = summary_texts(raw, s)
    if s.reconstruction == "vector":
        with torch.inference_mode():
            made = {text: base.sentence(text).numpy() for text in set(texts) - {""}}
        known = np.array([bool(text) for text in texts])
        none = np.zeros(base.width, np.float32)
        vectors = np.stack([made.get(text, none) for text in texts])
        return Targets([], [], [], vectors, known) if known.any() else None
    bags = [sorted(set(re.findall(r"\w+", text.lower()))) for text in texts]
    seen = Counter(word for bag in bags for word in bag)
    vocabulary = sorted(word for word, count in seen.items() if count >= SEEN)
    number = {word: n for n, word in enumerate(vocabulary)}
    words = [np.array([number[w] for w in bag if w in number], np.int64) for bag in bags]
    weights = [_shares(np.array([seen[vocabulary[n]] for n in row])) for row in words]
    known = np.array([len(row) > 0 for row in words])
    if not known.any():
        return None
    return Targets(vocabulary, words, weights, np.zeros((0, 0), np.float32), known)


def _shares(frequency: np.ndarray) -> np.ndarray:
    """Weights 1 / sqrt(document frequency), with sum 1."""
    weight = 1 / np.sqrt(frequency) if len(frequency) else np.zeros(0)
    return (weight / max(weight.sum(), 1e-12)).astype(np.float32)


class Reader(nn.Module):
    """f_rec: states of SID tokens (or the codes, straight through) and of EMB -> the target; needed
    while training only.
    """

    def __init__(
        self, target: Targets, s: UnisidE2eSettings, *, width: int, levels: int, size: int
    ) -> None:
        super().__init__()
        self.settings = s
        out = len(target.vocabulary) or target.vectors.shape[1]
        self.inner = nn.Linear((levels + 1) * width, HIDDEN)
        self.outer = nn.Linear(HIDDEN, out)
        self.codewords = nn.Parameter(torch.randn(levels, size, width) / width**0.5)

    def forward(self, said: Read, target: Targets, rows: np.ndarray) -> Tensor:
        """L_rec of a batch of items, those numbered `rows`; 0 where none has a target."""
        states = said.states
        if self.settings.reconstruct_from == "codes":
            soft = torch.softmax(said.logits, dim=-1)
            hard = F.one_hot(said.logits.argmax(-1), soft.shape[-1]).float()
            chosen = soft + (hard - soft).detach()
            words = torch.einsum("blk,lkd->bld", chosen, self.codewords)
            states = torch.cat([words, states[:, -1:]], dim=1)
        known = target.known[rows]
        if not known.any():
            return said.logits.new_zeros(())
        guess = self.outer(F.gelu(self.inner(states[torch.from_numpy(known)].flatten(1))))
        rows = rows[known]
        if not target.vocabulary:
            return _nearest(guess, torch.from_numpy(target.vectors[rows]), self.settings)
        log_BV = F.log_softmax(guess, dim=1)
        row = np.repeat(np.arange(len(rows)), [len(target.words[n]) for n in rows])
        word = np.concatenate([target.words[n] for n in rows])
        weight = torch.from_numpy(np.concatenate([target.weights[n] for n in rows]))
        return -(log_BV[torch.from_numpy(row), torch.from_numpy(word)] * weight).sum() / len(rows)


def _nearest(guess: Tensor, vectors: Tensor, s: UnisidE2eSettings) -> Tensor:
    """InfoNCE between what is read off and the summaries' own vectors; rows of one vector are
    positives of each other.
    """
    score = F.normalize(guess, dim=1) @ vectors.T / s.temperature
    same = vectors @ vectors.T > 1 - 1e-6
    return -(torch.where(same, F.log_softmax(score, dim=1), 0.0).sum(1) / same.sum(1)).mean()
