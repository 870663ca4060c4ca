"""The catalogue, on every database that it may lie on:
SQLite, and PostgreSQL where it is installed.
"""

import multiprocessing
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
import start
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from adc_features.catalog import Catalog, catalog_to_read, open_catalog
from adc_features.catalog import catalog as module
from adc_features.catalog.tables import EVENTS, GENERATIONS, METADATA, PROMOTIONS, RUNS
from adc_features.errors import ArtifactError, InputError

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
G1 = {
    "codebook_hash": "11",
    "parent_codebook_hash": None,
    "directory": "generation",
    "trained_through": AT,
    "state": "live",
}


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    if start.postgres_binaries() is None:
        pytest.skip("needs a PostgreSQL server (apt-get install postgresql)")
    with start.postgres() as variables:
        user, host, port, database = (
            variables[f"ADC_POSTGRES_{name}"] for name in ("USER", "HOST", "PORT", "DATABASE")
        )
        yield f"postgresql+psycopg://{user}@{host}:{port}/{database}"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/deployment/catalog.db"
    server = request.getfixturevalue("postgres")
    catalog = open_catalog(server)
    with catalog.engine.begin() as connection:
        METADATA.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    return server


@pytest.fixture
def catalog(url: str) -> Catalog:
    return open_catalog(url)


def test_migrations_make_what_the_tables_say(catalog):
    """Alembic sees nothing to change between the migrated database and the declared tables."""
    with catalog.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), METADATA)
    assert [d for d in differences if d[0] != "modify_type"] == []


def test_what_is_put_twice_is_changed_once(catalog):
    """The second time writes no event;
    a change writes one with what changed; times come back aware.
    """
    for _ in range(2):
        with catalog.write(at=AT) as writer:
            writer.put(GENERATIONS, {"id": "g1"}, G1, event="generation")
    with catalog.write(at=AT + timedelta(days=1)) as writer:
        writer.put(GENERATIONS, {"id": "g1"}, {"state": "removed"}, event="generation_removed")
    assert [g["state"] for g in catalog.generations()] == ["removed"]
    assert catalog.generations()[0]["registered_at"] == AT
    assert [(e["event"], e["subject"], e["facts"].get("state")) for e in catalog.events()] == [
        ("generation", "g1", "live"),
        ("generation_removed", "g1", "removed"),
    ]


def test_a_failed_change_changes_nothing(catalog):
    """An exception inside a write undoes all of it, events included."""

    def change() -> None:
        with catalog.write(at=AT) as writer:
            writer.put(GENERATIONS, {"id": "g1"}, G1, event="generation")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        change()
    assert catalog.generations() == catalog.events() == []


def test_a_clock_that_steps_back_keeps_the_order(catalog):
    """Promotions and events are in the order they were written in, whatever the clock said."""
    for hours in (0, -5):
        with catalog.write(at=AT + timedelta(hours=hours)) as writer:
            writer.add(
                PROMOTIONS,
                {
                    "ranker": str(hours),
                    "promoted_at": AT + timedelta(hours=hours),
                    "state": "pending",
                },
                event="begun",
            )
    assert [p["ranker"] for p in catalog.promotions()] == ["0", "-5"]
    assert [e["number"] for e in catalog.events()] == sorted(e["number"] for e in catalog.events())


def test_a_second_holder_is_refused_at_once(url):
    """Two retrains at once: the second one is told, and gets the lock when the first is done."""
    first, second = open_catalog(url), open_catalog(url)
    with first.alone("retrain"):
        with (
            pytest.raises(InputError, match="another process holds the catalogue's 'retrain' lock"),
            second.alone("retrain"),
        ):
            pass
        with second.alone("gc"):
            pass
    with second.alone("retrain"):
        pass


def test_the_holder_of_a_lock_is_named(url):
    """Who waits in vain is told the process that holds the lock, on every database."""
    first, second = open_catalog(url), open_catalog(url)
    with (
        first.alone("retrain"),
        pytest.raises(InputError, match=rf"lock .*process {os.getpid()}\b"),
        second.alone("retrain"),
    ):
        pass


def test_writers_wait_for_each_other(url):
    """Three processes add 20 rows each; none is lost and none fails."""
    open_catalog(url)
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_add, args=(url, 20)) for _ in range(3)]
    for w in writers:
        w.start()
    for w in writers:
        w.join(60)
    assert [w.exitcode for w in writers] == [0, 0, 0]
    assert len(open_catalog(url).runs()) == 60


def _add(url: str, count: int) -> None:
    catalog = open_catalog(url)
    for _ in range(count):
        with catalog.write(at=AT) as writer:
            writer.add(
                RUNS,
                {"command": "test", "started_at": AT, "state": "running", "facts": {}},
                event="begun",
            )


def test_a_killed_holder_lets_go(url):
    """The lock of a process that was killed inside a write is free at once, and what it had begun
    is undone.
    """
    open_catalog(url)
    context = multiprocessing.get_context("spawn")
    inside = context.Event()
    holder = context.Process(target=_hang, args=(url, inside))
    holder.start()
    assert inside.wait(60)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    catalog = open_catalog(url)
    with catalog.write(at=AT) as writer:
        writer.record("after", "", {})
    assert [e["event"] for e in catalog.events()] == ["after"]


def _hang(url: str, inside) -> None:
    import time

    with open_catalog(url).write(at=AT) as writer:
        writer.record("never", "", {})
        inside.set()
        time.sleep(600)


