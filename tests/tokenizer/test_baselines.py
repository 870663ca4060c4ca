"""The pieces of the baseline tokenizers,
against the libraries that have them and against plain numpy.
"""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import ArtifactError, QualityError
from adc_features.tokenizer.baselines.additive import AdditiveCodebooks, JointInput
from adc_features.tokenizer.baselines.guidance import nearest_in_behavior
from adc_features.tokenizer.baselines.kmeans import (
    balanced_groups,
    kmeans,
    nearest,
    opq_codebooks,
    residual_codebooks,
)
from adc_features.tokenizer.baselines.qarm import mutual_neighbours
from adc_features.tokenizer.encode import encode
from adc_features.tokenizer.fit import RECIPES, fit
from adc_features.tokenizer.model import Rows

ROWS = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32) @ np.random.default_rng(
    1
).normal(size=(6, 24)).astype(np.float32)
SPEC = SidSpec(content={"title": 1}, shared=1, behavior=1, codebook_size=8)


def books_of(words: np.ndarray) -> AdditiveCodebooks:
    books = AdditiveCodebooks(*words.shape)
    books.codewords.data.copy_(torch.from_numpy(words))
    return books


def unexplained(rows: np.ndarray, words: np.ndarray) -> float:
    books = books_of(words)
    with torch.no_grad():
        coded = books.codeword(books.lookup(torch.from_numpy(rows))).sum(1).numpy()
    return float(np.square(rows - coded).sum() / np.square(rows - rows.mean(0)).sum())


def table(rows: np.ndarray = ROWS) -> EmbeddingTable:
    n = len(rows)
    vectors = {"title": rows, BEHAVIOR: rows[:, ::2].copy()}
    return EmbeddingTable(
        np.arange(n),
        vectors,
        {m: np.ones(n, bool) for m in vectors},
        1 + np.arange(n) % 40,
        datetime(2024, 1, 1, tzinfo=UTC),
    )


def test_lookup_is_the_nearest_codeword_to_what_is_left() -> None:
    """Without building residuals the same codes come out as with them, before and after the table
    of products is kept.
    """
    words = residual_codebooks(ROWS, 4, 10, kmeans, 0)
    residual, expected = ROWS.copy(), []
    for level in words:
        expected.append(np.square(residual[:, None] - level).sum(-1).argmin(1))
        residual -= level[expected[-1]]
    books = books_of(words)
    np.testing.assert_array_equal(
        books.lookup(torch.from_numpy(ROWS)).numpy(), np.stack(expected, axis=1)
    )
    books.freeze()
    np.testing.assert_array_equal(
        books.lookup(torch.from_numpy(ROWS)).numpy(), np.stack(expected, axis=1)
    )


def test_lookup_equals_a_residual_quantiser_of_vector_quantize_pytorch() -> None:
    """On the same codebooks vector-quantize-pytorch's ResidualVQ chooses the same codes and sums
    the same codewords.
    """
    vq = pytest.importorskip("vector_quantize_pytorch")
    words = residual_codebooks(ROWS, 3, 10, kmeans, 0)
    peer = vq.ResidualVQ(dim=24, num_quantizers=3, codebook_size=10).eval()
    for layer, level in zip(peer.layers, words, strict=True):
        layer._codebook.embed.data.copy_(torch.from_numpy(level)[None])
    with torch.no_grad():
        summed, codes, _ = peer(torch.from_numpy(ROWS)[None])
    books = books_of(words)
    ours = books.lookup(torch.from_numpy(ROWS))
    assert torch.equal(ours, codes[0])
    torch.testing.assert_close(
        books.codeword(ours).sum(1).detach(), summed[0], atol=1e-4, rtol=1e-4
    )


