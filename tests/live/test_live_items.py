"""New items between two snapshots."""

import shutil
from datetime import timedelta

import numpy as np
import pytest
from items_world import (
    CONTENT,
    WIDTHS,
    Clock,
    catalogue,
    day,
    frozen,
    make_run,
    opened,
    publish,
    sent,
    table,
    vectors,
)

from adc_features import store
from adc_features.codes.spec import BEHAVIOR
from adc_features.event_times import UTC_US
from adc_features.live.items_incoming import ItemShape, incoming_items
from adc_features.store import OnlineSids, published_timeline, training_features
from adc_features.store.packed.overlay import OverlayReader
from adc_features.store.repository import service_name


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("items") / "run")


@pytest.fixture
def repo(made_run, tmp_path):
    """A repository that tests may write."""
    shutil.copytree(made_run.parent, tmp_path / "run")
    store.apply(tmp_path / "run" / "feature_repo")
    return tmp_path / "run" / "feature_repo"


def taken(items, asked):
    """Commit what was sent."""
    request = incoming_items(items.encoder.shape, asked)
    assert not request.faults
    return items.commit(request.changes)


def removal(one):
    return {"id": one, "removed": True}


def as_rows(codes):
    return codes.sid.tolist(), codes.sid_weight.tolist(), codes.found.tolist()


def test_codes_do_not_depend_on_who_else_comes_nor_on_a_restart(repo):
    """1 to 65 items at once, and each of them in the next snapshot: the same content codes; those
    of behaviour are absent.
    """
    ids, of = [f"n{n:02d}" for n in range(65)], vectors(65, seed=7)
    together = incoming_items(opened(repo, Clock(day(1))).encoder.shape, sent(ids, of)).changes
    encoder = opened(repo, Clock(day(1))).encoder
    whole = encoder.encode(together, [c.vectors for c in together], day(1))
    for size in range(1, 66):
        part = together[:size]
        again = encoder.encode(part, [c.vectors for c in part], day(1))
        assert again.sid.tolist() == whole.sid[:size].tolist()
        assert again.sid_weight.tobytes() == whole.sid_weight[:size].tobytes()
    assert (whole.sid[:, -1] == -1).all()
    assert (whole.sid_weight[:, -1] == 0).all()
    restarted = opened(repo, Clock(day(1))).encoder
    alone = restarted.encode(together[-1:], [together[-1].vectors], day(1))
    assert alone.sid[0].tolist() == whole.sid[-1].tolist()
    from adc_features.tokenizer.encode import encode

    before = catalogue(day(2))
    ids_of = [*before.item_ids.tolist(), *ids]
    both = {m: np.concatenate([before.vectors[m], of[m]]) for m in WIDTHS}
    snapshot = encode(table(ids_of, both, day(2), cold=65), frozen(repo)).lookup(np.array(ids))
    assert snapshot.sid.tolist() == whole.sid.tolist()
    warm = encode(table(ids_of, both, day(2), cold=0), frozen(repo)).lookup(np.array(ids))
    assert warm.sid[:, CONTENT].tolist() == whole.sid[:, CONTENT].tolist()


def test_an_item_is_served_from_its_time_on(repo):
    """An open reader sees it when the commit returns, as of its time and not before."""
    sids, clock = OnlineSids(repo, "g1"), Clock(day(1))
    items, of = opened(repo, clock), vectors(2, seed=3)
    assert not sids.lookup(["n1"], now=day(1)).found.any()
    receipt = taken(items, sent(["n1", "n2"], of))
    assert (receipt.added, receipt.removed, receipt.published) == (2, 0, day(1))
    got = sids.lookup(["n2", "i003", "n1", "nobody"], now=day(1))
    assert got.found.tolist() == [True, True, True, False]
    assert got.sid[[2, 0]].tolist() == receipt.codes.sid.tolist()
    before = day(1) - timedelta(microseconds=1)
    assert not sids.lookup(["n1"], now=before).found.any()
    times = np.array(["2023-06-01", "2024-01-01T23:59:59.999999", "2024-01-02"], "datetime64[us]")
    codes, weights, _ = sids.timeline().gather(["n1"] * 3, times)
    assert codes.tolist() == [[-1] * 4, [-1] * 4, receipt.codes.sid[0].tolist()]
    assert weights[2].tolist() == receipt.codes.sid_weight[0].tolist()


def test_a_reader_of_every_commit_holds_what_a_later_reader_holds(repo):
    """In one piece, however many commits it was: a look after the next one costs no more."""
    clock = Clock(day(1))
    items, of = opened(repo, clock), vectors(3, seed=3)
    reader = OverlayReader(repo, items.live)
    assert reader.now() is None
    for number, one in enumerate(sent(["n1", "n2", "n1"], of)):
        clock.now = day(1 + number)
        taken(items, [one])
        followed = reader.now()
    later = OverlayReader(repo, items.live).now()
    assert followed.table.equals(later.table)
    assert followed.table["item_id"].to_pylist() == ["n1", "n2", "n1"]
    assert followed.table["item_id"].num_chunks == 1
    as_of = followed.table["sid_as_of"].cast(UTC_US).to_pylist()
    assert as_of == [day(1), day(2), day(3)]


