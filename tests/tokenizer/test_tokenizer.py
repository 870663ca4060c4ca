"""The parts of ADC-SID, on numbers that can be checked by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.alignment import alignment_loss, info_nce, strength
from adc_features.tokenizer.codebook import Codebooks, revive, spherical_kmeans
from adc_features.tokenizer.fit import adc
from adc_features.tokenizer.importance import BehaviorGate, SparsityController
from adc_features.tokenizer.model import AdcModel, AdcSettings, Rows

SPEC = SidSpec(content={"title": 2, "image": 1}, shared=1, behavior=3, codebook_size=4)
WIDTHS = {"title": 5, "image": 3, BEHAVIOR: 4}


def model(**changes: object) -> AdcModel:
    torch.manual_seed(0)
    return AdcModel(
        SPEC, WIDTHS, replace(adc(), hidden=16, latent=16, aligned=16, **changes), cutoffs=1
    )


def rows(n: int = 16) -> Rows:
    chance = torch.Generator().manual_seed(1)
    present = {m: torch.ones(n, dtype=torch.bool) for m in WIDTHS}
    present[BEHAVIOR] = torch.arange(n) >= 3
    x = torch.rand(n, generator=chance) * present[BEHAVIOR]
    return Rows(
        {m: torch.randn(n, d, generator=chance) for m, d in WIDTHS.items()},
        present,
        x,
        torch.zeros(n, dtype=torch.int64),
    )


def test_alignment_is_full_for_the_most_reliable_item() -> None:
    """w(1) = 1 whatever alpha and beta are; w(0) is what Eq. 17 gives for the paper's (10, 9)."""
    w = strength(torch.tensor([0.0, 1.0]), 10.0, 9.0)
    assert w[1] == 1
    assert float(w[0]) == pytest.approx(1.688e-4, rel=1e-3)


@given(st.lists(st.floats(0, 1, width=32), min_size=2), st.floats(0.1, 20), st.floats(0, 15))
def test_alignment_rises_with_reliability(x: list[float], alpha: float, beta: float) -> None:
    """A more reliable item is never aligned less."""
    assert (torch.diff(strength(torch.tensor(sorted(x)), alpha, beta)) >= 0).all()


def test_without_the_controller_every_item_aligns_alike() -> None:
    """alpha = beta = 0 is w = 1."""
    assert strength(torch.tensor([0.0, 0.4, 1.0]), 0.0, 0.0).tolist() == [1, 1, 1]


def test_info_nce_equals_its_definition() -> None:
    """-log exp(s_jj / t) / sum_i exp(s_ji / t) over known rows, and 0 where a row is not known."""
    chance = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 3, generator=chance), torch.randn(5, 3, generator=chance)
    known = torch.tensor([True, True, False, True, True])
    sim = torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1) / 0.07
    expected = [
        (
            -math.log(math.exp(sim[j, j]) / sum(math.exp(sim[j, i]) for i in range(5) if known[i]))
            if known[j]
            else 0
        )
        for j in range(5)
    ]
    assert info_nce(a, b, known, temperature=0.07).tolist() == pytest.approx(expected, abs=1e-4)


def test_alignment_weight_acts_inside_the_mean() -> None:
    """An item with w = 0 adds nothing to the content-behaviour terms, its neighbours still do."""
    chance = torch.Generator().manual_seed(0)
    h = {m: torch.randn(4, 3, generator=chance) for m in ("title", BEHAVIOR)}
    known, w = torch.ones(4, dtype=torch.bool), torch.tensor([1.0, 0.0, 0.5, 0.0])
    loss = alignment_loss(h, dict.fromkeys(h, known), w, temperature=0.1)
    per_item = info_nce(h["title"], h[BEHAVIOR], known, temperature=0.1)
    assert float(loss) == pytest.approx(float((per_item[0] + 0.5 * per_item[2]) / 4), rel=1e-5)


def test_a_code_is_the_nearest_direction() -> None:
    """Lookup is the argmax of the cosine: the length of latent and codeword does not matter."""
    books = Codebooks(1, 3, 2)
    books.codewords.data = torch.tensor([[[1.0, 0.0], [0.0, 9.0], [-1.0, -1.0]]])
    latents = torch.tensor([[[0.9, 0.1]], [[0.01, 0.02]], [[-3.0, -2.0]]])
    assert books.lookup(latents).flatten().tolist() == [0, 1, 2]
    assert torch.allclose(books.codeword(torch.tensor([[1]])), torch.tensor([[[0.0, 1.0]]]))


