"""What a change of the registry means for a trained ranker: one test a row of the table, each
through Feast's apply.
"""

import json
from datetime import timedelta

import pytest
from service_world import CONFIG, Shop

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs.compatibility import differences, pins, refuse
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.resolution import resolution
from adc_features.store.services.schema import service_schema

SERVICE = ["profile", "stock", "affinity", "recent", "codes", "ratio"]


@pytest.fixture
def shop(tmp_path):
    """A shop, and what a ranker of its service pins."""
    shop = Shop(tmp_path / "shop", service=SERVICE)
    schema = service_schema(shop.apply(), "feed")
    ranker = Ranker(service="feed", tasks=[Task("click")], user=["customer_id"], item=["sku"])
    made = resolution(ranker, schema)
    return shop, json.loads(json.dumps(pins(schema, made.inputs, made.ranker)))


def changed(shop):
    """The differences after the shop is applied again."""
    made, pinned = shop
    return differences(pinned, service_schema(made.apply(), "feed"))


def only(found, what):
    """The differences of one kind; there are no others."""
    assert {f.what for f in found} == {what}, [f.message for f in found]
    return found


def replaced(shop, view, name, field):
    fields = shop[0].fields[view]
    shop[0].fields[view] = [field if f[0] == name else f for f in fields]


def test_nothing_changed_is_no_difference(shop):
    """Applying again, other tags, owner or stores change nothing for either use."""
    shop[0].view_tags["stock"] = {"team": "search"}
    assert changed(shop) == []
    (shop[0].folder / "feature_store.yaml").write_text(CONFIG.replace("duckdb", "file"))
    assert changed(shop) == []


def test_a_new_field_is_fine_and_noticed_by_a_retraining(shop):
    """It names the feature."""
    shop[0].fields["stock"] = [*shop[0].fields["stock"], ("weight", "Float32", {})]
    (found,) = only(changed(shop), "added")
    assert (found.serve, found.retrain) == ("fine", "warn")
    assert "stock__weight" in found.message
    refuse([found], use="retrain")


def test_tags_that_resolve_otherwise_stop_a_retraining(shop):
    """Serving keeps what was trained; a retraining refuses until the change is accepted."""
    replaced(shop, "stock", "price", ("price", "Float32", {"adc.log": "true"}))
    (found,) = only(changed(shop), "resolves otherwise")
    assert (found.inputs, found.serve) == (("stock__price",), "fine")
    assert "number(bins=0) now, and was number(bins=8)" in found.message
    refuse([found], use="serve")
    with pytest.raises(InputError, match=r"(?s)stock__price.*--accept-inputs"):
        refuse([found], use="retrain")
    refuse([found], use="retrain", accept=["inputs"])


def test_a_field_that_is_renamed_is_refused_with_the_nearest(shop):
    """Candidates are of its type."""
    replaced(shop, "profile", "segment", ("segments", "String", {}))
    found = [f for f in changed(shop) if f.what == "gone"]
    assert [f.inputs for f in found] == [("profile__segment",)]
    assert "profile__segment (String) is gone" in found[0].message
    assert "nearest are ['profile__segments'" in found[0].message
    for use in ("serve", "retrain"):
        with pytest.raises(InputError, match="profile__segment"):
            refuse(found, use=use, accept=["inputs"])


def test_a_view_or_a_service_that_is_gone_is_refused(shop):
    """Every input of it is named."""
    shop[0].service = [v for v in SERVICE if v != "recent"]
    found = [f for f in changed(shop) if f.what == "gone"]
    assert {f.inputs for f in found} == {("recent__recent",)}
    (found,) = differences(shop[1], None)
    assert (found.serve, found.retrain) == ("refuse", "refuse")
    assert "service 'feed' of project 'shop' is gone" in found.message


def test_an_aliased_view_is_another_name(shop):
    """Its features are served under other names."""
    shop[0].aliases = {"affinity": ("liking", {})}
    found = [f for f in changed(shop) if f.what == "gone"]
    assert [f.inputs for f in found] == [("affinity__score",)]
    assert "nearest are ['liking__score'" in found[0].message


