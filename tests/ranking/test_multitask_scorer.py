"""Scoring a network of several tasks with numpy: it equals torch, however rows are shared."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from encoded_rows import LAYOUT, MIXED, RANKER, USER, rows_of, spread

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, Task, category, number, semantic_id
from adc_features.inputs.encoded import Block, Encoded
from adc_features.ranking.multitask.pieces import pieces
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkSettings, NetworkShape
from training.ranker.batches import RowTensors
from training.ranker.fit_network import load, logits_of, parameters
from training.ranker.network import Networks

SHAPES = {
    "plain": NetworkShape.of(LAYOUT, RANKER),
    "one task, two networks": NetworkShape.of(
        LAYOUT,
        replace(RANKER, tasks=[Task("click")]),
        settings=NetworkSettings(networks=2, hidden=(8,)),
    ),
    "no gates": NetworkShape.of(LAYOUT, replace(RANKER, gates=())),
    "domain of the user": NetworkShape.of(LAYOUT, replace(RANKER, domain="segment")),
    "domain of the candidate": NetworkShape.of(LAYOUT, replace(RANKER, domain="brand")),
    "domain alone, of the user": NetworkShape.of(
        LAYOUT, replace(RANKER, domain="segment"), settings=NetworkSettings(epnet="domain")
    ),
    "domain alone, of the candidate": NetworkShape.of(
        LAYOUT, replace(RANKER, domain="brand"), settings=NetworkSettings(epnet="domain")
    ),
    "level": NetworkShape.of(
        LAYOUT, replace(RANKER, inputs={"age": number(level=True), "topics": category(level=True)})
    ),
    "settled and fresh levels, two networks": NetworkShape.of(
        LAYOUT,
        replace(RANKER, inputs={"age": number(level="settled"), "price": number(level=True)}),
        settings=NetworkSettings(networks=2, level_hidden=6, fresh_hidden=7),
    ),
    "for gates alone": NetworkShape.of(
        LAYOUT,
        replace(
            RANKER,
            domain="brand",
            inputs={
                "segment": category(gate_only=True),
                "sid": semantic_id(gate_only=True),
                "price": number(level=True),
            },
        ),
    ),
}


def network(shape: NetworkShape) -> Networks:
    """With parameters large enough that every part shows."""
    torch.manual_seed(1)
    model = Networks(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5)
    return model


def torch_scores(model: Networks, encoded: Encoded) -> np.ndarray:
    return torch.sigmoid(logits_of(model, RowTensors.of(encoded, model.shape))).numpy()


@pytest.mark.parametrize("alone", [(), USER, ("price", "sid"), tuple(LAYOUT.inputs)])
@pytest.mark.parametrize("name", SHAPES)
def test_numpy_equals_torch(name, alone):
    """Numpy's probabilities are torch's within 1e-6, whichever inputs have one row for all."""
    shape = SHAPES[name]
    model, encoded = network(shape), rows_of(LAYOUT, 37, alone=alone)
    scores = NetworkScorer(shape, parameters(model)).predict(encoded)
    assert scores.shape == (len(shape.tasks), 37)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, torch_scores(model, encoded), atol=1e-6, rtol=0)
    # with one row for all only what each candidate attends to differs
    assert np.ptp(scores[0]) > (1e-5 if len(alone) == len(LAYOUT.inputs) else 0.001)


@pytest.mark.parametrize("name", SHAPES)
def test_one_row_for_all_equals_repeated_rows(name):
    """A user encoded once scores as the same user repeated for every candidate."""
    shape = SHAPES[name]
    scorer = NetworkScorer(shape, parameters(network(shape)))
    encoded = rows_of(LAYOUT, 1_100, alone=USER)
    np.testing.assert_allclose(
        scorer.predict(encoded), scorer.predict(spread(encoded)), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("alone", [(), USER])
def test_a_row_scores_as_in_a_batch(alone):
    """Each row alone scores as it does among 600, where it stands in another piece."""
    shape = SHAPES["plain"]
    scorer = NetworkScorer(shape, parameters(network(shape)))
    encoded = rows_of(LAYOUT, 600, alone=alone)
    together = scorer.predict(encoded)
    for row in (0, 511, 512, 599):
        single = scorer.predict(encoded.take(np.array([row])))
        np.testing.assert_allclose(single[:, 0], together[:, row], atol=1e-6, rtol=0)


def test_pieces_are_the_rows():
    """Pieces hold what `take` of their rows holds."""
    encoded = rows_of(LAYOUT, 25, alone=("segment", "recent"))
    for start, piece in pieces(encoded, 10):
        taken = encoded.take(np.arange(start, start + len(piece)))
        for name, block in piece.blocks.items():
            np.testing.assert_array_equal(block.dense, taken.blocks[name].dense)
            for slot, expected in zip(block.slots, taken.blocks[name].slots, strict=True):
                for part, value in vars(expected).items():
                    np.testing.assert_array_equal(getattr(slot, part), value)


def test_an_empty_history_attends_to_nothing():
    """A user without recent items has zeros in place of both embeddings of the history."""
    shape = NetworkShape.of(LAYOUT, RANKER)
    tensors = parameters(network(shape))
    columns = [
        n * 16 + e
        for n, (p, _) in enumerate(shape.embedded)
        if p.input == "recent"
        for e in range(16)
    ]
    blind = {**tensors, "networks.0.towers.first": tensors["networks.0.towers.first"].copy()}
    blind["networks.0.towers.gate.general"] = tensors["networks.0.towers.gate.general"].copy()
    for part in ("first", "gate.general"):
        blind[f"networks.0.towers.{part}"][columns] = 0
    encoded = rows_of(LAYOUT, 200)
    empty = np.flatnonzero(np.diff(encoded.blocks["recent"].slots[0].offsets) == 0)
    assert 0 < len(empty) < 200
    seen, unseen = (NetworkScorer(shape, t).predict(encoded) for t in (tensors, blind))
    np.testing.assert_allclose(seen[:, empty], unseen[:, empty], atol=1e-6, rtol=0)
    full = np.setdiff1d(np.arange(200), empty)
    assert (np.abs(seen[:, full] - unseen[:, full]) > 1e-6).any(0).mean() > 0.9


@pytest.mark.parametrize("alone", [(), ("segment", "ours"), ("sid",), tuple(MIXED.inputs)])
def test_mixtures_equal_torch(alone):
    """What a vector attends to among codes and their combinations is torch's within 1e-6, also
    where a row holds none, and changes with the vector."""
    shape = NetworkShape.of(MIXED, RANKER)
    model, encoded = network(shape), rows_of(MIXED, 50, alone=alone)
    tensors = parameters(model)
    scores = NetworkScorer(shape, tensors).predict(encoded)
    np.testing.assert_allclose(scores, torch_scores(model, encoded), atol=1e-6, rtol=0)
    np.testing.assert_allclose(
        NetworkScorer(shape, tensors).predict(spread(encoded)), scores, atol=1e-6, rtol=0
    )
    if not alone:
        asked = "networks.0.embeddings.asked"
        other = NetworkScorer(shape, {**tensors, asked: 10 * tensors[asked]}).predict(encoded)
        assert np.abs(other - scores).max() > 1e-4


def test_a_gate_is_between_the_codes_and_the_id():
    """At 0 it gates nothing; far above, the codes' own embeddings count no more, and the id's count
    twice."""
    shape = NetworkShape.of(LAYOUT, RANKER)
    tensors, encoded = parameters(network(shape)), rows_of(LAYOUT, 60)
    sid, of_sid = encoded.blocks["sid"], LAYOUT.inputs["sid"]
    bare = replace(LAYOUT, inputs={**LAYOUT.inputs, "sid": replace(of_sid, slots=of_sid.slots[:2])})
    plain = Encoded({**encoded.blocks, "sid": Block(sid.dense, sid.slots[:2])}, 60)
    known = {name: values for name, values in tensors.items() if "gates" not in name}
    known |= {name: tensors[name] for name in tensors if "towers.gates" in name}
    expected = NetworkScorer(NetworkShape.of(bare, RANKER), known).predict(plain)
    shut = {**tensors, "networks.0.embeddings.gates": np.zeros((1, 2), np.float32)}
    np.testing.assert_array_equal(NetworkScorer(shape, shut).predict(encoded), expected)

    far = {**tensors, "networks.0.embeddings.gates": np.array([[60, 0]], np.float32)}
    hidden = Block(
        sid.dense, tuple(replace(s, weights=np.zeros(60, np.float32)) for s in sid.slots[:2])
    )
    brand = encoded.blocks["brand"].slots[0]
    twice = Block(encoded.blocks["brand"].dense, (replace(brand, weights=np.full(60, 2, "f4")),))
    seen = Encoded({**plain.blocks, "sid": hidden, "brand": twice}, 60)
    np.testing.assert_allclose(
        NetworkScorer(shape, far).predict(encoded),
        NetworkScorer(NetworkShape.of(bare, RANKER), known).predict(seen),
        atol=1e-6,
    )


def test_no_rows_have_no_scores():
    """No candidates give no scores."""
    shape = SHAPES["plain"]
    assert NetworkScorer(shape, parameters(network(shape))).predict(
        rows_of(LAYOUT, 3).take(np.zeros(0, np.int64))
    ).shape == (2, 0)


def test_rows_without_an_input_are_refused():
    """Rows that lack an input are refused by its name."""
    shape = SHAPES["plain"]
    encoded = rows_of(LAYOUT, 3)
    lacking = Encoded({k: b for k, b in encoded.blocks.items() if k != "price"}, 3)
    with pytest.raises(InputError, match="price"):
        NetworkScorer(shape, parameters(network(shape))).predict(lacking)


def test_a_shape_survives_json():
    """A shape read from its JSON text is the shape that was written, and loads the parameters."""
    import json

    for shape in SHAPES.values():
        again = NetworkShape.of_json(json.loads(json.dumps(shape.to_json())))
        assert again == shape
        load(again, parameters(network(shape)))


@pytest.mark.parametrize(
    ("ranker", "said"),
    [
        (replace(RANKER, gates=["sid", "nobody"]), "nobody"),
        (replace(RANKER, domain="price"), "price.*no embedding"),
        (replace(RANKER, tasks=[]), "at least one"),
        (replace(RANKER, tasks=[Task("click"), Task("click")]), "named once"),
        (replace(RANKER, tasks=[Task("click", weight=0)]), "above 0"),
        (
            replace(RANKER, gates=["position"], inputs={"position": number(train_only=True)}),
            "position.*only training",
        ),
        (
            replace(RANKER, gates=["sid"], inputs={"segment": category(gate_only=True)}),
            "segment are gate_only",
        ),
        (
            replace(RANKER, inputs={n: category(level=True) for n in LAYOUT.inputs}),
            "without inputs",
        ),
    ],
)
def test_what_no_network_can_be_is_refused(ranker: Ranker, said: str):
    """Gates, domains and tasks that cannot be built are refused in words."""
    with pytest.raises(InputError, match=said):
        NetworkShape.of(LAYOUT, ranker)


def test_an_unread_block_is_ignored():
    """Blocks of inputs that the network does not know change nothing."""
    shape = SHAPES["plain"]
    scorer, encoded = NetworkScorer(shape, parameters(network(shape))), rows_of(LAYOUT, 5)
    more = Encoded({**encoded.blocks, "more": Block(np.ones((5, 1), np.float32))}, 5)
    np.testing.assert_array_equal(scorer.predict(encoded), scorer.predict(more))
