"""Codes of a repository whose offline store is PostgreSQL: rows of a table of its database."""

from datetime import timedelta

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import start  # docs/servers
import yaml
from coded_feed import feast_apply
from own_world_servers import POSTGRES_SOURCE, postgres_rows, server_stores
from things_world import DAY, DEFINITIONS, ITEMS, START
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import ArtifactError, InputError
from adc_features.store import load_codes, published_snapshots, published_timeline, unpublish
from adc_features.store.code_tables import CodeFile, tables_of
from adc_features.store.code_tables.postgres import PostgresTables
from adc_features.store.registry import open_any_store
from adc_features.store.repository import live_generation
from adc_features.store.services.code_view import declare_codes, take_codes_online
from adc_features.store.services.item_rows import item_features, item_rows
from adc_features.store.services.parity import service_parity
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import tokenize

pytestmark = [pytest.mark.servers, pytest.mark.slow]
PICTURES = ItemSources(["pictures__picture"])
FAST = TokenizeSettings(steps=80, codebook_size=4, publish_lag=timedelta(hours=6))
NOW = START + 9 * DAY
UTC = pa.timestamp("us", "UTC")
TEXTS = """
from feast.types import Float64

texts = FeatureView(
    name="texts", entities=[thing], ttl=timedelta(days=2), source=source("texts"),
    schema=[Field(name="code", dtype=String), Field(name="title", dtype=String),
            Field(name="tags", dtype=Array(String)), Field(name="small", dtype=Array(Float32)),
            Field(name="large", dtype=Array(Float64))],
)
"""


@pytest.fixture(scope="module")
def variables():
    """A private server."""
    if start.postgres_binaries() is None:
        pytest.skip("needs a PostgreSQL server (apt-get install postgresql)")
    with start.postgres() as found:
        yield found


def rows(first: int, count: int, day: int) -> pa.Table:
    """Things with pictures near one of four centres, at a day after the start."""
    rng = np.random.default_rng(first)
    vectors = [3 * np.eye(4)[n % 4] + rng.normal(0, 0.1, 4) for n in range(first, first + count)]
    return pa.table(
        {
            "code": [f"t{n:02d}" for n in range(first, first + count)],
            "happened_at": pa.array([START + day * DAY] * count, UTC),
            "size": pa.array(range(count), pa.int32()),
            "picture": pa.array([v.tolist() for v in vectors], pa.list_(pa.float64())),
        }
    )


@pytest.fixture
def things(tmp_path, variables):
    """A repository with a database of its own, and a session there."""
    address = (
        f"host={variables['ADC_POSTGRES_HOST']} port={variables['ADC_POSTGRES_PORT']}"
        f" user={variables['ADC_POSTGRES_USER']}"
    )
    name = f"shop{abs(hash(tmp_path)) % 10**9}"
    with psycopg.connect(f"{address} dbname=postgres", autocommit=True) as session:
        session.execute(f"CREATE DATABASE {name}")
    own = {**variables, "ADC_POSTGRES_DATABASE": name, "ADC_REDIS_HOST": "", "ADC_REDIS_PORT": ""}
    postgres_rows(own)("pictures", rows(0, ITEMS, 0))
    config = {
        "project": "things",
        "provider": "local",
        "registry": "registry.db",
        "offline_store": server_stores(own)[0],
        "online_store": {"type": "sqlite", "path": "online.db"},
        "entity_key_serialization_version": 3,
    }
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    text = DEFINITIONS.format(type="String", value="STRING")
    before, _, after = text.partition("source=FileSource(")
    text = before + 'source=source("pictures"),' + after.partition('"at"),')[2]
    text = text.replace("thing = Entity", POSTGRES_SOURCE + "thing = Entity", 1)
    (tmp_path / "definitions.py").write_text(text, encoding="utf-8")
    feast_apply(tmp_path)
    with psycopg.connect(f"{address} dbname={name}", autocommit=True) as session:
        yield tmp_path, session


def stored(repo, session):
    """The rows of the table of codes, by time and id."""
    _, table = tables_of(repo, live_generation(repo, "g1"))
    return session.execute(f'SELECT * FROM "{table}" ORDER BY event_timestamp, code').fetchall()


def joined(repo, at):
    """The codes of every thing as of a time, by Feast's join; null where there are none."""
    codes = [f"t{n:02d}" for n in range(ITEMS + 2)]
    asked = pa.table({"code": codes, "event_timestamp": pa.array([at] * len(codes), UTC)})
    schema = service_schema(repo, "things_g1")
    answer = join_service(repo, schema, asked, features=["item_sid_g1__sid"])
    return answer["item_sid_g1__sid"].to_pylist()


