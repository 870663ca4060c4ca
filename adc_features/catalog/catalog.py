"""The catalogue: read by anyone, changed by one writer at a time. Reads and writes: a database that
SQLAlchemy reaches.
"""

import glob
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    Select,
    Table,
    and_,
    create_engine,
    event,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from adc_features.artifact import json_text
from adc_features.catalog.lock import held_elsewhere, only_one
from adc_features.catalog.tables import EVENTS, GENERATIONS, PROMOTIONS, RANKERS, RUNS, SNAPSHOTS
from adc_features.clock import utc
from adc_features.errors import ArtifactError, InputError, NewerFormatError
from adc_features.extras import extra_modules
from adc_features.redaction import redacted, redacted_url, without_secrets

WAIT = 5.0
"""Seconds that a writer waits for the one before it; writes take milliseconds."""
DATABASE, VARIABLE = "catalog.db", "ADC_CATALOG"
"""The file of a run's own catalogue, and the environment variable that names another's URL."""
DRIVERS = {"sqlite": {"pysqlite"}, "postgresql": {"psycopg", "psycopg2", "pg8000"}}
"""What a catalogue may lie on, by kind, and the drivers that reach it; none that is
asynchronous.
"""


class Catalog:
    """An open catalogue.

    Every list is in the order of registration; times are aware UTC. `catalog_to_read` opens one.

    Parameters
    ----------
    engine : sqlalchemy.Engine
        A database whose tables are up to date.
    url : str
        Its URL, which error messages name without secrets.

    Examples
    --------
    >>> with catalog_to_read(f"sqlite:///{folder}/catalog.db") as catalog:
    ...     catalog.promotions(), catalog.events()
    ([], [])
    """

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine, self._url = engine, url

    def generations(self) -> list[dict[str, Any]]:
        """The registered generations.

        Returns
        -------
        list of dict
            Each with `id`, `codebook_hash`, `parent_codebook_hash`, `directory`, `trained_through`,
            `state` (live, removing, removed) and `registered_at`.
        """
        return self._rows(GENERATIONS, "registered_at", "trained_through")

    def snapshots(self) -> list[dict[str, Any]]:
        """The published snapshots.

        Returns
        -------
        list of dict
            Each with `generation`, `as_of`, `servable_at`,
            `computed_at`, `hindsight`, `items` and `registered_at`.
        """
        return self._rows(SNAPSHOTS, "generation", "as_of")

    def rankers(self) -> list[dict[str, Any]]:
        """The registered rankers.

        Returns
        -------
        list of dict
            Each with `hash`, `directory`, `recipe`, `generation`, `trained_through`, `state`
            (ready, removing, removed) and `registered_at`.
        """
        return self._rows(RANKERS, "registered_at", "directory")

    def promotions(self) -> list[dict[str, Any]]:
        """The promotions.

        Returns
        -------
        list of dict
            Each with `number`, `ranker` (its hash), `generation`, `codebook_hash`, `promoted_at`
            and `state` (pending, serving, retired or abandoned).
        """
        return self._rows(PROMOTIONS, "number")

    def runs(self) -> list[dict[str, Any]]:
        """The calls of `adc retrain`.

        Returns
        -------
        list of dict
            Each with `number`, `command`, `started_at`, `ended_at`, `state` (running, killed, or
            how it ended) and `facts`.
        """
        return self._rows(RUNS, "number")

    def events(self) -> list[dict[str, Any]]:
        """Every change, oldest first.

        Returns
        -------
        list of dict
            Each with `number`, `at`, `event`, `subject` and `facts`.
        """
        return self._rows(EVENTS, "number")

    def _rows(self, table: Table, *order: str) -> list[dict[str, Any]]:
        with _in_words(self.engine, self._url), self.engine.connect() as connection:
            return _read(connection, select(table).order_by(*(table.c[name] for name in order)))

    @contextmanager
    def write(self, *, at: datetime) -> Iterator["Writer"]:
        """Change the catalogue in one transaction, which an exception undoes whole.

        Parameters
        ----------
        at : datetime
            Aware; stamps the events.

        Yields
        ------
        Writer
            There is one at a time.

        Raises
        ------
        InputError
            Another writer held the catalogue for too long, or `at` has no time zone.
        """
        with (
            _in_words(self.engine, self._url),
            only_one(self.engine, "write", wait=WAIT),
            self.engine.begin() as connection,
        ):
            yield Writer(connection, utc(at, name="at"))

    @contextmanager
    def alone(self, name: str, *, wait: float = 0.0) -> Iterator[None]:
        """Hold a lock for as long as the block runs.

        Parameters
        ----------
        name : str
            "retrain", "gc" or "deploy".
        wait : float
            Seconds to wait for another holder.

        Raises
        ------
        InputError
            Another process still holds it.
        """
        with ExitStack() as stack:
            with _in_words(self.engine, self._url):
                stack.enter_context(only_one(self.engine, name, wait=wait))
            yield


