"""Sampled softmax against the full one, and a table's lazy descent against the whole one's."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, product
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch
from fit_cases import SMALL, vectors

from adc_features.encoders import sampled, sasrec
from adc_features.encoders.behavior_settings import ContentSettings
from adc_features.encoders.sampled import Negatives, Sampled, TableDescent, sampled_loss
from adc_features.errors import InputError

COUNTS = np.array([5, 1, 2, 8, 1])
PROPOSALS = ("popularity", "uniform")


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in float32, so that bits of bfloat16 do not count."""
    monkeypatch.setattr(sasrec, "matrix_dtype", lambda: torch.float32)


class Given:
    """Chance that is told what to draw."""

    def __init__(self, drawn: np.ndarray) -> None:
        self.drawn = drawn

    def integers(self, *_: int) -> np.ndarray:
        return self.drawn


def loss_of(
    states: torch.Tensor, table: torch.Tensor, targets: torch.Tensor, drawn
) -> torch.Tensor:
    negatives, correction = drawn
    return sampled_loss(
        states,
        table,
        targets,
        negatives_C=negatives,
        correction_C=correction,
        prior_R=torch.from_numpy(np.log(COUNTS)).float(),
        count=len(targets),
    )


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_partition_function_is_that_of_all_items_in_expectation(proposal) -> None:
    """Over all pairs of draws, each as probable as the proposal has it, the sum that stands for
    all items has their sum as its mean: to the last digits, for every target.
    """
    torch.manual_seed(0)
    state, table = torch.randn(1, 3), torch.randn(5, 3)
    logits = (state @ table.T)[0].double().numpy() + np.log(COUNTS)
    negatives = Negatives(Sampled(2, proposal), COUNTS)
    shares = negatives.weights / negatives.weights.sum()
    for target in range(5):
        mean = 0.0
        for pair in product(range(5), repeat=2):
            drawn = negatives.draw(Given(negatives.ends[list(pair)] - 1))
            loss = loss_of(state, table, torch.tensor([target]), drawn)
            mean += shares[list(pair)].prod() * np.exp(float(loss) + logits[target])
        assert mean == pytest.approx(np.exp(logits).sum(), rel=1e-5)


@pytest.mark.parametrize("proposal", PROPOSALS)
def test_the_gradient_is_that_of_the_full_softmax_in_expectation(proposal) -> None:
    """The expected gradient of states and table, over every sample as probable as it is, comes
    nearer to torch's with more negatives, as one over their number; with many it is there.
    """
    torch.manual_seed(0)
    states, table, targets = torch.randn(6, 3), torch.randn(5, 3), torch.tensor([0, 3, 3, 1, 4, 2])
    prior = torch.from_numpy(np.log(COUNTS)).float()
    full = [t.clone().requires_grad_() for t in (states, table)]
    torch.nn.functional.cross_entropy(full[0] @ full[1].T + prior, targets).backward()
    whole = torch.cat([t.grad.flatten() for t in full])

    def away(samples: Iterable[tuple[float, Any]]) -> float:
        """How far the mean gradient is, samples with their probabilities, as a share."""
        ours = [t.clone().requires_grad_() for t in (states, table)]
        sum(p * loss_of(*ours, targets, drawn) for p, drawn in samples).backward()
        return float((torch.cat([t.grad.flatten() for t in ours]) - whole).norm() / whole.norm())

    def every(size: int) -> Iterator[tuple[float, Any]]:
        negatives = Negatives(Sampled(size, proposal), COUNTS)
        shares = negatives.weights / negatives.weights.sum()
        for items in combinations_with_replacement(range(5), size):
            times = np.bincount(items, minlength=5)
            ways = factorial(size) / np.prod([factorial(n) for n in times])
            yield (
                ways * (shares**times).prod(),
                negatives.draw(Given(negatives.ends[list(items)] - 1)),
            )

    few, more = away(every(2)), away(every(6))
    assert 0 < more < few / 2
    many = Negatives(Sampled(4_000, proposal), COUNTS)
    rng = np.random.default_rng(0)
    assert away((1 / 50, many.draw(rng)) for _ in range(50)) < 0.01


def test_negatives_are_drawn_as_often_as_the_proposal_says() -> None:
    """By the items' events, or each alike; the correction is the log of times over expected."""
    for proposal, shares in (("popularity", COUNTS / 17), ("uniform", np.full(5, 0.2))):
        draws = 100_000
        items, correction = Negatives(Sampled(draws, proposal), COUNTS).draw(
            np.random.default_rng(0)
        )
        assert items.tolist() == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(np.exp(correction.numpy()), 1, atol=0.05)
        found = np.exp(correction.numpy()) * shares
        assert found.sum() == pytest.approx(1, abs=1e-6)


def test_a_table_s_descent_is_adamw_where_every_step_reads_all_rows() -> None:
    """The same steps with decoupled decay, as torch's over the whole table."""
    torch.manual_seed(0)
    start, gradients = torch.randn(4, 3), torch.randn(6, 4, 3)
    table, whole = (torch.nn.Parameter(start.clone()) for _ in range(2))
    descent, every = TableDescent(table, decay=0.3), torch.arange(4)
    adam = torch.optim.AdamW([whole], lr=0.1, betas=(0.9, 0.98), weight_decay=0.3)
    for gradient in gradients:
        descent.read(every)
        descent.step(every, gradient, rate=0.1)
        whole.grad = gradient
        adam.step()
    descent.finish()
    torch.testing.assert_close(table, whole, atol=1e-5, rtol=1e-5)


def test_a_row_decays_while_no_step_reads_it() -> None:
    """It shrinks by every step's factor, once it is read and at the end, and no step touches it
    before.
    """
    table = torch.nn.Parameter(torch.ones(3, 2))
    descent = TableDescent(table, decay=0.5)
    for _ in range(4):
        descent.step(torch.tensor([0]), torch.ones(1, 2), rate=0.1)
    assert table[1:].eq(1).all()
    torch.testing.assert_close(descent.read(torch.tensor([1])), torch.full((1, 2), 0.95**4))
    descent.finish()
    torch.testing.assert_close(table[1:].detach(), torch.full((2, 2), 0.95**4))


def test_a_seed_gives_the_same_vectors_of_a_sample() -> None:
    """Twice the same bits; another proposal, or as many more negatives, gives others."""
    settings = replace(SMALL, loss=Sampled(12), epochs=1)
    first, again = (vectors(settings, "cpu") for _ in range(2))
    other = vectors(replace(settings, loss=Sampled(12, "uniform")), "cpu")
    for one, two, three in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(one, two)
        assert not np.array_equal(one, three)


def test_samples_that_cannot_be_drawn_are_refused() -> None:
    """No negatives, another proposal, and a sample beside a map of content."""
    with pytest.raises(InputError, match="negatives is 0; expected at least 1"):
        Sampled(0)
    with pytest.raises(InputError, match="proposal is 'recent'; expected popularity or uniform"):
        Sampled(1, "recent")
    with pytest.raises(InputError, match="trained against every item's content"):
        ContentSettings(replace(SMALL, loss=Sampled()))
    assert sampled.Sampled().negatives == 1_024
