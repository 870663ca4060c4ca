"""What no ranker can learn from, or be asked with, is told before any work: `adc train --repo` as a
person types it, and requests to the service.
"""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feed_world import DEFINITIONS, START, apply_feed, make_feed
from trained_feed import NOW, feature_gone

from adc_features.cli import console
from adc_features.cli.main import application
from adc_features.errors import AdcError
from adc_features.inputs import vocabulary
from adc_features.inputs.declaration import infer, number
from adc_features.serving.declared import open_declared
from adc_features.serving.promotion import trained_pair
from adc_features.serving.protocol import ServiceSettings
from adc_features.serving.service import Service
from adc_features.serving.workspace import Workspace
from adc_features.store.services.schema import declared_rankers
from training.ranker import workflow
from training.ranker.fitting import TrainSettings

MORE = """
from datetime import timedelta as _days

looks = FeatureView(
    name="looks", entities=[product], ttl=_days(0), source=source("looks"),
    schema=[Field(name="sku", dtype=Int64), Field(name="vector", dtype=Array(Float32))],
)
blank = FeatureView(
    name="blank", entities=[product], ttl=_days(0), source=source("blank"),
    schema=[Field(name="sku", dtype=Int64), Field(name="colour", dtype=String),
            Field(name="size", dtype=Float64), Field(name="kept", dtype=Float64)],
)
with_looks = FeatureService(name="with_looks", features=[profile, stock, looks])
with_blank = FeatureService(name="with_blank", features=[profile, stock, blank])
"""
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer, number

