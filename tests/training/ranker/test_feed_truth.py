"""Rankers on a feed of which the truth is known: they learn what is there, and nothing else."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from trained_feed import NOW, SETTINGS, expected_auc, expected_gauc, feature_gone, rank

from adc_features.errors import RequestError
from adc_features.inputs.rows import Parts
from adc_features.ranking.multitask import boosted_matrix
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranking.multitask.trained import load_ranker
from training.ranker.fit_network import Epochs, FitSettings, parameters
from training.ranker.fitting import fit_ranker
from training.ranker.labelled import Labelled
from training.ranker.warm_start import warm_start

SKUS = range(1_000, 1_050)
SLACK = {"auc": 0.025, "gauc": 0.025}
"""What 9,296 training rows may leave of a gain: their interval of an AUC is about +-0.02."""


class Judge:
    """Expected AUC and GAUC (by user) of scores for the later rows, all shown at position 0."""

    def __init__(self, world):
        self.world, logit = world, world.feed.logit
        self.unplaced = sum(value for name, value in logit.items() if name != "position")
        self.p = (1 / (1 + np.exp(-self.unplaced)))[world.later]
        self.users = world.joined.log.users[world.later]

    def __call__(self, scores):
        return {
            "auc": expected_auc(scores, self.p),
            "gauc": expected_gauc(scores, self.p, self.users),
        }

    def trained(self, name):
        return self(self.world.scores[name])

    def oracle(self, values):
        return self(values[self.world.later])


@pytest.fixture(scope="module")
def judge(trained_feed):
    return Judge(trained_feed)


# ---- what is learned


@pytest.mark.parametrize("model", ["full", "trees"])
def test_features_of_users_raise_the_scores_as_the_truth_says(judge, model):
    """With the segment and activity of users AUC and GAUC rise by what the probabilities of a
    ranker that knows them have over those of one that does not."""
    without = {"full": "no_user", "trees": "trees_no_user"}[model]
    told, untold = judge.trained(model), judge.trained(without)
    most, least = judge.oracle(judge.unplaced), judge.oracle(judge.world.feed.typical)
    for metric, slack in SLACK.items():
        assert told[metric] - untold[metric] >= most[metric] - least[metric] - slack
        assert untold[metric] <= least[metric]
        assert told[metric] <= most[metric]


def test_a_field_of_the_request_raises_the_scores_as_the_truth_says(judge):
    """The device of the request is worth its share of the truth, and no more is possible without
    it."""
    told, untold = judge.trained("full")["auc"], judge.trained("no_device")["auc"]
    most = judge.oracle(judge.unplaced)["auc"]
    least = judge.oracle(judge.unplaced - judge.world.feed.logit["device"])["auc"]
    assert told - untold >= most - least - SLACK["auc"]
    assert untold <= least


def test_without_features_of_users_all_users_get_one_answer(trained_feed):
    """A ranker that reads nothing of the user scores the same for every user."""
    for name in ("no_user", "trees_no_user"):
        bundle = trained_feed.bundle(name)
        first, *others = (rank(bundle, f"c{n:04d}", SKUS).score for n in range(5))
        for other in others:
            np.testing.assert_array_equal(other, first)


# ---- train-only


def test_a_train_only_position_never_changes_a_score(trained_feed):
    """Evaluated rows score the same whatever their position, or without one; a request has no such
    field."""
    table = trained_feed.joined.table.slice(0, 500)
    times = trained_feed.joined.log.times[:500]
    place = table.column_names.index("position")
    other = pa.array(np.full(500, 7), table["position"].type)
    variants = [table, table.set_column(place, "position", other), table.drop(["position"])]
    for name in ("full", "trees"):
        ranker = trained_feed.rankers[name]
        first, *rest = (
            ranker.probabilities(ranker.encoder.encode(Parts.joined(v, times))) for v in variants
        )
        for found in rest:
            np.testing.assert_array_equal(found, first)
        with pytest.raises(RequestError, match=r"unknown fields \['position'\]; known are"):
            rank(trained_feed.bundle(name), "c0001", SKUS, request={"device": "tv", "position": 1})


def test_a_train_only_position_helps_training(judge):
    """Cheap products were shown further up. The ranker that saw positions orders products by what
    they are worth at one position better than the one that took the position for the price."""
    told, untold = judge.trained("full"), judge.trained("no_position")
    assert told["auc"] > untold["auc"] + 0.01
    assert told["gauc"] > untold["gauc"] + 0.01


# ---- absence


@pytest.mark.parametrize("name", ["full", "trees"])
def test_a_feature_that_is_missing_online_shifts_its_own_contribution_alone(trained_feed, name):
    """Without the price online, every other input is encoded to the same bits, and the answer says
    that the price is absent of all candidates."""
    bundle = trained_feed.bundle(name)

    def encoded():
        read = bundle.reader.read(
            {"customer_id": "c0001"}, {"sku": list(SKUS)}, request={"device": "phone"}, now=NOW
        )
        return bundle.trained.encoder.encode(read.parts)

    before, scores = encoded(), rank(bundle, "c0001", SKUS).score
    with feature_gone(trained_feed.repo, "stock", "price"):
        after, ranked = encoded(), rank(bundle, "c0001", SKUS)
    assert ranked.facts["inputs"]["stock__price"] == {"absent": 50}
    assert not np.array_equal(ranked.score, scores)
    for key, block in after.blocks.items():
        if key == "stock__price":
            np.testing.assert_array_equal(block.dense, np.tile(np.float32([0, 1]), (50, 1)))
        else:
            np.testing.assert_array_equal(block.dense, before.blocks[key].dense)
            for one, other in zip(block.slots, before.blocks[key].slots, strict=True):
                for field in vars(one):
                    np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
    np.testing.assert_array_equal(rank(bundle, "c0001", SKUS).score, scores)


@pytest.mark.parametrize("name", ["full", "trees"])
def test_a_stored_zero_is_not_an_absence(trained_feed, name):
    """A number of 0 and an empty list score otherwise than nulls."""
    score = scorer(trained_feed, name)
    nulls = {
        "stock__price": (pa.float32(), 0.0),
        "profile__activity": (pa.float64(), 0.0),
    }
    for column, (kind, zero) in nulls.items():
        real, missing = (score({column: pa.array([v] * 200, kind)}) for v in (zero, None))
        assert np.abs(real - missing).max() > 1e-4, column
    if name == "full":  # trees did not split on what does not matter
        kind = pa.list_(pa.int64())
        real, missing = (score({"profile__recent": pa.array([v] * 200, kind)}) for v in ([], None))
        assert np.abs(real - missing).max() > 1e-4


def scorer(world, name, rows=200):
    """Scores of the newest rows with some columns replaced."""
    ranker, table = world.rankers[name], world.joined.table
    table = table.slice(len(table) - rows)
    times = world.joined.log.times[-rows:]

    def score(columns=None):
        changed = table
        for column, values in (columns or {}).items():
            changed = changed.set_column(table.column_names.index(column), column, values)
        return ranker.served(ranker.encoder.encode(Parts.joined(changed, times)))[0]

    return score


def test_a_history_is_read_from_its_newest_end(trained_feed):
    """1,000 events before the newest 20 change nothing; one more event does."""
    score, kind = scorer(trained_feed, "full"), pa.list_(pa.int64())
    recent = [1_000 + n for n in range(20)]
    lists = [recent, [1_100] * 1_000 + recent, [*recent, 1_050]]
    same, longer, moved = (score({"profile__recent": pa.array([v] * 200, kind)}) for v in lists)
    np.testing.assert_array_equal(longer, same)
    assert np.abs(moved - same).max() > 1e-6


# ---- unknown and rare


@pytest.mark.parametrize("name", ["full", "trees"])
def test_invented_users_get_one_order_and_are_called_unknown(trained_feed, name):
    """30 users that nobody knows, each with the same 50 candidates: one score a candidate."""
    bundle = trained_feed.bundle(name)
    answers = [rank(bundle, f"nobody-{n}", SKUS) for n in range(30)]
    for answer in answers:
        np.testing.assert_array_equal(answer.score, answers[0].score)
        assert answer.facts["inputs"]["customer_id"] == {"unknown": 1}
        assert answer.facts["inputs"]["profile__segment"] == {"absent": 1}
        assert not answer.user_known


@pytest.mark.parametrize("name", ["full", "trees"])
def test_invented_values_and_products_equal_each_other(trained_feed, name):
    """Two devices that were never seen score alike, and so do products that nobody has."""
    bundle = trained_feed.bundle(name)
    tv, radio = (rank(bundle, "c0001", SKUS, request={"device": d}) for d in ("tv", "radio"))
    np.testing.assert_array_equal(tv.score, radio.score)
    assert tv.facts["inputs"]["device"] == {"unknown": 1}
    assert not np.array_equal(tv.score, rank(bundle, "c0001", SKUS).score)
    new = rank(bundle, "c0001", [1_001, 5_001, 5_002])
    assert new.score[1] == new.score[2] != new.score[0]
    assert new.known.tolist() == [True, False, False]
    assert new.facts["inputs"]["sku"] == {"unknown": 2}


@pytest.mark.parametrize("name", ["full", "trees"])
def test_a_rare_user_scores_as_an_unknown_one_with_the_same_features(trained_feed, name):
    """Customers with fewer rows than the minimum have no row of their own."""
    score, ranker = scorer(trained_feed, name), trained_feed.rankers[name]
    vocabulary = ranker.encoder.vocabularies["customer_id"]
    customers = pa.array([f"c{n:04d}" for n in range(300)])
    rare = customers.filter(pa.array(vocabulary.rows(customers) == 1))
    assert 10 < len(rare) < 290
    kind = trained_feed.joined.table["customer_id"].type
    unknown = score({"customer_id": pa.array(["nobody"] * 200, kind)})
    for customer in rare.to_pylist()[:10]:
        np.testing.assert_array_equal(
            score({"customer_id": pa.array([customer] * 200, kind)}), unknown
        )


# ---- growth


def test_an_admitted_user_scores_as_before_until_it_is_trained(trained_feed):
    """Customers that were rare have rows of their own after growth, the others keep theirs; every
    score stays within 1e-6 while nothing is trained."""
    ranker, table = trained_feed.rankers["full"], trained_feed.joined.table
    times, rows = trained_feed.joined.log.times, len(table)
    doubled = Parts.joined(pa.concat_tables([table, table]), np.concatenate([times, times]))
    grown = ranker.encoder.grown(doubled)
    customers = pa.array([f"c{n:04d}" for n in range(300)])
    vocabularies = (e.vocabularies["customer_id"] for e in (ranker.encoder, grown))
    before, after = (v.rows(customers) for v in vocabularies)
    assert (before[before > 1] == after[before > 1]).all()
    assert ((before == 1) & (after > 1)).sum() > 10
    older = next(iter(ranker.models.values()))
    shape = NetworkShape.of(grown.layout, ranker.ranker, specs=grown.specs)
    parts = Parts.joined(table, times)
    labelled = Labelled(
        grown.encode(parts),
        np.zeros((1, rows), np.float32),
        np.ones((1, rows), bool),
        np.ones(rows),
        None,
    )
    network = Epochs(labelled, shape, FitSettings(), seed=0).model
    warm_start(network, older.shape, older.tensors)
    np.testing.assert_allclose(
        NetworkScorer(shape, parameters(network)).predict(grown.encode(parts)),
        older.predict(ranker.encoder.encode(parts)),
        atol=1e-6,
        rtol=0,
    )


def test_mean_labels_of_ids_are_trained_and_kept(trained_feed, tmp_path, monkeypatch):
    """Trees whose ids are too many to enter by number learn by their mean labels nearly as well,
    and score rows after a round through their directory as before."""
    monkeypatch.setattr(boosted_matrix, "CATEGORIES", 20)
    ranker = trained_feed.rankers["trees"]
    joined = replace(
        trained_feed.joined,
        resolution=replace(trained_feed.joined.resolution, ranker=ranker.ranker),
    )
    trained = fit_ranker(joined, trained_feed.splits.train, SETTINGS)
    columns = next(iter(trained.models.values())).columns
    assert {"customer_id/0", "sku/0"} <= set(columns.means)
    trained.save(tmp_path / "ranker", reference=joined.reference)
    encoded = trained.encoder.encode(joined.parts(trained_feed.later))
    scores = trained.probabilities(encoded)
    np.testing.assert_array_equal(load_ranker(tmp_path / "ranker").probabilities(encoded), scores)
    judge = Judge(trained_feed)
    assert judge(scores[0, 0])["auc"] > judge.trained("trees")["auc"] - SLACK["auc"]


def test_a_loaded_ranker_scores_the_same_bits(trained_feed, tmp_path):
    """Networks and trees that were saved score as the one that was saved."""
    for name in ("full", "trees"):
        trained_feed.rankers[name].save(tmp_path / name)
        loaded = load_ranker(tmp_path / name)
        encoded = loaded.encoder.encode(trained_feed.joined.parts(np.arange(500)))
        again = trained_feed.rankers[name].probabilities(encoded)
        np.testing.assert_array_equal(loaded.probabilities(encoded), again)
