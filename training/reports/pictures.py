"""What the run's page draws beside the metrics. Reads: a generation, its newest codes and vectors,
facts of the stages. Writes: Pictures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import BEHAVIOR


@dataclass(frozen=True)
class Pictures:
    """What the page draws beside the metrics; whatever a run lacks stays empty.

    behavior_deciles: rarest first, {interactions, norm, half_agreement}. code_deciles: rarest
    first, {interactions, reliability, alignment, behavioral_weight, zero_weights (share)}. signal:
    x in [0, 1] of warm items. alpha, beta: of the alignment curve w = sigmoid(alpha x - beta) /
    sigmoid(alpha - beta). norms: norms of the behaviour vectors of warm items. usage: int [L, K],
    items a code, of the L `positions`. titles: {position, code, items (count), titles}.
    tokenizer_curve: {step, loss terms}. ranker_curves: recipe -> {step or epoch, train_loss,
    holdout_loss}.
    """

    behavior_deciles: list[dict] = field(default_factory=list)
    code_deciles: list[dict] = field(default_factory=list)
    signal: np.ndarray = field(default_factory=lambda: np.zeros(0))
    alpha: float = 0.0
    beta: float = 0.0
    norms: np.ndarray = field(default_factory=lambda: np.zeros(0))
    usage: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    positions: list[str] = field(default_factory=list)
    titles: list[dict] = field(default_factory=list)
    tokenizer_curve: list[dict] = field(default_factory=list)
    ranker_curves: dict[str, list[dict]] = field(default_factory=dict)


def run_pictures(
    generation: Generation,
    newest: SidTable,
    table: EmbeddingTable,
    items: pa.Table,
    *,
    behavior_deciles: list[dict],
    code_deciles: list[dict],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
) -> Pictures:
    """The pictures of a whole run. newest, table: codes and vectors as of the last cut-off. items:
    of the data set, in the table's order. curves: recipe -> {round, train, holdout} by round.
    """
    warm = table.present[BEHAVIOR]
    # the other tokenizers have no alignment controller
    settings = generation.settings.get("adc", {"alpha": 0.0, "beta": 0.0})
    size = generation.spec.codebook_size
    usage = np.stack([np.bincount(codes[codes >= 0], minlength=size) for codes in newest.sid.T])
    return Pictures(
        behavior_deciles=behavior_deciles,
        code_deciles=code_deciles,
        signal=newest.reliability[warm],
        alpha=settings["alpha"],
        beta=settings["beta"],
        norms=np.linalg.norm(table.vectors[BEHAVIOR][warm], axis=1),
        usage=usage,
        positions=[p.name for p in generation.spec.positions],
        titles=titles_of_codes(newest, table.interaction_count, items, usage),
        tokenizer_curve=generation.quality["training"],
        ranker_curves={
            name: [
                {"epoch": r["round"], "train_loss": r["train"], "holdout_loss": r["holdout"]}
                for r in rounds
            ]
            for name, rounds in curves.items()
        },
    )


def titles_of_codes(
    newest: SidTable, counts: np.ndarray, items: pa.Table, usage: np.ndarray, *, shown: int = 12
) -> list[dict[str, Any]]:
    """A dozen titles, most popular first, behind one middling code of each position; without
    titles, ids. counts: interactions of each item. usage: items a code, int [L, K].
    """
    names = items["title" if "title" in items.column_names else "item_id"].to_pylist()
    picked = []
    for position, used in enumerate(usage):
        code = int(np.argsort(used)[int(len(used) * 0.6)])
        rows = np.flatnonzero(newest.sid[:, position] == code)
        rows = rows[np.argsort(-counts[rows], kind="stable")][:shown]
        picked.append(
            {
                "position": position,
                "code": code,
                "items": int(used[code]),
                "titles": [str(names[r]) for r in rows],
            }
        )
    return picked