small = Ranker(
    name="small", service="feed_v1", tasks=[Task("click")], user=["customer_id"], item=["sku"],
    request="request_id",
    inputs=infer() | {"device": category(request=True),
                      "budget": number(request=True),
                      "mood": category(request=True, optional=True, min_count=1)},
)
unbounded = Ranker(
    name="unbounded", service="feed_v1", tasks=[Task("click")], user=["customer_id"],
    item=["sku"], request="request_id", inputs=infer() | {"sku": category(min_count=1)},
)
"""
SIDES = ("--user", "customer_id", "--item", "sku", "--task", "click")


@pytest.fixture
def adc(monkeypatch, capsys):
    """Run one command in this process: (exit code, stdout, stderr)."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["adc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            console.run_app(application())
        return stop.value.code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small repository with a service of vectors of two widths, and one of a view that holds
    nulls."""
    feed = make_feed(
        tmp_path_factory.mktemp("refused") / "repo",
        rows=1_600,
        customers=40,
        products=30,
        definitions=DEFINITIONS + MORE,
        rankers=RANKERS,
    )
    skus = np.arange(30) + 1_000
    times = pa.array([START] * 30, pa.timestamp("us", tz="UTC"))
    vectors = pa.array([[0.0] * (2 + n % 2) for n in range(30)], pa.list_(pa.float32()))
    looks = {"sku": skus, "event_timestamp": times, "vector": vectors}
    blank = {
        "sku": skus,
        "event_timestamp": times,
        "colour": pa.nulls(30, pa.string()),
        "size": pa.nulls(30, pa.float64()),
        "kept": np.arange(30.0),
    }
    pq.write_table(pa.table(looks), feed.folder / "looks.parquet")
    pq.write_table(pa.table(blank), feed.folder / "blank.parquet")
    log = pq.read_table(feed.labels)
    log = log.append_column("budget", pa.array(np.arange(1_600.0) % 50))
    mood = pa.array([["glad", "sad", None][n % 3] for n in range(1_600)])
    pq.write_table(log.append_column("mood", mood), feed.labels)
    apply_feed(feed.folder)
    return feed


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def refused(adc, small, words, *, labels=None):
    """The message of a training that is refused, and that left every file as it was."""
    before = files(small.folder)
    code, out, err = adc(
        "train", "--repo", small.folder, "--labels", labels or small.labels, *words
    )
    assert (code, out) == (1, "")
    assert "error: " in err
    assert files(small.folder) == before
    return re.sub(r"\s+", " ", err.partition("error: ")[2])


# ---- training


def test_a_service_that_does_not_exist(adc, small):
    """The services that there are are named."""
    told = refused(adc, small, ("--service", "feed_v2", *SIDES))
    assert "'feed_v2'" in told
    assert "feed_v1" in told


def test_features_without_data(adc, small):
    """All features that are null in every row are named at once, with what to do."""
    told = refused(adc, small, ("--service", "with_blank", *SIDES))
    for name in ("blank__colour", "blank__size"):
        assert name in told
    assert "blank__kept" not in told
    assert "skip" in told


def test_vectors_of_two_widths(adc, small):
    """The column and both widths are named."""
    told = refused(adc, small, ("--service", "with_looks", *SIDES))
    assert "looks__vector" in told
    assert re.search(r"\b2\b.*\b3\b|\b3\b.*\b2\b", told)


def test_categories_without_a_bound(adc, small, monkeypatch):
    """More distinct values than the limit need a bound; the message has their number and what the
    table would take. The other ranker of the command is not written either."""
    monkeypatch.setattr(vocabulary, "UNBOUNDED", 20)
    told = refused(adc, small, ("--ranker", "small", "--ranker", "unbounded", "--quick"))
    assert "sku" in told
    assert "min_count" in told
    assert "max_size" in told
    assert re.search(r"\b\d+ distinct", told)
    assert "MB" in told or "bytes" in told


def _changed(log, **columns):
    for name, values in columns.items():
        log = log.set_column(log.column_names.index(name), name, pa.array(values))
    return log


CLICKS = {
    "constant at 1": (lambda log: np.ones(len(log), int), "are constant: all 1600 are 1"),
    "constant at 0": (lambda log: np.zeros(len(log), int), "no positive among 1600 labels"),
    "not 0 or 1": (lambda log: np.arange(len(log)) % 3, "533 labels of task 'click' are not 0 or"),
    "without positives in the validation": (
        lambda log: np.where(np.arange(len(log)) < 1_200, np.arange(len(log)) % 2, 0),
        "a window needs both labels of every task: - validation (from",
    ),
    "text": (lambda log: ["yes"] * len(log), "are of type string; expected 0, 1 or null"),
}


@pytest.mark.parametrize("name", CLICKS)
def test_labels_that_teach_nothing(adc, small, tmp_path, name):
    """Labels of one value, of other values, and windows without a positive are told by task."""
    values, words = CLICKS[name]
    log = pq.read_table(small.labels)
    pq.write_table(_changed(log, click=values(log)), tmp_path / "log.parquet")
    told = refused(adc, small, ("--ranker", "small"), labels=tmp_path / "log.parquet")
    assert words in told
    assert "click" in told


def test_keys_that_match_nothing(adc, small, tmp_path):
    """A log of other products is told with the view that has none of them."""
    log = pq.read_table(small.labels)
    other = _changed(log, sku=log["sku"].to_numpy() + 10**6)
    pq.write_table(other, tmp_path / "log.parquet")
    told = refused(adc, small, ("--ranker", "small"), labels=tmp_path / "log.parquet")
    assert "stock" in told
    assert "profile" not in told.partition("stock")[0]


def test_a_log_without_a_field_of_the_request(adc, small, tmp_path):
    """A column that an input reads and the log lacks is named before the join."""
    pq.write_table(pq.read_table(small.labels).drop(["device"]), tmp_path / "log.parquet")
    told = refused(adc, small, ("--ranker", "small"), labels=tmp_path / "log.parquet")
    assert "device" in told


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_of_requests_in_a_log_are_finite(adc, small, tmp_path, value):
    """NaN and infinity in a field of the request are refused in a log as in a request."""
    log = pq.read_table(small.labels)
    budget = log["budget"].to_numpy().copy()
    budget[3] = value
    pq.write_table(_changed(log, budget=budget), tmp_path / "log.parquet")
    told = refused(adc, small, ("--ranker", "small"), labels=tmp_path / "log.parquet")
    assert "budget" in told


def test_a_wrong_ranker_is_refused_before_another_is_trained(small, monkeypatch):
    """Every declaration is resolved first: training the others takes minutes."""
    declared = declared_rankers(small.folder)["small"]
    wrong = replace(declared, name="wrong", inputs=infer() | {"weather": number()})
    monkeypatch.setattr(workflow, "join_labels", lambda *_, **__: pytest.fail("rows were joined"))
    with pytest.raises(AdcError, match="wrong with ranker 'wrong'"):
        workflow.train_rankers(
            small.folder, {"small": declared, "wrong": wrong}, small.labels, at=NOW
        )


# ---- the service


@pytest.fixture(scope="module")
def service(small):
    """The small ranker, trained and opened."""
    declared = {"small": declared_rankers(small.folder)["small"]}
    settings = TrainSettings(seeds=1, quick=True)
    workflow.train_rankers(small.folder, declared, small.labels, at=NOW, settings=settings)
    pair = trained_pair(small.folder, Workspace(small.folder, "small").newest(), at=NOW)
    opened = Service(open_declared(pair), ServiceSettings(), clock=lambda: NOW)
    yield opened
    opened.close()


def test_items_are_looked_up_in_the_users_own_store(service):
    """The service of a declared ranker answers no lookup, and says where to ask."""
    with pytest.raises(AdcError, match="ask its store for features"):
        service.lookup(service.bundle, b'{"items": [1000]}')


GOOD = {
    "user": "c0001",
    "items": [1_000, 1_001, 1_002],
    "request": {"device": "phone", "budget": 3, "mood": "glad"},
}


def ask(service, **changed):
    body = json.dumps({**GOOD, **changed}).encode()
    return json.loads(service.rank(service.bundle, body).body)


def fields(**changed):
    return {n: v for n, v in {**GOOD["request"], **changed}.items() if v != "left out"}


FIELDS = {
    "missing": (fields(device="left out"), r"the request lacks device \(text\); send"),
    "null": (fields(budget=None), r"the request lacks budget \(a finite number\)"),
    "all missing": ({}, "lacks device .*, budget"),
    "unknown": (fields(colour="red"), r"unknown fields \['colour'\]; known are .*'budget'"),
    "of another type": (fields(device=3), r"request field device is 3 \(int\); expected text"),
    "text for a number": (fields(budget="3"), r"budget is '3' \(str\); expected a finite number"),
    "a flag for a number": (fields(budget=True), "budget is True"),
    "a list": (fields(budget=[3]), r"budget is \[3\]"),
    "NaN": (fields(budget=float("nan")), "the body is not JSON"),
    "infinity": (fields(budget=float("inf")), "the body is not JSON"),
}


@pytest.mark.parametrize("name", FIELDS)
def test_a_request_whose_fields_do_not_fit(service, name):
    """The field, what it holds and what is expected are told; nothing is scored."""
    given, words = FIELDS[name]
    with pytest.raises(AdcError, match=words):
        ask(service, request=given)


def test_a_number_beyond_all_numbers_is_no_number(service):
    """1e999 is JSON, and infinite as a float."""
    body = json.dumps(GOOD).replace(": 3,", ": 1e999,").encode()
    with pytest.raises(AdcError, match=r"the body is not JSON|budget is inf"):
        service.rank(service.bundle, body)


KEYS = {
    "another type": ({"user": 7}, "customer_id is 7"),
    "text for a number": ({"items": ["1000"]}, "sku is '1000'"),
    "another key": ({"user": {"user_id": "c0001"}}, r"expected an object of \['customer_id'\]"),
    "no items": ({"items": []}, "items is empty"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_request_whose_keys_do_not_fit(service, name):
    """Keys of another type or name are told."""
    given, words = KEYS[name]
    with pytest.raises(AdcError, match=words):
        ask(service, **given)


def test_what_is_not_known_is_marked_and_never_a_value(service):
    """A category that was never seen is unknown, a field that was left out is absent, entities that
    nobody has are unknown and their features absent; each is counted by input."""
    assert "device" not in ask(service)["inputs"]
    odd = ask(service, request=fields(device="fridge", mood="left out"))
    assert odd["inputs"]["device"] == {"unknown": 1}
    assert odd["inputs"]["mood"] == {"absent": 1}
    nobody = ask(service, user="nobody", items=[1_000, 77])
    assert (nobody["user_known"], nobody["unknown_items"]) == (False, 1)
    assert nobody["inputs"]["customer_id"] == {"unknown": 1}
    assert nobody["inputs"]["profile__activity"] == {"absent": 1}
    assert nobody["inputs"]["stock__price"] == {"absent": 1}
    scores = [item["score"] for item in nobody["items"]]
    assert np.isfinite(scores).all()


# ---- promotion


def test_a_ranker_that_would_see_other_values_is_not_promoted(adc, small, service):
    """`adc promote` names the view and the feature that differ online, and changes no file."""
    with feature_gone(small.folder, "stock", "quality"):
        before = files(small.folder)
        code, out, err = adc("promote", "--repo", small.folder, "--ranker", "small")
        assert files(small.folder) == before
    assert (code, out) == (3, "")  # the values differ: not what was typed
    assert "stock__quality (view stock)" in err
    assert not Workspace(small.folder, "small").promotion.exists()
    code, out, err = adc("promote", "--repo", small.folder, "--ranker", "small")
    assert code == 0, err
    assert Workspace(small.folder, "small").promotion.is_file()
