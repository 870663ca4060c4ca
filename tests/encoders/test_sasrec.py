"""Packing and the loss, against plain oracles."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.encoders import sasrec
from adc_features.encoders.sasrec import SASRec, Sequences, next_item_loss, packed_batches


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=12), st.integers(2, 7), st.integers(1, 3))
def test_an_epoch_holds_every_transition_once(counts, length, rows) -> None:
    """However users are shuffled and cut, each (event, next event) pair stands in one place, beside
    its own user only.
    """
    items = np.arange(sum(counts))
    sequences = Sequences(items, np.cumsum(counts))
    pairs = []
    for batch in packed_batches(sequences, length=length, rows=rows, rng=np.random.default_rng(0)):
        wanted = batch.targets >= 0
        assert batch.items.shape[1] == length
        assert len(batch.items) <= rows
        pairs += list(
            zip(batch.items[wanted].tolist(), batch.targets[wanted].tolist(), strict=True)
        )
        assert torch.equal(wanted, batch.users >= 0)
        same = (batch.users[:, 1:] == batch.users[:, :-1]) & wanted[:, 1:]
        assert torch.equal(batch.items[:, 1:][same], batch.targets[:, :-1][same])
        assert torch.equal(batch.places[:, 1:][same], batch.places[:, :-1][same] + 1)
    last = set((np.cumsum(counts) - 1).tolist())
    assert sorted(pairs) == [(i, i + 1) for i in items.tolist() if i not in last]
    assert len(pairs) == sequences.transitions


def test_a_user_sees_neither_neighbours_in_the_row_nor_its_own_future() -> None:
    """Changing another user's events, or a later one's, leaves a state as it is."""
    torch.manual_seed(0)
    model = SASRec(20, dim=8, blocks=2, length=6, dropout=0.0, init_std=0.5).eval()
    batch = next(
        packed_batches(
            Sequences(np.arange(8), np.array([4, 8])),
            length=6,
            rows=1,
            rng=np.random.default_rng(0),
        )
    )
    users = batch.users[0].tolist()
    assert users == [0, 0, 0, 1, 1, 1]
    states = model(batch)[0]
    changed = model(
        batch._replace(items=torch.cat([torch.full((1, 3), 19), batch.items[:, 3:]], dim=1))
    )[0]
    torch.testing.assert_close(states[3:], changed[3:])
    assert not torch.allclose(states[:3], changed[:3])
    future = model(
        batch._replace(items=torch.cat([batch.items[:, :2], torch.full((1, 4), 19)], dim=1))
    )[0]
    torch.testing.assert_close(states[:2], future[:2])


def test_the_chunked_loss_equals_cross_entropy(monkeypatch) -> None:
    """Value and both gradients agree with torch's own loss over the whole matrix."""
    monkeypatch.setattr(sasrec, "matrix_dtype", lambda: torch.float32)
    monkeypatch.setattr(sasrec, "CHUNK", 7)
    torch.manual_seed(0)
    states, table, targets = torch.randn(20, 4), torch.randn(9, 4), torch.randint(9, (20,))
    ours, plain = [[t.clone().requires_grad_() for t in (states, table)] for _ in range(2)]
    loss = next_item_loss(*ours, targets, "full_softmax")
    expected = torch.nn.functional.cross_entropy(plain[0] @ plain[1].T, targets)
    torch.testing.assert_close(loss, expected)
    (3 * loss).backward()
    (3 * expected).backward()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_prior_is_a_fixed_term_of_the_logits(monkeypatch) -> None:
    """With log popularity given, the loss is cross-entropy over logits plus prior: a table of zeros
    predicts popularity.
    """
    monkeypatch.setattr(sasrec, "matrix_dtype", lambda: torch.float32)
    states, targets, counts = (
        torch.randn(6, 3),
        torch.tensor([0, 0, 1, 2, 0, 1]),
        torch.tensor([5.0, 3.0, 2.0]),
    )
    loss = next_item_loss(states, torch.zeros(3, 3), targets, "full_softmax", prior_I=counts.log())
    torch.testing.assert_close(loss, -(counts[targets] / 10).log().mean())


def test_the_in_batch_loss_compares_with_the_batch_s_targets_as_often_as_they_stand_there(
    monkeypatch,
) -> None:
    """It equals cross-entropy over the list of targets, an item's copies taken together."""
    monkeypatch.setattr(sasrec, "matrix_dtype", lambda: torch.float32)
    torch.manual_seed(0)
    states, table, targets = torch.randn(4, 3), torch.randn(9, 3), torch.tensor([5, 2, 5, 7])
    logits = states @ table[targets].T
    same = targets[:, None] == targets[None, :]
    expected = (logits.logsumexp(1) - logits.masked_fill(~same, -torch.inf).logsumexp(1)).mean()
    torch.testing.assert_close(next_item_loss(states, table, targets, "in_batch"), expected)
