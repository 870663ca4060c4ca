"""The pieces of posterior semantic IDs, against plain linear algebra and exhaustive search."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.reliability import rank_correlation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.tokenizer.baselines.chain import Chain, calibration_error, learn
from adc_features.tokenizer.baselines.kmeans import kmeans, residual_codebooks
from adc_features.tokenizer.baselines.latent import LatentModel
from adc_features.tokenizer.baselines.latent import learn as learn_latent
from adc_features.tokenizer.baselines.posterior import PosteriorSettings
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import RECIPES, fit
from adc_features.tokenizer.line import Line

CHANCE = np.random.default_rng(11)


def chain_of(words: np.ndarray, *, tau: float = 1.0) -> Chain:
    chain = Chain(*words.shape, draws=4)
    chain.words, chain.tau = torch.from_numpy(words.astype(np.float32)), torch.tensor(tau)
    chain.freeze()
    return chain


def small_world(rows: int = 1200) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Vectors of a true z of 3 dims, the item's own noise in behaviour [N], and z."""
    chance = np.random.default_rng(11)
    z = chance.normal(size=(rows, 3))
    noise = np.exp(chance.normal(size=rows))
    content = z @ chance.normal(size=(3, 16)) + 0.5 * chance.normal(size=(rows, 16))
    behavior = z @ chance.normal(size=(3, 20)) + noise[:, None] * chance.normal(size=(rows, 20))
    return (
        {"text": torch.from_numpy(content), BEHAVIOR: torch.from_numpy(behavior)},
        noise,
        z,
    )


def test_a_belief_is_the_posterior_of_a_linear_model_with_noise() -> None:
    """Mean and covariance of z are those that inverting the precision of each row gives, with and
    without behaviour or content.
    """
    vectors, _, _ = small_world(40)
    present = {m: torch.ones(40, dtype=torch.bool) for m in vectors}
    present[BEHAVIOR][:5], present["text"][5:8] = False, False
    vectors = {m: torch.where(present[m][:, None], v, 0.0) for m, v in vectors.items()}
    model = LatentModel({"text": 16, BEHAVIOR: 20}, 16).double()
    for m in vectors:
        model.view(m).loading = torch.from_numpy(CHANCE.normal(size=model.view(m).loading.shape))
    model.view("text").noise = torch.tensor(0.7, dtype=torch.float64)
    x = torch.zeros(40, dtype=torch.float64)
    belief = model.believe(model.inputs(vectors, present, x))
    mean = model.out(belief, belief.mean_BQ)
    text, behavior = model.view("text").loading, model.view(BEHAVIOR).loading
    for row in range(40):
        precision, pull = torch.eye(16, dtype=torch.float64), torch.zeros(16).double()
        if present["text"][row]:
            precision += text.T @ text / 0.7
            pull += text.T @ vectors["text"][row] / 0.7
        if present[BEHAVIOR][row]:
            precision += behavior.T @ behavior / belief.noise_B[row]
            pull += behavior.T @ vectors[BEHAVIOR][row] / belief.noise_B[row]
        covariance = torch.linalg.inv(precision)
        torch.testing.assert_close(mean[row], covariance @ pull)
        turn = model.basis(int(belief.pattern_B[row]))[0]
        torch.testing.assert_close(turn.T @ torch.diag(belief.variance_BQ[row]) @ turn, covariance)


def test_the_noise_of_each_item_is_found() -> None:
    """Fitted on vectors alone, the estimated noise ranks items as their true noise does."""
    vectors, noise, _ = small_world()
    present = {m: torch.ones(len(noise), dtype=torch.bool) for m in vectors}
    model, x = LatentModel({"text": 16, BEHAVIOR: 20}, 16), torch.zeros(len(noise)).double()
    learn_latent(model, vectors, present, x, iterations=15)
    single = {m: v.float() for m, v in vectors.items()}
    belief = model.believe(model.inputs(single, present, x.float()))
    assert rank_correlation(belief.noise_B.numpy(), noise) > 0.9


def test_a_search_with_all_ways_open_finds_the_nearest_sum() -> None:
    """Of 3 x 4 codes the search finds the combination that trying all 64 finds."""
    words, rows = CHANCE.normal(size=(3, 4, 5)), CHANCE.normal(size=(50, 5))
    found = chain_of(words).search(torch.from_numpy(rows.astype(np.float32)), ways=16).numpy()
    every = np.array(list(product(range(4), repeat=3)))
    sums = words[np.arange(3), every].sum(1)
    nearest = every[np.square(rows[:, None] - sums).sum(2).argmin(1)]
    np.testing.assert_array_equal(found, nearest)