def test_residual_kmeans_is_as_good_as_faiss() -> None:
    """At equal levels and codes at most 3 % more is left unexplained
    than by faiss's own residual k-means.
    """
    faiss = pytest.importorskip("faiss")

    def peer(rows: np.ndarray, codes: int, seed: int) -> np.ndarray:
        clustering = faiss.Kmeans(
            rows.shape[1], codes, niter=20, seed=seed + 1, min_points_per_centroid=1
        )
        clustering.train(rows)
        return clustering.centroids

    assert unexplained(ROWS, residual_codebooks(ROWS, 3, 16, kmeans, 0)) <= 1.03 * unexplained(
        ROWS, residual_codebooks(ROWS, 3, 16, peer, 0)
    )


def test_opq_is_as_good_as_faiss() -> None:
    """With 4 subspaces of 16 codes at most 3 % more is left unexplained than by faiss's OPQ."""
    faiss = pytest.importorskip("faiss")
    faiss.omp_set_num_threads(1)
    rotation = faiss.OPQMatrix(24, 4)
    rotation.pq = faiss.ProductQuantizer(24, 4, 4)
    rotation.train(ROWS)
    turned = rotation.apply(ROWS)
    pq = faiss.ProductQuantizer(24, 4, 4)
    pq.train(turned)
    left = (
        np.square(turned - pq.decode(pq.compute_codes(turned))).sum()
        / np.square(ROWS - ROWS.mean(0)).sum()
    )
    assert unexplained(ROWS, opq_codebooks(ROWS, 4, 16, 50, 0)) <= 1.03 * left


def test_opq_codewords_of_different_subspaces_are_orthogonal() -> None:
    """So no position depends on another, also when the width is no multiple of the subspaces."""
    words = opq_codebooks(ROWS, 4, 8, 10, 0)
    across = np.einsum("akd,bld->abkl", words, words)[~np.eye(4, dtype=bool)]
    assert np.abs(across).max() < 1e-3
    assert opq_codebooks(ROWS[:, :22], 4, 8, 2, 0).shape == (4, 8, 22)


def test_balanced_groups_differ_by_one_row_at_most() -> None:
    """403 rows in 10 groups: seven of 40, three of 41; each centroid is the mean of its group."""
    rows = np.concatenate([ROWS, ROWS[:3] + 1])
    centroids, group = balanced_groups(rows, 10, 0)
    assert sorted(np.bincount(group)) == [40] * 7 + [41] * 3
    np.testing.assert_allclose(
        centroids, np.stack([rows[group == k].mean(0) for k in range(10)]), rtol=1e-5
    )


def test_balanced_codes_are_more_even_than_plain_ones(tmp_path: Path) -> None:
    """On clusters of very different size the balanced first level has the higher entropy."""
    chance = np.random.default_rng(5)
    place = 4 * chance.normal(size=(6, 24))
    rows = (
        place[np.minimum(chance.geometric(0.5, 400) - 1, 5)] + chance.normal(size=(400, 24))
    ).astype(np.float32)
    entropy = {}
    for name in ("rq_kmeans", "rq_kmeans_balanced"):
        settings = replace(RECIPES[name](), min_utilisation=0.0)
        generation = fit(
            [table(rows)],
            SPEC,
            settings=settings,
            generation_id="g",
            directory=tmp_path / name,
            seed=0,
        )
        entropy[name] = generation.quality["codebooks"][0]["entropy"]
    assert entropy["rq_kmeans_balanced"] > entropy["rq_kmeans"]


def test_every_modality_counts_alike_and_an_absent_one_is_its_mean() -> None:
    """A wide modality weighs no more than a narrow one; rows without it hold zeros there."""
    wide, narrow = torch.randn(200, 64), torch.randn(200, 4)
    joint = JointInput({"wide": 64, BEHAVIOR: 4}, cutoffs=1)
    present = {"wide": torch.ones(200, dtype=torch.bool), BEHAVIOR: torch.arange(200) != 7}
    out = joint(
        Rows(
            {"wide": wide, BEHAVIOR: narrow},
            present,
            torch.ones(200),
            torch.zeros(200, dtype=torch.int64),
        )
    )
    assert float(out[:, :64].square().sum(1).mean()) == pytest.approx(1, abs=0.1)
    assert float(out[:, 64:].square().sum(1).mean()) == pytest.approx(1, abs=0.2)
    assert (out[7, 64:] == 0).all()
    torch.testing.assert_close(joint.split(out)["wide"], wide)


