"""What every ranker must do, and what PPNet's parts promise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from adc_features.ranking.legacy.network import Batch, GatedTower, PPNet, build
from hypothesis import given, settings
from hypothesis import strategies as st
from ranking_world import CODES, day, frame, interactions, sources
from sklearn.metrics import roc_auc_score
from training.boosted import fit_boosted
from training.ppnet import FittedPPNet, FusedOrder, fit_ppnet

from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.legacy.boosted import BoostedRanker
from adc_features.ranking.legacy.inputs import InputEncoder, Inputs, VectorRows
from adc_features.ranking.legacy.ppnet import PPNetRanker
from adc_features.ranking.legacy.shape import PPNetSettings, PPNetShape
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


SMALL = PPNetSettings(batch=128, hidden=(32, 16))


def shape_of(encoder, inputs):
    return PPNetShape.of(
        inputs,
        id_rows=encoder.id_rows,
        users=len(encoder.users) + 1,
        codebook_size=CODES,
        item_id=True,
    )


def fitted(kind, encoder, inputs, **options):
    """A ranker and its curve."""
    if kind == "boosted":
        settings = BoostedSettings(max_rounds=40)
        return fit_boosted(inputs, settings=settings, codebook_size=CODES, **options)
    return fit_ppnet(inputs, settings=SMALL, shape=shape_of(encoder, inputs), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_what_is_there(kind, world):
    """Labels that follow the item's group are ranked well above chance on later rows, as
    probabilities.
    """
    encoder, train, later = world
    model, curve = fitted(kind, encoder, train, seed=0, holdout=later)
    score = model.predict(later)
    assert score.dtype == np.float32
    assert ((score > 0) & (score < 1)).all()
    assert roc_auc_score(later.label, score) > 0.7
    assert abs(score.mean() - later.label.mean()) < 0.05
    assert [r.round for r in curve] == list(range(1, len(curve) + 1))
    assert curve[0].holdout is not None


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_scores_and_another_does_not(kind, world):
    """Randomness comes from the seed alone."""
    encoder, train, later = world
    scores = []
    for seed in (0, 0, 1):
        model, _ = fitted(kind, encoder, train, seed=seed, rounds=2)
        scores.append(model.predict(later))
    assert np.array_equal(scores[0], scores[1])
    assert not np.array_equal(scores[0], scores[2])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_equals_its_rows_and_a_file_its_model(kind, world, tmp_path):
    """Scoring rows one by one, or after save and load, changes nothing."""
    encoder, train, later = world
    model, _ = fitted(kind, encoder, train, seed=0, rounds=2)
    some = later.take(np.arange(5))
    single = np.concatenate([model.predict(some.take(np.array([n]))) for n in range(5)])
    assert model.predict(some) == pytest.approx(single, abs=1e-6)
    model.save(tmp_path)
    assert np.array_equal(type(model).load(tmp_path).predict(later), model.predict(later))
    served = {"ppnet": PPNetRanker, "boosted": BoostedRanker}[kind].load(tmp_path)
    assert served.predict(later) == pytest.approx(model.predict(later), abs=1e-6)
    (tmp_path / "again").mkdir()
    served.save(tmp_path / "again")
    for file in (tmp_path / "again").iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


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


def test_a_warm_start_begins_with_the_code_embeddings_of_an_older_ranker(world, tmp_path):
    """Before any step the code embeddings are the older ranker's, fitted or loaded; other positions
    or codes carry nothing over, and neither do trees.
    """
    encoder, train, _ = world
    older, _ = fitted("ppnet", encoder, train, seed=0, rounds=1)
    older.save(tmp_path)
    table = older.model.orders[0].codes.table.weight
    still = replace(SMALL, learning_rate=0.0, level_epochs=1)
    shape = shape_of(encoder, train)

    def begun(shape, start):
        newer, _ = fit_ppnet(train, settings=still, shape=shape, seed=1, rounds=1, start=start)
        return newer.model.orders[0].codes.table.weight

    for start in (older, PPNetRanker.load(tmp_path)):
        assert torch.equal(begun(shape, start), table)
    more = shape._replace(codes=CODES + 2)
    trees, _ = fitted("boosted", encoder, train, seed=0, rounds=2)
    for other, start in ((more, older), (shape, trees), (shape, None)):
        assert not torch.equal(begun(other, start)[: len(table)], table)


def drawn(shape, rows, *, rng, one_user=False):
    """Inputs of this shape with random values."""

    def normal(*size):
        return rng.normal(size=size).astype(np.float32)

    ids = np.stack([rng.integers(0, n, rows) for n in shape.id_rows], 1)
    if one_user:
        ids[:, 0] = ids[:1, 0]
    positions, rest = shape.positions, shape.dense - 2 * shape.positions - 1
    return Inputs(
        label=np.zeros(rows, np.float32),
        user=np.zeros(rows, np.int64),
        ids=ids,
        item=normal(rows, rest),
        user_state=normal(rows, shape.user_state),
        settled=normal(rows, shape.settled),
        sid=rng.integers(0, shape.codes, (rows, positions)),
        weight=rng.random((rows, positions)).astype(np.float32),
        reliability=normal(rows, 1),
        match=normal(rows, positions),
        vectors={
            f"m{n}": VectorRows(normal(9, width), rng.integers(0, 9, rows))
            for n, width in enumerate(shape.vectors)
        },
    )


def randomised(made_with, shape, seed):
    """A network of this shape with random parameters."""
    torch.manual_seed(seed)
    model = build(made_with, shape).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=1.0 if "table" in name else 0.3)
    return model


@pytest.mark.parametrize("item_id", [True, False])
@pytest.mark.parametrize("positions", [0, 3])
def test_fused_networks_order_as_the_networks_do(item_id, positions):
    """With or without codes and item ids, the products made once give the logits of the layers, but
    for rounding.
    """
    shape = PPNetShape([9, 8, 7, 6], item_id, positions, 5, 4 + 2 * positions, 6, 2, [], users=1)
    torch.manual_seed(0)
    networks = build(PPNetSettings(embedding=4, hidden=(8, 4), gate=3), shape).eval().orders
    for parameter in networks.parameters():
        torch.nn.init.normal_(parameter)
    ids = torch.stack(
        [torch.randint(0, shape.id_rows[column], (50,)) for column in shape.id_columns], 1
    )
    dense, state, settled = torch.randn(50, shape.dense), torch.randn(50, 6), torch.randn(50, 2)
    batch = Batch(
        ids, torch.randint(0, 5, (50, positions)), torch.rand(50, positions), dense, state, settled
    )
    with torch.no_grad():
        expected = torch.stack([network(batch) for network in networks]).mean(0)
        assert expected.std() > 1
        order = FusedOrder(list(networks), shape).order(batch)
        assert torch.allclose(order, expected, rtol=1e-5, atol=1e-5)


@given(
    item_id=st.booleans(),
    positions=st.integers(0, 4),
    networks=st.integers(1, 4),
    hidden=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    vectors=st.lists(st.integers(1, 6), max_size=2),
    rows=st.sampled_from([0, 1, 2, 31, 33, 600]),
    one_user=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_a_served_ppnet_scores_as_torch_does(
    item_id, positions, networks, hidden, vectors, rows, one_user, seed
):
    """numpy's probabilities equal those of the torch network that wrote the checkpoint, to within
    1e-6, for every shape.
    """
    shape = PPNetShape(
        [9, 8, 7, 6], item_id, positions, 5, 5 + 2 * positions, 6, 2, vectors, users=3
    )
    made_with = PPNetSettings(
        embedding=4,
        hidden=tuple(hidden),
        gate=3,
        networks=networks,
        level_hidden=5,
        fresh_hidden=7,
    )
    model = randomised(made_with, shape, seed)
    torch_ranker = FittedPPNet(made_with, shape, model)
    inputs = drawn(shape, rows, rng=np.random.default_rng(seed), one_user=one_user)
    exact = torch_ranker.predict(inputs)
    served = torch_ranker.ranker().predict(inputs)
    assert served.dtype == np.float32
    assert served.shape == exact.shape
    assert np.abs(served - exact).max(initial=0) <= 1e-6
