"""Codes of a repository that is not ours: what they say, how they are read, trained and served."""

from collections import Counter, defaultdict
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from coded_feed import LATER, categories
from feed_world import CATEGORIES, START

from adc_features.errors import ArtifactError
from adc_features.inputs.declaration import ItemHistory, SemanticId
from adc_features.ranking.multitask.trained import joined_parts
from adc_features.serving.declared import open_declared
from adc_features.serving.promotion import read_promotion
from adc_features.serving.protocol import RankRequest
from adc_features.serving.workspace import Workspace
from adc_features.store import published_timeline
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service
from training.cli.ranker_deployment import renew_codes_of

BEFORE, AFTER = START + timedelta(days=2), LATER + timedelta(days=6)


def _codes_at(repo, skus, time):
    times = np.full(len(skus), np.datetime64(time.replace(tzinfo=None), "us"))
    return published_timeline(repo, "g1").gather(np.array(skus), times)


def _purity(codes, category):
    """The share of items that have the commonest category of their code."""
    groups = defaultdict(Counter)
    for code, name in zip(map(tuple, codes.tolist()), category, strict=True):
        groups[code][name] += 1
    return sum(max(g.values()) for g in groups.values()) / len(category)


def test_codes_tell_the_category(coded):
    """The category that determines the vectors can be read from the codes of an item."""
    category = categories(coded.repo)
    codes, weights, _ = _codes_at(coded.repo, list(category), BEFORE)
    assert (codes >= 0).all()
    assert (weights > 0).all()
    assert _purity(codes, category.values()) >= 0.95


def test_a_later_snapshot_follows_the_vectors(coded):
    """Items whose vector moved to another category have its codes from the later snapshot on, and
    their old ones before it."""
    category = categories(coded.repo)
    skus = list(category)
    moved = skus[-(len(skus) // 10) :]
    now = {
        s: CATEGORIES[(CATEGORIES.index(c) + 1) % 4] if s in moved else c
        for s, c in category.items()
    }
    before, after = _codes_at(coded.repo, skus, BEFORE)[0], _codes_at(coded.repo, skus, AFTER)[0]
    assert _purity(before, category.values()) >= 0.95
    assert _purity(after, now.values()) >= 0.95
    stayed = ~np.isin(skus, moved)
    assert (before == after).all(axis=1)[stayed].all()
    assert (before != after).any(axis=1)[~stayed].all()
    assert coded.first["fitted"]
    assert not coded.later["fitted"]


def test_the_view_belongs_to_the_users_entity(coded):
    """The codes are a view of the user's entity and join key, and no entity of ours is declared."""
    from adc_features.store.registry import open_any_store

    store = open_any_store(coded.repo)
    view = store.get_feature_view("item_sid_g1")
    assert view.entities == ["product"]
    assert [(f.name, str(f.dtype)) for f in view.entity_columns] == [("sku", "Int64")]
    assert {e.name for e in store.list_entities()} - {"__dummy"} == {"customer", "product"}
    assert coded.first["service"] == "plain_v1_g1"
    offered = {f.key for f in service_schema(coded.repo, "plain_v1_g1").features}
    assert {"stock__price", "profile__segment", "item_sid_g1__sid"} <= offered
    assert "stock__category" not in offered


def test_joined_codes_are_those_of_the_timeline(coded):
    """The point-in-time join of the published view by Feast equals the late join."""
    schema = service_schema(coded.repo, "plain_v1_g1")
    skus = list(categories(coded.repo)) * 3
    hours = np.random.default_rng(0).integers(0, 40 * 24, len(skus))
    times = [START + timedelta(hours=int(h)) for h in hours]
    rows = pa.table(
        {
            "customer_id": ["c0001"] * len(skus),
            "sku": skus,
            "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )
    joined = join_service(coded.repo, schema, rows, features=["item_sid_g1__sid"])
    at = np.array([np.datetime64(t.replace(tzinfo=None), "us") for t in times])
    codes, _, _ = published_timeline(coded.repo, "g1").gather(np.array(skus), at)
    found = [c if c is not None else [-1, -1] for c in joined["item_sid_g1__sid"].to_pylist()]
    assert (hours < 24).any()
    assert found == codes.tolist()


def test_codes_help_where_the_category_matters(coded):
    """Among items that it cannot tell by id, a ranker with codes is better with certainty than one
    without: clicks depend on the category."""
    paired = coded.judged["tasks"]["click"]["paired"]["coded_minus_uncoded"]
    assert paired["auc"]["low"] > 0.01


def test_what_is_served_is_what_was_joined(coded):
    """Served scores of a ranker that reads the candidate's codes, and those of the user's recent
    items through time, equal the scores of joined rows."""
    bundle = open_declared(read_promotion(Workspace(coded.repo, "coded").promotion))
    kinds = {type(spec.kind) for spec in bundle.trained.encoder.specs}
    assert {SemanticId, ItemHistory} <= kinds
    assert bundle.trained.reads_timeline
    skus, now = list(categories(coded.repo)), coded.feed.end
    schema = service_schema(coded.repo, bundle.trained.ranker.service)
    for user in ("c0000", "c0007", "c0123"):
        served = bundle.rank(RankRequest(user=user, items=skus), now=now)
        rows = pa.table(
            {
                "customer_id": [user] * len(skus),
                "sku": skus,
                "event_timestamp": pa.array([now] * len(skus), pa.timestamp("us", "UTC")),
            }
        )
        table = join_service(coded.repo, schema, rows, features=bundle.trained.features)
        parts = joined_parts(table, published_timeline(coded.repo, "g1"))
        score, _ = bundle.trained.served(bundle.trained.encoder.encode(parts))
        assert served.coded.all()
        assert served.score == pytest.approx(score, abs=1e-6)
    assert len({round(float(s), 6) for s in served.score}) > 10


def test_a_promotion_pins_the_codebook(coded):
    """The promoted pair names the generation and its codebook."""
    promotion = read_promotion(Workspace(coded.repo, "coded").promotion)
    assert promotion.generation == "g1"
    assert promotion.codebook_hash == coded.first["codebook_hash"]


def test_retraining_renews_the_codes_of_what_serves(coded):
    """The generation is that of the promoted ranker; without news nothing is published, and a
    ranker without a promotion is refused.
    """
    at = coded.feed.end + timedelta(days=1)
    renewed = renew_codes_of(coded.repo, "coded", coded.feed.labels, at=at)
    assert renewed["generation"] == "g1"
    assert [s["published_rows"] for s in renewed["snapshots"]] == [0]
    with pytest.raises(ArtifactError, match="uncoded"):
        renew_codes_of(coded.repo, "uncoded", coded.feed.labels, at=at)
