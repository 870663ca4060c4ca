"""Retrieval by codes on sequences whose next item is determined. Reads: training.retrieval."""

import json
from dataclasses import replace
from inspect import signature

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.codes.sids import SidTable
from adc_features.encoders.sasrec import SASRec, Sequences, packed_batches
from adc_features.errors import ArtifactError, InputError
from adc_features.generator.catalogue import Coded
from adc_features.generator.generator import (
    Generator,
    GeneratorSettings,
    load_generator,
    save_generator,
)
from adc_features.pipeline.stages import load_source
from training.cli.retrieval import retrieve_train
from training.retrieval.codes import codes_of, embedding_table, loss_weights, sid_spec
from training.retrieval.evaluation import evaluate
from training.retrieval.full_ranking import Scorer, last_states, ranks
from training.retrieval.generator_training import train_generator
from training.retrieval.leave_one_out import START, LeaveOneOut, read_sequences, user_metrics
from training.retrieval.retrievers import Retriever, train
from training.retrieval.source import Source, open_source

ITEMS = 24
SMALL = GeneratorSettings(
    dim=16, blocks=1, length=8, batch=64, dropout=0.0, epochs=20, learning_rate=1e-2
)
CODES = np.stack([np.arange(ITEMS) // 5, np.arange(ITEMS) % 5], axis=1)
CODED = Coded(CODES, np.ones((ITEMS, 2), np.float32), 5)


def ring(users=120, length=6, *, seed=0):
    """Each user walks round the items from a random start: the next item is always the one
    after.
    """
    starts = np.random.default_rng(seed).integers(0, ITEMS, users)
    items = (starts[:, None] + np.arange(length)) % ITEMS
    return LeaveOneOut(
        np.array([f"i{i:02d}" for i in range(ITEMS)]),
        items.reshape(-1),
        np.arange(1, users + 1) * length,
    )


def states(model, count=7, *, seed=1):
    return torch.randn(count, model.settings.dim, generator=torch.Generator().manual_seed(seed))


def generator(coded=CODED, **changes):
    torch.manual_seed(0)
    return Generator(coded, items=ITEMS, settings=replace(SMALL, **changes)).eval()


# ---- the split


def test_the_last_item_tests_and_the_one_before_validates():
    """Of a, b, c, d the test item is d after a, b, c, the validation item c after a, b, and a, b
    train; a user of two items only trains.
    """
    split = LeaveOneOut(np.array(list("abcd")), np.array([0, 1, 2, 3, 3, 2]), np.array([4, 6]))
    assert split.training.items.tolist() == [0, 1, 3, 2]
    assert split.training.ends.tolist() == [2, 4]
    histories, targets = split.histories("validation")
    assert (histories.items.tolist(), targets.tolist()) == ([0, 1], [2])
    histories, targets = split.histories("test")
    assert (histories.items.tolist(), targets.tolist()) == ([0, 1, 2], [3])


def test_a_user_of_three_items_leaves_nothing_to_learn_a_transition_from():
    """One training item is no transition, but it is the history of the validation item."""
    split = LeaveOneOut(np.array(list("abcd")), np.array([0, 1, 2, 3, 2, 1, 0]), np.array([3, 7]))
    assert split.training.items.tolist() == [3, 2]
    assert split.histories("validation")[0].items.tolist() == [0, 3, 2]


def test_places_stand_for_time():
    """The training part as interactions: a user's first item at the start, the next a second later,
    the cut-off after all of them.
    """
    split = LeaveOneOut(np.array(list("abcd")), np.array([0, 1, 2, 3]), np.array([4]))
    events, as_of = split.training_events()
    assert events["item_id"].to_pylist() == ["a", "b"]
    assert [(t - START).total_seconds() for t in events["time"].to_pylist()] == [0, 1]
    assert (as_of - START).total_seconds() == 2


def test_sequences_are_refused_when_they_cannot_be_used(tmp_path):
    """An unknown item, a missing column and sequences that are all too short are named."""
    path = tmp_path / "sequences.parquet"
    for column, lists, problem in (
        ("item_ids", [["a", "x", "b"]], "lacks.*'x'"),
        ("items", [["a"]], "list column item_ids"),
        ("item_ids", [["a", "b"]], "three"),
    ):
        pq.write_table(pa.table({column: lists}), path)
        with pytest.raises(InputError, match=problem):
            read_sequences(path, np.array(["a", "b"]))


# ---- metrics of a user


def test_a_hit_in_a_bucket_earns_its_share():
    """4 items score above and 3 alike: rank 5, 6 or 7. One of three orders lies within 5, and NDCG
    is the mean of the three.
    """
    got = user_metrics(np.array([4]), np.array([3]), cutoffs=(5, 10))
    assert got.recall.tolist() == [[1 / 3, 1]]
    assert got.ndcg[0] == pytest.approx(
        [1 / np.log2(6) / 3, (1 / np.log2(6) + 1 / np.log2(7) + 1 / np.log2(8)) / 3]
    )


def test_an_item_alone_earns_the_standard_metrics():
    """Rank 1, rank 10 and rank 11 at cut-off 10."""
    got = user_metrics(np.array([0, 9, 10]), np.array([1, 1, 1]), cutoffs=(10,))
    assert got.recall[:, 0].tolist() == [1, 1, 0]
    assert got.ndcg[:, 0] == pytest.approx([1, 1 / np.log2(11), 0])


def test_one_code_for_all_items_earns_chance():
    """A tokenizer that gives every item the same codes earns k / N, not 1."""
    split = ring()
    model = generator(Coded(np.zeros((ITEMS, 2), np.int64), np.ones((ITEMS, 2), np.float32), 5))
    histories, targets = split.histories("test")
    [above], [tied] = ranks([Scorer.of(model, histories)], targets, histories)
    assert above.tolist() == [0] * len(targets)
    assert tied.tolist() == [ITEMS - 5] * len(targets)  # the five items of the history are left out
    assert user_metrics(above, tied, cutoffs=(5,)).recall.mean() == pytest.approx(5 / (ITEMS - 5))


# ---- scores and losses


@pytest.mark.parametrize("loss", ["positions", "catalogue"])
def test_scores_equal_a_loop_over_the_catalogue(loss):
    """Each item scores the weighted mean over its positions, positions without a code left out."""
    codes = CODES.copy()
    codes[3, 1] = -1
    weights = np.random.default_rng(0).uniform(0.1, 4, codes.shape).astype(np.float32)
    model = generator(Coded(codes, weights, 5), loss=loss)
    with torch.no_grad():
        logits = model.code_logits(states(model))
        values = torch.log_softmax(logits, -1) if loss == "positions" else logits
        scores = model.scores(states(model))
    for item in range(ITEMS):
        known = [p for p in range(2) if codes[item, p] >= 0]
        expected = sum(values[:, p, codes[item, p]] * float(weights[item, p]) for p in known) / sum(
            float(weights[item, p]) for p in known
        )
        assert torch.allclose(scores[item], expected, rtol=1e-4, atol=1e-4)


def test_equal_weights_score_by_the_sum_of_log_probabilities():
    """With weights of 1 the order of items is that of the summed log-probabilities of their
    codes.
    """
    model = generator(loss="positions")
    with torch.no_grad():
        log_probability = torch.log_softmax(model.code_logits(states(model)), -1)
        summed = log_probability[:, 0, CODES[:, 0]] + log_probability[:, 1, CODES[:, 1]]
        assert torch.allclose(model.scores(states(model)).T, summed / 2, atol=1e-4)


def test_weights_enter_the_loss_as_the_equation_says():
    """-sum w log P / sum w: with weights 3 and 1 the first position counts three times."""
    targets = torch.tensor([2, 7, 11])
    model = generator(Coded(CODES, np.tile(np.float32([3, 1]), (ITEMS, 1)), 5), loss="positions")
    with torch.no_grad():
        log_probability = torch.log_softmax(model.code_logits(states(model, 3)), -1)
        picked = torch.stack(
            [log_probability[torch.arange(3), p, torch.tensor(CODES[targets, p])] for p in range(2)]
        )
        assert model.loss(states(model, 3), targets).item() == pytest.approx(
            -float((3 * picked[0] + picked[1]).mean() / 4), rel=1e-5
        )


@pytest.mark.parametrize("items", [False, True])
def test_the_catalogue_loss_and_its_gradients_are_those_of_a_plain_softmax(items):
    """The chunked loss equals cross-entropy over the scores of all items, and so do its gradients,
    to bfloat16's precision where items have rows.
    """
    model, targets = generator(items=items), torch.tensor([2, 7, 11, 23, 0, 7, 7])
    found = []
    for loss in (model.loss, lambda s, t: torch.nn.functional.cross_entropy(model.scores(s).T, t)):
        model.zero_grad()
        given = states(model).requires_grad_()
        value = loss(given, targets)
        value.backward()
        found.append(
            (value.detach(), given.grad, model.tokens.grad.clone(), model.heads.grad.clone())
        )
    for ours, plain in zip(*found, strict=True):
        assert (ours - plain).abs().max() <= 0.03 * plain.abs().max()


def test_without_codes_the_states_are_sasrecs():
    """A generator of items alone computes the states of the library's SASRec with the same
    parameters.
    """
    model = generator(None, items=True)
    peer = SASRec(ITEMS, dim=16, blocks=1, length=8, dropout=0.0, init_std=0.02)
    peer.load_state_dict(
        {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("_NL")}
    )
    batch = next(packed_batches(ring().training, length=8, rows=8, rng=np.random.default_rng(0)))
    with torch.no_grad():
        assert torch.equal(model(batch), peer.eval()(batch))


def test_a_history_alone_has_the_state_that_it_has_among_others():
    """Padding and company change nothing; only the newest `length` events are read."""
    model = generator()
    long = np.arange(12) % ITEMS
    among = last_states(model, Sequences(np.concatenate([long, [3, 4]]), np.array([12, 14])))
    alone = last_states(model, Sequences(np.array([3, 4]), np.array([2])))
    newest = last_states(model, Sequences(long[-8:], np.array([8])))
    assert torch.allclose(among, torch.cat([newest, alone]), atol=1e-5)


def test_seen_items_are_left_out_but_not_a_target_that_came_before():
    """The user saw 0 and 1; item 1 again is the target and stays, 0 is gone."""
    model = generator(Coded(np.zeros((ITEMS, 1), np.int64), np.ones((ITEMS, 1), np.float32), 2))
    [above], [tied] = ranks(
        [Scorer(model, states(model, 1))], np.array([1]), Sequences(np.array([0, 1]), np.array([2]))
    )
    assert (above.tolist(), tied.tolist()) == ([0], [ITEMS - 1])


def test_a_mix_adds_log_probabilities_of_items():
    """A quarter of one generator and three of another rank as the weighted sum of their
    log-softmaxes does; a share of 1 ranks as that one alone.
    """
    split = ring()
    histories, targets = split.histories("test")
    scorers = [Scorer.of(generator(), histories), Scorer.of(generator(None, items=True), histories)]
    above, _ = ranks(scorers, targets, histories, mixes=[[0.25, 0.75], [1.0, 0.0]])
    with torch.no_grad():
        scores = sum(
            share * torch.log_softmax(v.model.scores(v.states), 0)
            for share, v in zip((0.25, 0.75), scorers, strict=True)
        )
    for user, target in enumerate(targets):
        others = np.setdiff1d(np.arange(ITEMS), histories.items[user * 5 : user * 5 + 5])
        assert above[0, user] == (scores[others, user] > scores[target, user]).sum()
    assert np.array_equal(above[1], ranks(scorers[:1], targets, histories)[0][0])


# ---- training


@pytest.mark.parametrize(
    ("coded", "changes"),
    [
        (CODED, {"loss": "positions"}),
        (CODED, {}),
        (CODED, {"items": True}),
        (None, {"items": True}),
    ],
)
def test_a_determined_next_item_is_found(coded, changes):
    """On a ring every generator puts the next item first."""
    split = ring(length=12)
    model, curve = train_generator(
        split.training, coded, items=ITEMS, settings=replace(SMALL, **changes), seed=0
    )
    histories, targets = split.histories("test")
    [above], [tied] = ranks([Scorer.of(model, histories)], targets, histories)
    assert curve[-1] < curve[0]
    assert user_metrics(above, tied, cutoffs=(1,)).recall.mean() > 0.95


def test_a_seed_gives_one_generator_and_a_stopped_one_goes_on_to_it(tmp_path):
    """Trained twice, or stopped after two epochs and resumed, the parameters are equal to the bit;
    another fingerprint starts again.
    """
    settings, training = replace(SMALL, epochs=4, dropout=0.2), ring().training
    parameters = {"items": ITEMS, "settings": settings, "seed": 3}

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    whole, _ = train_generator(training, CODED, **parameters)
    with pytest.raises(KeyboardInterrupt):
        train_generator(
            training,
            CODED,
            **parameters,
            checkpoint=tmp_path / "c.pt",
            fingerprint="a",
            progress=stop,
        )
    epochs = []
    resumed, curve = train_generator(
        training,
        CODED,
        **parameters,
        checkpoint=tmp_path / "c.pt",
        fingerprint="a",
        progress=lambda done, _: epochs.append(done),
    )
    assert epochs == [3, 4]
    assert len(curve) == 4
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    train_generator(
        training,
        CODED,
        **parameters,
        checkpoint=tmp_path / "c.pt",
        fingerprint="b",
        progress=lambda done, _: epochs.append(done),
    )
    assert epochs == [3, 4, 1, 2, 3, 4]


def test_a_saved_generator_scores_as_before(tmp_path):
    """Loaded from its file with its settings it gives the same scores; with others it is
    refused.
    """
    model = generator()
    save_generator(model, tmp_path / "m.safetensors")
    loaded = load_generator(tmp_path / "m.safetensors", model.settings)
    assert torch.equal(model.scores(states(model)), loaded.scores(states(model)))
    with pytest.raises(ArtifactError, match="train it again"):
        load_generator(tmp_path / "m.safetensors", replace(model.settings, dim=32))


def test_settings_that_cannot_train_are_refused():
    """No codes and no items, or both under the loss of positions, whose scores items could not
    join.
    """
    for coded, changes in ((None, {}), (CODED, {"items": True, "loss": "positions"})):
        with pytest.raises(InputError, match="expected codes or items"):
            generator(coded, **changes)
    with pytest.raises(InputError, match="temperature"):
        replace(SMALL, temperature=0.0)


# ---- the whole experiment


def source_of(split, *, seed=0):
    content = np.random.default_rng(seed).normal(size=(ITEMS, 16)).astype(np.float32)
    return Source(split, {"title": content}, {"title": np.ones(ITEMS, bool)})


def changed_at_the_end(split):
    """The same users with other validation and test items."""
    items = split.items.reshape(-1, 6).copy()
    items[:, 4:] = (items[:, 4:] * 7 + 3) % ITEMS
    return LeaveOneOut(split.item_ids, items.reshape(-1), split.ends)


def test_held_out_items_change_nothing_that_is_learned(tmp_path):
    """With other validation and test items, behaviour vectors, counts and the generator are the
    same to the bit.
    """
    sources = [source_of(s) for s in (ring(), changed_at_the_end(ring()))]
    one, other = (embedding_table(s, seed=0) for s in sources)
    assert np.array_equal(one.vectors["behavior"], other.vectors["behavior"])
    assert np.array_equal(one.interaction_count, other.interaction_count)
    assert sources[0].fingerprint == sources[1].fingerprint
    hashes = []
    for number, source in enumerate(sources):
        out = tmp_path / str(number)
        manifest = train(source, out, Retriever(None), seed=0, settings=replace(SMALL, epochs=2))
        hashes.append(manifest["files"]["model.safetensors"])
    assert hashes[0] == hashes[1]


def test_codes_read_the_behaviour_of_the_encoder_that_was_named(tmp_path):
    """Vectors of an encoder that reads content are other ones, and an unknown encoder is refused
    before anything is learned.
    """
    source = source_of(ring())
    one, other = (
        embedding_table(source, seed=0, encoder=encoder) for encoder in ("sasrec", "sasrec_content")
    )
    assert not np.array_equal(one.vectors["behavior"], other.vectors["behavior"])
    asked = Retriever("opq", "sasrek", codebook_size=4)
    with pytest.raises(InputError, match="expected one of sasrec"):
        train(source, tmp_path, asked, seed=0, settings=SMALL)


def test_learned_weights_become_loss_weights_within_bounds():
    """Behavioural weights are held in [0.1, 4], content positions count 1 whatever they export."""
    weights = np.float32([[0.3, 0.0, 2.0], [0.9, 9.0, 0.5]])
    flags = {name: np.zeros(2, bool) for name in ("is_cold",)} | {"found": np.ones(2, bool)}
    sids = SidTable(
        item_ids=np.array(["a", "b"]),
        sid=np.zeros((2, 3), np.int32),
        sid_weight=weights,
        reliability=np.zeros(2, np.float32),
        alignment=np.zeros(2, np.float32),
        collision_count=np.ones(2, np.int32),
        generation="g1",
        codebook_size=4,
        as_of=START,
        **flags,
    )
    assert (
        loss_weights(sids, (False, True, True)).tolist()
        == np.float32([[1, 0.1, 2], [1, 4, 0.5]]).tolist()
    )


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A directory with SASRec on two seeds and a generator on k-means codes, on a ring."""
    out, source = tmp_path_factory.mktemp("retrieve"), source_of(ring(length=12))
    for retriever, seed in (
        (Retriever(None), 0),
        (Retriever(None), 1),
        (Retriever("rq_kmeans", codebook_size=4), 0),
    ):
        train(source, out, retriever, seed=seed, settings=SMALL)
    return out, source


def test_every_retriever_stands_in_one_table(experiment):
    """Means over seeds, each seed, and paired differences with intervals; test items are opened
    after validation only, and leave a trace.
    """
    out, source = experiment
    with pytest.raises(InputError, match="not evaluated on the validation items"):
        evaluate(source, out, part="test")
    result = evaluate(source, out, part="validation")
    assert result["retrievers"] == ["rq_kmeans", "rq_kmeans_mixed", "sasrec"]
    assert set(result["sasrec"]["seeds"]) == {"0", "1"}
    assert result["sasrec"]["recall_at_5"] == pytest.approx(
        np.mean([s["recall_at_5"] for s in result["sasrec"]["seeds"].values()])
    )
    assert result["sasrec"]["recall_at_5"] > 0.95
    assert set(result["paired"]) == {"rq_kmeans_minus_sasrec", "rq_kmeans_mixed_minus_sasrec"}
    assert not (out / "events.jsonl").exists()
    assert (
        evaluate(source, out, part="test")["rq_kmeans_mixed"]["sasrec_share"]
        == result["rq_kmeans_mixed"]["sasrec_share"]
    )
    [line] = (out / "events.jsonl").read_text().splitlines()
    assert json.loads(line)["event"] == "test_items_opened"


def test_a_trained_retriever_is_found_again_and_another_source_is_refused(experiment):
    """The same inputs train nothing; evaluation of other sequences says so."""
    out, source = experiment
    before = (out / "models" / "sasrec-seed_0" / "manifest.json").stat().st_mtime_ns
    train(source, out, Retriever(None), seed=0, settings=SMALL)
    assert (out / "models" / "sasrec-seed_0" / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(ArtifactError, match="other items or sequences"):
        evaluate(source_of(ring(), seed=1), out, part="validation")
    with pytest.raises(ArtifactError, match="no trained retriever"):
        evaluate(source, out / "nowhere", part="validation")


def test_each_kind_of_retriever_has_a_name_of_its_own(tmp_path):
    """Weights, items, the loss of positions, another encoder and length stand in the name, so none
    replaces another in one directory.
    """
    settings = replace(SMALL, epochs=1)
    asked = [
        (Retriever("opq", codebook_size=4), "catalogue"),
        (Retriever("opq", codebook_size=4), "positions"),
    ]
    asked += [
        (Retriever("opq", items=True, codebook_size=4), "catalogue"),
        (Retriever("opq", weighted=True, codebook_size=4), "catalogue"),
        (Retriever("opq", "sasrec", codebook_size=4), "catalogue"),
        (Retriever("opq", codebook_size=4, longer=1), "catalogue"),
    ]
    names = [
        train(source_of(ring()), tmp_path, one, seed=0, settings=replace(settings, loss=loss))[
            "name"
        ]
        for one, loss in asked
    ]
    assert names == [
        "opq",
        "opq_positions",
        "opq_items",
        "opq_weighted",
        "opq+sasrec",
        "opq_x1",
    ]


@pytest.mark.parametrize(
    ("retriever", "encoder"),
    [
        (Retriever(None), None),
        (Retriever("opq", "sasrec", codebook_size=4, longer=1), None),
        (Retriever("opq", codebook_size=4, longer=1), "sasrec_content"),
    ],
)
def test_what_former_manifests_said_is_still_said_so(tmp_path, retriever, encoder):
    """Encoder and length stand in a manifest only where they are not what they were before there
    was a choice, so that what was trained then is found again.
    """
    settings = replace(SMALL, epochs=1)
    made_of = train(source_of(ring()), tmp_path, retriever, seed=0, settings=settings)["made_of"]
    said = {"tokenizer", "items", "weighted", "codebook_size"} | ({"encoder"} if encoder else set())
    others = {"version", "source", "codes", "seed", "settings"}
    assert set(made_of) == said | others
    assert made_of.get("encoder") == encoder
    assert made_of["tokenizer"] == retriever.tokenizer


def test_a_directory_remembers_its_data(tmp_path):
    """Without --data a new directory is refused, and data without sequences are named."""
    with pytest.raises(InputError, match="give --data"):
        open_source(tmp_path)
    with pytest.raises(InputError, match=r"sequences_s3rec\.parquet"):
        open_source(tmp_path, data=str(tmp_path))


def test_the_commands_train_and_evaluate(tmp_path):
    """`adc retrieve train`, then `evaluate`: a table on the terminal, JSON in a file; a loss that
    does not exist is refused.
    """
    ids = load_source("synthetic", seed=0).items["item_id"].to_pylist()
    pq.write_table(
        pa.table({"item_ids": [ids[u : u + 5] for u in range(0, 60, 3)]}),
        tmp_path / "sequences.parquet",
    )
    out, run = ["--out", str(tmp_path / "out")], CliRunner().invoke
    asked = [
        "retrieve",
        "train",
        *out,
        "--data",
        "synthetic",
        "--sequences",
        str(tmp_path / "sequences.parquet"),
        "--tokenizer",
        "sasrec",
        "--epochs",
        "1",
    ]
    assert run(application(), asked, catch_exceptions=False).exit_code == 0
    shown = run(
        application(),
        ["retrieve", "evaluate", *out, "--json", str(tmp_path / "r.json")],
        catch_exceptions=False,
    )
    assert "validation items of 20 users among 2000" in shown.output
    assert 0 <= json.loads((tmp_path / "r.json").read_text())["sasrec"]["recall_at_10"] <= 1
    with pytest.raises(InputError, match="loss is 'both'"):
        run(application(), [*asked, "--loss", "both"], catch_exceptions=False)


def test_a_tokenizer_that_learns_from_interactions_reads_the_training_part(tmp_path, monkeypatch):
    """It gets the sequences without validation and test items."""
    from adc_features.tokenizer import fit as fitting

    class Asked(Exception):
        pass

    def fit(*_, events, **__):
        raise Asked(events["item_id"].to_pylist())

    monkeypatch.setattr(fitting, "fit", fit)
    split = ring()
    vectors = {"title": np.ones((ITEMS, 2), np.float32)}
    source = Source(split, vectors, {"title": np.ones(ITEMS, bool)})
    with pytest.raises(Asked) as asked:
        codes_of(source, tmp_path, tokenizer="diger", codebook_size=4, seed=0)
    assert asked.value.args[0] == split.item_ids[split.training.items].tolist()


def test_the_command_has_the_defaults_of_the_library():
    """The command is read without torch, so its defaults are written there again."""
    asked, known = signature(retrieve_train).parameters, Retriever("adc")
    assert [asked[name].default for name in ("encoder", "longer", "codebook_size")] == [
        known.encoder,
        known.longer,
        known.codebook_size,
    ]


def test_the_spec_has_thirty_two_positions():
    """Twice two shared ones, four of each of two content modalities, and six of behaviour."""
    assert sid_spec(["title", "brand_category"]).length == 32
    assert sid_spec(["title", "brand_category"], longer=1).length == 16
