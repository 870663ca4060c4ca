"""Training a network of several tasks: where gradients go, what a mask hides, what is learned."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from encoded_rows import LAYOUT, RANKER, rows_of

from adc_features.errors import InputError
from adc_features.inputs.declaration import SETTINGS, Ranker, Task, category, number
from adc_features.inputs.encoded import Block, Encoded, InputLayout, Layout, Lookup, SlotLayout
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkSettings, NetworkShape, network_settings
from training.ranker.batches import RowTensors, epoch_batches
from training.ranker.fit_network import (
    FitSettings,
    chosen_rounds,
    fit_network,
    fit_settings,
    load,
    logits_of,
    parameters,
)
from training.ranker.labelled import Labelled
from training.ranker.losses import MultitaskLoss, listwise_sums
from training.ranker.models import check_settings
from training.ranker.network import Bags, Networks, _pooled_and_attended
from training.ranker.warm_start import warm_start

SHAPE = NetworkShape.of(LAYOUT, RANKER)
COUNT = 60


def fresh(shape: NetworkShape, seed: int = 0) -> Networks:
    torch.manual_seed(seed)
    return Networks(shape)


def labelled(count: int = COUNT, tasks: int = 2, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels, mask and weights at random."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (tasks, count)).astype(np.float32)
    return labels, rng.random((tasks, count)) < 0.7, rng.random(count).astype(np.float32) + 0.5


def gradients(model: Networks, rows: Labelled, size: int = COUNT) -> dict[str, np.ndarray]:
    """Of the loss of all rows that count, by parameter."""
    loss = MultitaskLoss.of(rows, model.shape, size)
    model.zero_grad()
    tensors = RowTensors.of(rows.encoded, model.shape)
    logits = model(tensors.batch(loss.rows))
    loss(logits, torch.arange(len(loss.rows))).backward()
    return {
        n: np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy()
        for n, p in model.named_parameters()
    }


def test_sums_of_bags_and_their_gradient_are_those_of_torch():
    """Weighted sums of bags, empty ones and weights of 0 included, equal torch's with their
    gradient."""
    table = torch.randn(9, 4, dtype=torch.float64).float().requires_grad_()
    rows = torch.tensor([3, 3, 0, 8, 1, 3], dtype=torch.int32)
    offsets = torch.tensor([0, 2, 2, 5, 6], dtype=torch.int32)
    weights = torch.tensor([0.5, 1.0, 0.0, 2.0, -1.0, 3.0])
    outer = torch.randn(4, 4)
    Bags.apply(table, rows, offsets, weights).backward(outer)
    ours, table.grad = table.grad, None
    torch.nn.functional.embedding_bag(
        rows.long(),
        table,
        offsets.long(),
        mode="sum",
        per_sample_weights=weights,
        include_last_offset=True,
    ).backward(outer)
    torch.testing.assert_close(ours, table.grad)


def closed(shape: NetworkShape, part: str) -> Networks:
    """A network of which only the tower, or only the gate, reads embeddings outside the prior."""
    model = fresh(shape)
    towers = model.networks[0].towers
    with torch.no_grad():
        if part == "gate":
            towers.first[: shape.embedding_width] = 0
        else:
            towers.gate.general.zero_()
    return model


def test_a_batch_of_which_no_row_has_a_history_pools_zeros():
    """Its pooled and its attended history are zeros of the width of embeddings."""
    elements, query = torch.zeros(0, 3), torch.randn(2, 3)
    filled = torch.zeros(2, 0, dtype=torch.bool)
    for found in _pooled_and_attended(elements, query, filled):
        assert torch.equal(found, torch.zeros(2, 3))


@pytest.mark.parametrize("domain", [None, "brand"])
def test_gates_send_no_gradient_into_embeddings_outside_their_prior(domain):
    """Embeddings learn through the tower and not through the gates; those of the prior learn
    through both; scores change by either."""
    shape = NetworkShape.of(LAYOUT, replace(RANKER, gates=["segment"], domain=domain))
    encoded, (labels, mask, weights) = rows_of(LAYOUT, COUNT), labelled()
    rows = Labelled(encoded, labels, mask, weights)

    def of(model: Networks, table: str) -> np.ndarray:
        found = gradients(model, rows)["networks.0.embeddings.table"]
        start = shape.starts[table]
        return found[start : start + shape.tables[table]]

    only_gate, only_tower = closed(shape, "gate"), closed(shape, "tower")
    assert not of(only_gate, "topics").any()
    assert of(only_gate, "segment").any()
    assert of(only_tower, "topics").any()
    # numerically: the gate alone does read the embedding that learns nothing through it
    start, tensors = shape.starts["topics"], RowTensors.of(encoded, shape)
    before = logits_of(only_gate, tensors)
    with torch.no_grad():
        only_gate.networks[0].embeddings.table[start : start + 6] += 1.0
    assert (logits_of(only_gate, tensors) - before).abs().max() > 1e-5


def test_the_gradient_is_that_of_differences_where_gates_are_held():
    """The gradient of an embedding equals the change of the loss when it moves while the gates
    stay as they are."""
    shape = NetworkShape.of(
        LAYOUT, replace(RANKER, gates=["segment"]), settings=NetworkSettings(hidden=(8, 4))
    )
    model = fresh(shape).double()
    encoded, (labels, mask, weights) = rows_of(LAYOUT, COUNT), labelled()
    tensors, network = RowTensors.of(encoded, shape), model.networks[0]
    batch = tensors.batch(torch.arange(COUNT))
    batch = batch._replace(
        dense=batch.dense.double(),
        weights=batch.weights.double(),
        projected=[p.double() for p in batch.projected],
    )
    loss = MultitaskLoss.of(Labelled(encoded, labels, np.ones_like(mask), weights), shape, COUNT)
    places = torch.arange(COUNT)
    scale = loss.scale.double()

    def lost(held: torch.Tensor | None = None) -> torch.Tensor:
        gate = network.towers.gate
        if held is not None:
            network.towers.gate = torch.nn.Module()
            network.towers.gate.forward = lambda prior, general: held
        logits = network(batch)
        network.towers.gate = gate
        each = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, loss.labels[places].T.double(), reduction="none"
        )
        return (each * loss.weights[places].T).sum(1) @ scale

    seen = []
    handle = network.towers.gate.register_forward_hook(lambda *a: seen.append(a[2].detach()))
    lost().backward()
    handle.remove()
    table = network.embeddings.table
    row = shape.starts["topics"] + 2
    place = row, int(table.grad[row].abs().argmax())
    with torch.no_grad():
        table[place] += 1e-6
        up = lost(seen[0])
        table[place] -= 2e-6
        down = lost(seen[0])
        table[place] += 1e-6
    assert abs(float(up - down) / 2e-6 - float(table.grad[place])) < 1e-6
    assert abs(float(table.grad[place])) > 1e-5


def test_a_closed_gate_is_the_plain_tower():
    """With the last products of all gates at zero the network is an MLP on the same inputs."""
    model, encoded = fresh(SHAPE), rows_of(LAYOUT, COUNT)
    network = model.networks[0]
    with torch.no_grad():
        for gate in network.towers.gates:
            gate.zero_()
    batch = RowTensors.of(encoded, SHAPE).batch(torch.arange(COUNT))
    hidden = torch.cat([network.embeddings(batch), batch.dense], 1)
    towers, expected = network.towers, []
    for task in range(2):
        width = SHAPE.settings.hidden[0]
        columns = slice(task * width, (task + 1) * width)
        h = hidden @ towers.first[:, columns] + towers.first_bias[columns]
        for layer, bias in zip(towers.layers, towers.biases, strict=True):
            h = torch.relu(h) @ layer[task] + bias[task]
        expected.append(h[:, 0])
    torch.testing.assert_close(model(batch), torch.stack(expected), atol=1e-6, rtol=1e-5)


def test_without_a_domain_there_is_no_gate_of_one():
    """Embeddings are multiplied by a domain's gate only where a domain is named; the domain learns
    through it."""
    assert not any("epnet" in name for name, _ in fresh(SHAPE).named_parameters())
    shape = NetworkShape.of(LAYOUT, replace(RANKER, domain="brand", gates=()))
    model = fresh(shape)
    with torch.no_grad():  # the tower reads the domain's embedding through the gate alone
        brand = next(n for n, (p, _) in enumerate(shape.embedded) if p.input == "brand") * 16
        model.networks[0].towers.first[brand : brand + 16] = 0
    rows = Labelled(rows_of(LAYOUT, COUNT), *labelled())
    start = shape.starts["brand"]
    assert gradients(model, rows)["networks.0.embeddings.table"][start : start + 9].any()


def test_masked_labels_change_no_gradient():
    """Whatever stands where the mask is false, gradients are the same bits."""
    encoded, (labels, mask, weights) = rows_of(LAYOUT, COUNT), labelled()
    other = np.where(mask, labels, np.float32(np.nan))
    model = fresh(SHAPE)
    first, second = (
        gradients(model, Labelled(encoded, found, mask, weights)) for found in (labels, other)
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
        assert np.isfinite(value).all()


def test_rows_that_no_task_reads_change_nothing():
    """Rows masked for every task leave gradients as they are."""
    encoded, (labels, mask, weights) = rows_of(LAYOUT, COUNT), labelled()
    mask[:, :10] = False
    kept = np.arange(10, COUNT)
    model = fresh(SHAPE)
    first = gradients(model, Labelled(encoded, labels, mask, weights))
    second = gradients(
        model, Labelled(encoded.take(kept), labels[:, kept], mask[:, kept], weights[kept])
    )
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], atol=1e-7)


def test_a_task_without_labels_learns_nothing():
    """With every label of one task masked its tower has no gradient, the other's is as before."""
    encoded, (labels, mask, weights) = rows_of(LAYOUT, COUNT), labelled()
    mask[1] = False
    found = gradients(fresh(SHAPE), Labelled(encoded, labels, mask, weights))
    layer = found["networks.0.towers.layers.1"]
    assert layer[0].any()
    assert not layer[1].any()
    assert all(np.isfinite(value).all() for value in found.values())