@pytest.mark.parametrize(("slack", "kept"), [(0.0, [1, 1]), (0.45, [1, 0]), (9.0, [0, 0])])
def test_a_held_code_is_exchanged_where_that_saves_more_than_the_slack(
    slack: float, kept: list[int]
) -> None:
    """A vector at (1, 1), held at (0, 0): exchanging the first code saves 1 of a squared distance
    of 2, exchanging the second .75 more. A slack of .45 of tau 2 pays for the first alone.
    """
    words = np.array([[[0, 0], [1, 0]], [[0, 0], [0, 0.5]]])
    chain = chain_of(words, tau=2.0)
    at, held = torch.tensor([[1.0, 1.0]]), torch.tensor([[0, 0]])
    best = chain.search(at, ways=4)
    assert best.tolist() == [[1, 1]]
    assert chain.hold(at, best, held, slack=slack).tolist() == [kept]


def test_held_codes_and_their_tolls_cost_no_more_than_all_or_none_of_them() -> None:
    """From any held codes; and a code that lies near keeps most positions."""
    chain = chain_of(CHANCE.normal(size=(4, 8, 6)), tau=1.5)
    rows = torch.from_numpy(CHANCE.normal(size=(300, 6)).astype(np.float32))
    best = chain.search(rows, ways=8)
    strange = torch.from_numpy(CHANCE.integers(-1, 8, size=(300, 4)))

    def cost(codes: Tensor, start: Tensor) -> Tensor:
        distance = (rows - chain.sum(codes)).square().sum(1)
        return distance + 0.5 * 1.5 * (codes != start).sum(1)

    for held in (strange, chain.search(rows + 0.1 * rows.flip(0), ways=8)):
        codes, start = chain.hold(rows, best, held, slack=0.5), torch.where(held < 0, best, held)
        least = torch.minimum(cost(start, start), cost(best, start))
        assert (cost(codes, start) - least).max() <= 1e-4
    assert (codes == held).float().mean() > (best == held).float().mean()


def test_joint_codewords_are_no_worse_than_residual_ones() -> None:
    """After the rounds of joint least squares less is left than after residual k-means."""
    rows = torch.from_numpy(CHANCE.normal(size=(500, 6)).astype(np.float32))
    plain = chain_of(residual_codebooks(rows.numpy(), 3, 8, kmeans, 0))
    left = (rows - plain.sum(plain.search(rows, ways=1))).square().sum(1).mean()
    chain = Chain(3, 8, 6, draws=4)
    learn(chain, rows, iterations=20, ways=8, seed=0)
    assert chain.tau < 0.95 * left


def test_draws_agree_less_the_more_noise_there_is() -> None:
    """Without noise all draws agree with the codes found, at every position; and agreement falls
    along the chain.
    """
    rows = torch.from_numpy(CHANCE.normal(size=(200, 6)).astype(np.float32))
    chain = Chain(3, 8, 6, draws=4)
    learn(chain, rows, iterations=20, ways=8, seed=0)
    codes = chain.search(rows, ways=8)
    noise = torch.from_numpy(CHANCE.normal(size=(4, 200, 6)).astype(np.float32))
    still, some, much = (chain.agreeing(rows, codes, noise * s) for s in (0, 0.2, 1.0))
    assert (still == 4).float().mean() > 0.95
    assert still.float().mean() > some.float().mean() > much.float().mean()
    assert (some[:, 1:] <= some[:, :-1]).all()


def test_calibration_error_is_the_mean_distance_from_what_was_right() -> None:
    """Half of the codes that claim 0.9 are right, and all that claim 1."""
    chance, right = np.array([0.9] * 10 + [1.0] * 10), np.array([0, 1] * 5 + [1] * 10)
    assert calibration_error(chance, right, bins=2) == pytest.approx(0.2)


@pytest.mark.parametrize("changes", [{"latent": 20}, {"draws": 0}, {"slack": -1.0}])
def test_settings_that_cannot_be_met_are_refused(changes: dict[str, float]) -> None:
    """A latent width that is no multiple of 16, no draws, or a negative slack."""
    with pytest.raises(InputError, match=next(iter(changes))):
        PosteriorSettings("posterior", **changes)


def renewed(folder: Path, name: str, *, warm: bool) -> tuple[Generation, Generation]:
    """A generation of catalogue vectors, and one aligned with it that has seen a little more."""
    spec = SidSpec(content={"text": 1}, shared=1, behavior=2, codebook_size=8)
    settings = replace(RECIPES[name](), iterations=6, latent=16, min_utilisation=0.0)
    vectors, _, _ = small_world(300)
    first = catalogue(vectors, day=1)
    drift = {
        m: v + 0.05 * torch.from_numpy(np.random.default_rng(3).normal(size=v.shape))
        for m, v in vectors.items()
    }
    parent = fit(
        [first], spec, settings=settings, generation_id="g1", directory=folder / "g1", seed=1
    )
    child = fit(
        [first, catalogue(drift, day=2)],
        spec,
        settings=settings,
        generation_id="g2",
        directory=folder / "g2",
        seed=2,
        line=Line(parent, warm=warm),
    )
    return parent, child


