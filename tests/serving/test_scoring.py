"""A request's scores, against the offline path."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from ranking_world import day, snapshots
from serving_world import CODEBOOK, NOW, SPEC, later, other_codes

from adc_features import store
from adc_features.codes.generation import Generation
from adc_features.errors import ArtifactError, GenerationMismatch, InputError, RequestError
from adc_features.ranking.legacy.trained import LegacyTrained
from adc_features.ranking.trained import Trained
from adc_features.serving.opening import open_bundle
from adc_features.serving.promotion import promote
from adc_features.serving.protocol import RankRequest
from adc_features.store.repository import live_generations, write_live_generations

ITEMS = [f"i{n:02d}" for n in range(0, 60, 4)]


@pytest.fixture(scope="module")
def bundle(shop):
    return open_bundle(shop.pair("codes_weights"))


@pytest.mark.parametrize(
    "name", ["codes_weights", "xgboost_codes_weights", "codes_expected", "no_sid", "second"]
)
def test_served_scores_equal_offline_scores(name, shop):
    """Users and items, unknown ones among them, at two times: the scores of a request are those of
    the point-in-time join.
    """
    opened = open_bundle(shop.pair(name))
    for now in (NOW, later(60.5)):
        for user in ("u3", "u41", "nobody"):
            asked = [*ITEMS, "nothing"]
            expected = shop.offline(name, [user] * len(asked), asked, now)
            ranking = opened.score(user, asked, now=now)
            assert np.abs(ranking.score - expected).max() <= 1e-6
            assert np.unique(ranking.score).size > 3
            assert (ranking.user_known, ranking.known.tolist()) == (
                user != "nobody",
                [True] * len(ITEMS) + [False],
            )


def test_the_rankers_differ_so_that_equality_says_something(shop):
    """Each ranker has scores of its own for the same request."""
    scores = [
        open_bundle(shop.pair(name)).score("u3", ITEMS, now=NOW).score
        for name in ("codes_weights", "no_sid", "second")
    ]
    assert min(np.abs(a - b).max() for a in scores for b in scores if a is not b) > 1e-3


def test_an_unknown_item_is_marked_and_carries_no_code(bundle):
    """known and coded say what the score rests on; a cold item has codes, one nobody published has
    none.
    """
    ranking = bundle.score("u3", ["i59", "nothing", "i00"], now=NOW)
    assert ranking.known.tolist() == [True, False, True]
    assert ranking.coded.tolist() == [True, False, True]
    row = bundle.lookup(["nothing"], now=NOW).to_pylist()[0]
    assert (row["sid_found"], row["sid"], row["sid_weight"], row["item_event_count"]) == (
        False,
        [-1] * 3,
        [0] * 3,
        None,
    )


def test_a_candidate_scores_the_same_alone_and_among_others(bundle):
    """No candidate sees another."""
    together = bundle.score("u3", ITEMS, now=NOW).score
    assert np.allclose(
        together,
        [bundle.score("u3", [item], now=NOW).score[0] for item in ITEMS],
        rtol=0,
        atol=1e-6,
    )


def test_features_from_after_now_are_refused(bundle):
    """A clock that stepped back must not rank with what was not known then."""
    with pytest.raises(
        InputError, match=r"the online features hold later events; ask as of a later time"
    ):
        bundle.score("u3", ITEMS, now=day(60))


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("codes_weights", {"user", "item", "pair", "codes", "weights"}),
        ("xgboost_codes_weights", {"user", "item", "pair", "codes", "weights"}),
        ("codes_expected", {"user", "item", "pair", "codes"}),
        ("no_sid", {"user", "item", "pair"}),
    ],
)
def test_the_best_candidate_of_a_run_is_explained(name, groups, shop):
    """What was served of it, its codes, times as text and each group's contribution; scores are
    those without an explanation.
    """
    bundle = open_bundle(shop.pair(name))
    asked = RankRequest(user="u3", items=[*ITEMS, ITEMS[0], "nothing"])
    plain = bundle.rank(asked, now=NOW)
    found = bundle.rank(asked.model_copy(update={"explain": True}), now=NOW)
    assert np.array_equal(found.score, plain.score)
    assert plain.facts == {}
    told = found.facts["explained"]
    best = int(np.argmax(plain.score))
    assert told["item_id"] == plain.columns["item_id"][best]
    assert told["score"] == pytest.approx(plain.score[best], abs=1e-6)
    assert set(told["groups"]) == groups
    assert any(abs(one["score"]) > 1e-4 for one in told["groups"].values())
    row = bundle.lookup([told["item_id"]], now=NOW).to_pylist()[0]
    served = told["inputs"]["item_event_count"]
    assert list(served["values"].values()) == [row["item_event_count"]]
    (last,) = told["inputs"]["item_last_time"]["values"].values()
    assert last.endswith("+00:00")
    if "codes" in groups:
        assert told["inputs"]["sid"]["codes"] == row["sid"]


def test_the_user_of_an_explanation_contributes_what_they_change(shop):
    """Nothing but the user's own features is taken away: of an unknown user they are absent and
    contribute what the id alone does.
    """
    bundle = open_bundle(shop.pair("xgboost_codes_weights"))
    asked = RankRequest(user="nobody", items=ITEMS, explain=True)
    told = bundle.rank(asked, now=NOW).facts["explained"]
    assert told["groups"]["user"]["score"] == pytest.approx(0, abs=1e-6)
    assert told["inputs"]["user_event_count"]["state"] == "absent"


def test_a_ranker_of_the_former_format_does_not_explain(bundle):
    """The request is refused in words, in place of an answer without the explanation."""
    old = LegacyTrained(bundle.trained.recipe, None, None, {}, 1, [])
    asked = RankRequest(user="u3", items=["i00"], explain=True)
    with pytest.raises(RequestError, match="trained by an older version and cannot be explained"):
        replace(bundle, trained=old).rank(asked, now=NOW)


@pytest.mark.parametrize("items", [[1], ["i00", 2], [True], ["x" * 257], ["i00\0"]])
def test_ids_of_another_kind_are_refused(bundle, items):
    """Integers where the catalogue has strings, endless ones, and those that an array would
    shorten.
    """
    with pytest.raises(InputError, match=r"item_id"):
        bundle.score("u3", items, now=NOW)


def test_a_pair_that_does_not_fit_together_is_not_opened(shop, tmp_path):
    """Another generation, another codebook under the same id, a retrained ranker, a missing one:
    each refused with its reason.
    """
    pair = shop.pair("codes_weights")
    for changed, error, reason in (
        (
            replace(pair, generation="g2", codebook_hash="22" * 32),
            GenerationMismatch,
            "trained on generation 'g1', promoted with 'g2'",
        ),
        (replace(pair, codebook_hash="33" * 32), GenerationMismatch, "fitted again under one id"),
        (
            replace(pair, ranker_hash="44" * 32),
            ArtifactError,
            "trained again since; promote it again",
        ),
        (replace(pair, ranker=tmp_path / "nowhere"), ArtifactError, "never completed"),
    ):
        with pytest.raises(error, match=reason):
            open_bundle(changed)


def opened_copy(shop, folder):
    """A copy of the shop's repository that may be changed, and a bundle that reads it."""
    repository = shutil.copytree(shop.repository, folder / "repository")
    return repository, open_bundle(replace(shop.pair("codes_weights"), repository=repository))