def test_the_loss_divides_by_the_mean_weight_of_a_batch():
    """sum over tasks of a * sum(w m bce) / (sum of w m in all rows / batches), by hand."""
    encoded, shape = rows_of(LAYOUT, 4), SHAPE
    labels = np.array([[1, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    weights = np.array([1.0, 2.0, 1.0, 4.0], np.float32)
    loss = MultitaskLoss.of(Labelled(encoded, labels, mask, weights), shape, 2)
    logits = torch.zeros(2, 2)
    ln2 = np.log(2)
    # two batches: the first task weighs 4 in a batch; the second 1.5, and counts half
    assert float(loss(logits, torch.tensor([0, 1]))) == pytest.approx(
        3 * ln2 / 4 + 0.5 * 3 * ln2 / 1.5
    )
    assert float(loss(logits, torch.tensor([2, 3]))) == pytest.approx(5 * ln2 / 4)


def test_the_listwise_term_by_hand():
    """Within a request: -log softmax of its positives among the rows that are not masked."""
    logits = torch.log(torch.tensor([[1.0, 3.0, 6.0, 2.0, 2.0]]))
    labels = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]])
    weights = torch.tensor([[1.0, 2.0, 0.0, 1.0, 1.0]])  # the third is masked
    group = torch.tensor([0, 0, 0, 1, 1])
    expected = 2 * np.log(4 / 3) + np.log(2) + np.log(2)
    assert float(listwise_sums(logits, labels, weights, group)[0]) == pytest.approx(expected)
    logits = logits.requires_grad_()
    listwise_sums(logits, labels, weights, group).sum().backward()
    assert float(logits.grad[0, 2]) == 0
    assert torch.isfinite(logits.grad).all()


