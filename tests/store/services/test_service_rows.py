"""A user's own service on any stores: joined in the rows' order, read online by side, the same."""

import contextlib
import io
import shutil
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.online_stores.online_store import OnlineStore
from own_world import BIG, DAY, NOW, SKUS, STORES, own_world, versioned_world

from adc_features.errors import InputError, RequestError
from adc_features.inputs.schema import ServiceSchema
from adc_features.store.online_store import LmdbOnlineStore
from adc_features.store.parquet import write_parquet
from adc_features.store.registry import open_any_store
from adc_features.store.services.parity import service_parity
from adc_features.store.services.reading import ServiceReader, open_service_reader
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_in_pieces, join_service

SERVERS = Path(__file__).parents[3] / "docs" / "servers"
import start  # noqa: E402

USER, ITEM = ["customer_id", "viewed_sku"], ["sku"]
SCHEMA = pa.schema(
    {
        "row_id": pa.int64(),
        "customer_id": pa.string(),
        "sku": pa.int64(),
        "viewed_sku": pa.int64(),
        "limit": pa.float64(),
        "event_timestamp": pa.timestamp("us", "UTC"),
    }
)


class World(NamedTuple):
    """A repository, its service, and the features that its stores can hold."""

    repo: Path
    schema: ServiceSchema
    features: list[str]


def _world(directory: Path, offline: dict, online: dict, **options: Any) -> World:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        repo = own_world(directory, offline, online, **options)
    schema = service_schema(repo, "feed")
    return World(repo, schema, [f.key for f in schema.features])


def _server_world(directory: Path, stack: contextlib.ExitStack) -> World:
    from own_world_servers import postgres_source, server_stores

    if start.postgres_binaries() is None or shutil.which("redis-server") is None:
        pytest.skip("needs PostgreSQL and Redis servers (apt-get install postgresql redis-server)")
    variables = stack.enter_context(start.postgres()) | stack.enter_context(start.redis())
    offline, online = server_stores(variables)
    return _world(directory, offline, online, source=postgres_source(variables), calendar=False)