def test_the_nearest_item_is_of_the_same_cutoff_and_warm() -> None:
    """The same item at another cut-off, a cold item and the item itself are no neighbours."""
    behavior = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.9, 0.1], [1.0, 0.01], [0.0, 1.0]])
    neighbour, has = nearest_in_behavior(
        behavior, torch.tensor([True, True, True, False, True]), torch.tensor([0, 1, 0, 0, 1])
    )
    assert has.tolist() == [True, True, True, False, True]
    assert neighbour[has].tolist() == [2, 4, 0, 1]


@pytest.mark.parametrize("name", ["letter", "das"])
def test_behaviour_teaches_content_codes(name: str, tmp_path: Path) -> None:
    """Where content shows the groups of behaviour only faintly, codes that behaviour taught tell
    them apart; the same without teaching do not.
    """
    seen, data = faint_behavior()
    spec = SidSpec(content={"title": 1}, shared=0, behavior=1, codebook_size=4)
    tiny = {
        "steps": 120,
        "warmup_steps": 60,
        "batch": 200,
        "hidden": (32,),
        "latent": 16,
        "learning_rate": 1e-2,
        "reconstruction_weight": 1.0,
        "min_utilisation": 0.0,
    }
    taught = replace(RECIPES[name](), **tiny, guidance_weight=5.0)
    purity = []
    for settings in (taught, replace(taught, guidance_weight=0.0)):
        generation = fit(
            [data],
            spec,
            settings=settings,
            generation_id="g",
            directory=tmp_path / str(settings.guidance_weight),
            seed=0,
        )
        first = encode(data, generation).sid[:, 0]
        purity.append(sum(np.bincount(seen[first == k]).max() for k in np.unique(first)) / 600)
    assert purity[0] > purity[1] + 0.2