def test_a_request_stays_in_one_batch():
    """Each row comes once an epoch; the rows of a group come together; batches are of about the
    size asked for."""
    groups = torch.from_numpy(np.random.default_rng(0).integers(0, 40, 300))
    rng = torch.Generator().manual_seed(0)
    batches = list(epoch_batches(300, 50, groups=groups, rng=rng))
    assert sorted(torch.cat(batches).tolist()) == list(range(300))
    seen = [set(groups[b].tolist()) for b in batches]
    assert sum(len(s) for s in seen) == len(set().union(*seen))
    assert len(batches) == 6
    assert max(len(b) for b in batches) < 70


def one_category(rows: np.ndarray, size: int, **slot) -> tuple[Layout, Encoded]:
    layout = Layout({"c": InputLayout(slots=(SlotLayout("lookup", ("c",), **slot),))}, {"c": size})
    block = Block(np.empty((len(rows), 0), np.float32), (Lookup(rows),))
    return layout, Encoded({"c": block}, len(rows))


@pytest.mark.parametrize("own", [2, 5])
def test_the_row_unknown_is_trained(own):
    """A category that training never saw scores near the mean of those it saw, as their rows are
    replaced by "unknown", or by hash rows, now and then."""
    rng = np.random.default_rng(0)
    rows = rng.integers(own, own + 20, 6_000)
    labels = (rng.random(6_000) < 0.9).astype(np.float32)[None]
    layout, encoded = one_category(rows, own + 20, dropout=0.1, own=own)
    shape = NetworkShape.of(layout, Ranker("s", [Task("click")]))
    fitted = {}
    for dropout in (0.1, 0.0):
        layout, encoded = one_category(rows, own + 20, dropout=dropout, own=own)
        shape = NetworkShape.of(layout, Ranker("s", [Task("click")]))
        fitted[dropout], _ = fit_network(
            encoded,
            labels,
            np.ones_like(labels, bool),
            np.ones(6_000),
            shape=shape,
            settings=FitSettings(batch=256, max_epochs=2),
            seed=0,
        )
    table = "networks.0.embeddings.table"
    unseen = slice(1, 2) if own == 2 else slice(2, own)
    initial = parameters(fresh(shape))[table]
    assert (np.abs(fitted[0.1][table][unseen] - initial[unseen]).max(1) > 0.02).all()
    probe = one_category(np.arange(unseen.start, unseen.stop), own + 20)[1]
    scores = NetworkScorer(shape, fitted[0.1]).predict(probe)
    assert np.abs(scores - 0.9).max() < 0.05


