"""A declaration and a service become inputs: rules, precedence, sides, and refusals at once."""

from dataclasses import replace

import pytest

from adc_features.errors import InputError
from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Ranker, Task, infer
from adc_features.inputs.resolution import resolution, resolve
from adc_features.inputs.schema import FeatureSchema, ServiceSchema, ViewSchema

SID = {"generation": "g1", "codebook_hash": "c0de"}
KEYS = {"customer_id": "String", "sku": "Int64"}


def view(name, keys=(), kind="batch", *, sources=(), request=None):
    return ViewSchema(name, name, kind, tuple(keys), {}, 0.0, "d", tuple(sources), request)


VIEWS = {
    "profile": view("profile", ["customer_id"]),
    "stock": view("stock", ["sku"]),
    "affinity": view("affinity", ["customer_id", "sku"]),
    "calendar": view("calendar"),
    "codes": view("codes", ["sku"]),
    "ratio": view("ratio", ["sku"], "on_demand", sources=["stock"], request={"budget": "Float64"}),
    "bought": view("bought", ["customer_id", "sku"], "label"),
}


def service(*features, keys=KEYS):
    """features: "view__name", type, tags of the field."""
    made = []
    for key, dtype, *rest in features:
        projected, _, name = key.partition("__")
        tags = rest[0] if rest else {}
        length = rest[1] if len(rest) > 1 else 0
        made.append(FeatureSchema(key, projected, name, dtype, tags, length, tags))
    views = tuple(VIEWS[v] for v in dict.fromkeys(f.view for f in made))
    return ServiceSchema("shop", "feed", views, tuple(made), keys)


def ranker(inputs=None, **rest):
    inputs = infer() if inputs is None else inputs
    sides = {"user": ["customer_id"], "item": ["sku"]}
    return Ranker(service="feed", tasks=[Task("click")], inputs=inputs, **{**sides, **rest})


def resolved(declared, *features, columns=None, **rest):
    return {
        i.name: i for i in resolve(ranker(declared, **rest), service(*features), columns=columns)
    }


def refused(declared, *features, columns=None, **rest):
    with pytest.raises(InputError) as error:
        resolve(ranker(declared, **rest), service(*features), columns=columns)
    return str(error.value)


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        *((t, d.Number) for t in ("Float32", "Float64", "Decimal", "Int32", "Int64")),
        *((t, d.Category) for t in ("String", "Uuid", "TimeUuid")),
        ("Bool", d.Flag),
        *((t, d.Time) for t in ("UnixTimestamp", "ZonedTimestamp")),
        *((f"Array({t})", d.Vector) for t in ("Float32", "Float64")),
        *((f"{o}({t})", d.CategorySet) for o in ("Array", "Set") for t in ("String", "Int64")),
    ],
)
def test_a_type_chooses_its_kind(dtype, kind):
    """Without tags and declaration the rule table decides, and says so."""
    made = resolved(None, ("stock__f", dtype))["stock__f"]
    assert (type(made.kind), made.origin, made.side) == (kind, "type", "item")


@pytest.mark.parametrize(
    ("dtype", "reason"),
    [
        ("Map", "named values"),
        ("Json", "named values"),
        ("Struct({a: Int64})", "named values"),
        ("Bytes", "bytes"),
        ("Array(Array(Int64))", "list of lists"),
        ("Array(Bool)", "beside others"),
        ("Array(UnixTimestamp)", "beside others"),
        ("Set(Float32)", "no kind reads"),
    ],
)
def test_a_type_that_no_kind_reads_is_left_out_by_name(dtype, reason):
    """It is no input, the reason is given, and declaring it is an error."""
    made = resolution(ranker(), service(("stock__f", dtype)))
    assert [(x.name, x.dtype) for x in made.left_out] == [("stock__f", dtype)]
    assert reason in made.left_out[0].reason
    said = refused(infer() | {"stock__f": d.number()}, ("stock__f", dtype))
    assert "a number cannot read stock__f" in said