def test_pairs_are_nearest_to_each_other() -> None:
    """Of five points on a circle, 0 and 1, and 2 and 3, are each other's nearest; 4 is nearest to
    nobody, and neither another cut-off nor a row without behaviour takes part.
    """
    degrees = torch.tensor([0.0, 10.0, 90.0, 95.0, 140.0, 1.0, 94.0])
    points = torch.stack([torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))], 1)
    known = torch.tensor([True, True, True, True, True, True, False])
    group = torch.tensor([0, 0, 0, 0, 0, 1, 0])
    pairs = mutual_neighbours(points, known, group, count=1)
    assert sorted(pairs.tolist()) == [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert len(mutual_neighbours(points, known, group, count=9)) == 5 * 4


def faint_behavior() -> tuple[np.ndarray, EmbeddingTable]:
    """Groups of behaviour, int64 [600], of items whose content shows them faintly and other groups
    clearly.
    """
    chance = np.random.default_rng(2)
    seen, unseen = chance.integers(0, 4, 600), chance.integers(0, 4, 600)
    title = (
        chance.normal(size=(4, 16))[unseen]
        + 0.5 * chance.normal(size=(4, 16))[seen]
        + 0.2 * chance.normal(size=(600, 16))
    )
    taste = chance.normal(size=(4, 8))[seen] + 0.1 * chance.normal(size=(600, 8))
    vectors = {"title": title.astype(np.float32), BEHAVIOR: taste.astype(np.float32)}
    return seen, EmbeddingTable(
        np.arange(600),
        vectors,
        {m: np.ones(600, bool) for m in vectors},
        chance.integers(1, 50, 600),
        datetime(2024, 1, 1, tzinfo=UTC),
    )


def test_qarm_codes_what_behaviour_has_in_common(tmp_path: Path) -> None:
    """Tuned on pairs of behaviour, residual codes and nearest anchors tell its groups apart; the
    map that it starts from does not. An anchor's own nearest anchor is itself.
    """
    seen, data = faint_behavior()
    spec = SidSpec(content={"title": 1}, shared=0, behavior=1, codebook_size=8)
    purity = []
    for rate in (1e-2, 1e-12):
        generation = fit(
            [data],
            spec,
            settings=replace(RECIPES["qarm"](), steps=60, batch=128, learning_rate=rate),
            generation_id="g",
            directory=tmp_path / str(rate),
            seed=0,
        )
        sid = encode(data, generation).sid
        assert set(sid[:, 1]) == set(range(8))
        purity.append(
            [
                sum(np.bincount(seen[codes == k]).max() for k in np.unique(codes)) / 600
                for codes in sid.T
            ]
        )
    assert np.array(purity[0]).min() > np.array(purity[1]).max() + 0.2


def test_unisid_keeps_its_codes_in_use(tmp_path: Path) -> None:
    """Nothing but the evenness of choices holds its 64 codes apart: every position uses over half
    of them.
    """
    rows = np.random.default_rng(4).normal(size=(1_000, 24)).astype(np.float32)
    settings = replace(
        RECIPES["unisid"](), steps=150, batch=200, hidden=(32,), trunk=64, learning_rate=5e-3
    )
    generation = fit(
        [table(rows)],
        replace(SPEC, codebook_size=64),
        settings=settings,
        generation_id="g",
        directory=tmp_path / "g",
        seed=0,
    )
    assert min(book["utilisation"] for book in generation.quality["codebooks"]) > 0.5


def test_positions_are_dealt_out_over_modalities(tmp_path: Path) -> None:
    """MM-RQ-VAE gives each modality its levels; a cold item has no code on those of behaviour."""
    warm = np.arange(400) > 0
    whole = table()
    data = replace(
        whole,
        present={**whole.present, BEHAVIOR: warm},
        vectors={
            **whole.vectors,
            BEHAVIOR: np.where(warm[:, None], whole.vectors[BEHAVIOR], 0).astype(np.float32),
        },
    )
    settings = replace(
        RECIPES["mm_rq_vae"](),
        steps=20,
        warmup_steps=5,
        batch=64,
        hidden=(16,),
        latent=16,
        min_utilisation=0.0,
    )
    generation = fit(
        [data], SPEC, settings=settings, generation_id="g", directory=tmp_path / "g", seed=0
    )
    assert [p.name for p in generation.spec.positions] == ["title", "title", BEHAVIOR]
    assert (encode(data, generation).sid[0] >= 0).tolist() == [True, True, False]


def test_a_collapsed_tokenizer_is_refused(tmp_path: Path) -> None:
    """Codebooks with idle codes fail the same gate as ADC-SID's and nothing is written."""
    with pytest.raises(QualityError, match="dead"):
        fit(
            [table()],
            SPEC,
            settings=replace(RECIPES["rq_kmeans"](), min_utilisation=1.1),
            generation_id="g",
            directory=tmp_path / "g",
            seed=0,
        )
    assert not list(tmp_path.iterdir())


def test_weights_that_another_tokenizer_wrote_are_refused(tmp_path: Path) -> None:
    """A manifest that names a tokenizer which its settings do not know, or nobody knows, is not
    encoded with.
    """
    generation = fit(
        [table()],
        SPEC,
        settings=replace(RECIPES["opq"](), min_utilisation=0.0),
        generation_id="g",
        directory=tmp_path / "g",
        seed=0,
    )
    for name in ("letter", "unheard_of"):
        with pytest.raises(ArtifactError, match=name):
            encode(table(), replace(generation, tokenizer=name))


def test_nearest_is_brute_force() -> None:
    """The blocked product finds what the full distance matrix finds."""
    centroids = ROWS[:9]
    np.testing.assert_array_equal(
        nearest(ROWS, centroids), np.square(ROWS[:, None] - centroids).sum(-1).argmin(1)
    )