def fit(seed: int = 0, **options):
    encoded, (labels, mask, weights) = rows_of(LAYOUT, 400), labelled(400)
    return fit_network(
        encoded,
        labels,
        mask,
        weights,
        **{
            "shape": SHAPE,
            "settings": FitSettings(batch=64, max_epochs=2),
            "seed": seed,
            **options,
        },
    )


def test_a_seed_decides_everything():
    """A seed gives the same bits again, another one others; the caller's random state stays."""
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    (first, curve), (second, again), (other, _) = fit(), fit(), fit(1)
    assert torch.rand(1) == expected
    assert curve == again
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    assert any((first[name] != other[name]).any() for name in first)


def test_training_learns_each_task():
    """Two tasks of opposite labels are both learned, from category, bag and number."""
    rng = np.random.default_rng(0)
    encoded = rows_of(LAYOUT, 4_000)
    brand = encoded.blocks["brand"].slots[0].rows
    label = (rng.random(4_000) < np.where(brand % 2 == 0, 0.9, 0.1)).astype(np.float32)
    labels = np.stack([label, 1 - label])
    tensors, curve = fit_network(
        encoded,
        labels,
        np.ones_like(labels, bool),
        np.ones(4_000),
        shape=SHAPE,
        settings=FitSettings(batch=128, max_epochs=4),
        seed=0,
        groups=np.arange(4_000) // 5,
    )
    scores = NetworkScorer(SHAPE, tensors).predict(encoded)
    for task, wanted in enumerate(labels):
        assert scores[task][wanted == 1].mean() - scores[task][wanted == 0].mean() > 0.5
    assert curve[-1].train < curve[0].train