def test_sides_follow_from_entity_sets():
    """Keys of both sides make a pair, none a global view, an on-demand view has its sources'."""
    made = resolved(
        None,
        ("profile__a", "Int64"),
        ("stock__a", "Int64"),
        ("affinity__a", "Int64"),
        ("calendar__a", "Int64"),
        ("ratio__a", "Float64"),
    )
    assert {n: i.side for n, i in made.items()} == {
        "customer_id": "user",
        "sku": "item",
        "profile__a": "user",
        "stock__a": "item",
        "affinity__a": "pair",
        "calendar__a": "global",
        "ratio__a": "item",
        "budget": "request",
    }
    assert made["sku"].kind == d.Category(source="sku", dropout=0.1)
    assert made["budget"].kind.request


def test_keys_of_no_side_are_asked_for():
    """Nothing is guessed from names; tags adc.side of views tell where a declaration does not."""
    schema = service(("profile__a", "Int64"), ("stock__a", "Int64"))
    with pytest.raises(InputError, match=r"on which side are the join keys \['customer_id', 'sku'"):
        resolve(ranker(user=[], item=[]), schema)
    schema = service(
        ("profile__a", "Int64", {"adc.side": "user"}), ("stock__a", "Int64", {"adc.side": "item"})
    )
    made = resolution(ranker(user=[], item=[]), schema).ranker
    assert (made.user, made.item) == (("customer_id",), ("sku",))
    wrong = ("stock__a", "Int64", {"adc.side": "user"})
    assert "tag adc.side of stock__a is 'user'" in refused(None, wrong)


def test_what_follows_from_unknown_sides_is_not_said():
    """Keys without a side are the one fault that is told: an item history that lacks its candidate,
    a tag that says another side and a gate without an input come of it."""
    inputs = {"profile__recent": d.item_history()}
    features = ("profile__recent", "Array(Int64)"), ("stock__a", "Int64", {"adc.side": "user"})
    said = refused(inputs, *features, user=["customer"], item=[], gates=["profile__recent"])
    assert said.startswith("2 things are wrong")
    assert "'customer' is named as a join key" in said
    assert "on which side are the join keys ['customer_id', 'sku']" in said


def test_tags_choose_and_a_declaration_overrides_them():
    """A field's tag overrides the type, a declaration overrides the tag as a whole."""
    tags = {"adc.kind": "category", "adc.min_count": "5", "adc.gate": "true"}
    made = resolution(ranker(), service(("stock__brand", "Int64", tags)))
    brand = {i.name: i for i in made.inputs}["stock__brand"]
    assert brand.kind == d.Category(source="stock__brand", min_count=5)
    assert (brand.origin, made.ranker.gates) == ("tag", ("stock__brand",))
    brand = resolved(infer() | {"brand": d.category()}, ("stock__brand", "Int64", tags))["brand"]
    assert brand.kind == d.Category(source="stock__brand")
    assert brand.origin == "declared"


def test_an_option_of_a_view_is_read_where_it_fits():
    """adc.log of a view concerns its numbers; of a text's own field it is an error."""
    tags = {"adc.log": "true"}
    schema = service(("stock__price", "Float32"), ("stock__brand", "String"))
    of_view = replace(schema, features=tuple(replace(f, tags=tags) for f in schema.features))
    made = {i.name: i.kind for i in resolve(ranker(), of_view)}
    assert made["stock__price"].log
    assert made["stock__brand"] == d.Category(source="stock__brand")
    said = refused(None, ("stock__brand", "String", tags))
    assert "tag adc.log of stock__brand does not fit: a category has no such option" in said


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("adc.bin", "8"),
        ("adc.kind", "numbers"),
        ("adc.bins", "-1"),
        ("adc.clip", "3,2"),
        ("adc.log", "yes"),
        ("adc.min_count", "0"),
        ("adc.last", "x"),
        ("adc.order", "newest"),
        ("adc.zone", "Europe/Nowhere"),
        ("adc.side", "left"),
        ("adc.dropout", "1"),
    ],
)
def test_an_unknown_tag_or_value_is_refused(tag, value):
    """The message names the field and the tag."""
    assert f"tag {tag} of stock__f is" in refused(None, ("stock__f", "Float32", {tag: value}))