def test_a_held_code_is_given_up_only_for_a_clearly_nearer_one() -> None:
    """Cosines with the two codewords are 0.6 and 0.8: a lead of 0.2 beats a margin of 0.19, not one
    of 0.21; without a code held the nearest counts.
    """
    books = Codebooks(1, 2, 2)
    books.codewords.data = torch.eye(2)[None]
    latents = torch.tensor([[[0.6, 0.8]]]).expand(3, 1, 2)
    held = torch.tensor([[0], [1], [-1]])
    assert books.lookup(latents, held_BP=held, margin=0.21).flatten().tolist() == [0, 1, 1]
    assert books.lookup(latents, held_BP=held, margin=0.19).flatten().tolist() == [1, 1, 1]


def test_kmeans_finds_separate_directions() -> None:
    """Four tight bundles of directions become the four codewords."""
    bundle = torch.nn.functional.normalize(
        torch.eye(4).repeat_interleave(25, 0)
        + 0.01 * torch.randn(100, 4, generator=torch.Generator().manual_seed(0)),
        dim=-1,
    )
    words = spherical_kmeans(bundle, 4, chance=torch.Generator().manual_seed(2))
    assert sorted((bundle @ words.T).argmax(1).bincount(minlength=4).tolist()) == [25, 25, 25, 25]


def test_unused_codes_move_to_crowded_places() -> None:
    """A dead code comes back on a latent of the crowd, a used one stays."""
    books = Codebooks(1, 2, 2)
    books.codewords.data = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    latent = torch.nn.functional.normalize(torch.tensor([[[1.0, 0.5]], [[1.0, -0.5]]]), dim=-1)
    known, codes = torch.ones(2, 1, dtype=torch.bool), books.lookup(latent)
    moved = revive(
        books.codewords,
        torch.tensor([[50, 0]]),
        latent,
        codes,
        known,
        share=0.01,
        chance=torch.Generator().manual_seed(0),
    )
    assert moved == 1
    assert books.codewords[0, 0].tolist() == [1, 0]
    assert any(torch.equal(books.codewords[0, 1], row) for row in latent[:, 0])


def test_even_use_of_codes_is_balanced() -> None:
    """The imbalance is about 0 when codes are used alike
    and near ln 2 when one of two takes everything.
    """
    books = Codebooks(1, 2, 2)
    books.codewords.data = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    books.requires_grad_(False)
    known = torch.ones(2, 1, dtype=torch.bool)
    even, uneven = (
        torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]]),
        torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]]),
    )
    assert float(books.imbalance(even, known)) == pytest.approx(0, abs=1e-4)
    assert float(books.imbalance(uneven, known)) == pytest.approx(math.log(2), abs=1e-3)


@pytest.mark.parametrize("scale", ["sigmoid", "linear", "controller", "equal"])
def test_behavioural_weights_are_never_negative_and_vanish_without_behaviour(scale: str) -> None:
    """R >= 0, and R = 0 for an item that has no behaviour, under every scale."""
    gate = BehaviorGate(4, 3, hidden=8, scale=scale, alpha=20.0, beta=4.0)
    present = torch.tensor([True] * 5 + [False])
    weight = gate(torch.randn(6, 4), torch.linspace(0, 1, 6), present)
    assert (weight >= 0).all()
    assert (weight[5] == 0).all()
    assert scale != "equal" or (weight[:5] == 1).all()


def test_exported_weights_are_relative_to_the_usual_weight() -> None:
    """R over its mean where active, at most 4."""
    gate = BehaviorGate(4, 2, hidden=8, scale="linear", alpha=20.0, beta=4.0)
    gate.normaliser.copy_(torch.tensor([0.5, 2.0]))
    assert gate.normalised(torch.tensor([[0.5, 1.0], [9.0, 0.0]])).tolist() == [
        [1.0, 0.5],
        [4.0, 0.0],
    ]


def test_the_gate_follows_its_target_share_and_level() -> None:
    """All the way there, each of 3 experts is active on half of the rows when 1.5 are wanted, and R
    is 1 on average where active.
    """
    torch.manual_seed(0)  # a gate whose hidden units are all off gives many rows one value
    gate = BehaviorGate(4, 3, hidden=8, scale="linear", alpha=20.0, beta=4.0)
    behavior, known = (
        torch.randn(1000, 4, generator=torch.Generator().manual_seed(0)),
        torch.ones(1000, dtype=torch.bool),
    )
    gate.follow(behavior, torch.full((1000,), 0.3), known, target=1.5, pace=1.0)
    weight = gate(behavior, torch.full((1000,), 0.3), known).detach()
    assert (weight > 0).float().mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.002)
    assert (weight.sum(0) / (weight > 0).sum(0)).tolist() == pytest.approx([1] * 3, abs=0.05)