def test_codes_that_were_replaced_under_one_id_are_not_ranked_with(shop, tmp_path):
    """A repository that was made anew, with another codebook for the same generation, ends the
    service of the old ranker.
    """
    repository, opened = opened_copy(shop, tmp_path)
    write_live_generations(
        repository, [replace(g, codebook_hash="55" * 32) for g in live_generations(repository)]
    )
    with pytest.raises(GenerationMismatch, match="was replaced while it served"):
        opened.score("u3", ITEMS, now=NOW)


def test_files_of_another_codebook_are_not_ranked_with(shop, tmp_path):
    """What the published files themselves say counts, also where the list of live generations
    agrees with the ranker.
    """
    repository, opened = opened_copy(shop, tmp_path)
    renamed = replace(opened, live=replace(opened.live, codebook_hash="55" * 32))
    write_live_generations(
        repository,
        [renamed.live if g.id == renamed.live.id else g for g in live_generations(repository)],
    )
    with pytest.raises(GenerationMismatch, match="was replaced while it served"):
        renamed.score("u3", ITEMS, now=NOW)


def test_codes_count_from_the_time_they_are_servable(shop, tmp_path):
    """A snapshot that is published while the service runs changes the scores of requests at or
    after its time, and of no others.
    """
    repository, opened = opened_copy(shop, tmp_path)
    times = (later(9), later(10))
    before = [opened.score("u3", ITEMS, now=now).score for now in times]
    table = replace(other_codes(snapshots().snapshots[-1], "g2"), generation="g1", as_of=NOW)
    store.publish(
        repository,
        Generation("g1", "test", SPEC, {}, {}, {}, day(70), CODEBOOK["g1"]),
        [table],
        servable_at=[later(10)],
        computed_at=later(10),
    )
    after = [opened.score("u3", ITEMS, now=now).score for now in times]
    assert np.array_equal(before[0], after[0])
    assert np.abs(before[1] - after[1]).max() > 1e-3


def test_a_ranker_that_reads_what_is_not_online_is_not_opened(shop, monkeypatch):
    """A feature that the repository lacks is named at the start, not met in a request."""
    reads = Trained.reads
    monkeypatch.setattr(Trained, "reads", lambda self, key: reads(self, key) | {"item_price"})
    with pytest.raises(
        InputError, match=r"the ranker reads \['item_price'\], which the statistics of .* lack"
    ):
        open_bundle(shop.pair("codes_weights"))


@pytest.mark.slow  # a fresh process each
@pytest.mark.parametrize("name", ["codes_weights", "no_sid", "xgboost_codes_weights"])
def test_a_promoted_ranker_serves_without_torch(shop, tmp_path, name):
    """A process without torch, which Feast would import where it is installed and which is hidden
    here, opens a promotion as `adc serve` does and ranks on one thread.
    """
    promote(tmp_path / "promotion.json", shop.pair(name))
    program = f"""
import sys
from pathlib import Path

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("there is no torch here")

sys.meta_path.insert(0, NoTorch())
from adc_features.cli.serving import _opened
from adc_features.serving.service import Service, ServiceSettings
bundle, clock = _opened(None, Path({str(tmp_path / "promotion.json")!r}), {NOW.isoformat()!r})
answer = Service(bundle, ServiceSettings(), clock=clock).rank(
    bundle, b'{{"user": "u1", "items": ["i01", "i02"]}}'
)
assert b"i01" in answer.body
from threadpoolctl import threadpool_info
threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
assert set(threads) == {{1}}, threads
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