HISTORY = {"adc.kind": "history", "adc.group": "recent"}
RECENT = [
    ("profile__skus", "Array(Int64)", HISTORY),
    ("profile__at", "Array(UnixTimestamp)", HISTORY),
    ("profile__stars", "Array(Float32)", HISTORY),
]
CODES = [
    ("codes__sid", "Array(Int32)", SID),
    ("codes__sid_weight", "Array(Float32)", SID),
    ("codes__reliability", "Float32", SID),
    ("codes__is_cold", "Bool", SID),
]


def test_tags_gather_a_history():
    """Ids, times and labels of one group are one input; it reads codes where the candidate has
    some.
    """
    made = resolved(None, *RECENT)["profile__recent"]
    assert {r: c.name for r, c in made.columns.items()} == {
        "source": "profile__skus",
        "times": "profile__at",
        "labels": "profile__stars",
        "candidate": "sku",
    }
    assert (made.kind.codes, made.side, made.origin) == (False, "pair", "tag")
    made = resolved(None, *RECENT, *CODES)["profile__recent"]
    assert made.kind.codes
    assert made.columns["codes"].name == "codes__sid"


def test_times_as_integers_need_a_role():
    """Two Int64 lists cannot be told apart by type."""
    both = [("profile__skus", "Array(Int64)", HISTORY), ("profile__us", "Array(Int64)", HISTORY)]
    assert "say which by the tag adc.role" in refused(None, *both)
    both[1] = ("profile__us", "Array(Int64)", {**HISTORY, "adc.role": "times"})
    assert resolved(None, *both)["profile__recent"].kind.times == "profile__us"


def test_a_published_view_of_codes_is_one_input():
    """Its columns are no inputs of their own, and are named as left out; a subset may lack
    weights.
    """
    made = resolution(ranker(), service(*CODES))
    sid = {i.name: i for i in made.inputs}["sid"]
    assert {r: c.name for r, c in sid.columns.items()} == {
        "codes": "codes__sid",
        "weights": "codes__sid_weight",
        "reliability": "codes__reliability",
    }
    assert (sid.kind, sid.side) == (d.SemanticId(source="codes"), "item")
    assert [x.name for x in made.left_out] == ["codes__is_cold"]
    plain = resolved(None, CODES[0])["sid"]
    assert (plain.kind.weights, list(plain.columns)) == (False, ["codes"])
    cold = resolved(infer() | {"cold": d.flag(source="codes__is_cold")}, *CODES)
    assert {"sid", "cold"} <= set(cold)
    assert set(
        resolved(infer() | {"sid": d.semantic_id(weights=False)}, *CODES)["sid"].columns
    ) == {"codes"}


def test_a_label_is_never_an_input():
    """It is left out with its reason, and declaring it is refused."""
    label = ("bought__bought", "Bool")
    made = resolution(ranker(), service(label, ("stock__a", "Int64")))
    assert ["a label" in x.reason for x in made.left_out] == [True]
    said = refused(infer() | {"bought__bought": d.flag()}, label)
    assert "is a label, known only after its row" in said


def test_request_fields_come_from_on_demand_views_and_from_the_log():
    """A field of an on-demand view that is read is an input; a column of the log if declared."""
    columns = {"device": "String"}
    made = resolved(
        infer() | {"device": d.category(request=True, optional=True)},
        ("ratio__ratio", "Float64"),
        columns=columns,
    )
    assert {"budget", "device", "ratio__ratio"} <= set(made)
    assert made["device"].side == "request"
    skipped = resolved(infer() | {"ratio__ratio": d.skip()}, ("ratio__ratio", "Float64"))
    assert set(skipped) == {"customer_id", "sku"}
    wanted = {"device": d.category(request=True)}
    assert "neither the label log" in refused(infer() | wanted, columns={"devise": "String"})
    assert "without a label log" in refused(infer() | wanted)
    assert "declare it with request=True" in refused(
        infer() | {"device": d.category()}, columns=columns
    )
    optional = {"budget": d.number(request=True, optional=True)}
    assert "it is always needed" in refused(infer() | optional, ("ratio__ratio", "Float64"))