def test_held_out_rows_choose_the_rounds():
    """With held-out rows the parameters are those after the chosen round; the curve tells both
    losses."""
    held = Labelled(rows_of(LAYOUT, 200, seed=5), *labelled(200, seed=5))
    settings = FitSettings(batch=16, max_epochs=3)
    tensors, curve = fit(holdout=held, settings=settings)
    rounds = chosen_rounds(curve)
    assert [point.round for point in curve] == [1, 2, 3]
    assert rounds < 3  # labels are noise: more rounds only learn them by heart
    alone, _ = fit(rounds=rounds, settings=settings)
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, alone[name])
    model = load(SHAPE, tensors)
    scores = torch.sigmoid(logits_of(model, RowTensors.of(held.encoded, SHAPE))).numpy()
    np.testing.assert_allclose(
        NetworkScorer(SHAPE, tensors).predict(held.encoded), scores, atol=1e-6
    )


def test_a_listwise_term_needs_requests():
    """The listwise term is refused without requests and trains with them."""
    shape = replace(SHAPE, listwise=0.5)
    with pytest.raises(InputError, match="listwise"):
        fit(shape=shape)
    plain, listwise = (fit(shape=s, groups=np.arange(400) // 4)[0] for s in (SHAPE, shape))
    assert any((plain[name] != listwise[name]).any() for name in plain)


def test_a_grown_vocabulary_keeps_its_rows():
    """After a table grew, old ids score as before, and a new id scores as "unknown" did."""
    layout, encoded = one_category(np.arange(6), 6)
    grown, more = one_category(np.arange(8), 8)
    ranker = Ranker("s", [Task("click")])
    old, new = NetworkShape.of(layout, ranker), NetworkShape.of(grown, ranker)
    tensors = parameters(fresh(old))
    model = fresh(new, seed=9)
    started = warm_start(model, old, tensors)
    assert started.anew == []
    before = NetworkScorer(old, tensors).predict(encoded)[0]
    after = NetworkScorer(new, parameters(model)).predict(more)[0]
    np.testing.assert_allclose(after[:6], before, atol=1e-6)
    np.testing.assert_allclose(after[6:], before[1], atol=1e-6)


def test_what_does_not_fit_begins_anew():
    """With another input the tables are kept and the towers begin anew, and the start says so."""
    inputs = {name: of for name, of in LAYOUT.inputs.items() if name != "position"}
    old = NetworkShape.of(Layout(inputs, LAYOUT.tables), RANKER)
    model = fresh(SHAPE)
    fitted = parameters(model)["networks.0.towers.first"]
    started = warm_start(model, old, parameters(fresh(old, seed=4)))
    assert "networks.0.towers.first" in started.anew
    assert "networks.0.embeddings.table/brand" in started.carried
    np.testing.assert_array_equal(parameters(model)["networks.0.towers.first"], fitted)
    known = parameters(fresh(old, seed=4))["networks.0.embeddings.table"]
    np.testing.assert_array_equal(parameters(model)["networks.0.embeddings.table"], known)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": np.full((2, 400), 2, np.float32)}, "label of 2"),
        ({"labels": np.zeros((1, 400), np.float32)}, "labels"),
        ({"mask": np.zeros((2, 400), bool)}, "masked"),
        ({"weights": np.full(400, -1.0)}, "at least 0"),
        ({"weights": np.ones(3)}, "weights"),
        ({"groups": np.ones(3, np.int64)}, "groups"),
    ],
)
def test_labels_that_do_not_fit_are_refused(change, said):
    """Labels, masks, weights and groups that do not fit the rows are refused before any work."""
    encoded, (labels, mask, weights) = rows_of(LAYOUT, 400), labelled(400)
    given = {"labels": labels, "mask": mask, "weights": weights, **change}
    with pytest.raises(InputError, match=said):
        fit_network(encoded, **given, shape=SHAPE, settings=FitSettings(), seed=0)


def test_settings_are_checked():
    """Settings that cannot train are refused."""
    for settings in ({"dropout": 1.0}, {"learning_rate": 0.0}, {"batch": 0}):
        with pytest.raises(InputError):
            FitSettings(**settings)
    with pytest.raises(InputError):
        NetworkSettings(hidden=())


LEVELLED = NetworkShape.of(
    LAYOUT,
    replace(
        RANKER,
        tasks=[Task("click")],
        gates=["segment"],
        inputs={
            "age": number(level="settled"),
            "position": number(level=True),
            "segment": category(gate_only=True),
        },
    ),
)