def test_a_newer_catalogue_is_refused(url):
    """A revision that this library does not know is named, and nothing is changed."""
    catalog = open_catalog(url)
    with catalog.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(ArtifactError, match="has revision r9999, this library knows up to r0001"):
        open_catalog(url)
    with catalog.engine.connect() as connection:
        assert (
            connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "r9999"
        )


def test_tables_of_another_program_are_refused(tmp_path):
    """A database that has a table of our name and no revision is not ours to change."""
    url = f"sqlite:///{tmp_path}/other.db"
    catalog = open_catalog(url)
    with catalog.engine.begin() as connection:
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(ArtifactError, match="has revision none"):
        open_catalog(url)
    assert EVENTS.name in METADATA.tables


@pytest.mark.parametrize("url", ["not a url", "nosuch://host/db", "mysql+nosuch://x"])
def test_what_is_no_database_is_refused_in_words(url):
    """The message names the URL and shows one that works."""
    with pytest.raises(InputError, match="is no catalogue"):
        open_catalog(url)


def test_a_server_that_does_not_answer_is_named():
    """Without its password."""
    with pytest.raises(
        InputError, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/none cannot be used"
    ):
        open_catalog("postgresql+psycopg://me:secret@127.0.0.1:1/none")


def test_a_catalogue_may_be_copied_while_it_is_read(tmp_path):
    """SQLite's file, copied after a write, holds the write."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    catalog = open_catalog(url)
    with catalog.write(at=AT) as writer:
        writer.record("one", "", {})
    catalog.engine.dispose()
    shutil.copytree(tmp_path, tmp_path.parent / "copy")
    assert [
        e["event"] for e in open_catalog(f"sqlite:///{tmp_path.parent}/copy/catalog.db").events()
    ] == ["one"]


HOLDER = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN"
    " IMMEDIATE'); print('held', flush=True); sys.stdin.read()"
)


def test_a_damaged_catalogue_answers_or_is_refused_in_words(tmp_path):
    """Whatever bit of the file is turned, in its schema, in texts, in times or in JSON."""
    url = f"sqlite:///{tmp_path}/catalog.db"
    catalog = open_catalog(url)
    with catalog.write(at=AT) as writer:
        writer.put(GENERATIONS, {"id": "g1"}, G1, event="generation")
    catalog.engine.dispose()
    file = tmp_path / "catalog.db"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content, random, outcomes = file.read_bytes(), Random(0), set()
    used = [at for at in range(100, len(content)) if content[at]]
    for at in random.sample(used, 300):
        turned = content[at] ^ 1 << random.randrange(8)
        file.write_bytes(content[:at] + bytes([turned]) + content[at + 1 :])
        try:
            with catalog_to_read(url) as read:
                read.generations(), read.events()
            outcomes.add("answered")
        except (ArtifactError, InputError) as error:
            told = str(error)
            outcomes.add(
                next((t for t in ("text that is none", "nobody wrote") if t in told), "refused")
            )
    assert outcomes == {"answered", "text that is none", "nobody wrote", "refused"}


def test_a_catalogue_that_another_program_writes_is_refused_soon_and_in_words(
    tmp_path, monkeypatch
):
    """After a short wait the holder is named, by process id where the system tells; reading goes
    on; when it is done, so does writing.
    """
    monkeypatch.setattr(module, "WAIT", 0.2)
    catalog = open_catalog(f"sqlite:///{tmp_path}/catalog.db")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "catalog.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline() == b"held\n"
    with (
        pytest.raises(InputError, match="is held by another writer") as refused,
        open_catalog(f"sqlite:///{tmp_path}/catalog.db").write(at=AT) as writer,
    ):
        writer.record("never", "", {})
    if Path("/proc/locks").exists():
        assert f"process {holder.pid}" in str(refused.value)
    assert catalog.events() == []
    holder.communicate()
    with catalog.write(at=AT) as writer:
        writer.record("after", "", {})


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hidden@host/db",
        "mysql+pymysql://u:hidden@h/db",
        "oracle://u:hidden@h/db",
        "mssql+pyodbc://u:hidden@h/db",
        "nonsense",
        "foo://u:hidden@h/db",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite+aiosqlite:///x.db",
        "postgresql+asyncpg://u:hidden@h/db",
        "postgresql+psycopg://u:hidden@h:port/db",
        "postgresql://u:hidden@localhost:1/db",
        "postgresql+psycopg://u@localhost:1/db?password=hidden",
        "",
    ],
)
def test_another_kind_of_database_is_refused_in_words(url, tmp_path, monkeypatch):
    """Another dialect, an asynchronous or missing driver, a database in memory, no URL, no server:
    said in words, without the password.
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as refused:
        open_catalog(url)
    assert "hidden" not in str(refused.value).replace("Passwords are hidden", "")
    assert list(tmp_path.iterdir()) == []


def test_a_catalogue_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    """A command that only reads sees what was committed, in the log of an open database too, and
    leaves the files as they are.
    """
    url = f"sqlite:///{tmp_path}/catalog.db"
    catalog = open_catalog(url)
    with catalog.write(at=AT) as writer:
        writer.put(GENERATIONS, {"id": "g1"}, G1, event="generation")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode, **_: not (mode & os.W_OK and Path(path).is_relative_to(tmp_path)),
    )
    with catalog_to_read(url) as read:
        assert [g["id"] for g in read.generations()] == ["g1"]
        with read.write(at=AT) as writer:
            writer.record("forgotten", "", {})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert len(catalog.events()) == 1