def catalogue(vectors: dict[str, torch.Tensor], *, day: int) -> EmbeddingTable:
    rows = len(vectors["text"])
    return EmbeddingTable(
        np.arange(rows),
        {m: v.numpy().astype(np.float32) for m, v in vectors.items()},
        {m: np.ones(rows, bool) for m in vectors},
        1 + np.arange(rows) % 40,
        datetime(2024, 1, day, tzinfo=UTC),
    )


def test_a_second_code_is_what_most_other_draws_have() -> None:
    """Of the draws that are coded otherwise, at each position; the lower code of equals, and none
    where all agree.
    """
    chain = chain_of(np.array([[[0.0], [10.0], [20.0]], [[-1.0], [0.0], [1.0]]]))
    rows, codes = torch.tensor([[10.0], [0.0]]), torch.tensor([[1, 1], [0, 1]])
    draws = torch.tensor([[0.0, 0.2], [10.0, 0.1], [10.0, 0.0], [-10.0, -0.1]])[:, :, None]
    second, votes = chain.rivals(rows, codes, draws)
    assert second.tolist() == [[2, -1], [-1, -1]]
    assert votes.tolist() == [[2, 0], [0, 0]]
    for n in range(2):
        coded = [chain.search(rows[n : n + 1] + draw[n], ways=1)[0].tolist() for draw in draws]
        for p in range(2):
            others = [code[p] for code in coded if code[p] != codes[n, p]]
            wanted = min(others, key=lambda c: (-others.count(c), c), default=-1)
            assert (second[n, p], votes[n, p]) == (wanted, others.count(wanted))


def test_second_codes_stand_beside_the_same_first_codes(tmp_path: Path) -> None:
    """posterior_second codes and weighs as posterior does; what it tells beside is no first code,
    and its probability says how often it is right on the whole.
    """
    vectors, _, _ = small_world(600)
    tables = [catalogue(vectors, day=1)]
    spec = SidSpec(content={"text": 1}, shared=1, behavior=1, codebook_size=8)
    made = {}
    for name in ("posterior", "posterior_second"):
        settings = replace(RECIPES[name](), iterations=5, latent=16, min_utilisation=0.0)
        generation = fit(
            tables,
            spec,
            settings=settings,
            generation_id=name,
            directory=tmp_path / name,
            seed=0,
        )
        made[name] = encode(tables[0], generation)
    plain, told = made["posterior"], made["posterior_second"]
    assert not plain.has_second
    assert np.array_equal(plain.sid, told.sid)
    assert np.array_equal(plain.sid_weight, told.sid_weight)
    some = told.sid_second >= 0
    assert 0.2 < some.mean() < 1
    assert (told.sid_second_weight[some] > 0).all()
    assert (told.sid_weight + told.sid_second_weight <= 1 + 1e-6).all()
    assert max(generation.quality["second_calibration_error"]) < 0.1


@pytest.mark.parametrize("name", ["posterior", "posterior_experts"])
def test_a_renewal_keeps_most_codes_of_its_parent(tmp_path: Path, name: str) -> None:
    """From a warm start most codes stay; a new fit is named after the parent, and keeps fewer."""
    _, warm = renewed(tmp_path / "warm", name, warm=True)
    _, anew = renewed(tmp_path / "anew", name, warm=False)
    assert warm.quality["churn"]["changed"] < 0.2
    assert warm.quality["churn"]["changed"] < anew.quality["churn"]["changed"]
    assert anew.quality["churn"]["changed"] < anew.quality["churn"]["changed_raw"]


def test_only_a_generation_of_its_own_kind_is_renewed(tmp_path: Path) -> None:
    """A fit of experts cannot go on from levels, and says what can."""
    spec = SidSpec(content={"text": 1}, shared=1, behavior=2, codebook_size=8)
    table = catalogue(small_world(100)[0], day=1)
    quick = {
        name: replace(RECIPES[name](), iterations=2, latent=16, min_utilisation=0.0)
        for name in ("posterior", "posterior_experts")
    }
    parent = fit(
        [table],
        spec,
        settings=quick["posterior"],
        generation_id="g1",
        directory=tmp_path / "g1",
        seed=0,
    )
    with pytest.raises(InputError, match="this fit is of 'posterior_experts'"):
        fit(
            [table],
            spec,
            settings=quick["posterior_experts"],
            generation_id="g2",
            directory=tmp_path / "g2",
            seed=0,
            line=Line(parent),
        )
