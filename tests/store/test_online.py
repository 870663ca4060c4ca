"""Applying, materializing, looking up, and whether serving returns what training saw."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from store_world import (
    DAY,
    ITEMS,
    USERS,
    day,
    frame,
    generation,
    item_profile,
    publish_default_statistics,
    published_world,
    snapshot,
    user_activity,
)

from adc_features import store
from adc_features.errors import InputError, ParityError
from adc_features.store.registry import join_key, open_store, service_views

NOW = day(30)


@pytest.fixture(scope="module")
def repo(tmp_path_factory) -> Path:
    directory = published_world(tmp_path_factory.mktemp("online"))
    store.materialize(directory, now=NOW)
    return directory


def parity(
    repo: Path,
    *,
    items: np.ndarray = ITEMS,
    users: np.ndarray = USERS,
    now=NOW,
    service: str = "ranker_g1",
) -> dict:
    return store.parity(repo, service=service, item_ids=items, user_ids=users, now=now)


def test_every_name_that_we_use_of_feast_exists():
    """A Feast release that moves a name fails here, by that name."""
    from adc_features.store import _compat

    assert [name for name in _compat.__all__ if not hasattr(_compat, name)] == []


def test_contents_of_a_registry_at_an_address_that_is_used_again_are_read_anew(tmp_path):
    """Feast remembers lists by the address of a registry's contents; new contents may lie where old
    ones did.
    """
    import feast

    store.create_repository(tmp_path, project="world")
    opened = open_store(tmp_path)

    def listed() -> set[str]:
        return {entity.name for entity in opened.registry.list_entities("world", allow_cache=True)}

    opened.apply(
        [feast.Entity(name="item", join_keys=["item_id"], value_type=feast.ValueType.INT64)]
    )
    before, contents = listed(), opened.registry.cached_registry_proto
    opened.apply(
        [feast.Entity(name="user", join_keys=["user_id"], value_type=feast.ValueType.STRING)]
    )
    contents.CopyFrom(opened.registry.proto())
    opened.registry.cached_registry_proto = contents
    assert listed() - before == {"user"}


def test_a_lookup_returns_the_published_codes(repo):
    """The newest snapshot comes back bit for bit, in the order asked, repeats kept."""
    got = store.lookup(repo, "g1", np.array(["b", "a", "b"]))
    expected = snapshot(day(20), 2).lookup(np.array(["b", "a", "b"]))
    assert got.to_arrow().equals(expected.to_arrow(), check_metadata=True)


def test_an_item_unknown_online_is_reported_absent_not_as_zeros(repo):
    """found = False, codes -1, weights 0, cold; alone or beside known ones."""
    for asked in (["nobody"], ["a", "nobody", "b"]):
        got = store.lookup(repo, "g1", np.array(asked)).lookup(np.array(["nobody"]))
        assert (
            got.found.tolist(),
            got.sid.tolist(),
            got.sid_weight.tolist(),
            got.is_cold.tolist(),
        ) == ([False], [[-1] * 3], [[0] * 3], [True])


def test_nothing_asked_is_nothing_answered(repo):
    """No ids give an empty table with L columns; an id of the wrong type is refused."""
    assert store.lookup(repo, "g1", np.array([], str)).sid.shape == (0, 3)
    with pytest.raises(InputError, match="is not published"):
        store.lookup(repo, "g9", ITEMS)
    with pytest.raises(InputError, match="asked for ids of type int64, the table holds string"):
        store.lookup(repo, "g1", np.array([1, 2]))


def test_both_generations_serve_at_once(repo):
    """One item has the codes of each live generation."""
    assert [store.lookup(repo, g, np.array(["a"])).sid[0, 0] for g in ("g1", "g2")] == [2, 7]


def test_online_features_have_the_names_and_types_of_training(repo):
    """The columns of a request equal those of the join for the same rows; one side alone reads that
    side's views.
    """
    users, items = np.array(["u", "nobody"]), np.array(["a", "b"])
    online = store.online_features(repo, service="ranker_g1", item_ids=items, user_ids=users)
    offline = store.training_features(
        repo, frame([("u", "a", NOW), ("nobody", "b", NOW)]), service="ranker_g1"
    )
    shared = [name for name in online.column_names if name not in ("item_id", "user_id")]
    assert online.select(shared).equals(offline.select(shared).replace_schema_metadata(None))
    assert store.online_features(repo, service="ranker_g1", user_ids=users)[
        "user_activity_found"
    ].to_pylist() == [True, False]
    with pytest.raises(InputError, match="of one length"):
        store.online_features(repo, service="ranker_g1", item_ids=items, user_ids=users[:1])


def test_materializing_twice_changes_nothing(repo):
    """The same now again gives the same answers, and progress is told view by view."""
    told = []
    before = store.lookup(repo, "g1", ITEMS)
    store.materialize(repo, now=NOW, progress=lambda *facts: told.append(facts))
    assert store.lookup(repo, "g1", ITEMS).to_arrow().equals(before.to_arrow(), check_metadata=True)
    assert told[0] == ("materialize item_profile", 0, 4)
    assert told[-1] == ("materialize", 4, 4)


def test_feast_keeps_quiet(repo, capfd):
    """Neither headings nor progress bars reach the terminal."""
    store.apply(repo)
    store.materialize(repo, now=NOW)
    store.lookup(repo, "g1", ITEMS)
    assert capfd.readouterr() == ("", "")


def test_online_equals_offline_bit_for_bit(repo):
    """Every feature of items and users, known and unknown, has the same bits on both sides."""
    items, users = np.array([*ITEMS, "nobody"]), np.array([*USERS, "nobody"])
    assert parity(repo, items=items, users=users) == {
        "items": 4,
        "users": 3,
        "different": 0,
        "first_differences": [],
    }
    store.require_parity(parity(repo, service="ranker_no_sid"))


def test_parity_names_a_planted_difference(repo):
    """One weight that is off by one bit online is found, named, and refused."""
    handle = open_store(repo)
    view = handle.get_feature_view("item_sid_g1")
    online = handle.get_online_features(
        [f"item_sid_g1:{f.name}" for f in view.features], [{"item_id": "b"}]
    ).to_df()
    # a tie with what is served, so it is taken
    planted = online.assign(event_timestamp=day(20) + DAY / 4, created_timestamp=NOW)
    planted.at[0, "sid_weight"] = [1.0, float(np.nextafter(np.float32(0.1), np.float32(1))), 0.0]
    handle.write_to_online_store("item_sid_g1", planted)
    report = parity(repo)
    assert report["different"] == 1
    assert [(d["item_id"], d["feature"]) for d in report["first_differences"]] == [
        ("b", "sid_weight")
    ]
    with pytest.raises(ParityError, match="1 of 3 items and 2 users differ"):
        store.require_parity(report)
    store.materialize(repo, now=NOW)
    store.require_parity(parity(repo))


def test_parity_sees_what_was_published_but_not_materialized(repo):
    """New rows offline are differences until they are materialized; so is another now."""
    profile = item_profile(["a", "b"], [day(5), day(29)], [0.1, 0.9])
    store.publish_statistics(
        repo,
        item_profile=profile,
        user_activity=user_activity(["u", "u", "v"], [day(5), day(15), day(15)]),
        resolution=DAY,
    )
    assert parity(repo)["different"] == 2
    publish_default_statistics(repo)
    assert parity(repo)["different"] == 0
    assert parity(repo, now=day(12))["different"] > 0


def test_awkward_values_survive_both_ways(tmp_path):
    """Null strings and floats, denormals, minus zero,
    empty and null lists: the same online as offline.
    """
    store.create_repository(tmp_path, project="awkward")
    ids, at = ["a", "b", "c", "d"], [day(1)] * 4
    profile = item_profile(ids, at, [0.5] * 4).drop_columns(["item_label_mean", "item_brand"])
    values = {
        "item_mean": pa.array([None, 1e-45, -0.0, 0.0], pa.float32()),
        "item_price": pa.array([0.1, None, -0.0, 1e300], pa.float64()),
        "item_brand": pa.array(["", None, "é\n", "0"]),
        "item_is_new": pa.array([True, False, None, True]),
        "item_words": pa.array([[], None, ["x", ""], ["y"]], pa.list_(pa.string())),
        "item_prices": pa.array([[-0.0, 0.1], [], None, [1.0]], pa.list_(pa.float32())),
        "item_years": pa.array([[1], [], None, [2**62]], pa.list_(pa.int64())),
    }
    for name, column in values.items():
        profile = profile.append_column(name, column)
    store.publish_statistics(
        tmp_path, item_profile=profile, user_activity=user_activity(["u"], [day(1)]), resolution=DAY
    )
    store.apply(tmp_path)
    store.materialize(tmp_path, now=NOW)
    report = parity(tmp_path, items=np.array(ids), service="ranker_no_sid")
    assert report["first_differences"] == []


def test_a_removed_item_stops_serving_and_others_are_carried_forward(tmp_path):
    """A later snapshot with an explicit removal and a missing item: the first has no codes now, the
    second its last ones.
    """
    store.create_repository(tmp_path, project="removal")
    tables = [snapshot(day(1), 1), snapshot(day(2), 2, items=["a"], removed=["b"])]
    store.publish(
        tmp_path, generation(), tables, servable_at=[t.as_of for t in tables], computed_at=NOW
    )
    store.apply(tmp_path)
    store.materialize(tmp_path, now=NOW)
    got = store.lookup(tmp_path, "g1", ITEMS)
    assert got.found.tolist() == [True, False, True]
    assert got.sid.tolist() == [[2, 2, -1], [-1, -1, -1], [1, 1, -1]]
    assert (
        store.parity(tmp_path, service="ranker_g1", item_ids=ITEMS, user_ids=USERS[:0], now=NOW)[
            "different"
        ]
        == 0
    )


def test_applying_nothing_and_materializing_nothing_are_refused(tmp_path):
    """An empty repository says what to do first."""
    store.create_repository(tmp_path, project="empty")
    with pytest.raises(InputError, match="publish a generation or statistics first"):
        store.apply(tmp_path)
    with pytest.raises(InputError, match="apply it first"):
        store.materialize(tmp_path, now=NOW)


def test_what_is_no_longer_live_is_withdrawn_and_what_a_user_declared_stays(tmp_path):
    """Apply removes our own views and services that are declared no more, and nothing else."""
    from adc_features.store import _compat as feast
    from adc_features.store.repository import live_generations, write_live_generations

    repo = published_world(tmp_path)
    handle = open_store(repo)
    mine = feast.FeatureService(name="mine", features=[handle.get_feature_view("item_profile")])
    handle.apply([mine])
    write_live_generations(repo, [g for g in live_generations(repo) if g.id == "g2"])
    assert store.registry_problems(repo) == []
    store.apply(repo)
    handle = open_store(repo)
    assert {v.name for v in handle.list_feature_views()} == {
        "item_sid_g2",
        "item_profile",
        "user_activity",
    }
    assert {s.name for s in handle.list_feature_services()} == {
        "mine",
        "ranker_g2",
        "ranker_no_sid",
    }


def test_the_registry_is_compared_with_what_is_published(tmp_path):
    """A view that is not applied, a ttl from elsewhere and a moved repository are each named."""
    repo = published_world(tmp_path / "here")
    assert store.registry_problems(repo) == []
    handle = open_store(repo)
    view = handle.get_feature_view("item_profile")
    view.ttl = timedelta(days=3)
    handle.apply([view])
    store.publish(
        repo,
        generation("g3", codebook="33"),
        [snapshot(day(20), 1, id="g3")],
        servable_at=[day(20)],
        computed_at=NOW,
    )
    assert [p.split()[1] for p in store.registry_problems(repo)] == ["item_sid_g3", "item_profile"]
    store.apply(repo)
    moved = repo.rename(tmp_path / "there")
    assert len(store.registry_problems(moved)) == 5
    store.apply(moved)
    assert store.registry_problems(moved) == []
    assert store.training_features(moved, frame([("u", "a", NOW)]), service="ranker_g3")[
        "sid"
    ].to_pylist() == [[1, 1, -1]]


@pytest.mark.slow  # starts processes that import feast
def test_feast_apply_as_a_command_keeps_both_generations(repo):
    """Feast's own `feast apply` declares the same views from the repository's files, and both
    generations still serve.
    """
    command = [str(Path(sys.executable).parent / "feast"), "apply"]
    done = subprocess.run(command, cwd=repo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    handle = open_store(repo)
    assert {v.name for v in handle.list_feature_views()} == {
        "item_sid_g1",
        "item_sid_g2",
        "item_profile",
        "user_activity",
    }
    assert {s.name for s in handle.list_feature_services()} == {
        "ranker_g1",
        "ranker_g2",
        "ranker_no_sid",
    }
    assert [store.lookup(repo, g, np.array(["a"])).sid[0, 0] for g in ("g1", "g2")] == [2, 7]
    assert store.registry_problems(repo) == []


def test_an_open_reader_gives_what_single_calls_give(repo):
    """It reads many times, sees what is materialized later,
    and has the columns and values of `online_features`.
    """
    reader = store.open_reader(repo, service="ranker_g1")
    for items, users in (
        (["a", "nobody", "a"], None),
        (None, ["u", "nobody"]),
        (["b", "c"], ["v", "u"]),
        ([], None),
    ):
        asked = {
            name: np.array(ids, str)
            for name, ids in (("item_ids", items), ("user_ids", users))
            if ids is not None
        }
        assert reader.read(**asked).equals(
            store.online_features(repo, service="ranker_g1", **asked)
        )
    with pytest.raises(InputError, match="of one length"):
        reader.read()
    with pytest.raises(InputError, match="user_id is int64"):
        reader.read(user_ids=np.array([1]))


def test_reading_without_feast_objects_equals_reading_through_feast(repo):
    """Every column of the vectorised read has the values, types and absences of
    `get_online_features` and of Feast's `online_read`.
    """
    handle = open_store(repo)
    for service, key, ids in (
        ("ranker_g1", "item_id", [*ITEMS.tolist(), "nobody", "a"]),
        ("ranker_g2", "user_id", [*USERS.tolist(), "nobody"]),
    ):
        fast = store.online_features(repo, service=service, **{f"{key}s": np.array(ids)})
        for view in (v for v in service_views(handle, service) if join_key(v) == key):
            answer = handle.get_online_features(
                [f"{view.name}:{f.name}" for f in view.features], entity_rows={key: ids}
            ).to_dict()
            for name in (
                "item_label_mean",
                "item_brand",
                "user_recent_items",
                "user_recent_labels",
            ):
                if name in answer:
                    assert fast[name].to_pylist() == answer[name]


@pytest.mark.parametrize("asked", [["a", "b"], ["nobody", "b", "a", "b"], ["nobody"], []])
@pytest.mark.parametrize(
    "store_type", ["adc_features.store.online_store.LmdbOnlineStore", "sqlite"]
)
def test_columns_hold_what_a_read_shows(tmp_path, asked, store_type):
    """Whichever store is behind it, unknown ids among them: the same numbers, texts and lists,
    absent ones not valid.
    """
    repo = published_world(tmp_path)
    config = yaml.safe_load((repo / "feature_store.yaml").read_text())
    (repo / "feature_store.yaml").write_text(
        yaml.safe_dump({**config, "online_store": {"type": store_type, "path": "data/online"}})
    )
    store.apply(repo)
    store.materialize(repo, now=NOW)
    reader = store.open_reader(repo, service="ranker_g1")
    rows = reader.read(item_ids=np.array(asked, str))
    names = set(rows.column_names) - {"item_id"}
    columns = reader.columns(names, key="item_id", ids=np.array(asked, str))
    assert {"sid", "item_label_mean", "item_brand"} <= set(columns) <= names
    for name in ("item_label_mean", "item_brand"):
        assert columns[name].to_arrow().to_pylist() == rows[name].to_pylist()


@pytest.mark.slow
def test_feast_materialize_as_a_command_fills_our_store(tmp_path):
    """`feast materialize` and `materialize-incremental`,
    run by a shell, leave what our own call leaves.
    """
    repo, ours = (published_world(tmp_path / name) for name in ("theirs", "ours"))
    for command in (
        ["materialize", "2013-01-01T00:00:00", day(15).strftime("%Y-%m-%dT%H:%M:%S")],
        ["materialize-incremental", NOW.strftime("%Y-%m-%dT%H:%M:%S")],
    ):
        done = subprocess.run(
            [str(Path(sys.executable).parent / "feast"), *command],
            cwd=repo,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    store.materialize(ours, now=NOW)
    asked = {"item_ids": np.array(["a", "b", "c", "nobody"])}
    assert store.online_features(repo, service="ranker_g1", **asked).equals(
        store.online_features(ours, service="ranker_g1", **asked)
    )
    users = {"user_ids": USERS}
    assert store.online_features(repo, service="ranker_g1", **users).equals(
        store.online_features(ours, service="ranker_g1", **users)
    )