def test_names_are_keys_or_short_where_one_view_has_them():
    """A short name that two views have is refused with both keys; an unknown one with the
    nearest.
    """
    both = [("stock__score", "Float32"), ("affinity__score", "Float32")]
    assert "['stock__score', 'affinity__score']" in refused({"score": d.number()}, *both)
    assert "nearest are ['stock__score'" in refused({"stock__scor": d.number()}, *both)
    assert "nearest are ['stock__score'" in refused(infer() | {"stock__scor": d.skip()}, *both)
    assert list(resolved({"affinity__score": d.number()}, *both)) == ["affinity__score"]


def test_what_is_declared_is_inferred_no_more():
    """Under another name too; a cross and a match leave the inputs of their columns."""
    features = [
        ("stock__brand", "String"),
        ("profile__city", "String"),
        ("profile__brands", "Array(String)"),
    ]
    made = resolved(
        infer()
        | {
            "brand": d.category(source="stock__brand", min_count=2),
            "pair": d.cross(of=("city", "brand")),
            "agree": d.match(source="brands", candidate="stock__brand"),
        },
        *features,
    )
    assert set(made) == {
        "customer_id",
        "sku",
        "brand",
        "profile__city",
        "profile__brands",
        "pair",
        "agree",
    }
    assert made["pair"].kind.of == ("profile__city", "stock__brand")
    assert (made["pair"].side, made["agree"].side) == ("pair", "pair")


def test_gates_and_the_domain_name_inputs():
    """Short names are filled in; what serving does not know, or what is none, is refused."""
    features = [("profile__city", "String"), *RECENT]
    declared = infer() | {"position": d.category(request=True, train_only=True, default=0)}
    columns = {"position": "Int64"}
    made = resolution(
        ranker(declared, gates=["city"], domain="city"), service(*features), columns=columns
    )
    assert (made.ranker.gates, made.ranker.domain) == (("profile__city",), "profile__city")
    said = refused(
        declared,
        *features,
        columns=columns,
        gates=["position", "profile__recent", "cite"],
        domain="profile__recent",
    )
    assert "gate 'position' is train-only" in said
    assert "gate 'profile__recent' depends on each candidate" in said
    assert "gate 'cite' is no input; nearest are" in said
    assert "domain 'profile__recent' depends" in said


def test_everything_wrong_is_said_at_once():
    """One message holds the problems of all inputs, tasks and names."""
    declared = infer() | {
        "stock__a": d.number(clip=(2.0, 1.0), bins=-1),
        "stock__b": d.time(zone="Mars/Base"),
        "stock__c": d.category(min_count=0, dropout=1.0),
        "position": d.number(request=True, train_only=True),
        "shade": d.number(),
        "x": d.cross(of=("position", "stock__c")),
    }
    asked = Ranker(
        service="feed",
        tasks=[Task("click"), Task("buy", given="clik")],
        inputs=declared,
        user=["customer_id"],
        item=["sku"],
        score={"click": 1.0, "by": 2.0},
        listwise=1.0,
    )
    schema = service(("stock__a", "Float32"), ("stock__b", "UnixTimestamp"), ("stock__c", "String"))
    with pytest.raises(InputError) as error:
        resolve(asked, schema, columns={"position": "Int64"})
    for words in (
        "11 things are wrong with ranker 'feed'",
        "'stock__a': clip=(2.0, 1.0); expected two finite numbers",
        "'stock__a': bins=-1",
        "'stock__b': zone='Mars/Base'",
        "'stock__c': min_count=0",
        "'stock__c': dropout=1.0",
        "'position': train_only=True needs the value",
        "'shade': 'shade' is no feature",
        "reads position, which is train-only",
        "task 'buy': given='clik'",
        "score names 'by'",
        "listwise > 0 needs the column",
    ):
        assert words in str(error.value)
