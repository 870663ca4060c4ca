"""Training an ADC-SID tokenizer: what holds after a fit, and a fit that was killed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import ArtifactError, InputError, QualityError, ReliabilityError
from adc_features.tokenizer import training as loop
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import RECIPES, adc, fit
from adc_features.tokenizer.model import AdcSettings

SPEC = SidSpec(content={"title": 1, "image": 1}, shared=1, behavior=3, codebook_size=8)
N = 300


def table(day: int = 0, *, growth: float = 1.0) -> EmbeddingTable:
    """Long-tail items whose behaviour norms rise with their counts; the behaviour space grows by
    `growth` a day.
    """
    chance = np.random.default_rng(0)
    count = np.sort(chance.geometric(0.05, N)).astype(np.int64)
    taste = chance.normal(size=(N, 4))
    vectors = {
        m: (
            (taste @ chance.normal(size=(4, 12)) + 0.2 * chance.normal(size=(N, 12))).astype(
                np.float32
            )
        )
        for m in ("title", "image", BEHAVIOR)
    }
    unit = vectors[BEHAVIOR] / np.linalg.norm(vectors[BEHAVIOR], axis=1, keepdims=True)
    vectors[BEHAVIOR] = (unit * np.log1p(count)[:, None] * growth**day).astype(np.float32)
    present = {m: np.ones(N, bool) for m in vectors}
    return EmbeddingTable(
        np.arange(N),
        vectors,
        present,
        count,
        datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day),
    )


def quick(settings: AdcSettings, **changes: object) -> AdcSettings:
    return replace(
        settings,
        **(
            {
                "steps": 60,
                "warmup_steps": 10,
                "batch": 64,
                "hidden": 16,
                "latent": 16,
                "aligned": 16,
                "min_utilisation": 0.0,
            }
            | changes
        ),
    )


def fitted(
    tmp_path: Path,
    settings: AdcSettings,
    *,
    tables: list[EmbeddingTable] | None = None,
    **arguments: object,
) -> Generation:
    return fit(
        tables or [table()],
        SPEC,
        settings=settings,
        generation_id="g1",
        directory=tmp_path / "g1",
        seed=1,
        **arguments,
    )


@pytest.mark.parametrize(
    "recipe",
    [
        "adc",
        "adc_norm",
        "raw_gate",
        "without_controller",
        "without_contrastive",
        "without_gate",
        "without_sparsity",
    ],
)
def test_every_named_recipe_runs(recipe: str, tmp_path: Path) -> None:
    """ADC-SID, its norm mode and the paper's four ablations (Table 3) each give a vocabulary,
    different from plain ADC-SID's.
    """
    settings = RECIPES[recipe]()
    sids = encode(table(), fitted(tmp_path, quick(settings)))
    behavioral = sids.sid_weight[:, 3:]
    assert (behavioral == 1).all() == (recipe == "without_gate")
    assert (sids.alignment == 1).all() == (recipe == "without_controller")
    assert recipe == "adc" or settings != adc()


def test_a_gentler_reading_keeps_the_penalty_of_the_paper(tmp_path: Path) -> None:
    """Eq. 23 with ReMoE's feedback, and the sigmoid scale of Eq. 22, are choices that run."""
    settings = quick(adc(), sparsity="penalty", gate_scale="sigmoid")
    training = fitted(tmp_path, settings).quality["training"]
    assert training[-1]["lambda"] > training[0]["lambda"]
    assert "sparsity" in training[-1]


def test_the_wanted_number_of_experts_is_active(tmp_path: Path) -> None:
    """After training k-bar experts are active on average, within a tenth, and each on at least a
    twentieth of the items.
    """
    for target in (1.0, 1.5, 2.0):
        active = (
            encode(table(), fitted(tmp_path, quick(adc(), target_active=target))).sid_weight[:, 3:]
            > 0
        )
        assert active.sum(1).mean() == pytest.approx(target, rel=0.1)
        assert (active.mean(0) >= 0.05).all()


def test_exported_weights_average_one_where_active(tmp_path: Path) -> None:
    """R is exported relative to its mean where active,
    at most 4 (method notes: Exported weights).
    """
    weight = encode(table(), fitted(tmp_path, quick(adc()))).sid_weight[:, 3:]
    assert weight.max() <= 4
    assert np.array([w[w > 0].mean() for w in weight.T]) == pytest.approx(np.ones(3), abs=0.1)


def test_weights_are_rounded_once_to_the_stored_precision(tmp_path: Path) -> None:
    """Under float16 every exported weight is a float16 value."""
    spec = replace(SPEC, weight_dtype="float16")
    generation = fit(
        [table()],
        spec,
        settings=quick(adc()),
        generation_id="g1",
        directory=tmp_path / "g1",
        seed=1,
    )
    weight = encode(table(), generation).sid_weight
    assert np.array_equal(weight, weight.astype(np.float16).astype(np.float32))