@pytest.fixture(
    scope="module", params=[*STORES, pytest.param("servers", marks=pytest.mark.servers)]
)
def world(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    with contextlib.ExitStack() as stack:
        if request.param == "servers":
            yield _server_world(directory, stack)
        else:
            # Feast's DuckDB store cannot materialize a view without entities: it gives no dummy key
            yield _world(directory, *STORES[request.param], calendar=request.param != "duckdb")


def rows(*values: tuple[str | None, int, int | None], at=NOW, limit: float = 2.0) -> pa.Table:
    """Entity rows: (customer_id, sku, viewed_sku)."""
    made = [
        {
            "row_id": i,
            "customer_id": c,
            "sku": s,
            "viewed_sku": v,
            "limit": limit,
            "event_timestamp": at,
        }
        for i, (c, s, v) in enumerate(values)
    ]
    return pa.Table.from_pylist(made, schema=SCHEMA)


def joined(world: World, table: pa.Table, features: list[str] | None = None) -> pa.Table:
    return join_service(world.repo, world.schema, table, features=features)


def reader(world: World, features: list[str] | None = None, **options: Any) -> ServiceReader:
    return open_service_reader(
        world.repo,
        world.schema,
        features=features or world.features,
        user=USER,
        item=ITEM,
        **options,
    )


def parts(opened: ServiceReader, skus: Any, *, customer: str = "c1", viewed: int = 1, now=NOW):
    return opened.read(
        {"customer_id": customer, "viewed_sku": viewed},
        {"sku": skus},
        request={"limit": 2.0},
        now=now,
    ).parts


class TestJoin:
    def test_every_row_comes_back_in_its_place(self, world):
        """Slates share a customer and a time, rows repeat, and entities are unknown."""
        asked = [("c1", 3, 1), ("c5", 1, 2), ("c1", 7, 1), ("c1", 3, 1), ("c0", 4, 2), ("c1", 1, 3)]
        got = joined(world, rows(*asked))
        assert got["row_id"].to_pylist() == list(range(6))
        assert got["profile__visits"].to_pylist() == [2, None, 2, 2, 1, 2]
        assert got["stock__shelf"].to_pylist() == [102, 100, None, 102, 103, 100]

    def test_a_row_sees_its_own_moment(self, world):
        """Older rows are seen before newer ones begin, and nothing before the first."""
        table = pa.concat_tables(
            [rows(("c1", 1, 1), at=NOW - age * DAY) for age in (0, 1, 2, 9, 10)]
        )
        got = joined(world, table, ["profile__visits"])
        assert got["profile__visits"].to_pylist() == [2, 2, 1, 1, None]

    def test_a_value_past_its_ttl_is_absent(self, world):
        """Product 2 was written six days ago and is good for five, that moment included."""
        moments = [NOW - 6 * DAY + timedelta(seconds=1) + x for x in (5 * DAY, 5 * DAY + DAY / 9)]
        table = pa.concat_tables([rows(("c1", 2, 2), at=at) for at in moments])
        got = joined(world, table, ["stock__shelf", "viewed__shelf"])
        assert got["stock__shelf"].to_pylist() == [101, None]
        assert got["viewed__shelf"].to_pylist() == [101, None]

    def test_values_have_their_declared_types(self, world):
        """Float32 is rounded to 32 bits, times are floored to seconds, nulls stay nulls."""
        got = joined(world, rows(("c1", 3, 1), ("c3", 4, 1)))
        assert got["stock__price"].type == pa.float32()
        assert got["stock__price"].to_pylist() == [float(np.float32(2.1)), None]
        assert got["profile__visits"].type == pa.int32()
        assert got["profile__joined"].to_pylist() == [
            NOW - DAY - timedelta(seconds=1),
            None,
        ]
        assert got["profile__vip"].to_pylist() == [False, None]
        assert got["stock__vector"].type == pa.list_(pa.float32())
        assert got["profile__recent"].to_pylist() == [[1, BIG], None]
        assert got["rare__cost"].to_pylist() == [Decimal("3.5"), None]
        assert got["rare__number"].to_pylist() == ["00000000-0000-0000-0000-000000000002", None]
        assert got["rare__whole"].to_pylist() == [[3, 5], None]

    def test_pieces_are_those_of_all_rows(self, world, tmp_path):
        """A piece at a time, with keys that are null and on-demand features, and written as
        Parquet in between.
        """
        asked = rows(*[(f"c{n % 6}", 1 + n % 7, 1) for n in range(10)], (None, 1, None))
        steps: list[tuple[int, int]] = []
        pieces = join_in_pieces(
            world.repo,
            world.schema,
            asked,
            sizes=[4, 1, 6],
            progress=lambda _, done, count: steps.append((done, count)),
        )
        found = [*pieces]
        assert [len(piece) for piece in found] == [4, 1, 6]
        assert steps == [(0, 3), (1, 3), (2, 3)]
        write_parquet(found, tmp_path / "joined.parquet")
        assert pq.read_table(tmp_path / "joined.parquet").equals(joined(world, asked))

    def test_an_empty_list_is_not_a_missing_one(self, world):
        """c0 has seen nothing, of c3 nothing is known."""
        got = joined(world, rows(("c0", 1, 1), ("c3", 1, 1)), ["profile__recent", "profile__tags"])
        assert got["profile__recent"].to_pylist() == [[], None]
        assert got["profile__tags"].to_pylist() == [[], None]

    def test_a_view_is_used_twice_under_two_keys(self, world):
        """As the candidate's and as that of the product being viewed."""
        got = joined(world, rows(("c1", 1, 3)), ["stock__shelf", "viewed__shelf"])
        assert (got["stock__shelf"].to_pylist(), got["viewed__shelf"].to_pylist()) == ([100], [102])

    def test_a_null_key_is_absent(self, world):
        """An anonymous user has no features, and the row stays."""
        got = joined(world, rows((None, 1, None), ("c1", 1, 1)))
        assert got["profile__visits"].to_pylist() == [None, 2]
        assert got["viewed__shelf"].to_pylist() == [None, 100]
        assert got["affinity__score"].to_pylist() == [None, float(np.float32(1.1))]

    def test_on_demand_views_are_computed(self, world):
        """In frames, in lists and one by one; with a field of the request."""
        got = joined(world, rows(("c1", 3, 1), ("c3", 4, 1), ("c2", 1, 1)))
        assert got["frames__ratio"].to_pylist()[0] == pytest.approx(1.05)
        assert got["frames__shelf_next"].to_pylist() == [103, 104, 101]
        assert got["lists__often"].to_pylist() == [4.0, None, 6.0]
        assert got["ones__affordable"].to_pylist() == [True, None, True]

    def test_all_missing_columns_are_named_before_any_work(self, world):
        """Keys and fields of the request at once."""
        table = rows(("c1", 1, 1)).drop_columns(["sku", "limit"])
        with pytest.raises(InputError, match=r"'sku', 'limit \(Float64, read by an on-demand"):
            joined(world, table)

    def test_keys_of_another_type_are_refused(self, world):
        """Text never meets a whole number, in silence or otherwise."""
        table = rows(("c1", 1, 1))
        text = table.set_column(2, "sku", pa.array(["1"]))
        with pytest.raises(InputError, match=r"column sku of the rows is string.*declared Int64"):
            joined(world, text)

    def test_no_rows_give_no_rows(self, world):
        """With the columns of any other answer."""
        got = joined(world, rows().slice(0, 0))
        assert len(got) == 0
        assert got.schema.field("stock__price").type == pa.float32()


class TestOnline:
    def test_candidates_keep_their_order_and_repeats(self, world):
        """The user stands once for all of them."""
        got = parts(reader(world), [3, 1, 7, 3, 4])
        assert got["item"].column("stock__shelf").to_pylist() == [102, 100, None, 102, 103]
        assert got["user"].column("profile__visits").to_pylist() == [2]
        assert (len(got["user"]), len(got["pair"]), got.rows) == (1, 5, 5)
        assert got["pair"].column("affinity__score").to_pylist()[0] == float(np.float32(1.3))

    def test_values_have_the_types_of_the_joined_ones(self, world):
        """Column by column."""
        offline = joined(world, rows(("c1", 3, 1)))
        got = parts(reader(world), [3])
        for name in world.features:
            side = "item" if name in got["item"].table.column_names else "user"
            assert got[side].column(name).type == offline[name].type, name

    def test_null_empty_and_unknown_are_told_apart(self, world):
        """A stored null and an unknown entity are absent, an empty list is not."""
        opened = reader(world)
        lists = [
            parts(opened, [1], customer=c)["user"].column("profile__recent").to_pylist()
            for c in ("c0", "c3", "c5")
        ]
        assert lists == [[[]], [None], [None]]

    def test_a_value_past_its_ttl_is_absent(self, world):
        """By the moment of the request, on stores that know of no ttl."""
        opened = reader(world, ["stock__shelf", "viewed__shelf"])
        for now, shown in ((NOW - 2 * DAY, 101), (NOW, None)):
            got = opened.read(
                {"customer_id": "c1", "viewed_sku": 2}, {"sku": [2]}, request={}, now=now
            ).parts
            assert got["item"].column("stock__shelf").to_pylist() == [shown]
            assert got["user"].column("viewed__shelf").to_pylist() == [shown]

    def test_it_says_what_is_stored(self, world):
        """Of the user, and of each candidate; what has expired is not."""
        opened = reader(world)
        for customer, known in (("c1", True), ("c5", False)):
            read = opened.read(
                {"customer_id": customer, "viewed_sku": 7},
                {"sku": [1, 7, BIG]},
                request={"limit": 1.0},
                now=NOW,
            )
            assert read.user is known
            assert read.items.tolist() == [True, False, True]

    def test_a_store_that_answers_by_itself_gives_the_same(self, world, monkeypatch):
        """Stores are read by rows; one with a `get_online_features` of its own by its response."""
        online = type(open_any_store(world.repo)._get_provider().online_store)
        if online is LmdbOnlineStore:
            pytest.skip("our store's rows are read without Feast")
        by_rows = parts(reader(world), [3, 1, 7, 3, 2])
        theirs, answers = OnlineStore.get_online_features, []

        def answer(self: Any, *args: Any, **options: Any) -> Any:
            answers.append(theirs(self, *args, **options))
            return answers[-1]

        monkeypatch.setattr(online, "get_online_features", answer)
        by_response = parts(reader(world), [3, 1, 7, 3, 2])
        assert answers
        for side in ("user", "item"):
            assert by_rows[side].table.equals(by_response[side].table)

    @pytest.mark.parametrize(
        ("request_", "message"),
        [
            ({}, r"lacks limit \(a finite number\)"),
            ({"limit": 1.0, "x": 2}, r"unknown fields \['x'\]; known are \['limit'\]"),
            ({"limit": float("nan")}, "nan.*expected a finite number"),
            ({"limit": float("inf")}, "inf.*expected a finite number"),
            ({"limit": "1"}, r"'1' \(str\); expected a finite number"),
            ({"limit": True}, r"True \(bool\)"),
        ],
    )
    def test_a_request_that_does_not_fit_is_refused(self, world, request_, message):
        """Fields missing, unknown, not finite, or of another type."""
        with pytest.raises(RequestError, match=message):
            reader(world).read(
                {"customer_id": "c1", "viewed_sku": 1}, {"sku": [1]}, request=request_, now=NOW
            )

    @pytest.mark.parametrize(
        ("user", "skus", "message"),
        [
            ({"customer_id": 1, "viewed_sku": 1}, [1], r"customer_id is 1 \(int\); expected text"),
            ({"customer_id": "c1", "viewed_sku": 1}, ["1"], r"sku is '1' \(str\)"),
            ({"customer_id": "c1", "viewed_sku": 1}, [1.0], r"sku is 1.0 \(float\)"),
            ({"customer_id": "c1", "viewed_sku": 1}, [2**63], "64 bits"),
            ({"customer_id": "c1", "viewed_sku": 1}, [None], "sku of row 0 is missing"),
            ({"customer_id": "c1"}, [1], r"missing \['viewed_sku'\]"),
            ({"customer_id": "c1", "viewed_sku": 1}, [], "no candidates"),
        ],
    )
    def test_keys_that_do_not_fit_are_refused(self, world, user, skus, message):
        """No text becomes a number, and no number text."""
        with pytest.raises(RequestError, match=message):
            reader(world).read(user, {"sku": skus}, request={"limit": 1.0}, now=NOW)

    def test_fields_of_the_ranker_come_beside_those_of_views(self, world):
        """Optional ones are absent where they are missing; lists are checked by element."""
        opened = reader(
            world,
            ["stock__shelf"],
            request={"device": "String", "seen": "Array(Int64)"},
            optional=["seen"],
        )
        asked: dict = {"user": {"customer_id": "c1", "viewed_sku": 1}, "items": {"sku": [1, 2]}}
        got = opened.read(**asked, request={"device": "tv"}, now=NOW).parts["request"]
        assert got.column("device").to_pylist() == ["tv"]
        assert got.column("seen").to_pylist() == [None]
        with pytest.raises(RequestError, match="an element of request field seen is 'a'"):
            opened.read(**asked, request={"device": "tv", "seen": ["a"]}, now=NOW)


class TestParity:
    def test_joined_equals_online(self, world):
        """Every feature of every customer with every product, and a row alone as among others."""
        skus = [*SKUS, 7, 1]
        table = rows(*[(f"c{n}", sku, 1 + n % 3) for n in range(6) for sku in skus])
        report = service_parity(
            world.repo, world.schema, table.drop_columns("row_id"), NOW, user=USER, item=ITEM
        )
        assert max(report.pop("valued").values()) == 54
        assert report == {
            "rows": 54,
            "different": {},
            "max_difference": 0.0,
            "alone": {},
            "first_differences": [],
        }

    def test_a_difference_is_counted_and_shown(self, world):
        """As of an earlier moment the offline rows are older than those online."""
        report = service_parity(
            world.repo,
            world.schema,
            rows(("c1", 1, 1), ("c5", 1, 1)),
            NOW - 2 * DAY,
            user=USER,
            item=ITEM,
            features=["profile__visits", "profile__budget"],
        )
        assert report["different"] == {"profile__visits": 1}
        assert report["max_difference"] == 1.0
        assert report["first_differences"] == [
            {
                "customer_id": "c1",
                "viewed_sku": 1,
                "sku": 1,
                "feature": "profile__visits",
                "offline": 1,
                "online": 2,
            }
        ]


def test_what_cannot_be_planned_is_refused(tmp_path):
    """A feature that is not offered, a key on no side, a key on both."""
    world = _world(tmp_path, *STORES["ours"])
    with pytest.raises(InputError, match=r"offers no \['stock__colour'\]"):
        joined(world, rows(("c1", 1, 1)), ["stock__colour"])
    with pytest.raises(InputError, match=r"join keys \['sku'\] are on no side"):
        open_service_reader(
            world.repo, world.schema, features=["stock__shelf"], user=["customer_id"], item=[]
        )
    with pytest.raises(InputError, match="of the user and of the item"):
        open_service_reader(
            world.repo, world.schema, features=["stock__shelf"], user=["sku"], item=["sku"]
        )


@pytest.mark.parametrize("stores", STORES)
def test_two_versions_of_a_view_are_read_side_by_side(tmp_path, stores):
    """Joined and online, each with its own values."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        repo = versioned_world(tmp_path, *STORES[stores])
    schema = service_schema(repo, "feed")
    names = ["v@v0__n", "v@v1__n"]
    times = pa.array([NOW, NOW], pa.timestamp("us", "UTC"))
    got = join_service(repo, schema, pa.table({"sku": [1, 2], "event_timestamp": times}))
    assert [got[name].to_pylist() for name in names] == [[1, None], [2, None]]
    opened = open_service_reader(repo, schema, features=names, user=[], item=["sku"])
    online = opened.read({}, {"sku": [1, 2]}, request={}, now=NOW).parts["item"]
    assert [online.column(name).to_pylist() for name in names] == [[1, None], [2, None]]


def test_a_long_log_is_joined_in_pieces(tmp_path):
    """The answer does not depend on how many rows are asked for at once; progress is told."""
    world = _world(tmp_path, *STORES["duckdb"], calendar=False)
    table = rows(*[(f"c{n % 6}", 1 + n % 7, 1) for n in range(20)], at=NOW)
    whole, steps = joined(world, table), []
    config = world.repo / "feature_store.yaml"
    config.write_text(config.read_text() + "adc_features:\n  join_rows: 3\n")
    pieces = join_service(
        world.repo, world.schema, table, progress=lambda *told: steps.append(told[1:])
    )
    assert pieces.equals(whole)
    assert steps[0][0] == 0
    assert steps[-1][0] == steps[-1][1]