def users_with_levels(count: int = 6_000) -> tuple[Encoded, np.ndarray, np.ndarray]:
    """Users of whom the age tells how often they click, and brands of which one half is clicked
    more: rows, labels [1, N], users."""
    rng = np.random.default_rng(0)
    encoded, users = rows_of(LAYOUT, count), rng.integers(0, 300, count)
    level = rng.normal(size=300)
    blocks = dict(encoded.blocks)
    blocks["age"] = Block(np.stack([level[users], np.zeros(count)], 1).astype(np.float32))
    likes = np.where(blocks["brand"].slots[0].rows % 2 == 0, 1.5, -1.5)
    labels = rng.random(count) < 1 / (1 + np.exp(-likes - 1.5 * level[users]))
    return Encoded(blocks, count), labels.astype(np.float32)[None], users


def test_the_order_is_learned_beside_the_level():
    """The towers' order tells brands apart and not users, whose level the level network adds; the
    whole is calibrated."""
    encoded, labels, users = users_with_levels()
    tensors, _ = fit_network(
        encoded,
        labels,
        np.ones_like(labels, bool),
        np.ones(len(encoded)),
        shape=LEVELLED,
        settings=FitSettings(batch=128, max_epochs=3, dropout=0.0),
        seed=0,
        users=users,
    )
    model, rows = load(LEVELLED, tensors), RowTensors.of(encoded, LEVELLED)
    batch = rows.batch(torch.arange(len(encoded)))
    with torch.no_grad():
        order, level = model.order(batch)[0].numpy(), model.levels(batch.dense)
    age, even = encoded.blocks["age"].dense[:, 0], encoded.blocks["brand"].slots[0].rows % 2 == 0
    assert order[even].mean() - order[~even].mean() > 1
    assert abs(np.corrcoef(order, age)[0, 1]) < 0.1
    assert np.corrcoef(level["settled"][0].numpy(), age)[0, 1] > 0.9
    scores = NetworkScorer(LEVELLED, tensors).predict(encoded)[0]
    assert abs(scores.mean() / labels.mean() - 1) < 0.02
    np.testing.assert_allclose(scores, torch.sigmoid(logits_of(model, rows))[0].numpy(), atol=1e-6)


def test_towers_do_not_read_what_is_for_gates_or_the_level():
    """An input for gates alone has no column in a tower; one of the level has none anywhere but
    there."""
    first = fresh(LEVELLED).networks[0].towers
    columns = {p.input for p, _ in LEVELLED.embedded} - {"segment"}
    assert LEVELLED.general_width == len(first.first)
    assert LEVELLED.general_width == NetworkShape.of(LAYOUT, RANKER).general_width - 16 - 3
    assert {LEVELLED.embedded[c // 16][0].input for c in LEVELLED.tower_columns} == columns
    assert len(first.gate.prior) == 16
    assert not any(LEVELLED.dense[n] in ("age", "position") for n in LEVELLED.tower_dense)


def test_settings_of_a_ranker_are_those_of_its_network():
    """`Ranker.settings` may name every field of both settings, once; they reach the network, and
    those of another type are refused."""
    names = [f.name for made in (NetworkSettings, FitSettings) for f in fields(made)]
    assert sorted(names) == sorted(SETTINGS)
    said = {"networks": 2, "hidden": [8], "dropout": 0.5, "max_epochs": 2}
    assert network_settings(said) == NetworkSettings(networks=2, hidden=(8,))
    assert fit_settings(said) == FitSettings(dropout=0.5, max_epochs=2)
    shape = NetworkShape.of(LAYOUT, replace(RANKER, settings=said))
    assert shape.settings.networks == 2
    check_settings(replace(RANKER, settings=said))
    for wrong in ({"dropout": "half"}, {"dropout": 2.0}, {"networks": 0}, {"level_epochs": 0}):
        with pytest.raises(InputError):
            check_settings(replace(RANKER, settings=wrong))
    with pytest.raises(InputError, match="xgboost"):
        check_settings(replace(RANKER, model="xgboost", settings=said))