def test_a_killed_fit_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fit that dies at step 45 and is started again ends with the weights file of one that never
    died, to the bit.
    """
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 20)
    settings, checkpoint = quick(adc(), revive_every=7), tmp_path / "partial" / "fit.pt"
    whole = fitted(tmp_path / "whole", settings)

    def killed(_: str, done: int, total: int) -> None:
        if done == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "again", settings, checkpoint=checkpoint, progress=killed)
    assert checkpoint.is_file()
    assert not (tmp_path / "again" / "g1").exists()
    seen: list[int] = []
    resumed = fitted(
        tmp_path / "again",
        settings,
        checkpoint=checkpoint,
        progress=lambda _, done, total: seen.append(done),
    )
    assert seen[0] == 41
    assert resumed.codebook_hash == whole.codebook_hash
    assert resumed.quality == whole.quality
    assert not checkpoint.exists()


def test_a_checkpoint_of_other_inputs_is_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of other vectors or settings does not leak into a new fit."""
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 20)
    checkpoint = tmp_path / "fit.pt"

    def killed(_: str, done: int, total: int) -> None:
        if done == 45:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, quick(adc()), checkpoint=checkpoint, progress=killed)
    other = quick(adc(), commitment=0.5)
    assert (
        fitted(tmp_path / "a", other, checkpoint=checkpoint).codebook_hash
        == fitted(tmp_path / "b", other).codebook_hash
    )


def test_a_fit_leaves_torchs_chance_alone(tmp_path: Path) -> None:
    """Neither fit nor encode draws from torch's global generator."""
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    encode(table(), fitted(tmp_path, quick(adc())))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_codes_do_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    """Fit and encode give the same bits with one thread and with two, and leave torch's setting as
    it was.
    """
    threads, results = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(encode(table(), fitted(tmp_path / str(n), quick(adc()))))
            assert torch.get_num_threads() == n
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(results[0].sid, results[1].sid)
    assert np.array_equal(results[0].sid_weight, results[1].sid_weight)


def test_a_growing_behaviour_space_keeps_its_codes(tmp_path: Path) -> None:
    """Vectors that only double from cut-off to cut-off keep their codes: each cut-off has its own
    mean and scale.
    """
    tables = [table(day, growth=2.0) for day in range(3)]
    generation = fitted(tmp_path, quick(adc()), tables=tables[::-1])
    sids = [encode(t, generation) for t in tables]
    assert np.array_equal(sids[0].sid[:, 3:], sids[2].sid[:, 3:])
    assert generation.trained_through == tables[2].as_of


def test_norms_that_fall_with_popularity_are_refused(tmp_path: Path) -> None:
    """The norm mode refuses vectors whose norms anti-correlate with the counts; counts themselves
    are fine.
    """
    against = replace(table(), interaction_count=table().interaction_count[::-1].copy())
    with pytest.raises(ReliabilityError, match="rank correlation"):
        fitted(tmp_path, quick(RECIPES["adc_norm"]()), tables=[against])
    assert fitted(tmp_path, quick(adc()), tables=[against]).quality[
        "reliability_rank_correlation"
    ] == pytest.approx(1)


def test_uneven_codebooks_are_not_published(tmp_path: Path) -> None:
    """A codebook with dead codes fails the quality gate and nothing is written."""
    with pytest.raises(QualityError, match="dead"):
        fitted(tmp_path, quick(adc(), min_utilisation=1.1))
    assert not list(tmp_path.iterdir())


def test_two_tables_of_one_time_are_refused(tmp_path: Path) -> None:
    """Cut-offs are told apart by their time."""
    with pytest.raises(InputError, match="same time"):
        fitted(tmp_path, quick(adc()), tables=[table(), table()])


def test_a_generation_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    """ADC-SID's encode does not read what another tokenizer wrote."""
    with pytest.raises(ArtifactError, match="rq_kmeans"):
        encode(table(), replace(fitted(tmp_path, quick(adc())), tokenizer="rq_kmeans"))


def test_the_report_follows_training(tmp_path: Path) -> None:
    """The generation's report holds the training curve,
    step by step, with its terms and controller.
    """
    training = fitted(tmp_path, quick(adc())).quality["training"]
    assert training[-1]["step"] == 60
    assert {"reconstruction", "alignment", "vq", "balance", "active_experts", "lambda"} <= set(
        training[-1]
    )
    assert training[-1]["reconstruction"] < training[0]["reconstruction"]
