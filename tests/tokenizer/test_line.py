"""New generations that keep the meaning of an older one's codes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from adc_features.codes.churn import relabelled, relabelling
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, open_generation
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import GenerationMismatch, InputError, QualityError
from adc_features.tokenizer.codebook import SOFTNESS, Codebooks
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import RECIPES, adc, fit
from adc_features.tokenizer.line import Line

SPEC = SidSpec(content={"title": 1}, shared=1, behavior=2, codebook_size=8)
SETTINGS = replace(
    adc(),
    steps=60,
    warmup_steps=10,
    batch=64,
    hidden=16,
    latent=16,
    aligned=16,
    min_utilisation=0.0,
)


def table(day: int = 0, *, n: int = 200) -> EmbeddingTable:
    """Items whose behaviour wanders a little from day to day; later days know more items."""
    chance = np.random.default_rng(0)
    taste = chance.normal(size=(300, 4))
    vectors = {
        m: (
            (taste @ chance.normal(size=(4, 12)) + 0.2 * chance.normal(size=(300, 12))).astype(
                np.float32
            )
        )
        for m in ("title", BEHAVIOR)
    }
    vectors[BEHAVIOR] = (
        vectors[BEHAVIOR] + 0.05 * day * np.random.default_rng(day).normal(size=(300, 12))
    ).astype(np.float32)
    n += 10 * day
    count = (1 + np.arange(n)).astype(np.int64)
    return EmbeddingTable(
        np.arange(n),
        {m: v[:n] for m, v in vectors.items()},
        {m: np.ones(n, bool) for m in vectors},
        count,
        datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day),
    )


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return fit(
        [table()],
        SPEC,
        settings=SETTINGS,
        generation_id="g1",
        directory=tmp_path_factory.mktemp("parent") / "g1",
        seed=1,
    )


def child(parent: Generation, directory: Path, **line: object) -> Generation:
    return fit(
        [table(), table(1)],
        SPEC,
        settings=SETTINGS,
        generation_id="g2",
        directory=directory / "g2",
        seed=2,
        line=Line(parent, **line),
    )


def changed(parent: Generation, other: Generation) -> float:
    """Share of the codes of the second day that differ."""
    return float((encode(table(1), parent).sid != encode(table(1), other).sid).mean())


def test_a_warm_start_keeps_more_codes_than_names_alone_and_those_more_than_a_new_fit(
    parent: Generation, tmp_path: Path
) -> None:
    """Three ways to a second generation, from most to fewest kept codes;
    only the first two are aligned.
    """
    warm, named = child(parent, tmp_path / "warm"), child(parent, tmp_path / "named", warm=False)
    naive = fit(
        [table(), table(1)],
        SPEC,
        settings=SETTINGS,
        generation_id="g2",
        directory=tmp_path / "naive" / "g2",
        seed=2,
    )
    assert changed(parent, warm) < changed(parent, named) < changed(parent, naive)
    assert changed(parent, warm) < 0.1
    assert "aligned" not in naive.settings


def test_a_warm_start_that_learns_nothing_codes_as_its_parent(
    parent: Generation, tmp_path: Path
) -> None:
    """A warm start alone changes no code: no codeword counts as unused because the first batch did
    not use it.
    """
    still = replace(SETTINGS, learning_rate=1e-9, batch=4, revive_every=1000)
    same = fit(
        [table(), table(1)],
        SPEC,
        settings=still,
        generation_id="g2",
        directory=tmp_path / "g2",
        seed=2,
        line=Line(parent),
    )
    assert changed(parent, same) < 0.01


def test_the_line_is_written_into_the_manifest(parent: Generation, tmp_path: Path) -> None:
    """The parent, its codebook and the new names can be read back, and the names turn the plain
    fit's codes into the aligned ones.
    """
    named = child(parent, tmp_path / "named", warm=False)
    aligned = open_generation(tmp_path / "named" / "g2").settings["aligned"]
    assert (aligned["parent"], aligned["parent_codebook_hash"], aligned["warm"]) == (
        "g1",
        parent.codebook_hash,
        False,
    )
    plain = fit(
        [table(), table(1)],
        SPEC,
        settings=SETTINGS,
        generation_id="g2",
        directory=tmp_path / "plain" / "g2",
        seed=2,
    )
    old, new = encode(table(1), parent).sid, encode(table(1), plain).sid
    assert aligned["names"] == relabelling(old, new, codebook_size=8).tolist()
    np.testing.assert_array_equal(
        encode(table(1), named).sid, relabelled(new, np.array(aligned["names"]))
    )


def test_the_report_says_what_the_parents_readers_see(parent: Generation, tmp_path: Path) -> None:
    """Churn of the newest table, by position and popularity;
    raw churn is that before the new names.
    """
    churn = child(parent, tmp_path, warm=False).quality["churn"]
    assert churn["changed"] == pytest.approx(changed(parent, open_generation(tmp_path / "g2")))
    assert churn["changed_raw"] > churn["changed"]
    assert len(churn["by_position"]) == len(churn["weight_drift"]) == SPEC.length
    assert len(churn["by_popularity"]) == 10


def test_a_parents_snapshot_holds_the_codes_of_its_child(
    parent: Generation, tmp_path: Path
) -> None:
    """The first snapshot of an aligned generation keeps codes of the parent's last; a stranger's
    snapshot is still refused.
    """
    g2, before = child(parent, tmp_path), encode(table(1), parent)
    fresh, held = encode(table(1), g2), encode(table(1), g2, previous=before)
    assert (held.sid != before.sid).sum() <= (fresh.sid != before.sid).sum()
    assert held.generation == "g2"
    with pytest.raises(GenerationMismatch):
        encode(table(1), g2, previous=replace(before, generation="g0"))
    with pytest.raises(InputError, match="in order of time"):
        encode(table(), g2, previous=before)


def test_a_fit_over_its_churn_budget_writes_nothing(parent: Generation, tmp_path: Path) -> None:
    """The refusal says how much would change; the same fit within its budget is written."""
    with pytest.raises(QualityError, match="the budget is 0"):
        child(parent, tmp_path, warm=False, churn_budget=0.0)
    assert not list(tmp_path.iterdir())
    assert child(parent, tmp_path, churn_budget=1.0).id == "g2"


def test_one_seed_gives_one_aligned_generation(parent: Generation, tmp_path: Path) -> None:
    """A warm start is as repeatable as a fit."""
    assert (
        child(parent, tmp_path / "a").codebook_hash == child(parent, tmp_path / "b").codebook_hash
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": RECIPES["rq_kmeans"]()}, "only generations of ADC-SID"),
        ({"spec": replace(SPEC, behavior=1)}, "keeps positions and codebook size"),
        ({"settings": replace(SETTINGS, hidden=32)}, "hidden"),
        ({"generation_id": "g1"}, "new id"),
        ({"tables": [replace(table(), as_of=datetime(2023, 1, 1, tzinfo=UTC))]}, "bring newer"),
    ],
)
def test_what_cannot_continue_the_parent_is_refused(
    parent: Generation, tmp_path: Path, changes: dict, message: str
) -> None:
    """Another tokenizer, spec or shape, the parent's own id, or older data: refused before any
    training, nothing written.
    """
    arguments = {
        "tables": [table(1)],
        "spec": SPEC,
        "settings": SETTINGS,
        "generation_id": "g2",
    } | changes

    def no_work(*_: object) -> None:
        raise AssertionError("work was done")

    with pytest.raises(InputError, match=message):
        fit(
            arguments.pop("tables"),
            arguments.pop("spec"),
            directory=tmp_path / "g2",
            seed=0,
            line=Line(parent),
            progress=no_work,
            **arguments,
        )
    assert not list(tmp_path.iterdir())


def test_a_budget_is_a_share(parent: Generation) -> None:
    """A budget in percent is a mistake that has its own words."""
    with pytest.raises(InputError, match="0 to 1"):
        Line(parent, churn_budget=10)


def test_departure_by_hand() -> None:
    """Cosines 1 and 0 with two codewords: -log softmax at the codebook's softness for the held
    code, nothing for a row without one.
    """
    books = Codebooks(1, 2, 2)
    books.codewords.data = torch.eye(2)[None]
    latents = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    stay, leave = (
        float(torch.nn.functional.softplus(torch.tensor(sign / SOFTNESS))) for sign in (-1.0, 1.0)
    )
    assert float(
        books.departure(latents, torch.tensor([[0], [1], [-1]])).detach()
    ) == pytest.approx((stay + leave) / 2)
    assert float(books.departure(latents, torch.tensor([[-1], [-1], [-1]])).detach()) == 0