class Writer:
    """One transaction. What is put twice is changed once: an event tells of each real change."""

    def __init__(self, connection: Connection, at: datetime) -> None:
        self._connection, self.at = connection, at

    def put(
        self, table: Table, key: Mapping[str, Any], values: Mapping[str, Any], *, event: str
    ) -> bool:
        """Insert the row of this key, or change what differs; True when anything did."""
        where = and_(*(table.c[name] == value for name, value in key.items()))
        found = next(iter(_read(self._connection, select(table).where(where))), None)
        changed = {
            name: value for name, value in values.items() if found is None or found[name] != value
        }
        if found is not None and not changed:
            return False
        if found is None:
            stamp = {"registered_at": self.at} if "registered_at" in table.c else {}
            self._connection.execute(table.insert().values(**key, **values, **stamp))
        else:
            self._connection.execute(table.update().where(where).values(**changed))
        self.record(event, "/".join(_plain(value) for value in key.values()), changed)
        return True

    def add(self, table: Table, values: Mapping[str, Any], *, event: str) -> int:
        """Append a numbered row (a promotion, a run); returns its number."""
        inserted = self._connection.execute(table.insert().values(**values))
        number = int(inserted.inserted_primary_key[0])  # type: ignore[index]
        self.record(event, str(number), values)
        return number

    def record(self, event: str, subject: str, facts: Mapping[str, Any]) -> None:
        """Append an event."""
        self._connection.execute(
            EVENTS.insert().values(
                at=self.at, event=event, subject=subject, facts=json.loads(json_text(facts))
            )
        )

    def rows(self, table: Table, **where: Any) -> list[dict[str, Any]]:
        """Rows as this transaction sees them."""
        wanted = (table.c[name] == value for name, value in where.items())
        return _read(self._connection, select(table).where(*wanted))


def _read(connection: Connection, wanted: Select[Any]) -> list[dict[str, Any]]:
    """The rows of a query. Raises InputError for values that are not of their column's type."""
    try:
        return [dict(row) for row in connection.execute(wanted).mappings()]
    except (ValueError, TypeError, LookupError) as error:  # text, times and JSON that are none
        raise InputError(
            f"the catalogue holds a value that nobody wrote ({error}): the file is damaged, restore"
            " it from a copy, or move it away: the next command starts a new one"
        ) from None


def open_catalog(url: str) -> Catalog:
    """Open the catalogue at a URL, to read and to write.

    It is made or brought up to date first.

    Parameters
    ----------
    url : str
        An SQLAlchemy URL of SQLite or PostgreSQL.

    Returns
    -------
    Catalog

    Raises
    ------
    InputError
        A URL that is none, a database of another kind or that cannot be reached, and one that
        another writer holds.
    ArtifactError
        A newer version of this library wrote the catalogue, or the database holds something else.
    """
    engine = _engine(url)
    with _in_words(engine, url):
        if engine.dialect.name == "sqlite":
            try:
                Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(
                    f"the catalogue {redacted_url(url)} cannot be made ({error}); give a place that"
                    " may be written"
                ) from error
        _upgrade(engine)
    return Catalog(engine, url)


@contextmanager
def catalog_to_read(url: str) -> Iterator[Catalog]:
    """Open the catalogue at a URL for as long as the block runs, to read only.

    Files that cannot be written here are copied aside first, and the copy is read. Tables of an
    older version are brought up to date, in the copy where there is one.

    Parameters
    ----------
    url : str
        An SQLAlchemy URL of SQLite or PostgreSQL; by default a run's is `sqlite:///RUN/catalog.db`.

    Yields
    ------
    Catalog

    Raises
    ------
    InputError, ArtifactError
        A URL that is none, a database that cannot be reached, or one that holds something else.

    Examples
    --------
    >>> with catalog_to_read(f"sqlite:///{folder}/catalog.db") as catalog:
    ...     [generation["id"] for generation in catalog.generations()]
    []
    """
    with _readable(url) as place:
        yield open_catalog(place)


@contextmanager
def _readable(url: str) -> Iterator[str]:
    """The catalogue's own URL, or that of a copy where its files cannot be written here."""
    database = Path(str(_engine(url).url.database)) if url.startswith("sqlite") else None
    if database is None or _writable(database):
        yield url
        return
    with tempfile.TemporaryDirectory(prefix="adc-catalog-") as aside:
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{database}{suffix}", f"{aside}/{database.name}{suffix}")
        yield f"sqlite:///{aside}/{database.name}"


def revisions(url: str) -> tuple[str | None, str]:
    """The revision that the catalogue is of (None before its first) and the one that this version
    writes; changes nothing. Raises as `open_catalog`.
    """
    with _readable(url) as place:
        engine = _engine(place)
        with _in_words(engine, place):
            found = _revision(engine, _migrations()[1])
    return found, _migrations()[1].get_current_head() or "none"


@contextmanager
def undisturbed(url: str) -> Iterator[None]:
    """No retraining, clean-up or promotion of the catalogue's deployment while the block runs;
    raises InputError when there is one.
    """
    engine = _engine(url)
    with ExitStack() as stack:
        with _in_words(engine, url):
            for name in ("retrain", "gc", "deploy"):
                stack.enter_context(only_one(engine, name, wait=0.0))
        yield


