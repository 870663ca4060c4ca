"""What every tokenizer promises. A new tokenizer passes by adding one line to TOKENIZERS."""

from collections.abc import Callable
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from tiny_bert import tiny_bert

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, open_generation, write_generation
from adc_features.codes.quality import quality_report
from adc_features.codes.raw_items import RawItems
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import NO_CODE, SidSpec
from adc_features.encoding import files
from adc_features.engines.parts import PartWork
from adc_features.errors import GenerationMismatch, InputError
from adc_features.tokenizer import encode as adc_encode
from adc_features.tokenizer import fit as adc_fit

SPEC = SidSpec(content={"title": 1, "image": 2}, shared=1, behavior=2, codebook_size=6)


class Tokenizer(NamedTuple):
    """fit and encode as everybody calls them; content_only: behaviour teaches it at most and no
    code comes from it; holds: keeps codes in spite of numerical noise; judges: says how likely a
    code is right, of a held code too, and estimates reliability itself; reads_raw: codes raw items
    and no vectors.
    """

    name: str
    fit: Callable[..., Generation]
    encode: Callable[..., SidTable]
    content_only: bool = False
    needs_behavior: bool = False
    holds: bool = False
    judges: bool = False
    reads_raw: bool = False


def small_adc(tables: list[EmbeddingTable], spec: SidSpec, **arguments: object) -> Generation:
    settings = replace(
        adc_fit.adc(),
        steps=40,
        warmup_steps=8,
        batch=64,
        hidden=16,
        latent=16,
        aligned=16,
        min_utilisation=0.0,
    )
    return adc_fit.fit(tables, spec, settings=settings, **arguments)


def small(name: str) -> Callable[..., Generation]:
    """The recipe of this name with few steps and narrow layers."""
    settings = adc_fit.RECIPES[name]()
    narrow = {
        "steps": 40,
        "warmup_steps": 8,
        "batch": 64,
        "hidden": (16,),
        "latent": 16,
        "trunk": 16,
        "iterations": 5,
        "model": tiny_bert(),
        "first": 1,
        "epochs": 2,
        "cycles": 1,
        "width": 16,
        "history": 8,
        "targets": 64,
        "min_utilisation": 0.0,
    }
    settings = replace(
        settings, **{f.name: narrow[f.name] for f in fields(settings) if f.name in narrow}
    )

    def fit(tables: list[EmbeddingTable], spec: SidSpec, **arguments: object) -> Generation:
        return adc_fit.fit(tables, spec, settings=settings, **arguments)

    return fit


