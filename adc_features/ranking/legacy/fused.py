"""A trained PPNet of the former format as a handful of matrix products, with numpy alone. Reads: a
checkpoint's arrays, Inputs. Writes: logits.

First layers and gates are linear in each embedding, so their products with the embedding tables
are made once, when a ranker is loaded. What an id or a code adds to the first layers of all
networks is then one row of one table.

Legend: B rows of a block, N networks, H width of the first hidden layer, G of the gates' hidden
layer, E embedding width.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from adc_features.ranking.legacy.inputs import Inputs
from adc_features.ranking.legacy.shape import (
    PRIOR_STATE,
    PPNetSettings,
    PPNetShape,
    dense_features,
)

BLOCK, GATHERED = 512, 32
"""Rows that are scored at once, and whose table entries are gathered at once: what is made of them
stays in the processor's cache.
"""


class FirstLayer(NamedTuple):
    """What each input of one network adds to its first layer [H] and to its gates' hidden layer
    [G].

    user: [rows, G]; the tower itself does not see who asks. content: a table [rows, H + G] for each
    other id column, then for each position of the codes.
    dense: [F + 1, H + G] for the dense features and the user state that gates see.
    """

    user: Any
    content: Sequence[Any]
    dense: Any


def first_layer(tensors: Mapping[str, np.ndarray], shape: PPNetShape) -> FirstLayer:
    """The products of one network's tables with its first layers. tensors: its parameters."""
    table = tensors["ids.table.weight"]
    first, general, prior = (
        tensors[f"tower.{name}.weight"].T for name in ("first", "of_general", "of_prior")
    )
    width = table.shape[1]
    ids = _split(table, [shape.id_rows[column] for column in shape.id_columns])
    codes = (
        _split(tensors["codes.table.weight"], [shape.codes] * shape.positions)
        if shape.positions
        else []
    )
    # where a column's embedding stands in what tower and gates read; gates read the user first
    made, place, gated = [], 0, width
    for column, embedded in enumerate([*ids[1:], *codes], start=1):
        gate = general[place : place + width]
        if column < shape.prior_ids or column >= len(ids):
            gate, gated = gate + prior[gated : gated + width], gated + width
        made.append(embedded @ np.concatenate([first[place : place + width], gate], 1))
        place += width
    state = prior[gated:]
    unseen = first[:1] * 0  # the tower does not see the state that gates see
    dense = np.concatenate([first[place:], general[place:]], 1)
    seen = np.concatenate([np.concatenate([unseen] * len(state), 0), state], 1)
    return FirstLayer(ids[0] @ prior[:width], made, np.concatenate([dense, seen], 0))


def _split(table: Any, rows: Sequence[int]) -> list[Any]:
    ends = [*accumulate(rows)]
    return [table[end - size : end] for size, end in zip(rows, ends, strict=True)]


def content_starts(shape: PPNetShape) -> list[int]:
    """Where the rows of each id column but the user's, then of each position, begin in the
    concatenated `FirstLayer.content`.
    """
    sizes = [shape.id_rows[column] for column in shape.id_columns[1:]]
    return [0, *accumulate([*sizes, *[shape.codes] * shape.positions])][:-1]


