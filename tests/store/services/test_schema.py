"""What a service of a user's own repository offers, read from the registry that Feast wrote."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from service_world import CONFIG, FUNCTIONS, Shop
from store_world import published_world

from adc_features.errors import ArtifactError, InputError
from adc_features.store.services.schema import declared_rankers, service_names, service_schema


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop whose profile is served under an alias and by another key."""
    shop = Shop(tmp_path_factory.mktemp("schema") / "shop", ttl={"recent": timedelta(days=7)})
    shop.aliases = {"profile": ("buyer", {"customer_id": "buyer_id"})}
    shop.apply()
    return shop


def test_every_projection_is_described(shop):
    """Kinds, aliases, mapped join keys, ttl, sources and request fields are those declared."""
    schema = service_schema(shop.folder, "feed")
    kinds = {v.projected: v.kind for v in schema.views}
    assert kinds == {
        **dict.fromkeys(("buyer", "stock", "affinity", "recent", "calendar", "codes"), "batch"),
        "ratio": "on_demand",
        "bought": "label",
    }
    buyer, ratio = schema.view("buyer"), schema.view("ratio")
    assert (buyer.name, buyer.join_keys) == ("profile", ("buyer_id",))
    assert buyer.join_key_map == {"customer_id": "buyer_id"}
    assert (ratio.join_keys, ratio.sources) == (("sku",), ("stock",))
    assert schema.request_fields == {"budget": "Float64"}
    assert schema.view("calendar").join_keys == ()
    assert schema.view("recent").ttl_seconds == 7 * 86400
    assert schema.join_keys == {"buyer_id": "String", "sku": "Int64", "customer_id": "String"}


def test_features_carry_types_tags_and_lengths(shop):
    """A feature has its projected key, its type as text, its view's tags under its own, and the
    declared length of a vector.
    """
    schema = service_schema(shop.folder, "feed")
    price, vector = schema.feature("stock__price"), schema.feature("stock__vector")
    assert (price.dtype, dict(price.own_tags)) == (
        "Float32",
        {"adc.log": "true", "adc.bins": "8"},
    )
    assert (vector.dtype, vector.vector_length) == ("Array(Float32)", 4)
    assert schema.feature("buyer__segment").tags["adc.min_count"] == "5"
    assert schema.feature("codes__sid").tags["generation"] == "g1"
    assert schema.feature("profile__segment") is None


def test_a_definition_follows_what_values_mean(tmp_path):
    """Tags, line ends of a function and the repository's place leave the definition as it is; a
    function, another file and its effect on a view over it change it.
    """
    shop = Shop(tmp_path / "shop")
    before = service_schema(shop.apply(), "feed")
    shop.view_tags["stock"] = {"team": "search"}
    shop.ratio = "ratio, other line ends"
    same = service_schema(shop.apply(), "feed")
    assert [v.definition for v in same.views] == [v.definition for v in before.views]
    shop.ratio = "inverse"
    other = service_schema(shop.apply(), "feed")
    assert other.view("ratio").definition != before.view("ratio").definition
    assert other.view("ratio").parts["sources"] == before.view("ratio").parts["sources"]
    assert other.view("ratio").parts["function"] != before.view("ratio").parts["function"]
    shop.files["stock"] = "other.parquet"
    moved = service_schema(shop.apply(), "feed")
    assert moved.view("stock").parts["source"] != other.view("stock").parts["source"]
    assert moved.view("ratio").parts["sources"] != other.view("ratio").parts["sources"]
    assert moved.view("profile").definition == before.view("profile").definition


def test_a_moved_repository_keeps_its_definitions(tmp_path):
    """Files inside the repository are compared by their place in it."""
    here = service_schema(Shop(tmp_path / "here").apply(), "feed")
    there = service_schema(Shop(tmp_path / "there").apply(), "feed")
    assert [v.definition for v in here.views] == [v.definition for v in there.views]


def test_pinned_versions_and_subsets_are_part_of_the_key(tmp_path):
    """`view@v0` has the fields of that version, and a subset only those chosen."""
    from feast import FeatureService, FeatureStore

    shop = Shop(tmp_path / "shop", service=["profile"])
    shop.apply()
    shop.fields["calendar"] = [("holiday", "Bool", {}), ("week", "Int64", {})]
    shop.apply()
    store = FeatureStore(repo_path=str(shop.folder))
    service = FeatureService(
        name="pinned", features=["calendar@v0", store.get_feature_view("profile")[["vip"]]]
    )
    store.apply([service])
    schema = service_schema(shop.folder, "pinned")
    assert [f.key for f in schema.features] == ["profile__vip", "calendar@v0__holiday"]
    assert service_names(shop.folder) == ["feed", "pinned"]


def test_what_is_not_there_is_said(tmp_path, shop):
    """A missing repository, registry or service is refused with what to do."""
    with pytest.raises(ArtifactError, match=r"feature_store.yaml is missing"):
        service_schema(tmp_path, "feed")
    (tmp_path / "feature_store.yaml").write_text(CONFIG)
    with pytest.raises(InputError, match="no registry yet"):
        service_schema(tmp_path, "feed")
    with pytest.raises(InputError, match=r"'fed' is not applied .* applied are \['feed'\]"):
        service_schema(shop.folder, "fed")


RANKERS = """\
from adc_features.inputs.declaration import Ranker, Task, infer, number

feed = Ranker(
    service="feed",
    tasks=[Task("click")],
    inputs=infer() | {"stock__price": number(bins=4)},
)
again = feed
"""