def test_codes_are_joined_and_served_from_the_database(things):
    """What Feast joins from the table, what is online, and what is looked up through time agree;
    `feast apply` declares the table; a later snapshot adds what changed and keeps the rest.
    """
    repo, session = things
    made = tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    assert made["snapshots"][0]["items"] == ITEMS
    first = stored(repo, session)
    assert len(first) == ITEMS
    feast_apply(repo)
    declare_codes(repo, "g1", service="things")
    assert joined(repo, START + DAY + timedelta(hours=5)) == [None] * (ITEMS + 2)
    early = joined(repo, START + DAY + timedelta(hours=7))
    assert None not in early[:ITEMS]
    session.cursor().executemany(
        "INSERT INTO pictures VALUES (%s, %s, %s, %s)",
        [tuple(row.values()) for row in rows(ITEMS, 2, 2).to_pylist()],
    )
    tokenize(repo, PICTURES, times=[START + 3 * DAY], computed_at=NOW, settings=FAST)
    assert stored(repo, session)[:ITEMS] == first
    assert joined(repo, START + DAY + timedelta(hours=7)) == early
    assert joined(repo, START + 3 * DAY + timedelta(hours=5)) == early
    late = joined(repo, START + 3 * DAY + timedelta(hours=7))
    assert late[:ITEMS] == early[:ITEMS]
    assert None not in late
    take_codes_online(repo, "g1", until=NOW)
    asked = pa.table(
        {
            "code": [f"t{n:02d}" for n in range(ITEMS + 2)],
            "event_timestamp": pa.array([NOW] * (ITEMS + 2), UTC),
        }
    )
    through_time, _, _ = published_timeline(repo, "g1").gather(
        np.array(asked["code"].to_pylist()),
        np.full(ITEMS + 2, np.datetime64(NOW.replace(tzinfo=None), "us")),
    )
    assert late == through_time.tolist()
    features = [f"item_sid_g1__{n}" for n in ("sid", "sid_weight", "reliability", "is_cold")]
    schema = service_schema(repo, "things_g1")
    found = service_parity(repo, schema, asked, NOW, user=[], item=["code"], features=features)
    assert (found["rows"], found["different"]) == (ITEMS + 2, {})


def test_the_table_follows_the_publication(things):
    """A publication that fails leaves the table as it was; what differs from the published files is
    put right, once; a generation that is taken back takes its table along.
    """
    repo, session = things
    tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    whole = stored(repo, session)
    tables, table = tables_of(repo, live_generation(repo, "g1"))
    file = next((repo / "data" / "item_sid_g1" / "rows").glob("*.parquet"))
    session.execute(f"ALTER TABLE \"{table}\" ADD CHECK (created_timestamp < '2026-03-20')")
    session.execute("UPDATE pictures SET picture = array[9, 0, 0, -9] WHERE code = 't07'")
    with pytest.raises(ArtifactError, match=r"cannot be written.*violates check constraint"):
        tokenize(
            repo, PICTURES, times=[START + 2 * DAY], computed_at=START + 30 * DAY, settings=FAST
        )
    assert stored(repo, session) == whole
    assert [s.as_of for s in published_snapshots(repo, "g1")] == [START + DAY]
    session.execute(f"DELETE FROM \"{table}\" WHERE code = 't03'")
    late = "event_timestamp + interval '1 day', created_timestamp"
    columns = ", ".join(pq.read_schema(file).names[3:])
    session.execute(
        f'INSERT INTO "{table}" SELECT code, {late}, {columns} FROM "{table}" WHERE code = \'t05\''
    )
    assert load_codes(repo, "g1") == ITEMS
    assert stored(repo, session) == whole
    assert load_codes(repo, "g1") == 0
    unpublish(repo, "g1")
    with pytest.raises(psycopg.errors.UndefinedTable):
        session.execute(f'SELECT 1 FROM "{table}"')
    tables.drop(table)


def test_a_database_that_takes_no_tables_is_refused_before_work(things):
    """A user without the right to create tables, and a server that does not answer, are named; no
    tokenizer is fitted.
    """
    repo, session = things
    path = repo / "feature_store.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    session.execute("DROP ROLE IF EXISTS reader")
    session.execute("CREATE ROLE reader LOGIN")
    for change, error, match in (
        ({"user": "reader"}, InputError, "'reader' of the offline store may not create tables"),
        ({"port": 1}, ArtifactError, "cannot be looked at.*offline_store in feature_store.yaml"),
    ):
        block = {**config["offline_store"], **change}
        path.write_text(yaml.safe_dump({**config, "offline_store": block}), encoding="utf-8")
        with pytest.raises(error, match=match):
            tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
        assert not (repo / "tokenizers").exists()