def test_the_history_knows_an_item_from_its_time_on(repo):
    """The point-in-time join equals the timeline at every moment, through additions, a removal, a
    snapshot and a publication anew.
    """
    import pyarrow as pa

    clock = Clock(day(1))
    items, of = opened(repo, clock), vectors(3, seed=3)
    taken(items, sent(["n1", "n2"], of))
    items.drain()
    clock.now = day(2)
    taken(items, [removal("n2"), removal("i001")])
    clock.now = day(3)
    taken(items, sent(["n2", "i002"], vectors(2, seed=5)))
    items.drain()
    from adc_features.tokenizer.encode import encode

    grown = {
        m: np.concatenate([v, vectors(3, seed=3)[m][:1]]) for m, v in _content(day(3.5)).items()
    }
    ids = [*catalogue(day(3.5)).item_ids.tolist(), "n1"]
    publish(repo, frozen(repo), encode(table(ids, grown, day(3.5), cold=1), frozen(repo)), day(4))
    times = [day(x) for x in (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4, 5)]
    asked = [(one, at) for one in ("n1", "n2", "i001", "i002", "i003") for at in times]
    frame = pa.table(
        {
            "item_id": [one for one, _ in asked],
            "event_timestamp": pa.array([at for _, at in asked], pa.timestamp("us", "UTC")),
        }
    )
    joined = training_features(repo, frame, service=service_name("g1"))
    timeline = published_timeline(repo, "g1")
    stamps = frame["event_timestamp"].to_numpy().astype("datetime64[us]")
    codes, weights, _ = timeline.gather([one for one, _ in asked], stamps)
    assert joined["sid"].to_pylist() == codes.tolist()
    assert joined["sid_weight"].to_pylist() == weights.tolist()
    found = dict(zip(asked, (codes >= 0).any(axis=1).tolist(), strict=True))
    assert [found["n1", at] for at in times] == [False] + [True] * 8
    assert [found["n2", at] for at in times] == [False, True, True, False, False] + [True] * 4
    assert [found["i001", at] for at in times] == [True] * 3 + [False] * 6


def _content(as_of):
    return dict(catalogue(as_of).vectors)


def test_a_snapshot_takes_over_without_a_change_of_codes(repo):
    """Content codes stay, behaviour comes; an item that its data lacks stays as it came."""
    from adc_features.tokenizer.encode import encode

    items, of = opened(repo, Clock(day(1))), vectors(2, seed=3)
    came = taken(items, sent(["n1", "n2"], of)).codes
    ids = [*catalogue(day(2)).item_ids.tolist(), "n1"]
    grown = {m: np.concatenate([v, of[m][:1]]) for m, v in _content(day(2)).items()}
    publish(repo, frozen(repo), encode(table(ids, grown, day(2), cold=0), frozen(repo)), day(2))
    got = OnlineSids(repo, "g1").lookup(["n1", "n2"], now=day(3))
    assert got.sid[:, CONTENT].tolist() == came.sid[:, CONTENT].tolist()
    assert (got.sid[0, -1] >= 0, got.sid[1, -1]) == (True, -1)


@pytest.mark.parametrize("ahead", [False, True])
def test_no_snapshot_brings_a_removed_item_back(repo, ahead):
    """Neither one of older data that is served later, whenever it is published, nor a newer one
    that lists the item still; adding it again does.
    """
    from adc_features.tokenizer.encode import encode

    clock, generation = Clock(day(1.5)), frozen(repo)
    changed = {m: v[::-1].copy() for m, v in _content(day(1)).items()}
    ids = catalogue(day(1)).item_ids.tolist()
    older = encode(table(ids, changed, day(1), cold=0), generation)
    items, sids = opened(repo, clock), OnlineSids(repo, "g1")
    if ahead:
        publish(repo, generation, older, day(2))
    taken(items, [removal("i001")])
    if not ahead:
        publish(repo, generation, older, day(2))
    clock.now = day(1.6)
    for now in (day(1.6), day(2), day(2.5)):
        got = sids.lookup(["i001", "i002"], now=now)
        assert got.found.tolist() == [False, True]
        stamp = np.array([now.replace(tzinfo=None)] * 2, "datetime64[us]")
        assert sids.timeline().removed(np.array(["i001", "i002"]), stamp).tolist() == [True, False]
    newer = encode(table(ids, _content(day(3)), day(3), cold=0), generation)
    publish(repo, generation, newer, day(3))
    assert not sids.lookup(["i001"], now=day(4)).found.any()
    clock.now = day(4)
    again = taken(items, sent(["i001"], vectors(1, seed=2)))
    assert sids.lookup(["i001"], now=day(4)).sid.tolist() == again.codes.sid.tolist()