def test_rankers_are_found_where_feast_looks(tmp_path):
    """Rankers of all Python files are found by name, without applying, and from any folder; those
    of another repository with files of the same names do not show.
    """
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "rankers").mkdir(parents=True)
        (folder / "feature_store.yaml").write_text(CONFIG)
        text = RANKERS.replace('service="feed"', f'service="feed", name="{name}"')
        (folder / "rankers" / "feed.py").write_text(text)
        (folder / "shared.py").write_text("from rankers.feed import feed\n")
    here, modules = os.getcwd(), set(sys.modules)
    assert list(declared_rankers(tmp_path / "one")) == ["one"]
    found = declared_rankers(tmp_path / "two")
    assert list(found) == ["two"]
    assert found["two"].inputs.inferred
    assert os.getcwd() == here
    assert not {m for m in set(sys.modules) - modules if m.startswith(("rankers", "shared"))}


def test_rankers_that_cannot_be_told_apart_or_read_are_refused(tmp_path):
    """Two rankers of one name, and a file that raises, are named."""
    (tmp_path / "feature_store.yaml").write_text(CONFIG)
    (tmp_path / "a.py").write_text(RANKERS)
    (tmp_path / "b.py").write_text(RANKERS)
    with pytest.raises(
        InputError, match=r"two objects of type Ranker are named 'feed', in a.py and b.py"
    ):
        declared_rankers(tmp_path)
    (tmp_path / "b.py").write_text("1 / 0\n")
    with pytest.raises(InputError, match=r"b.py cannot be imported: ZeroDivisionError"):
        declared_rankers(tmp_path)
    (tmp_path / ".feastignore").write_text("b.py\n")
    assert list(declared_rankers(tmp_path)) == ["feed"]


@pytest.mark.slow
def test_a_file_of_rankers_survives_feast_apply(tmp_path):
    """`feast apply` imports a file of rankers and applies the rest of the repository."""
    (tmp_path / "feature_store.yaml").write_text(CONFIG)
    (tmp_path / "rankers.py").write_text(RANKERS)
    (tmp_path / "entities.py").write_text(
        "from feast import Entity, ValueType\n\n"
        "buyer = Entity(name='buyer', join_keys=['buyer_id'], value_type=ValueType.INT64)\n"
    )
    root = str(Path(__file__).parents[3])
    feast = str(Path(sys.executable).with_name("feast"))
    done = subprocess.run(
        [feast, "-c", str(tmp_path), "apply", "--skip-source-validation"],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "buyer" in done.stdout
    assert list(declared_rankers(tmp_path)) == ["feed"]


def test_published_codes_of_our_own_repository_are_one_input(tmp_path):
    """The view that publishing declares is recognised by its tags, with codes, weights and
    reliability; its statistics are ordinary views.
    """
    from adc_features.inputs.declaration import Ranker, SemanticId, Task
    from adc_features.inputs.resolution import resolution

    repo = published_world(tmp_path / "repo")
    schema = service_schema(repo, "ranker_g1")
    ranker = Ranker(service="ranker_g1", tasks=[Task("click")], user=["user_id"], item=["item_id"])
    made = resolution(ranker, schema)
    sid = {i.name: i for i in made.inputs}["sid"]
    assert (sid.kind, sid.side) == (SemanticId(source="item_sid_g1"), "item")
    assert {r: c.name for r, c in sid.columns.items()} == {
        "codes": "item_sid_g1__sid",
        "weights": "item_sid_g1__sid_weight",
        "reliability": "item_sid_g1__reliability",
    }
    views = {c.name.partition("__")[0] for i in made.inputs for c in i.columns.values()}
    assert views == {"item_id", "user_id", "item_sid_g1", "item_profile", "user_activity"}


def test_a_source_under_other_keys_is_looked_up_by_those(tmp_path):
    """An on-demand view of an aliased view with mapped keys has the mapped keys, and names its
    source by the alias.
    """
    from feast import Field, RequestSource
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.types import Float64

    shop = Shop(tmp_path / "shop")
    views = shop.views()
    there = views["stock"][["price"]].with_name("there").with_join_key_map({"sku": "other_sku"})
    ask = RequestSource(name="ask", schema=[Field(name="budget", dtype=Float64)])
    views["ratio"] = OnDemandFeatureView(
        name="ratio",
        sources=[there.projection, ask],
        schema=[Field(name="ratio", dtype=Float64)],
        mode="python",
        udf=FUNCTIONS["ratio"][0],
        udf_string=FUNCTIONS["ratio"][1],
    )
    shop.views = lambda: dict(views)
    schema = service_schema(shop.apply(), "feed")
    assert schema.view("ratio").join_keys == ("other_sku",)
    assert schema.view("ratio").sources == ("there",)
    assert schema.join_keys["other_sku"] == "Int64"


def test_the_order_of_sources_in_the_registry_file_means_nothing(tmp_path, monkeypatch):
    """Feast keeps the sources of an on-demand view in a map, which each process reads in an order
    of its own; definition, join keys and sources are the same.
    """
    from feast import OnDemandFeatureView
    from market_world import STORES, make_market

    market = make_market(tmp_path / "market", STORES["ours"], rows=80)
    before = service_schema(market.repo, "market_v2").view("worth")
    read = OnDemandFeatureView.from_proto.__func__

    def reversed_sources(cls, *given, **named):
        view = read(cls, *given, **named)
        found = view.source_feature_view_projections
        view.source_feature_view_projections = dict(reversed(found.items()))
        return view

    monkeypatch.setattr(OnDemandFeatureView, "from_proto", classmethod(reversed_sources))
    assert before.sources == ("goods", "profile")
    assert service_schema(market.repo, "market_v2").view("worth") == before