def test_text_and_vectors_are_read_from_the_database(things):
    """Text, lists of texts and vectors of either width come in their declared types, the newest
    row of each item before the cut-off, null where there is none; a row beyond the ttl is left out.
    """
    repo, session = things
    session.execute(
        "CREATE TABLE texts (code text, happened_at timestamptz, title text, tags text[],"
        " small real[], large double precision[])"
    )
    first, second = START, START + 2 * DAY
    session.cursor().executemany(
        "INSERT INTO texts VALUES (%s, %s, %s, %s, %s, %s)",
        [
            ("a", first, "old", ["x"], [0.1, 2.5], [0.1, 2.5]),
            ("a", second, "neu \u00e9", ["x", "y"], [1.5, 0.25], [0.1, 3.0]),
            ("b", second, None, None, None, [1.0, 2.0]),
            ("c", first, "gone", [], [1.0, 1.0], None),
        ],
    )
    with (repo / "definitions.py").open("a", encoding="utf-8") as file:
        file.write(TEXTS)
    feast_apply(repo)
    names = [f"texts__{name}" for name in ("title", "tags", "small", "large")]
    features = item_features(repo, names)
    found = item_rows(repo, features, as_of=START + 3 * DAY)
    order = np.argsort(found[names[0]].ids.to_pylist())
    assert found[names[0]].ids.take(order).to_pylist() == ["a", "b"]
    values = [found[name].values.take(order).to_pylist() for name in names]
    assert values[0] == ["neu \u00e9", None]
    assert values[1] == [["x", "y"], None]
    assert values[2] == [[1.5, 0.25], None]
    assert values[3] == [[0.1, 3.0], [1.0, 2.0]]
    early = item_rows(repo, features, as_of=START + 2 * DAY)
    assert sorted(early[names[0]].values.to_pylist()) == ["gone", "old"]


def test_codes_are_renewed_by_the_command(things, tmp_path):
    """`adc tokenize` once and `--renew` after a thing has arrived: it is in the table, in the join
    and online, and the rows that were there stay.
    """
    repo, session = things
    adc = CliRunner().invoke
    words = ["tokenize", "--repo", str(repo), "--vectors", "pictures__picture", "--apply"]
    quick = ["--steps", "80", "--codebook-size", "4", "--as-of", "2026-03-02"]
    adc(application(), [*words, *quick], catch_exceptions=False)
    first = stored(repo, session)
    session.cursor().executemany(
        "INSERT INTO pictures VALUES (%s, %s, %s, %s)",
        [tuple(row.values()) for row in rows(ITEMS, 1, 2).to_pylist()],
    )
    renew = ["tokenize", "--repo", str(repo), "--renew", "--as-of", "2026-03-04", "--apply"]
    for said in ("1 new, 0 with other codes, 0 gone", "generation g1: up to date"):
        answer = adc(application(), renew, catch_exceptions=False)
        assert said in answer.output
    assert stored(repo, session)[:ITEMS] == first
    asked = [{"code": f"t{ITEMS:02d}"}, {"code": "nobody"}]
    online = open_any_store(repo).get_online_features(["item_sid_g1:sid"], asked).to_dict()["sid"]
    assert [code is None for code in online] == [False, True]


def test_any_row_is_stored_as_it_is(things, tmp_path):
    """Ids with tabs, quotes, backslashes and line breaks, and numbers of every size, come back
    from the table bit for bit.
    """
    repo, session = things
    ids = ["a\tb", "\\N", "\\", "li\nne\r", "é{},\"'", "", " ", "NULL"]
    count = len(ids)
    small = np.float32([0.1, 1e-45, 3.4e38, -0.0, 1 / 3, 2**24 + 2, 1e-7, 7])
    times = pa.array([START + timedelta(microseconds=n) for n in range(count)], UTC)
    table = pa.table(
        {
            "code": ids,
            "event_timestamp": times,
            "created_timestamp": times,
            "sid": pa.array([[-1, 2**31 - 1, n] for n in range(count)], pa.list_(pa.int32())),
            "sid_weight": pa.array([[x, x] for x in small], pa.list_(pa.float32())),
            "reliability": small,
            "is_cold": [n % 2 == 0 for n in range(count)],
            "sid_as_of": pa.array([2**62 + n for n in range(count)], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    file = CodeFile(tmp_path / "rows.parquet", START, START, count)
    assert PostgresTables(repo).write("any_rows", "code", [file]) == count
    found = session.execute("SELECT * FROM any_rows ORDER BY event_timestamp").fetchall()
    for number, field in enumerate(table.schema):
        stored = pa.array([row[number] for row in found], field.type)
        assert stored.equals(table[field.name].combine_chunks()), field.name
