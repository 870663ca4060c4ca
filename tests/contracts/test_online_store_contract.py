"""What every online store owes to Feast, for ours and,
where it is right, for Feast's SQLite store.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import feast
import pandas as pd
import pytest
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from online_world import HOUR, LMDB, NOW, VALUES, world

OURS, SQLITE = LMDB, {"type": "sqlite", "path": "online.db"}
STORES = {"lmdb": OURS, "sqlite": SQLITE}


@pytest.fixture(scope="module", params=STORES)
def repository(request, tmp_path_factory) -> feast.FeatureStore:
    return world(tmp_path_factory.mktemp(request.param), STORES[request.param])


def is_ours(repository: feast.FeatureStore) -> bool:
    return repository.config.online_store.type != "sqlite"


def put(
    repository, view: str, rows: dict, *, event: datetime = NOW, created: datetime = NOW
) -> None:
    frame = pd.DataFrame(rows).assign(event_timestamp=event, created=created)
    repository.write_to_online_store(view, df=frame)


def put_everything(repository, item_id: int, values: dict) -> None:
    """One row of protos, as Feast makes them: its way from pandas cannot carry every type."""
    types = {name: kind.to_value_type() for name, (kind, _) in VALUES.items()}
    protos = {
        name: python_values_to_proto_values([value], types[name])[0]
        for name, value in values.items()
    }
    key = EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=item_id)])
    repository._get_provider().online_write_batch(
        repository.config,
        repository.get_feature_view("everything"),
        [(key, protos, NOW, NOW)],
        None,
    )


def get(repository, refs: list[str], rows: list[dict], **options) -> dict:
    return repository.get_online_features(refs, rows, **options).to_dict()


class TestOnlineStore:
    def test_every_value_type_comes_back(self, repository):
        """What Feast shows of a value is what was written, and a null of every type is None."""
        for key, values in (
            (1, {name: value for name, (_, value) in VALUES.items()}),
            (2, dict.fromkeys(VALUES)),
        ):
            put_everything(repository, key, values)
        got = get(
            repository, [f"everything:{name}" for name in VALUES], [{"item_id": 1}, {"item_id": 2}]
        )
        for name, (_, value) in VALUES.items():
            assert got[name][1] is None, name
            assert (sorted(got[name][0]) if isinstance(value, set) else got[name][0]) == (
                sorted(value) if isinstance(value, set) else value
            ), name

    def test_rows_come_in_the_order_asked_and_the_unknown_are_marked(self, repository):
        """Repeats included; an unknown entity is None and NOT_FOUND, never a zero."""
        put(repository, "pair", {"item_id": [1, 2], "user_id": ["u", "v"], "n": [1, 2]})
        asked = [(2, "v"), (1, "u"), (1, "v"), (2, "v")]
        response = repository.get_online_features(
            ["pair:n"], [{"item_id": i, "user_id": u} for i, u in asked]
        )
        assert response.to_dict()["n"] == [2, 1, None, 2]
        statuses = dict(
            zip(response.proto.metadata.feature_names.val, response.proto.results, strict=True)
        )["n"].statuses
        assert list(statuses) == [1, 1, 3, 1]

    def test_an_equal_time_is_overwritten(self, repository):
        """A re-encode carries the same times and must apply; so must newer rows."""
        for n, later in ((1, 0), (2, 0), (3, 1)):
            put(
                repository,
                "pair",
                {"item_id": [3], "user_id": ["u"], "n": [n]},
                event=NOW + later * HOUR,
            )
            assert get(repository, ["pair:n"], [{"item_id": 3, "user_id": "u"}])["n"] == [n]

    def test_a_late_row_is_not_taken(self, repository):
        """An older event time loses, and at equal event times an older created time."""
        if not is_ours(repository):
            pytest.skip("Feast's SQLite store overwrites newer rows with older ones")
        for n, event, created in ((1, NOW, NOW), (2, NOW - HOUR, NOW + HOUR), (3, NOW, NOW - HOUR)):
            put(
                repository,
                "pair",
                {"item_id": [4], "user_id": ["u"], "n": [n]},
                event=event,
                created=created,
            )
            assert get(repository, ["pair:n"], [{"item_id": 4, "user_id": "u"}])["n"] == [1]

    def test_the_event_time_is_told(self, repository):
        """In seconds beside each feature, 0 for what is absent; naive times mean UTC."""
        put(
            repository,
            "pair",
            {"item_id": [5], "user_id": ["u"], "n": [1]},
            event=NOW.replace(tzinfo=None),
        )
        response = repository.get_online_features(
            ["pair:n"], [{"item_id": i, "user_id": "u"} for i in (5, 99)]
        )
        assert response.to_dict(include_event_timestamps=True)["n__ts"] == [int(NOW.timestamp()), 0]

    def test_a_view_without_entities_has_one_row(self, repository):
        """It is read beside other views, for every row of the request."""
        if not is_ours(repository):
            pytest.skip(
                "Feast writes such a row under no key and reads it under a made-up one, which its"
                " SQLite store does not bring together"
            )
        put(repository, "total", {"sum": [7]})
        put(repository, "pair", {"item_id": [6, 7], "user_id": ["u", "u"], "n": [1, 2]})
        got = get(
            repository, ["total:sum", "pair:n"], [{"item_id": i, "user_id": "u"} for i in (6, 7)]
        )
        assert (got["sum"], got["n"]) == ([7, 7], [1, 2])

    def test_names_services_and_on_demand_views(self, repository):
        """Full names carry the view, a service reads its selection, an on-demand view computes from
        what is stored.
        """
        put(repository, "pair", {"item_id": [8], "user_id": ["u"], "n": [4]})
        rows = [{"item_id": 8, "user_id": "u"}]
        assert get(repository, ["pair:n"], rows, full_feature_names=True) == {
            "item_id": [8],
            "user_id": ["u"],
            "pair__n": [4],
        }
        assert set(get(repository, repository.get_feature_service("both"), rows)) == {
            "item_id",
            "user_id",
            "int32",
            "texts",
            "n",
        }
        assert get(repository, ["doubled:twice", "pair:n"], rows) == {
            "item_id": [8],
            "user_id": ["u"],
            "n": [4],
            "twice": [8],
        }

    def test_the_interface_by_protos(self, repository):
        """online_write_batch tells its progress; online_read answers one pair for each key, in
        order, (None, None) for the unknown.
        """
        provider, view, told = repository._get_provider(), repository.get_feature_view("brief"), []
        keys = [
            EntityKey(join_keys=["item_id"], entity_values=[Value(int64_val=i)]) for i in (1, 2, 3)
        ]
        recent = datetime.now(UTC) - HOUR / 2
        provider.online_write_batch(
            repository.config,
            view,
            [(key, {"m": Value(int64_val=i)}, recent, None) for i, key in enumerate(keys[:2])],
            told.append,
        )
        got = provider.online_read(repository.config, view, [keys[2], keys[1], keys[0]], ["m"])
        assert sum(told) == 2
        assert [values and values["m"].int64_val for _, values in got] == [None, 1, 0]
        assert got[0] == (None, None)
        assert abs(got[1][0].replace(tzinfo=UTC) - recent) < timedelta(seconds=1)

    @pytest.mark.parametrize(
        ("refs", "rows", "error"),
        [
            (["pair:none"], [{"item_id": 1, "user_id": "u"}], Exception),
            (["none:n"], [{"item_id": 1, "user_id": "u"}], Exception),
            (
                ["pair:n"],
                [{"item_id": "one", "user_id": "u"}],
                (ValueError, TypeError, AssertionError),
            ),
            (["pair:n"], {"item_id": [1, 2], "user_id": ["u"]}, ValueError),
        ],
    )
    def test_requests_that_cannot_be_answered_are_refused(self, repository, refs, rows, error):
        """An unknown feature or view, an id of another type, columns of unequal length."""
        with pytest.raises(error):
            get(repository, refs, rows)


@pytest.mark.parametrize("online", STORES.values(), ids=STORES)
def test_a_deleted_view_is_forgotten_and_others_stay(tmp_path, online):
    """Apply with the view deleted, declare it again: its rows are gone; so they are after a
    teardown, which leaves other projects alone.
    """
    repository = world(tmp_path, online)
    put(repository, "pair", {"item_id": [1], "user_id": ["u"], "n": [1]})
    put_everything(repository, 1, {name: value for name, (_, value) in VALUES.items()})
    pair, doubled, service = (
        repository.get_feature_view("pair"),
        repository.get_on_demand_feature_view("doubled"),
        repository.get_feature_service("both"),
    )
    repository.apply([], objects_to_delete=[service, doubled, pair], partial=False)
    repository.apply([pair])
    both = [{"item_id": 1, "user_id": "u"}]
    got = get(repository, ["pair:n", "everything:int32"], both)
    assert (got["n"], got["int32"]) == ([None], [-7])
    if online is OURS:
        (Path(tmp_path) / "other").mkdir()
        other = world(
            tmp_path / "other", {**online, "path": str(tmp_path / "online")}, project="other"
        )
        put(other, "pair", {"item_id": [1], "user_id": ["u"], "n": [9]})
        put(repository, "pair", {"item_id": [1], "user_id": ["u"], "n": [1]})
        assert get(other, ["pair:n"], both)["n"] == [9]
        repository.teardown()
        assert get(other, ["pair:n"], both)["n"] == [9]
        assert other._get_provider().online_store.environment(other.config).tables() == [
            "other/pair"
        ]
