"""A trained network of several tasks, with numpy alone. Reads: its parameters, Encoded. Writes:
probabilities.

Blocks of one row (a request's user) stand for all N candidates: what they add to the first layers
of towers and gates is computed once, as these layers are linear, and so is the user's side of a
history, to which each candidate attends. Only the gate of a domain that reads all embeddings
breaks this: it scales them before the first layer.

Legend: N rows, T tasks, E embedding width, X columns of the general vector and of level inputs, H
width of the first hidden layer, G of the gates' hidden layer.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.encoded import Bag, Encoded, History, Lookup, Projected, Slot
from adc_features.ranking.multitask.pieces import length, pieces
from adc_features.ranking.multitask.recent import (
    mixture,
    pooled_and_attended,
    segment_sums,
    similarity,
)
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranking.multitask.sides import Product, Sides, beside, scaled, side_by_side

PATTERNS = 8
"""How many ways to split inputs into one row and N rows are kept: a service has one or two."""


class NetworkScorer:
    """Probabilities of a trained network.

    Parameters
    ----------
    shape : NetworkShape
        What was built.
    tensors : mapping of str to ndarray
        Its parameters as `training.ranker.fit_network` returns them.
    """

    def __init__(self, shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> None:
        self.shape, self.tensors = shape, dict(tensors)
        self.networks = [
            _Network(shape, _below(tensors, f"networks.{n}."))
            for n in range(shape.settings.networks)
        ]
        self.level = _Level(shape, tensors) if shape.level else None

    def predict(self, encoded: Encoded) -> np.ndarray:
        """P(label = 1) by task: float32 [T, N]."""
        logits = self.logits(encoded)
        with np.errstate(over="ignore"):  # exp of a large number is inf, and 1 / inf is 0
            return 1.0 / (1.0 + np.exp(-logits))

    def logits(self, encoded: Encoded) -> np.ndarray:
        """Mean logits of the networks: float32 [T, N]."""
        if missing := [name for name in self.shape.inputs if name not in encoded.blocks]:
            raise InputError(
                f"rows without the inputs {missing}; encode them with the encoder of this ranker"
            )
        logits = np.empty((len(self.shape.tasks), len(encoded)), np.float32)
        for start, piece in pieces(encoded):
            rows = _Rows(self.shape, piece)
            total = self.networks[0].logits(rows)
            for network in self.networks[1:]:
                total = total + network.logits(rows)
            total = total / np.float32(len(self.networks))
            if self.level is not None:
                total = self.level.levelled(total, rows)
            logits[:, start : start + len(piece)] = total.T
        return logits


class _Rows:
    """What all networks read of a piece of rows.

    pattern: whether each of `NetworkShape.order`, then each input with dense numbers, has one row.
    lookups: rows of the one matrix, [1, C1] and [N, CN], and the weights of each; places: which
    lookups these are. others: slots that are no lookups, by kind, with the first row of each of
    their tables.
    """

    def __init__(self, shape: NetworkShape, encoded: Encoded) -> None:
        self.shape, self.count = shape, (count := len(encoded))
        blocks = encoded.blocks
        slots = {
            kind: [(blocks[name].slots[at], starts) for name, at, starts in places]
            for kind, places in shape.placed.items()
        }
        names = shape.with_dense
        dense = [blocks[name].dense for name in names]
        packed = getattr(blocks, "packed", None)
        if packed is not None and packed.names == names:
            self.dense = Sides(packed.one, packed.many)
        else:
            self.dense = Sides(
                beside([values for values in dense if len(values) == 1 != count], 1),
                beside([values for values in dense if not len(values) == 1 != count], count),
            )
        one = [length(slot) == 1 != count for slot, _ in slots["lookup"]]
        self.places = [[n for n, of in enumerate(one) if of is single] for single in (True, False)]
        self.lookups = [
            _lookups([slots["lookup"][place] for place in places], n)
            for places, n in zip(self.places, (1, count), strict=True)
        ]
        self.others = slots
        alone = [
            part != "attended"
            and kind != "similarity"
            and length(slots[kind][place][0]) == 1 != count
            for kind, place, part in shape.order
        ]
        self.pattern = (*alone, *(len(values) == 1 != count for values in dense))

    @property
    def single(self) -> np.ndarray:
        """bool by embedding, then by dense number: which have one row."""
        shape = self.shape
        widths = [
            *(len(span) for span in shape.spans),
            *(len(shape.inputs[name].dense) for name in shape.with_dense),
        ]
        return np.repeat(np.array(self.pattern, bool), widths)


def _lookups(
    slots: Sequence[tuple[Slot, list[int]]], count: int
) -> tuple[np.ndarray, list[np.ndarray | None]]:
    rows = np.empty((count, len(slots)), np.int64)
    for column, (slot, starts) in enumerate(slots):
        np.add(cast(Lookup, slot).rows, starts[0], out=rows[:, column])
    return rows, [cast(Lookup, slot).weights for slot, _ in slots]


class _Split(NamedTuple):
    """The first layers of a network for one pattern of sides.

    first: of towers and gates side by side. prior: what the gates' inputs add
    to the gates, where a domain has changed the embeddings that `first` reads. domain: hidden
    layer of the domain's gate; opened: [G, embeddings], those with one row first, halved.
    """

    first: Product
    prior: Product | None = None
    domain: Product | None = None
    opened: np.ndarray | None = None


class _Network:
    """One network. Columns of its first product: H of every task, G."""

    def __init__(self, shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> None:
        self.shape, self.tasks = shape, len(shape.tasks)
        self.table = tensors["embeddings.table"]
        self.project = [
            tensors[f"embeddings.project.{n}"] for n in range(len(shape.slots["projected"]))
        ]
        self.towers = shape.settings.hidden[0] * self.tasks
        self.gated = self.towers + shape.settings.gate
        self.first, self.prior = _first_layer(shape, tensors)
        self.bias = np.concatenate([tensors["towers.first_bias"], tensors["towers.gate.bias"]])
        self.domain = _domain_layer(shape, tensors) if shape.domain else None
        self.layers = [
            (
                # 2 sigmoid(x) = 1 + tanh(x / 2): halved here; [G, T * H]
                np.concatenate(list(tensors[f"towers.gates.{n}"].swapaxes(0, 1) / 2), 1),
                tensors[f"towers.layers.{n}"],
                tensors[f"towers.biases.{n}"],
            )
            for n in range(len(shape.settings.hidden))
        ]
        self.tensors = tensors
        self.splits: dict[tuple[bool, ...], _Split] = {}

    def logits(self, rows: _Rows) -> np.ndarray:
        """[N, T]."""
        split = self.splits.get(rows.pattern)
        if split is None:
            if len(self.splits) >= PATTERNS:
                self.splits.clear()
            split = self.splits[rows.pattern] = self._split(rows)
        embedded = self._embedded(rows)
        first = split.first
        if split.domain is None or split.opened is None or split.prior is None:
            hidden = first.of(side_by_side(embedded, rows.dense))
        else:
            raw = side_by_side(embedded, rows.dense)
            gate = np.maximum(split.domain.of(raw) + self._domain_bias, 0) @ split.opened
            hidden = first.of(side_by_side(scaled(embedded, 1 + np.tanh(gate)), rows.dense))
            hidden = hidden + self._widened(split.prior.of(raw))
        hidden = hidden + self.bias
        if len(hidden) < rows.count:
            hidden = np.repeat(hidden, rows.count, axis=0)
        return self._towers(hidden)

    def _split(self, rows: _Rows) -> _Split:
        single = rows.single
        if self.domain is None:
            first = self.first.copy()
            first[:, self.towers : self.gated] += self.prior
            return _Split(Product.split(first, single))
        first = self.first
        embedded = single[: self.shape.embedding_width]
        opened = self.tensors["epnet_out"] / 2
        domain = Product.split(self.domain, single)
        return _Split(
            Product.split(first, single),
            Product.split(self.prior, single),
            domain,
            np.concatenate([opened[:, embedded], opened[:, ~embedded]], 1),
        )

    @property
    def _domain_bias(self) -> np.ndarray:
        return self.tensors["epnet.bias"]

    def _widened(self, gates: np.ndarray) -> np.ndarray:
        """What is added to gates alone, as an addition to the whole first product."""
        wide = np.zeros((len(gates), len(self.bias)), np.float32)
        wide[:, self.towers : self.gated] = gates
        return wide

    def _embedded(self, rows: _Rows) -> Sides:
        """All embeddings, by side, in the order of `NetworkShape.embedded`."""
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        gates = self._gates(rows)
        for (places, weights), numbers, into in zip(rows.lookups, rows.places, parts, strict=True):
            found = np.empty((*places.shape, self.table.shape[1]), np.float32)
            # "clip" writes into `out` without a copy; the rows are those of the encoder
            np.take(self.table, places, axis=0, out=found, mode="clip")
            for column, weight in enumerate(weights):
                if weight is not None:
                    found[:, column] *= weight[:, None]
                if numbers[column] in gates:
                    found[:, column] *= gates[numbers[column]]
            into.append(found.reshape(len(places), -1))
        for slot, (start,) in rows.others["bag"]:
            bag = cast(Bag, slot)
            values = self.table[bag.rows + start] * bag.weights[:, None]
            parts[not length(bag) == 1 != rows.count].append(segment_sums(values, bag.offsets))
        for (slot, _), matrix in zip(rows.others["projected"], self.project, strict=True):
            values = cast(Projected, slot).values
            parts[not len(values) == 1 != rows.count].append(values @ matrix)
        for place, (slot, (start,)) in enumerate(rows.others["mixture"]):
            bag = cast(Bag, slot)
            mixed = mixture(self.table, bag, start, self.tensors["embeddings.asked"][place])
            parts[not length(bag) == 1 != rows.count].append(mixed)
        attended = []
        for slot, starts in rows.others["history"]:
            history = cast(History, slot)
            pooled, found = pooled_and_attended(self.table, history, np.array(starts), rows.count)
            parts[not len(pooled) == 1 != rows.count].append(pooled)
            attended.append(found)
        parts[1].extend(attended)
        parts[1].extend(
            similarity(self.table, cast(History, slot), np.array(starts))
            for slot, starts in rows.others["similarity"]
        )
        return Sides(beside(parts[0], 1), beside(parts[1], rows.count))

    def _gates(self, rows: _Rows) -> dict[int, np.ndarray]:
        """What the lookups of ids and codes that share a gate are multiplied by: [n, 1] each."""
        found: dict[int, np.ndarray] = {}
        for place, ((slot, _), (codes, ids)) in enumerate(
            zip(rows.others["gate"], self.shape.gated, strict=True)
        ):
            constant, slope = self.tensors["embeddings.gates"][place]
            gate = 1 + np.tanh((constant + slope * cast(Projected, slot).values) / 2)
            found |= dict.fromkeys(ids, gate) | dict.fromkeys(codes, 2 - gate)
        return found

    def _towers(self, first: np.ndarray) -> np.ndarray:
        """Logits [N, T] from the first product of every task's tower, the gates and the level."""
        seen = np.maximum(first[:, self.towers : self.gated], 0)
        hidden = first[:, : self.towers]
        for gate, weights, biases in self.layers:
            gated = np.tanh(seen @ gate)
            gated += 1.0
            gated *= np.maximum(hidden, 0)
            width = weights.shape[1]
            hidden = beside(
                [
                    gated[:, task * width : (task + 1) * width] @ weights[task] + biases[task]
                    for task in range(self.tasks)
                ],
                len(first),
            )
        return hidden