def test_a_wider_type_is_served_with_a_warning(shop):
    """Float32 to Float64 is pinned by the next training."""
    replaced(shop, "recent", "stars", ("stars", "Array(Float32)", FIELD_TAGS))
    replaced(shop, "stock", "price", ("price", "Float64", {"adc.log": "true", "adc.bins": "8"}))
    found = [f for f in changed(shop) if f.what == "type"]
    assert [(f.inputs, f.serve, f.retrain) for f in found] == [(("stock__price",), "warn", "fine")]
    assert "was Float32 and is Float64 now" in found[0].message


FIELD_TAGS = {"adc.kind": "history", "adc.group": "recent"}


def test_another_type_or_width_is_refused(shop):
    """A text that becomes a number, and a vector of another length."""
    replaced(shop, "profile", "country", ("country", "Int64", {}))
    found = [f for f in changed(shop) if f.what == "type"]
    assert [(f.serve, f.retrain, f.accept) for f in found] == [("refuse", "refuse", "inputs")]
    assert "profile__country was String and is Int64 now" in found[0].message
    pinned = {**shop[1], "features": {**shop[1]["features"]}}
    vector = pinned["features"]["stock__vector"]
    pinned["features"]["stock__vector"] = {**vector, "vector_length": 8}
    found = differences(pinned, service_schema(shop[0].folder, "feed"))
    assert any("stock__vector was of length 8, now 4" in f.message for f in found)


def test_other_entities_keys_and_key_types_are_refused(shop):
    """A key's type, the set of keys and a key map each name the view or the key."""
    shop[0].aliases = {"affinity": ("affinity", {"sku": "article"})}
    found = [f for f in changed(shop) if f.what == "keys"]
    assert [(f.inputs, f.serve, f.retrain) for f in found] == [
        (("affinity__score",), "refuse", "refuse")
    ]
    assert "by ['article', 'customer_id'] (mapped {'sku': 'article'})" in found[0].message
    shop[0].aliases, shop[0].keys["affinity"] = {}, ["product"]
    found = [f for f in changed(shop) if f.what == "keys"]
    assert "was looked up by ['customer_id', 'sku'], now by ['sku']" in found[0].message


def test_another_type_of_an_entity_is_refused(shop):
    """It matches nothing that was stored."""
    shop[0].key_of["product"] = ("sku", "String")
    found = [f for f in changed(shop) if f.what == "keys"]
    assert "join key 'sku' was Int64 and is String" in found[0].message
    assert {"sku", "stock__price", "affinity__score", "sid"} <= set(found[0].inputs)


@pytest.mark.parametrize(
    ("change", "words", "inputs"),
    [
        ("ttl", "ttl none to 86400 s", ("stock__price", "stock__labels", "stock__vector")),
        ("file", "source ", ("stock__price", "stock__labels", "stock__vector")),
        ("function", "function ", ("ratio__ratio",)),
    ],
)
def test_another_definition_is_not_served(shop, change, words, inputs):
    """The part that changed is named; a retraining starts these inputs anew."""
    if change == "ttl":
        shop[0].ttl["stock"] = timedelta(days=1)
    elif change == "file":
        shop[0].files["stock"] = "other.parquet"
    else:
        shop[0].ratio = "inverse"
    found = {f.inputs: f for f in only(changed(shop), "definition")}
    told = found[inputs]
    assert words in told.message
    assert (told.serve, told.retrain) == ("refuse", "warn")
    # what an on-demand view reads is part of it
    assert ("ratio__ratio",) in found
    with pytest.raises(InputError, match=r"(?s)refusing to serve.*`adc retrain`") as told:
        refuse(found.values(), use="serve")
    assert "--accept" not in str(told.value)  # no command that serves has such an option
    refuse(found.values(), use="retrain")


def test_codes_of_another_codebook_are_refused(shop):
    """The view's name may stay while its tags name another codebook."""
    other = {"managed_by": "adc_features", "generation": "g2", "codebook_hash": "beef"}
    shop[0].fields["codes"] = [(n, t, other) for n, t, _ in shop[0].fields["codes"]]
    shop[0].view_tags["codes"] = other
    found = only(changed(shop), "codebook")
    assert "codebook_hash 'c0de' to 'beef'" in found[0].message
    assert {f.serve for f in found} == {"refuse"}


def test_altered_pins_are_refused(shop):
    """A manifest that lost a part is no reason to serve."""
    pinned = {k: v for k, v in shop[1].items() if k != "views"}
    with pytest.raises(ArtifactError, match="cannot be read"):
        differences(pinned, service_schema(shop[0].folder, "feed"))
