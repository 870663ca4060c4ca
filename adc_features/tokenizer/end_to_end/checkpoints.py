"""What a killed fit goes on from. Reads and writes: a checkpoint file.

Frozen states lie beside it, in a directory of the same name that ends in STATES.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adc_features.artifact import fresh_file, json_text
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.tokenizer.end_to_end.network import UnisidNetwork, row_keys
from adc_features.tokenizer.end_to_end.summaries import summary_texts

STATES = ".states"


def states_fingerprint(table: EmbeddingTable, network: UnisidNetwork) -> str:
    """sha256 over all that frozen states follow from."""
    assert table.raw is not None
    s = network.settings
    digest = hashlib.sha256(f"{network.base.hash} {s.first} {s.reads_attributes}".encode())
    for key in row_keys(table.raw):
        digest.update(key)
    return digest.hexdigest()


def fit_fingerprint(
    tables: Sequence[EmbeddingTable], spec: SidSpec, network: UnisidNetwork, *, seed: int
) -> str:
    """sha256 over all that a fit follows from: what a checkpoint must agree with."""
    raw, s = tables[-1].raw, network.settings
    assert raw is not None
    facts = {"settings": s.to_dict(), "spec": spec.to_dict(), "seed": seed}
    digest = hashlib.sha256(json_text(facts).encode())
    digest.update(states_fingerprint(tables[-1], network).encode())
    if s.reconstruction_weight:
        digest.update(repr(summary_texts(raw, s)).encode())
    if s.pairs == "behavior" and BEHAVIOR in tables[0].vectors:
        for array in (
            tables[0].item_ids,
            tables[0].vectors[BEHAVIOR],
            tables[0].present[BEHAVIOR],
            tables[-1].item_ids,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(checkpoint: Path | None, saved: dict[str, Any]) -> None:
    """Write a checkpoint in the place of the one before, where there is to be one."""
    if checkpoint is None:
        return
    Path(checkpoint).parent.mkdir(parents=True, exist_ok=True)
    with fresh_file(checkpoint) as file:
        torch.save(saved, file)


def saved(checkpoint: Path | None, fingerprint: str) -> dict[str, Any] | None:
    """What a killed fit of the same left; None where there is none."""
    if checkpoint is None or not Path(checkpoint).is_file():
        return None
    found: dict[str, Any] = torch.load(checkpoint, weights_only=True)
    return found if found["fingerprint"] == fingerprint else None