class _Level:
    """The level networks, side by side, and the calibration of order + level."""

    def __init__(self, shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> None:
        names = list(shape.level_dense)
        first, out = [], []
        self.out_bias = np.zeros(len(shape.tasks), np.float32)
        for name in names:
            weights = np.zeros((len(shape.dense), shape.level_width(name)), np.float32)
            weights[shape.level_dense[name]] = tensors[f"level.{name}.0.weight"].T
            first.append(weights)
            share = np.float32(shape.level_shares[name])
            out.append(share * tensors[f"level.{name}.2.weight"].T)
            self.out_bias += share * tensors[f"level.{name}.2.bias"]
        self.first = np.concatenate(first, 1)
        self.bias = np.concatenate([tensors[f"level.{name}.0.bias"] for name in names])
        self.out = np.concatenate(out)
        self.slope, self.intercept = tensors["calibration"][:, :, 0]
        self.embedded = shape.embedding_width
        self.splits: dict[tuple[bool, ...], Product] = {}

    def levelled(self, order: np.ndarray, rows: _Rows) -> np.ndarray:
        """Calibrated logits [N, T]. order: [N, T]."""
        split = self.splits.get(rows.pattern)
        if split is None:
            if len(self.splits) >= PATTERNS:
                self.splits.clear()
            split = Product.split(self.first, rows.single[self.embedded :])
            self.splits[rows.pattern] = split
        hidden = np.maximum(split.of(rows.dense) + self.bias, 0)
        level = hidden @ self.out + self.out_bias
        found: np.ndarray = (order + level) * self.slope + self.intercept
        return found


def _first_layer(
    shape: NetworkShape, tensors: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the first product by column (embeddings, then all dense numbers), and those of the
    prior, [X, G]."""
    embedded, numbers = shape.embedding_width, len(shape.dense)
    rows = [*shape.tower_columns, *(embedded + n for n in shape.tower_dense)]
    parts = [tensors["towers.first"], tensors["towers.gate.general"]]
    first = np.zeros((embedded + numbers, sum(part.shape[1] for part in parts)), np.float32)
    first[rows] = np.concatenate(parts, 1)
    prior = np.zeros((embedded + numbers, shape.settings.gate), np.float32)
    columns, dense = shape.prior(shape.gates)
    prior[[*columns, *(embedded + n for n in dense)]] = tensors["towers.gate.prior"]
    return first, prior


def _domain_layer(shape: NetworkShape, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """Weights of the hidden layer of the domain's gate by column: [X, G]."""
    embedded = shape.embedding_width
    weights = np.zeros((embedded + len(shape.dense), shape.settings.gate), np.float32)
    if shape.settings.epnet == "full":
        weights[:embedded] = tensors["epnet.general"]
    columns, dense = shape.prior([cast(str, shape.domain)])
    weights[[*columns, *(embedded + n for n in dense)]] += tensors["epnet.prior"]
    return weights


def _below(tensors: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