def test_sparsity_controller_is_remoes_feedback() -> None:
    """Eq. 23 on two rows by hand; lambda times 1.2 while too many experts are active, over 1.2 when
    too few.
    """
    control = SparsityController(experts=2, target=1.0, strength=0.5)
    gate, known = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.ones(2, dtype=torch.bool)
    # f = 2 / (1 * 2) * (2, 1) = (2, 1); mean R = (2, 1); 0.5 * (2 * 2 + 1 * 1)
    assert float(control.penalty(gate, known)) == pytest.approx(2.5)
    control.observe(torch.ones(2, 2), known)
    assert control.strength == pytest.approx(0.6)
    control.inactive = 0.9
    control.observe(torch.zeros(2, 2), known)
    assert control.strength == pytest.approx(0.5)


def test_codebooks_receive_gradients() -> None:
    """The loss moves the codewords; Eq. 14 as printed would leave them where they started (method
    notes: How codebooks learn).
    """
    for changes, learns in (({}, True), ({"vq_weight": 0.0, "balance_weight": 0.0}, False)):
        network, batch = model(**changes), rows()
        encoded = network.encode(batch)
        words = network.codebooks.codeword(network.codebooks.lookup(encoded.latent_BPD))
        torch.stack(list(network.loss(batch, encoded, words, None).values())).sum().backward()
        gradient = network.codebooks.codewords.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == learns


def test_scaling_an_expert_changes_nothing() -> None:
    """Ten times an expert's last layer gives the same codes, weights and reconstruction: weights
    keep their meaning (method notes: Scale of the behavioural weights).
    """
    network, batch = model(), rows()
    before = network.encode(batch)
    last = network.experts.experts[-1][-1]
    with torch.no_grad():
        last.weight *= 10
        last.bias *= 10
    after = network.encode(batch)
    assert torch.equal(
        network.codebooks.lookup(before.latent_BPD), network.codebooks.lookup(after.latent_BPD)
    )
    assert torch.equal(before.weight_BP, after.weight_BP)
    assert torch.allclose(before.latent_BPD, after.latent_BPD, atol=1e-6)


def test_content_gates_share_one_weight() -> None:
    """Two title experts share weight 1 by softmax, the single image expert has it whole, shared
    codes weigh 1.
    """
    weight = model().encode(rows()).weight_BP
    assert torch.allclose(weight[:, 1:3].sum(1), torch.ones(16))
    assert (weight[:, [0, 3]] == 1).all()


def test_optional_terms_of_mmq_join_the_loss() -> None:
    """Orthogonality and auxiliary reconstruction are off unless weighted, and finite then (method
    notes: Terms of MMQ).
    """
    network, batch = model(orthogonality_weight=0.1, auxiliary_weight=1.0), rows()
    terms = network.loss(batch, network.encode(batch), None, None)
    assert {"orthogonality", "auxiliary"} <= set(terms)
    assert all(torch.isfinite(t) for t in terms.values())
    plain = model()
    assert not {"orthogonality", "auxiliary"} & set(
        plain.loss(batch, plain.encode(batch), None, None)
    )


def test_a_batch_without_any_behaviour_still_has_a_loss() -> None:
    """A batch of cold items only trains content, without NaN."""
    network, batch = model(), rows()
    batch = batch._replace(
        present={**batch.present, BEHAVIOR: torch.zeros(16, dtype=torch.bool)}, x=torch.zeros(16)
    )
    encoded = network.encode(batch)
    words = network.codebooks.codeword(network.codebooks.lookup(encoded.latent_BPD))
    total = torch.stack(
        list(network.loss(batch, encoded, words, SparsityController(3, 1.5)).values())
    ).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_settings_that_cannot_train_are_refused() -> None:
    """Warm-up must end before training does, and widths keep rows independent of their place."""
    with pytest.raises(InputError, match="warmup_steps"):
        replace(adc(), steps=10, warmup_steps=10)

    with pytest.raises(InputError, match="multiples of 16"):
        replace(adc(), latent=24)


def test_a_unit_gate_does_not_see_a_vectors_length() -> None:
    """At unit length a vector ten times as long weighs the same; as it is, it does not."""
    behavior, x, present = (
        torch.randn(50, 16, generator=torch.Generator().manual_seed(0)),
        torch.ones(50),
        torch.ones(50, dtype=torch.bool),
    )
    for reads in ("unit", "raw"):
        gate = BehaviorGate(16, 2, hidden=16, scale="linear", alpha=1.0, beta=1.0, reads=reads)
        assert torch.allclose(
            gate(behavior, x, present), gate(10 * behavior, x, present), atol=1e-5
        ) == (reads == "unit")


def test_settings_that_an_earlier_version_stored_are_read() -> None:
    """A generation of version 0.1 names settings that are gone; they steered the training only."""
    stored = {**adc().to_dict(), "codebook_update": "ema", "ema_decay": 0.99}
    stored |= {"stopgrad_behavior": False, "denoise_negatives": False}
    assert AdcSettings.from_dict(stored) == adc()
    with pytest.raises(TypeError, match="colour"):
        AdcSettings.from_dict({"colour": 1})