class FusedPPNet:
    """A levelled PPNet, ready to score: all networks side by side in each product.

    Columns of the first product: the H of every network, the G of every network, then the hidden
    layers of fresh and level. Later weights are block diagonal, one block for each network.
    """

    def __init__(
        self, settings: PPNetSettings, shape: PPNetShape, tensors: Mapping[str, np.ndarray]
    ) -> None:
        networks = [_named(tensors, f"orders.{n}.") for n in range(settings.networks)]
        parts = [first_layer(of_one, shape) for of_one in networks]
        width = settings.hidden[0]
        self.shape, self.networks, self.width = shape, len(networks), width * len(networks)
        self.gated = self.width + settings.gate * len(networks)
        self.starts = np.array(content_starts(shape), np.int64)
        self.user = np.concatenate([part.user for part in parts], 1)
        self.content = _beside([np.concatenate(part.content) for part in parts], width)
        biases = [
            np.concatenate([t["tower.first.bias"], t["tower.of_prior.bias"]])[None]
            for t in networks
        ]
        self.first = _first_product(
            shape, tensors, _beside([part.dense for part in parts], width), _beside(biases, width)
        )
        # 2 sigmoid(x) = 1 + tanh(x / 2): halved here
        self.layers = [
            (
                np.stack([t[f"tower.gates.{n}.weight"].T / 2 for t in networks]),
                np.stack([t[f"tower.layers.{n}.weight"].T for t in networks]),
                np.stack([t[f"tower.layers.{n}.bias"] for t in networks])[:, None],
            )
            for n in range(len(settings.hidden))
        ]
        share = np.float32(settings.fresh_share)
        self.level = np.concatenate(
            [share * tensors["fresh.2.weight"][0], (1 - share) * tensors["level.2.weight"][0]]
        )
        self.level_bias = share * tensors["fresh.2.bias"] + (1 - share) * tensors["level.2.bias"]
        self.slope, self.intercept = tensors["calibration"]

    def logits(self, inputs: Inputs) -> np.ndarray:
        """Logits of the calibrated score: float32 [rows]."""
        ids = inputs.ids[:, self.shape.id_columns]
        values = np.concatenate(
            [
                dense_features(inputs),
                inputs.user_state,
                inputs.settled,
                np.ones((len(ids), 1), np.float32),
            ],
            axis=1,
        )
        content = np.concatenate([ids[:, 1:], inputs.sid], 1) + self.starts
        share = np.ones((len(ids), 1, content.shape[1]), np.float32)
        share[:, 0, ids.shape[1] - 1 :] = inputs.weight
        # a row of zeros: numpy compares with a number three times slower
        logits, zeros = np.empty(len(ids), np.float32), np.zeros(self.first.shape[1], np.float32)
        for start in range(0, len(ids), BLOCK):
            rows = slice(start, start + BLOCK)
            first = values[rows] @ self.first
            seen = first[:, : self.gated]
            self._add_content(seen, content[rows], share[rows])
            user = ids[rows, 0]
            # a request asks for one user
            user = user[:1] if (user == user[0]).all() else user
            seen[:, self.width :] += self.user[user]
            logits[rows] = self._order_and_level(np.maximum(first, zeros, out=first))
        return self.slope * logits + self.intercept

    def _add_content(self, seen: np.ndarray, content: np.ndarray, share: np.ndarray) -> None:
        """Add each row's entries of the content table, times its share: content int64 [B, C], share
        float32 [B, 1, C].
        """
        entries = np.empty((min(GATHERED, len(seen)), *content.shape[1:], self.gated), np.float32)
        for start in range(0, len(seen), GATHERED):
            rows = slice(start, start + GATHERED)
            found = entries[: len(content[rows])]
            # "clip" writes into `out` without a copy; the rows are those of the encoder
            np.take(self.content, content[rows], axis=0, out=found, mode="clip")
            seen[rows] += (share[rows] @ found)[:, 0]

    def _order_and_level(self, first: np.ndarray) -> np.ndarray:
        """The mean logit of the networks and the user's level, from the first hidden layers."""
        hidden, seen = (
            part.reshape(len(first), self.networks, -1).swapaxes(0, 1)
            for part in (first[:, : self.width], first[:, self.width : self.gated])
        )
        for place, (gate, weight, bias) in enumerate(self.layers):
            if place:
                hidden = np.maximum(hidden, np.zeros(hidden.shape[-1], np.float32), out=hidden)
            gated = np.tanh(seen @ gate)
            gated += 1.0
            gated *= hidden
            hidden = gated @ weight
            hidden += bias
        return hidden[..., 0].mean(0) + first[:, self.gated :] @ self.level + self.level_bias


def _first_product(
    shape: PPNetShape, tensors: Mapping[str, np.ndarray], dense: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """The weights of dense features, user state, settled state and 1 (bias), for every first layer.

    dense: `FirstLayer.dense` of all networks; bias: [1, columns].
    """
    state = np.zeros((shape.user_state, dense.shape[1]), np.float32)
    state[PRIOR_STATE] = dense[shape.dense :]
    towers = np.concatenate(
        [dense[: shape.dense], state, np.zeros((shape.settled, dense.shape[1]), np.float32), bias]
    )
    fresh, level = tensors["fresh.0.weight"].T, tensors["level.0.weight"].T
    fresh = np.concatenate(
        [
            fresh[shape.user_state :],
            fresh[: shape.user_state],
            np.zeros((shape.settled, fresh.shape[1]), np.float32),
            tensors["fresh.0.bias"][None],
        ]
    )
    level = np.concatenate(
        [
            np.zeros((shape.dense + shape.user_state, level.shape[1]), np.float32),
            level,
            tensors["level.0.bias"][None],
        ]
    )
    return np.concatenate([towers, fresh, level], 1)


def _named(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _beside(tables: Sequence[np.ndarray], width: int) -> np.ndarray:
    """Tables [rows, H + G] of all networks as one: their H, then their G."""
    return np.concatenate([*(t[:, :width] for t in tables), *(t[:, width:] for t in tables)], 1)
