"""Variants beside the promoted pair: the file, the users, the answers."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranking_world import day
from serving_world import NOW
from test_service import ITEMS, serving, until

from adc_features.artifact import with_check
from adc_features.errors import ArtifactError, InputError
from adc_features.serving.deployed import Deployed, Opened
from adc_features.serving.opening import open_bundle
from adc_features.serving.promotion import promote, read_promotion
from adc_features.serving.variants import (
    Deployment,
    Variant,
    end_variant,
    place_of,
    read_deployment,
    start_variant,
)

USERS = [f"u{n}" for n in range(80)]


@pytest.fixture
def file(shop, tmp_path):
    """A promotion file that names `codes_weights`."""
    path = tmp_path / "promotion.json"
    promote(path, shop.pair("codes_weights"))
    return path


def test_variants_read_back_as_they_were_started_and_a_promotion_keeps_them(shop, file):
    """Share and shadow, by value; the promoted pair changes beside them; one command ends one."""
    new = start_variant(file, Variant("new", shop.pair("second"), share=0.25))
    dark = start_variant(file, Variant("dark", shop.pair("no_sid"), sampled=0.5))
    served = Deployment(shop.pair("codes_weights"), (new, dark))
    assert read_deployment(file) == served
    assert read_promotion(file) == served.promotion
    promote(file, shop.pair("no_sid", at=day(3)))
    assert read_deployment(file) == Deployment(shop.pair("no_sid", at=day(3)), (new, dark))
    assert end_variant(file, "dark") == dark
    assert read_deployment(file).variants == (new,)
    promote(file, new.pair, ended=["new"])
    assert read_deployment(file) == Deployment(new.pair)


def test_a_file_of_the_older_format_names_no_variants(shop, file):
    """Format 1 had no `variants`; it is read as it was."""
    facts = json.loads(file.read_text())
    assert facts["format"] == 2
    older = {n: v for n, v in facts.items() if n not in ("variants", "check")} | {"format": 1}
    file.write_text(json.dumps(with_check(older)))
    assert read_deployment(file) == Deployment(shop.pair("codes_weights"))
    assert read_promotion(file) == shop.pair("codes_weights")


@pytest.mark.parametrize("variants", [{}, [1], [{"name": "a"}], "twice"])
def test_a_damaged_list_of_variants_is_named(shop, file, variants):
    """Not a list, not a variant, one name for two: an ArtifactError that says what to do."""
    start_variant(file, Variant("a", shop.pair("second"), share=0.5))
    facts = json.loads(file.read_text())
    facts.pop("check")
    facts["variants"] = 2 * facts["variants"] if variants == "twice" else variants
    file.write_text(json.dumps(with_check(facts)))
    with pytest.raises(ArtifactError, match="is not a promotion"):
        read_deployment(file)


def test_intervals_are_disjoint_and_the_end_of_one_moves_nobody(shop, file):
    """A free interval is taken again; a share that does not fit is refused, with what is left."""
    pair = shop.pair("second")
    first, second = (start_variant(file, Variant(n, pair, share=0.4)) for n in ("first", "second"))
    assert (first.start, second.start, first.salt) == (0.0, 0.4, second.salt)
    with pytest.raises(InputError, match=r"asks for 0\.3 .*0\.2 are left"):
        start_variant(file, Variant("third", pair, share=0.3))
    with pytest.raises(InputError, match="serves already"):
        start_variant(file, Variant("first", pair, sampled=0.3))
    end_variant(file, "first")
    assert start_variant(file, Variant("third", pair, share=0.3)).start == 0.0
    assert read_deployment(file).variant("second") == second
    with pytest.raises(InputError, match="does not serve; those that do: second, third"):
        end_variant(file, "first")


@pytest.mark.parametrize(
    "how", [{}, {"share": 0.5, "sampled": 0.5}, {"share": 1.5}, {"share": float("nan")}]
)
def test_a_variant_has_a_share_or_is_a_shadow(shop, how):
    """Neither, both, or a number that is no share is refused."""
    with pytest.raises(InputError):
        Variant("new", shop.pair("second"), **how)
    with pytest.raises(InputError, match="has no name"):
        Variant("../new", shop.pair("second"), share=0.5)


@given(st.one_of(st.text(), st.integers()), st.text())
def test_a_user_has_one_place(user, salt):
    """In [0, 1), the same for an id and for its only key, whatever the key is called."""
    assert 0 <= place_of(user, salt) < 1
    assert place_of(user, salt) == place_of({"customer_id": user}, salt)


def test_places_are_uniform_and_independent_of_each_other_by_salt():
    """Of 20,000 users a tenth have a place below 0.1, and of those a tenth under another salt."""
    places = np.array([[place_of(n, salt) for salt in ("a", "b")] for n in range(20_000)])
    first = places[:, 0] < 0.1
    assert first.mean() == pytest.approx(0.1, abs=0.01)
    assert (places[first, 1] < 0.1).mean() == pytest.approx(0.1, abs=0.03)
    assert place_of({"a": 1, "b": "x"}, "s") == place_of({"b": "x", "a": 1}, "s")


def test_users_of_a_variant_are_served_by_it_and_the_answer_names_it(shop, file):
    """Every user's scores are those of the pair that the answer names; the share is stable, and the
    end of the variant gives all users back."""
    names = ("codes_weights", "second")
    scored = {n: open_bundle(shop.pair(n)) for n in names}
    with serving(shop, promotion_file=file) as client:
        assert "variant" not in client.post("/rank", {"user": "u3", "items": ITEMS})[1]
        started = start_variant(file, Variant("new", shop.pair("second"), share=0.5))
        until(lambda: client.service.deployed.variants)
        counts = {"new": 0, None: 0}
        for user in USERS:
            status, answer = client.post("/rank", {"user": user, "items": ITEMS})
            assert status == 200
            name = "new" if started.serves(place_of(user, started.salt)) else None
            assert answer["variant"] == name
            ranker = names[name == "new"]
            assert answer["pair"] == shop.pair(ranker).name
            got = {row["item_id"]: row["score"] for row in answer["items"]}
            expected = scored[ranker].score(user, ITEMS, now=NOW).score
            assert [got[i] for i in ITEMS] == pytest.approx(expected.tolist(), abs=1e-6)
            counts[name] += 1
        assert min(counts.values()) > 20
        metrics = client.metrics()
        asked = 'adc_variant_requests_total{outcome="answered",variant="new"}'
        assert metrics[asked] == counts["new"]
        shown = json.loads(client.send("GET", "/readyz")[2])["variants"]
        assert shown == [{"name": "new", "pair": started.pair.name, "share": 0.5}]
        end_variant(file, "new")
        until(lambda: not client.service.deployed.variants)
        answers = [client.post("/rank", {"user": u, "items": ITEMS})[1] for u in USERS[:20]]
        assert {a["pair"] for a in answers} == {shop.pair("codes_weights").name}
        assert not any("variant" in a for a in answers)
        assert [v for n, v in client.metrics().items() if n.startswith("adc_variant{")] == [0]


def test_a_shadow_is_seen_by_metrics_alone(shop, file):
    """Answers are those of the promoted pair, to the byte; each request is scored or skipped."""
    with serving(shop, promotion_file=file) as client:
        before = [client.send("POST", "/rank", asked(user))[2] for user in USERS[:30]]
        start_variant(file, Variant("dark", shop.pair("second"), sampled=1.0))
        until(lambda: client.service.deployed.variants)
        after = [client.send("POST", "/rank", asked(user))[2] for user in USERS[:30]]
        assert after == before

        def told(outcome: str) -> float:
            name = f'adc_variant_requests_total{{outcome="{outcome}",variant="dark"}}'
            return client.metrics().get(name, 0)

        until(lambda: told("scored") + told("skipped") == 30)
        assert told("scored") >= 1
        assert client.metrics()['adc_shadow_same_best_total{variant="dark"}'] <= told("scored")


def test_a_variant_that_fails_costs_no_answer(shop, file, monkeypatch):
    """Its users get the promoted pair's answer, counted; a request at fault is refused as ever."""
    main, broken = open_bundle(shop.pair("codes_weights")), open_bundle(shop.pair("no_sid"))
    monkeypatch.setattr(type(broken), "rank", failing_for(broken, type(broken).rank))
    with serving(shop, promotion_file=file) as client:
        variant = Variant("new", broken.promotion, share=1.0)
        client.service.promotion_file = None
        client.service.deployed = Deployed(main, (Opened(variant, broken),))
        status, answer = client.post("/rank", {"user": "u3", "items": ITEMS})
        assert (status, answer["variant"]) == (200, None)
        assert answer["pair"] == main.promotion.name
        failed = 'adc_variant_requests_total{outcome="failed",variant="new"}'
        assert client.metrics()[failed] == 1
        assert client.post("/rank", {"user": 3, "items": ITEMS})[0] == 422
        assert client.metrics()[failed] == 1


def test_a_variant_that_cannot_be_opened_is_named_and_its_users_get_the_pair(shop, file):
    """The promoted pair serves all; /readyz says why; the end of the variant ends the complaint."""
    start_variant(file, Variant("new", shop.pair("second"), share=0.9))
    facts = json.loads(file.read_text())
    facts.pop("check")
    facts["variants"][0]["codebook_hash"] = "33" * 32
    file.write_text(json.dumps(with_check(facts)))
    with serving(shop, promotion_file=file) as client:
        until(lambda: client.service.refused is not None)
        shown = json.loads(client.send("GET", "/readyz")[2])
        assert shown["refused"].startswith("variant 'new': generation 'g2'")
        assert client.post("/rank", {"user": "u3", "items": ITEMS})[0] == 200
        end_variant(file, "new")
        until(lambda: client.service.refused is None, seconds=60)


def asked(user: str) -> bytes:
    return json.dumps({"user": user, "items": ITEMS, "now": NOW.isoformat()}).encode()


def failing_for(bundle, rank):
    """`rank`, but for one bundle."""

    def ranked(self, *given, **named):
        if self.promotion == bundle.promotion:
            raise ZeroDivisionError
        return rank(self, *given, **named)

    return ranked