def _writable(database: Path) -> bool:
    files = [
        p
        for p in (database, *database.parent.glob(f"{glob.escape(database.name)}-*"))
        if p.exists()
    ]
    place = next((p for p in database.parents if p.exists()), Path("/"))
    return all(os.access(p, os.W_OK) for p in (place, *files))


def _engine(url: str) -> Engine:
    """Its engine, nothing opened yet. A connection ends with the block that it was opened for: a
    pool would keep it until the garbage collector comes, at no gain for a few statements a command.
    """
    shown = redacted_url(url)
    try:
        parsed = make_url(url)
        kind, driver = (
            parsed.get_backend_name(),
            (parsed.get_driver_name() if parsed.get_backend_name() in DRIVERS else ""),
        )
    except (SQLAlchemyError, ValueError) as error:
        raise InputError(
            f"{shown!r} is no catalogue ({without_secrets(str(error), url)}); give an SQLAlchemy"
            " URL such as sqlite:///runs/demo/catalog.db"
        ) from None
    except ImportError:
        kind, driver = parsed.get_backend_name(), parsed.drivername.partition("+")[2]
    if kind not in DRIVERS or (driver and driver not in DRIVERS[kind]):
        raise InputError(
            f"{shown!r} is no catalogue, it is of the kind {parsed.drivername}; a catalogue lies on"
            " SQLite or PostgreSQL, which have locks that a crash releases: give sqlite:///PATH or"
            " postgresql+psycopg://USER@HOST/DATABASE"
        )
    if kind == "sqlite" and (
        parsed.query
        or parsed.database in (None, "", ":memory:")
        or str(parsed.database).startswith("file:")
    ):
        raise InputError(
            f"{shown!r} is no file's path; a catalogue must outlive the command: give"
            " sqlite:///PATH"
        )
    try:
        if kind == "sqlite":
            engine = create_engine(url, poolclass=NullPool, connect_args={"timeout": WAIT})
            event.listen(engine, "connect", _durable)
        else:
            engine = create_engine(url, poolclass=NullPool)
            event.listen(engine, "connect", _patient)
        return engine
    except ImportError as error:
        raise InputError(
            f"{shown!r} needs a driver that is not installed ({error}); pip install"
            ' "adc-features[postgres]" brings psycopg, named as postgresql+psycopg://'
        ) from None
    except (SQLAlchemyError, TypeError, ValueError) as error:
        raise InputError(
            f"{shown!r} is no catalogue ({without_secrets(str(error), url)}); correct the URL"
        ) from None


@contextmanager
def _in_words(engine: Engine, url: str) -> Iterator[None]:
    """What the database refuses, as an InputError
    that names the catalogue and holds none of its secrets.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(
            f"the catalogue {redacted_url(url)} holds text that is none ({error}): the file is"
            " damaged, restore it from a copy, or move it away: the next command starts a new one"
        ) from None
    except SQLAlchemyError as error:
        said = without_secrets(str(getattr(error, "orig", None) or error), url)
        if any(
            words in said
            for words in (
                "database is locked",
                "database table is locked",
                "lock timeout",
                "database is busy",
            )
        ):
            raise InputError(held_elsewhere(engine)) from None
        raise InputError(
            f"the catalogue {redacted_url(url)} cannot be used ({said}); check that the database"
            " runs and may be written. Passwords are hidden here and kept nowhere: give one in"
            " --catalog, in $ADC_CATALOG, or in what the driver reads, such as PGPASSWORD"
        ) from None


def _durable(connection: Any, _: Any) -> None:
    connection.execute(f"PRAGMA busy_timeout={int(1000 * WAIT)}")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")


def _patient(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {int(1000 * WAIT)}")
    here = "".join(c for c in socket.gethostname() if c.isalnum() or c in "-.")[:30]
    # what another one says of who holds a lock
    cursor.execute(f"SET application_name = 'adc process {os.getpid()} on {here}'")
    cursor.close()
    connection.commit()


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _migrations() -> tuple[Any, Any]:
    """Alembic's configuration and its scripts."""
    with extra_modules():
        from alembic.config import Config
        from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option(
        "script_location", str(Path(__file__).parent / "migrations").replace("%", "%%")
    )
    return config, ScriptDirectory.from_config(config)


def _revision(engine: Engine, scripts: Any) -> str | None:
    """The revision that a catalogue is of; raises ArtifactError for one that is not known here."""
    from alembic.runtime.migration import MigrationContext

    with engine.connect() as connection:
        now = MigrationContext.configure(connection).get_current_revision()
        strangers = inspect(connection).has_table(EVENTS.name) and now is None
    if strangers or (now is not None and now not in {s.revision for s in scripts.walk_revisions()}):
        raise (ArtifactError if now is None else NewerFormatError)(
            f"the catalogue {redacted(engine.url.render_as_string())} has revision {now or 'none'},"
            f" this library knows up to {scripts.get_current_head()}: a newer version, or another"
            " program, wrote it; use that version, or give another database"
        )
    return now


def _upgrade(engine: Engine) -> None:
    from alembic import command

    config, scripts = _migrations()
    if _revision(engine, scripts) == scripts.get_current_head():
        return
    with only_one(engine, "write", wait=WAIT), engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