def visits() -> pa.Table:
    """40 users who visit eight warm items each, all before the first day."""
    chance = np.random.default_rng(5)
    hours = np.datetime64("2023-12-01", "us") + np.arange(320).astype("timedelta64[h]")
    return pa.table(
        {
            "user_id": np.repeat(np.arange(40), 8),
            "item_id": chance.integers(10, 150, 320),
            "time": pa.array(hours, pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC")),
        }
    )


def small_generative(name: str) -> Callable[..., Generation]:
    """The same, of a tokenizer that learns from interactions."""

    def fit(tables: list[EmbeddingTable], spec: SidSpec, **arguments: object) -> Generation:
        return small(name)(tables, spec, events=visits(), **arguments)

    return fit


def small_mmq(tables: list[EmbeddingTable], spec: SidSpec, **arguments: object) -> Generation:
    settings = replace(
        adc_fit.RECIPES["mmq"](),
        steps=40,
        warmup_steps=8,
        batch=64,
        hidden=16,
        latent=16,
        aligned=16,
        min_utilisation=0.0,
    )
    return adc_fit.fit(tables, spec, settings=settings, **arguments)


TOKENIZERS = [
    Tokenizer("adc", small_adc, adc_encode.encode, holds=True),
    Tokenizer("mmq", small_mmq, adc_encode.encode, holds=True),
    *(
        Tokenizer(name, small(name), adc_encode.encode)
        for name in ("rq_vae", "rq_kmeans", "rq_kmeans_balanced", "opq", "mm_rq_vae")
    ),
    *(
        Tokenizer(name, small_generative(name), adc_encode.encode)
        for name in ("etegrec_parallel", "diger")
    ),
    *(
        Tokenizer(name, small(name), adc_encode.encode, content_only=True, needs_behavior=True)
        for name in ("letter", "das", "qarm")
    ),
    Tokenizer("unisid", small("unisid"), adc_encode.encode, content_only=True),
    Tokenizer(
        "unisid_e2e", small("unisid_e2e"), adc_encode.encode, content_only=True, reads_raw=True
    ),
    *(
        Tokenizer(name, small(name), adc_encode.encode, holds=True, judges=True)
        for name in ("posterior", "posterior_experts", "posterior_second")
    ),
]


def test_every_recipe_has_its_suite() -> None:
    """No tokenizer is offered that this suite does not hold to the contract; ADC-SID's ablations
    are ADC-SID.
    """
    ablations = {
        "adc_norm",
        "raw_gate",
        "without_controller",
        "without_contrastive",
        "without_gate",
        "without_sparsity",
    }
    assert set(adc_fit.RECIPES) - ablations == {t.name for t in TOKENIZERS}


def items(day: int, *, n: int = 150) -> EmbeddingTable:
    """n items in clusters; items 0-9 are cold, item 11 has no image, and everything drifts a little
    from day to day. Their titles say which cluster an item is of.
    """
    chance = np.random.default_rng(7)
    place = chance.normal(size=(12, 6)) @ chance.normal(size=(6, 10))
    matrix = {
        m: (place[chance.integers(0, 12, n)] + 0.3 * chance.normal(size=(n, 10))).astype(np.float32)
        for m in ("title", "image", "behavior")
    }
    matrix["behavior"] = (matrix["behavior"] * (1 + 0.1 * day)).astype(np.float32)
    present = {m: np.ones(n, bool) for m in matrix}
    present["behavior"][:10], present["image"][11] = False, False
    vectors = {m: np.where(present[m][:, None], v, 0).astype(np.float32) for m, v in matrix.items()}
    count = np.where(present["behavior"], 1 + chance.geometric(0.1, n), 0).astype(np.int64)
    raw = RawItems.of(
        title=[f"no{n % 12} shoe no{n}" for n in range(n)],
        path=[["shoes", f"no{n % 4}", f"no{n % 12}"] for n in range(n)],
    )
    return EmbeddingTable(
        np.arange(n), vectors, present, count, datetime(2024, 1, 1 + day, tzinfo=UTC), raw
    )


@pytest.fixture(scope="module", params=TOKENIZERS, ids=lambda t: t.name)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return request.param


@pytest.fixture(scope="module")
def generation(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return tokenizer.fit(
        [items(0), items(1)],
        SPEC,
        generation_id="g1",
        directory=tmp_path_factory.mktemp("fit") / "g1",
        seed=3,
    )


def same(a: SidTable, b: SidTable) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("item_ids", "sid", "sid_weight", "reliability", "alignment", "is_cold")
    )


def test_codes_and_weights_have_the_shape_that_the_spec_says(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Every item gets L codes below K and L weights,
    in the vocabulary and as of the time of its vectors.
    """
    sids = tokenizer.encode(items(1), generation)
    assert sids.sid.shape == (150, SPEC.length)
    assert (sids.generation, sids.codebook_size, sids.as_of) == ("g1", 6, items(1).as_of)
    assert sids.sid[12:].min() >= 0
    assert sids.found.all()


def test_one_seed_gives_one_vocabulary(
    tokenizer: Tokenizer, generation: Generation, tmp_path: Path
) -> None:
    """A second fit with the same seed gives the same codes and the same weights file."""
    again = tokenizer.fit(
        [items(0), items(1)], SPEC, generation_id="g1", directory=tmp_path / "g1", seed=3
    )
    assert again.codebook_hash == generation.codebook_hash
    assert same(tokenizer.encode(items(1), again), tokenizer.encode(items(1), generation))


def test_encoding_is_repeatable_from_disk(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A generation that is opened again encodes as the fitted one did."""
    fitted = tokenizer.fit([items(0)], SPEC, generation_id="g2", directory=tmp_path / "g2", seed=0)
    assert same(
        tokenizer.encode(items(0), fitted),
        tokenizer.encode(items(0), open_generation(tmp_path / "g2")),
    )


def test_what_was_measured_is_what_is_encoded(tokenizer: Tokenizer, generation: Generation) -> None:
    """The quality report of the fit, made before anything was written, is that of the codes which
    the written generation gives.
    """
    table = items(1)
    again = quality_report(
        tokenizer.encode(table, generation), table.interaction_count, spec=generation.spec
    )
    for name in ("codebooks", "uniqueness", "largest_collision", "head", "tail"):
        assert generation.quality[name] == again[name]


def test_an_item_alone_equals_the_item_in_a_batch(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Codes and weights depend on the item alone, to the bit: not on its neighbours nor on its
    place among them.
    """
    table = items(1)
    whole = tokenizer.encode(table, generation)
    order = np.random.default_rng(0).permutation(len(table))
    assert same(
        tokenizer.encode(table.take(order), generation), whole.lookup(table.item_ids[order])
    )
    for row in (0, 11, 149):
        assert same(
            tokenizer.encode(table.take(np.array([row])), generation),
            whole.lookup(table.item_ids[[row]]),
        )


def test_a_catalogue_in_files_equals_the_same_in_memory(
    tokenizer: Tokenizer,
    generation: Generation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Streamed in pieces of 40 rows, of which none has every item that shares its codes: codes,
    weights and collision counts are equal to the bit.
    """
    table = items(1)
    table.write(tmp_path / "items.parquet")
    facts = {f.name: getattr(generation, f.name) for f in fields(generation)}
    del facts["codebook_hash"]
    frozen = write_generation(tmp_path / "g1", generation_id=facts.pop("id"), **facts)
    monkeypatch.setattr(files, "PartWork", partial(PartWork, rows=40))
    made = files.encode_files(
        str(tmp_path / "items.parquet"), str(tmp_path / "out"), tmp_path / "g1"
    ).table()
    expected = tokenizer.encode(table, frozen)
    assert same(made, expected)
    np.testing.assert_array_equal(made.collision_count, expected.collision_count)


def with_behavior(table: EmbeddingTable, behavior: np.ndarray, *, day: int) -> EmbeddingTable:
    behavior = np.where(table.present["behavior"][:, None], behavior, 0).astype(np.float32)
    return replace(
        table,
        vectors={**table.vectors, "behavior": behavior},
        as_of=datetime(2024, 1, 1 + day, tzinfo=UTC),
    )


def test_codes_hold_where_behaviour_changes_by_noise_only(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """The same vectors keep every code; a little noise changes fewer than without the previous
    snapshot, and what changes is the nearest.
    """
    table = items(1)
    before = tokenizer.encode(table, generation)
    np.testing.assert_array_equal(
        tokenizer.encode(
            with_behavior(table, table.vectors["behavior"], day=2), generation, previous=before
        ).sid,
        before.sid,
    )
    noise = np.random.default_rng(0).normal(size=(150, 10)) * table.vectors["behavior"].std() * 0.1
    moved = with_behavior(table, table.vectors["behavior"] + noise, day=2)
    anew, held = (
        tokenizer.encode(moved, generation),
        tokenizer.encode(moved, generation, previous=before),
    )
    if tokenizer.holds:
        assert (held.sid != before.sid).sum() < (anew.sid != before.sid).sum()
    else:
        np.testing.assert_array_equal(held.sid, anew.sid)
    alike = (held.sid == anew.sid).all(1)
    if not tokenizer.judges:
        assert ((held.sid == before.sid) | (held.sid == anew.sid)).all()
        alike[:] = True
    np.testing.assert_array_equal(held.sid_weight[alike], anew.sid_weight[alike])


def test_codes_move_with_an_item_whose_behaviour_changed(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Items 20-59 behave like items 60-99 from now on: where their codes differed, most follow;
    everybody else keeps every code.
    """
    if not tokenizer.holds:
        pytest.skip("gives the nearest codes always, whatever they were")
    table, read = items(1), generation.spec.is_behavioral
    before = tokenizer.encode(table, generation)
    behavior = table.vectors["behavior"].copy()
    behavior[20:60] = behavior[60:100]
    moved = with_behavior(table, behavior, day=2)
    after = tokenizer.encode(moved, generation, previous=before)
    nearest, held, old = (
        s.sid[20:60][:, np.array(read) if any(read) else slice(None)]
        for s in (tokenizer.encode(moved, generation), after, before)
    )
    different = nearest != old
    assert different.sum() > 20
    assert (held == nearest)[different].mean() > 0.7
    rest = np.r_[0:20, 60:150]
    np.testing.assert_array_equal(after.sid[rest], before.sid[rest])


def test_a_previous_snapshot_of_another_vocabulary_or_time_is_refused(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Only an earlier snapshot of the same generation says which codes an item had."""
    before = tokenizer.encode(items(1), generation)
    with pytest.raises(GenerationMismatch, match="'g7'"):
        tokenizer.encode(items(2), generation, previous=replace(before, generation="g7"))
    with pytest.raises(InputError, match="in order of time"):
        tokenizer.encode(items(1), generation, previous=before)


def test_cold_items_get_content_codes_and_no_behavioural_weight(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Without behaviour an item keeps its other codes; positions of behaviour are -1 and weigh 0, x
    is 0.
    """
    sids = tokenizer.encode(items(1), generation)
    cold, behavioral = slice(0, 10), np.array(generation.spec.is_behavioral)
    assert sids.is_cold[cold].all()
    assert not sids.is_cold[10:].any()
    assert (sids.sid[cold][:, behavioral] == NO_CODE).all()
    assert (sids.sid_weight[cold][:, behavioral] == 0).all()
    assert (sids.sid[cold][:, ~behavioral] >= 0).all()
    assert (sids.reliability[cold] == 0).all()
    most = sids.reliability[10:].max()
    assert 0.1 < most < 1 if tokenizer.judges else most == 1


def test_a_missing_content_modality_is_no_code(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """An item without an image has -1 and weight 0 at the positions that are the image's own, and
    codes elsewhere.
    """
    sids, image = (
        tokenizer.encode(items(1), generation),
        np.array([p.modality == "image" for p in generation.spec.positions]),
    )
    assert (sids.sid[11, image] == NO_CODE).all()
    assert (sids.sid_weight[11, image] == 0).all()
    assert (sids.sid[11, ~image] >= 0).all()


def test_only_what_a_tokenizer_reads_decides_its_codes(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Other behaviour vectors change the codes
    of all but the tokenizers that only learned from behaviour.
    """
    table = items(1)
    behavior = np.where(table.present["behavior"][:, None], -table.vectors["behavior"], 0).astype(
        np.float32
    )
    moved = tokenizer.encode(
        replace(table, vectors={**table.vectors, "behavior": behavior}), generation
    )
    assert (
        np.array_equal(moved.sid, tokenizer.encode(table, generation).sid) == tokenizer.content_only
    )


def test_spec_decides_the_positions(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A spec without behaviour or without shared codes works as well, from the same vectors; who
    needs behaviour says so.
    """
    spec = SidSpec(content={"title": 2}, shared=0, behavior=0, codebook_size=5)
    if tokenizer.needs_behavior:
        with pytest.raises(InputError, match=f"{tokenizer.name}.*behaviour"):
            tokenizer.fit([items(0)], spec, generation_id="g3", directory=tmp_path / "g3", seed=0)
        return
    sids = tokenizer.encode(
        items(0),
        tokenizer.fit([items(0)], spec, generation_id="g3", directory=tmp_path / "g3", seed=0),
    )
    assert sids.sid.shape == (150, 2)
    assert sids.sid.min() >= 0


def test_quality_report_is_part_of_the_generation(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """The report of the newest table travels with the vocabulary, and reconstruction covers what
    the tokenizer reads.
    """
    assert [(b["kind"], b["modality"]) for b in generation.quality["codebooks"]] == [
        (p.kind, p.modality) for p in generation.spec.positions
    ]
    assert all(
        0 <= b["entropy"] <= b["entropy_bound"] + 1e-9 for b in generation.quality["codebooks"]
    )
    assert generation.trained_through == items(1).as_of
    if tokenizer.reads_raw:
        assert generation.quality["reconstruction_1_minus_r2"] == {}
        return
    read = {"title", "image"} if tokenizer.content_only else {"title", "image", "behavior"}
    assert set(generation.quality["reconstruction_1_minus_r2"]) == {"all", *read}
    assert 0 < generation.quality["reconstruction_1_minus_r2"]["all"] < 1.5


def with_title(table: EmbeddingTable, title: np.ndarray) -> EmbeddingTable:
    return replace(table, vectors={**table.vectors, "title": title.astype(np.float32)})


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (items(0).take(np.array([20])), "fewer than the 6 codes"),
        (items(0).take(np.arange(20, 24)), "fewer than the 6 codes"),
        (with_title(items(0), np.ones((150, 10))), "1 distinct vectors"),
        (
            with_title(
                items(0), np.where(np.arange(150)[:, None] == 40, 0, items(0).vectors["title"])
            ),
            "norm zero",
        ),
        (
            replace(
                items(0),
                vectors={"title": items(0).vectors["title"]},
                present={"title": items(0).present["title"]},
            ),
            "'image' is missing",
        ),
    ],
    ids=["one item", "too few items", "all equal", "zero norm", "missing modality"],
)
def test_unusable_vectors_are_refused_before_any_work(
    tokenizer: Tokenizer, tmp_path: Path, table: EmbeddingTable, words: str
) -> None:
    """A fit on vectors that no vocabulary can come from says what is wrong and writes nothing."""
    with pytest.raises(InputError, match=words):
        tokenizer.fit([table], SPEC, generation_id="g4", directory=tmp_path / "g4", seed=0)
    assert not list(tmp_path.iterdir())


def test_vectors_of_another_encoder_are_refused(
    tokenizer: Tokenizer, generation: Generation
) -> None:
    """Encode refuses vectors of another width than the generation was fitted on, and items without
    the raw columns that it reads.
    """
    if tokenizer.reads_raw:
        with pytest.raises(InputError, match="raw=raw_items"):
            tokenizer.encode(replace(items(0), raw=None), generation)
        return
    with pytest.raises(InputError, match="fitted on 10"):
        tokenizer.encode(with_title(items(0), np.ones((150, 9))), generation)
