"""Tokenizers that learn from a generator: ETEGRec and DIGER."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.spec import SidSpec
from adc_features.encoders.sasrec import Batch, Sequences, packed_batches
from adc_features.errors import InputError
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks
from adc_features.tokenizer.baselines.diger import (
    Learner,
    SoftCodes,
    choose,
    diger,
    gaps,
    gumbel,
)
from adc_features.tokenizer.baselines.etegrec import chosen, sia
from adc_features.tokenizer.baselines.generative import distances
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import RECIPES, fit
from adc_features.tokenizer.union import chance_of

ITEMS, USERS, EACH = 120, 60, 10
AS_OF = datetime(2024, 1, 1, tzinfo=UTC)
SPEC = SidSpec(content={"title": 2}, shared=0, behavior=0, codebook_size=8)
SMALL: Mapping[str, Any] = {
    "steps": 60,
    "warmup_steps": 10,
    "batch": 64,
    "hidden": (16,),
    "latent": 16,
    "min_utilisation": 0.0,
    "width": 16,
    "history": 10,
    "targets": 40,
}


def taste() -> np.ndarray:
    """A hidden group of each item, int64 [ITEMS]; users stay within one."""
    return np.random.default_rng(3).integers(0, 4, ITEMS)


def table() -> EmbeddingTable:
    """Items whose titles show other groups clearly, and the groups of taste faintly."""
    chance = np.random.default_rng(4)
    title = (
        chance.normal(size=(4, 12))[chance.integers(0, 4, ITEMS)]
        + 0.5 * chance.normal(size=(4, 12))[taste()]
        + 0.2 * chance.normal(size=(ITEMS, 12))
    )
    return EmbeddingTable(
        np.arange(ITEMS),
        {"title": title.astype(np.float32)},
        {"title": np.ones(ITEMS, bool)},
        np.ones(ITEMS, np.int64),
        AS_OF,
    )


def visits(*, since: str = "2023-06-01", seed: int = 5) -> pa.Table:
    """Users who each visit EACH items of one group of taste, an hour apart."""
    chance = np.random.default_rng(seed)
    items = [chance.choice(np.flatnonzero(taste() == u % 4), EACH) for u in range(USERS)]
    hours = np.datetime64(since, "us") + np.arange(USERS * EACH).astype("timedelta64[h]")
    return pa.table(
        {
            "user_id": np.repeat(np.arange(USERS), EACH),
            "item_id": np.concatenate(items),
            "time": pa.array(hours).cast(pa.timestamp("us", tz="UTC")),
        }
    )


def fitted(
    name: str, directory: Path, *, events: pa.Table | None = None, **changes: Any
) -> Generation:
    recipe = RECIPES[name]()
    small = {key: value for key, value in SMALL.items() if hasattr(recipe, key)}
    return fit(
        [table()],
        SPEC,
        settings=replace(recipe, **{**small, **changes}),
        generation_id="g",
        directory=directory,
        seed=0,
        events=visits() if events is None else events,
    )


def rows_of(generation: Generation, key: str) -> list[dict[str, float]]:
    """Rows of the training curve that tell `key`."""
    return [row for row in generation.quality["training"] if key in row]


def batch() -> Batch:
    """Three users over the items 0 to 5."""
    log = Sequences(np.array([0, 1, 2, 3, 4, 5, 0, 2]), np.array([3, 6, 8]))
    return next(packed_batches(log, length=10, rows=2, rng=np.random.default_rng(0)))


def soft_codes() -> tuple[AdditiveCodebooks, SoftCodes, torch.Tensor]:
    """Codebooks of two positions, four codes and 16 dims, a generator on them, and six latents."""
    torch.manual_seed(0)
    books = AdditiveCodebooks(2, 4, 16)
    books.codewords.data.normal_()
    latent = torch.randn(6, 16)
    settings = replace(diger(), width=16, history=10, targets=20)
    return books, SoftCodes(books, books.lookup(latent).detach(), settings), latent


def columns(events: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(events.column_names, events.columns, strict=True))


# ---- DIGER


def test_the_loss_of_generation_alone_reaches_every_codebook() -> None:
    """Its gradient is not zero, through the choices of codes as through the codes' vectors; with
    codes looked up as numbers, as the published trainer has them, there is none.
    """
    books, soft, latent = soft_codes()
    soft.eval()

    def gradient(words: torch.Tensor, indicator: torch.Tensor) -> torch.Tensor | None:
        books.codewords.grad = None
        soft.generation_loss(batch(), words, indicator, torch.arange(6)).backward()
        return books.codewords.grad

    def indicator() -> torch.Tensor:
        unit = gaps(books, latent)
        return choose(books.codewords, latent, unit, temperature=2.0).indicator

    by_choice = gradient(books.codewords.detach(), indicator())
    by_vectors = gradient(books.codewords, indicator().detach())
    assert by_choice is not None
    assert by_vectors is not None
    assert (by_choice.norm(dim=2).amax(1) > 0).all()
    assert (by_vectors.norm(dim=2).amax(1) > 0).all()
    assert gradient(books.codewords.detach(), indicator().detach()) is None


def test_a_choice_without_noise_is_the_nearest_codeword() -> None:
    """Indicators are one-hot, of the codes that are encoded; what is left follows the chain."""
    books, _, latent = soft_codes()
    found = choose(books.codewords, latent, gaps(books, latent), temperature=2.0)
    codes = books.lookup(latent)
    torch.testing.assert_close(found.indicator.argmax(-1), codes)
    assert set(found.indicator.detach().round().unique().tolist()) == {0.0, 1.0}
    words = books.codeword(codes)
    torch.testing.assert_close(found.words, words)
    torch.testing.assert_close(found.left[:, 1], latent - words[:, 0])


def test_learned_noise_rests_at_the_root_of_the_loss() -> None:
    """sigma = sqrt(loss) - l is where the weighed loss has no slope."""
    books, soft, latent = soft_codes()
    learner = Learner(books, soft, latent, replace(diger(), noise="sdud", sdud_floor=1.7))
    loss = torch.tensor(5.0)
    soft.sigma.data.fill_(5**0.5 - 1.7)
    (slope,) = torch.autograd.grad(learner._weighed(loss), [soft.sigma])
    assert abs(float(slope)) < 1e-6


def test_noise_by_use_falls_on_crowded_codes_alone() -> None:
    """Items whose first code is used no more than its share are chosen without noise."""
    books, _, latent = soft_codes()
    books.codewords.data[0] = latent[:4]
    crowd = latent[torch.tensor([0, 0, 0, 0, 0, 1])]
    learner = Learner(
        books,
        SoftCodes(books, books.lookup(crowd).detach(), soft_settings()),
        crowd,
        replace(soft_settings(), noise="frqud"),
    )
    noise = learner._noise(crowd, chance_of(0))
    assert noise is not None
    assert (noise[:5] != 0).all()
    assert (noise[5] == 0).all()
    assert abs(float(gumbel(torch.Size([9999]), chance_of(1)).mean()) - 0.577) < 0.05


def soft_settings() -> Any:
    return replace(diger(), width=16, history=10, targets=20)


def test_diger_without_noise_and_rate_is_the_rq_vae(tmp_path: Path) -> None:
    """Codebooks that do not learn stay as they were, to the bit."""
    two_stage = fitted("rq_vae", tmp_path / "a")
    same = fitted("diger", tmp_path / "b", codes_rate=0.0, noise="none", epochs=1)
    for name, array in two_stage.tensors.items():
        np.testing.assert_array_equal(same.tensors[name], array)
    np.testing.assert_array_equal(encode(table(), same).sid, encode(table(), two_stage).sid)


def test_learned_noise_keeps_codes_in_use_and_none_does_not(tmp_path: Path) -> None:
    """Codebooks move, encoder and decoder do not, the loss of generation falls, and no more than a
    twentieth of the codes falls out of use; straight through without noise, more do.
    """
    before = fitted("rq_vae", tmp_path / "a")
    after, plain = (
        fitted("diger", tmp_path / noise, noise=noise, epochs=6, codes_rate=1e-3)
        for noise in ("sdud", "none")
    )
    moved = {
        name
        for name, array in before.tensors.items()
        if not np.array_equal(after.tensors[name], array)
    }
    assert moved == {"quantisers.0.books.codewords"}
    losses = [row["generation"] for row in rows_of(after, "generation")]
    assert losses[-1] < losses[0]
    first, *_, last = (row["used"] for row in rows_of(after, "used"))
    assert last >= first - 0.05
    assert rows_of(plain, "used")[-1]["used"] < last


# ---- ETEGRec


def test_the_nearest_code_is_the_likeliest() -> None:
    """Distributions of codes favour near codewords; with the published sign, the farthest."""
    distance = torch.tensor([[[0.0, 1.0, 4.0]]])
    likely = chosen(distance).exp()[0, 0]
    np.testing.assert_allclose(likely, np.exp([0, -1, -4]) / np.exp([0, -1, -4]).sum(), rtol=1e-6)
    assert int(chosen(distance, literal_sign=True).argmax()) == 2


def test_distances_are_those_of_the_residual_chain() -> None:
    """A loop over positions finds the same; the nearest at each is the code that is encoded."""
    books, _, latent = soft_codes()
    left, codes = latent.clone(), books.lookup(latent)
    got = distances(books, latent)
    for level, words in enumerate(books.codewords):
        torch.testing.assert_close(got[:, level], torch.cdist(left, words).square())
        left = left - words[codes[:, level]]
    torch.testing.assert_close(got.argmin(-1), codes)


def test_equal_views_have_no_divergence() -> None:
    """SIA is 0 where the generator's view is the item's latent, above 0 elsewhere, and pulls at
    the codebooks.
    """
    books, _, latent = soft_codes()

    class Part:
        pass

    part: Any = Part()
    part.books = books
    assert float(sia(part, latent, latent, literal_sign=False).detach()) == pytest.approx(0)
    apart = sia(part, latent.flip(0), latent, literal_sign=False)
    apart.backward()
    assert float(apart.detach()) > 0
    assert books.codewords.grad is not None
    assert (books.codewords.grad != 0).any()


def test_etegrec_without_alignment_is_the_rq_vae(tmp_path: Path) -> None:
    """Both weights 0: the codes of two stages, to the bit."""
    two_stage = fitted("rq_vae", tmp_path / "a")
    same = fitted("etegrec_parallel", tmp_path / "b", sia_weight=0.0, psa_weight=0.0)
    for name, array in two_stage.tensors.items():
        np.testing.assert_array_equal(same.tensors[name], array)


def test_codes_change_when_the_tokenizer_has_its_turn_and_settle(tmp_path: Path) -> None:
    """Every cycle says how many codes it changed: fewer in the last than in the first; a tokenizer
    that does not learn in its turns changes none.
    """
    learned = fitted("etegrec_parallel", tmp_path / "a", cycles=6, codes_rate=1e-3)
    changed = [row["changed_codes"] for row in rows_of(learned, "cycle")]
    assert len(changed) == 6
    assert changed[0] > changed[-1]
    still = fitted("etegrec_parallel", tmp_path / "b", codes_rate=0.0, cycles=2)
    assert [row["changed_codes"] for row in rows_of(still, "cycle")] == [0, 0]


# ---- both


@pytest.mark.parametrize("name", ["etegrec_parallel", "diger"])
def test_later_events_change_nothing(name: str, tmp_path: Path) -> None:
    """What users chose at or after the oldest cut-off is not read, to the bit, nor are items that
    have no vectors at it.
    """
    since = visits(since="2024-01-01", seed=9)
    unknown = pa.table({**columns(visits()), "item_id": [ITEMS] * USERS * EACH})
    later = pa.concat_tables([visits(), since, unknown])
    short = {"cycles": 1} if name == "etegrec_parallel" else {"epochs": 1}
    first = fitted(name, tmp_path / "a", **short)
    assert fitted(name, tmp_path / "b", events=later, **short).codebook_hash == first.codebook_hash
    other = fitted(name, tmp_path / "c", events=visits(seed=6), **short)
    assert other.codebook_hash != first.codebook_hash


@pytest.mark.parametrize("name", ["etegrec_parallel", "diger"])
def test_without_interactions_there_is_nothing_to_learn_from(name: str, tmp_path: Path) -> None:
    """No interactions, or none before the oldest cut-off, are refused before any work."""
    recipe = RECIPES[name]()
    for events, words in ((None, "events=interactions"), (visits(since="2025-01-01"), "no event")):
        with pytest.raises(InputError, match=words):
            fit(
                [table()],
                SPEC,
                settings=recipe,
                generation_id="g",
                directory=tmp_path / "g",
                seed=0,
                events=events,
            )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("etegrec_parallel", {"cycles": 0}),
        ("etegrec_parallel", {"sia_weight": -1.0}),
        ("diger", {"noise": "white"}),
        ("diger", {"indicator_temperature": 0.0}),
        ("diger", {"targets": 5}),
    ],
)
def test_settings_that_cannot_be_are_refused(name: str, changes: dict[str, Any]) -> None:
    """Each says what it got and what is expected."""
    with pytest.raises(InputError, match="expected"):
        replace(RECIPES[name](), **changes)
