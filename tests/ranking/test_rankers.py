"""What every ranker must do, and what PPNet's parts promise."""

import numpy as np
import pytest
import torch
from ranking_world import CODES, day, frame, interactions, sources
from sklearn.metrics import roc_auc_score

from adc_features.ranking.boosted import BoostedRanker, BoostedSettings
from adc_features.ranking.inputs import InputEncoder
from adc_features.ranking.ppnet.network import (
    Batch,
    Folded,
    GatedTower,
    PPNet,
    PPNetRanker,
    PPNetSettings,
    PPNetShape,
)
from adc_features.ranking.recipes import RECIPES, recipe_inputs

KINDS = ("ppnet", "boosted")


@pytest.fixture(scope="module")
def world():
    whole = frame(interactions(3000, seed=0))
    train, later = whole.between(None, day(90)), whole.between(day(90), None)
    encoder = InputEncoder.fit(train, min_count=5)
    return encoder, *(
        recipe_inputs(part, RECIPES["codes_weights"], encoder, sources()) for part in (train, later)
    )


def ranker(kind, encoder, inputs):
    if kind == "boosted":
        return BoostedRanker(BoostedSettings(max_rounds=40), codebook_size=CODES)
    shape = PPNetShape.of(
        inputs,
        id_rows=encoder.id_rows,
        users=len(encoder.users) + 1,
        codebook_size=CODES,
        item_id=True,
    )
    return PPNetRanker(PPNetSettings(batch=128, hidden=(32, 16)), shape)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_there(kind, world):
    """Labels that follow the item's group are ranked well above chance on later rows, as
    probabilities.
    """
    encoder, train, later = world
    model = ranker(kind, encoder, train)
    curve = model.fit(train, seed=0, holdout=later)
    score = model.predict(later)
    assert score.dtype == np.float32
    assert ((score > 0) & (score < 1)).all()
    assert roc_auc_score(later.label, score) > 0.7
    assert abs(score.mean() - later.label.mean()) < 0.05
    assert [r.round for r in curve] == list(range(1, len(curve) + 1))
    assert curve[0].holdout is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scores_and_another_does_not(kind, world):
    """Chance comes from the seed alone."""
    encoder, train, later = world
    scores = []
    for seed in (0, 0, 1):
        model = ranker(kind, encoder, train)
        model.fit(train, seed=seed, rounds=2)
        scores.append(model.predict(later))
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_rows_and_a_file_its_model(kind, world, tmp_path):
    """Scoring rows one by one, or after save and load, changes nothing."""
    encoder, train, later = world
    model = ranker(kind, encoder, train)
    model.fit(train, seed=0, rounds=2)
    some = later.take(np.arange(5))
    single = np.concatenate([model.predict(some.take(np.array([n]))) for n in range(5)])
    assert model.predict(some) == pytest.approx(single, abs=1e-6)
    model.save(tmp_path)
    assert np.array_equal(type(model).load(tmp_path).predict(later), model.predict(later))


def test_fresh_gates_are_one_and_stay_within_two():
    """With a zero gate layer every gate is 2 * sigmoid(0) = 1: the tower is the plain MLP."""
    tower = GatedTower(3, (4, 2), prior=2, gate=5)
    with torch.no_grad():
        for gate in tower.gates:
            gate.weight.zero_()
    general = torch.randn(6, 3)
    second, last = tower.layers
    plain = last(torch.relu(second(torch.relu(tower.first(general)))))
    assert torch.allclose(tower(general, torch.randn(6, 2)), plain.squeeze(1), atol=1e-6)


def test_gates_send_no_gradient_into_the_general_embedding():
    """With the tower's first layer cut, the gates still read the general embedding, and nothing
    reaches it.
    """
    tower = GatedTower(3, (4,), prior=2, gate=5)
    with torch.no_grad():
        tower.first.weight.zero_()
    general, prior = torch.randn(6, 3, requires_grad=True), torch.randn(6, 2, requires_grad=True)
    tower(general, prior).sum().backward()
    assert not general.grad.any()
    assert prior.grad.any()
    assert tower.of_general.weight.grad.any()


def test_a_code_of_weight_zero_changes_nothing():
    """Whatever the code, its embedding is multiplied by its weight."""
    net = PPNet(
        [4, 4], prior_ids=1, general_ids=1, positions=2, codes=5, embedding=4, hidden=(8,), gate=4
    ).eval()

    def score(code, weight):
        empty = torch.zeros(1, 0)
        return net(
            Batch(
                torch.tensor([[1, 2]]),
                torch.tensor([[code, 3]]),
                torch.tensor([[weight, 1.0]]),
                empty,
                empty,
                empty,
            )
        )

    assert torch.equal(score(1, 0.0), score(4, 0.0))
    assert not torch.equal(score(1, 1.0), score(4, 1.0))


def test_a_ranker_begins_with_what_an_older_one_knows_of_codes(world):
    """Before any step the code embeddings are the older ranker's; other positions or codes carry
    nothing over, trees neither.
    """
    encoder, train, _ = world
    older, newer, other = (ranker("ppnet", encoder, train) for _ in range(3))
    older.fit(train, seed=0, rounds=1)
    newer.settings = other.settings = PPNetSettings(
        batch=128, hidden=(32, 16), learning_rate=0.0, level_epochs=1
    )
    newer.begin_at(older)
    newer.fit(train, seed=1, rounds=1)
    table = older.model.orders[0].codes.table.weight
    assert torch.equal(newer.model.orders[0].codes.table.weight, table)
    other.shape = other.shape._replace(codes=CODES + 2)
    other.begin_at(older)
    other.fit(train, seed=1, rounds=1)
    assert not torch.equal(other.model.orders[0].codes.table.weight[: len(table)], table)
    trees = ranker("boosted", encoder, train)
    trees.begin_at(older)
    trees.fit(train, seed=0, rounds=2)


@pytest.mark.parametrize("item_id", [True, False])
@pytest.mark.parametrize("positions", [0, 3])
def test_folded_networks_order_as_the_networks_do(item_id, positions):
    """With or without codes and item ids, the products made once give the logits of the layers, but
    for rounding.
    """
    torch.manual_seed(0)
    shape = PPNetShape([9, 8, 7, 6], item_id, positions, 5, 4, 6, 2, [], users=1)
    networks = shape.build(PPNetSettings(embedding=4, hidden=(8, 4), gate=3)).eval().orders
    for parameter in networks.parameters():
        torch.nn.init.normal_(parameter)
    ids = torch.stack(
        [torch.randint(0, shape.id_rows[column], (50,)) for column in shape.id_columns], 1
    )
    dense, state, settled = torch.randn(50, 4), torch.randn(50, 6), torch.randn(50, 2)
    batch = Batch(
        ids, torch.randint(0, 5, (50, positions)), torch.rand(50, positions), dense, state, settled
    )
    with torch.no_grad():
        expected = torch.stack([network(batch) for network in networks]).mean(0)
        assert expected.std() > 1
        assert torch.allclose(Folded(list(networks)).order(batch), expected, rtol=1e-5, atol=1e-5)