def test_a_new_item_is_online_by_feast_too(repo):
    """The view's rows are in the online store of the repository after `follow`."""
    from feast import FeatureStore

    items = opened(repo, Clock(day(1)))
    came = taken(items, sent(["n1"], vectors(1, seed=3))).codes
    items.follow()
    items.follow()
    got = FeatureStore(str(repo)).get_online_features(
        ["item_sid_g1:sid", "item_sid_g1:is_cold"], [{"item_id": "n1"}]
    )
    assert got.to_dict()["sid"] == came.sid.tolist()
    assert got.to_dict()["is_cold"] == [True]
    clock = Clock(day(2))
    again = opened(repo, clock)
    taken(again, [removal("n1")])
    again.follow()
    got = FeatureStore(str(repo)).get_online_features(["item_sid_g1:sid"], [{"item_id": "n1"}])
    assert got.to_dict()["sid"] == [[-1] * 4]


SHAPE = ItemShape("string", {"title": 2, "image": 3}, {"title": ("name", "brand")})
GOOD = {"id": "a", "vectors": {"image": [1, 2, 3]}, "text": "a red shoe"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"id": 3}, "id is the number 3; expected text"),
        ({"id": ""}, "id is empty"),
        ({"id": None}, "id is missing"),
        ({"vectors": {"image": [1, 2]}}, "'image' has 2 numbers; expected 3"),
        ({"vectors": {"image": [1, 2, float("nan")]}}, "'image' holds NaN"),
        ({"vectors": {"image": [1, 2, 1e39]}}, "beyond 32-bit floats"),
        ({"vectors": {"image": [1, 2, 10**400]}}, "beyond 32-bit floats"),
        ({"vectors": {"image": [1, 2, "3"]}}, "no number"),
        ({"vectors": {"image": [1, 2, True]}}, "no number"),
        ({"vectors": {"sound": [1]}}, "vectors of 'sound'; this generation reads title, image"),
        ({"vectors": [1, 2, 3]}, "vectors is a list"),
        ({"text": {"image": "x"}}, "text of 'image'; the modalities with text are title"),
        ({"text": 4}, "text is the number 4"),
        ({"text": {"title": 4}}, "text of 'title' is the number 4"),
        ({"text": "x" * 20_001}, "at most 20000 characters"),
        ({"text": "\ud800"}, "text of 'title'"),
        ({"attributes": 3}, "attributes is the number 3"),
        ({"attributes": {"name": [1]}}, "attribute 'name' is a list"),
        ({"attributes": {"price": float("inf")}}, "expected a finite number"),
        ({"vectors": None, "text": None}, "neither vectors nor a text"),
        ({"vectors": None, "text": "  "}, "neither vectors nor a text"),
        ({"removed": True}, "a removed item has no text, vectors"),
        ({"removed": 1}, "removed is the number 1"),
        ({"colour": 1}, "unknown field 'colour'"),
        (
            {"vectors": {"image": [1, 2, 3], "title": [1, 2]}},
            "'title' has a vector and a text; send one of them",
        ),
    ],
)
def test_each_fault_of_an_item_is_named(change, told):
    """What was found and what was expected; another item of the request is taken."""
    request = incoming_items(SHAPE, [{**GOOD, **change}, {**GOOD, "id": "b"}])
    assert [one.id for one in request.changes] == ["b"]
    assert told in "; ".join(request.faults[0].reasons)


def test_every_fault_of_an_item_is_named_at_once():
    """Three mistakes are three reasons."""
    wrong = {"id": 1, "vectors": {"image": [1]}, "colour": 2}
    assert len(incoming_items(SHAPE, [wrong]).faults[0].reasons) == 3


def test_an_item_comes_once_in_a_request():
    """A second one of the same id is refused: nothing says which of them should hold."""
    request = incoming_items(SHAPE, [GOOD, GOOD, "x"])
    assert len(request.changes) == 1
    assert [f.place for f in request.faults] == [1, 2]


def test_the_text_of_an_item_is_made_of_its_attributes():
    """As the pipeline makes it: the values that are not blank, joined."""
    item = {"id": "a", "attributes": {"name": " shoe ", "brand": "B", "price": 3}}
    (change,) = incoming_items(SHAPE, [item]).changes
    assert change.texts == {"title": "shoe. B"}


def test_whole_numbers_are_ids_where_the_catalogue_has_them():
    """Other types, and numbers beyond 64 bits, are refused."""
    shape = ItemShape("int64", {"image": 3}, {})
    sent_ids = [{**GOOD, "id": one} for one in (5, "5", True, 1 << 63, 5.0)]
    for one in sent_ids:
        del one["text"]
    request = incoming_items(shape, sent_ids)
    assert [one.id for one in request.changes] == [5]
    assert len(request.faults) == 4
    assert BEHAVIOR not in shape.widths
