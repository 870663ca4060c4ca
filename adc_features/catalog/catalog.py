"""The catalogue: read by anyone, changed by one writer at a time. Reads and writes: a database that SQLAlchemy reaches."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, and_, create_engine, event, inspect, select
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from adc_features.artifact import json_text
from adc_features.catalog.lock import only_one
from adc_features.catalog.tables import EVENTS, GENERATIONS, PROMOTIONS, RANKERS, RUNS, SNAPSHOTS
from adc_features.clock import utc
from adc_features.errors import ArtifactError, InputError

WAIT = 30.0
"""Seconds that a writer waits for the one before it; writes take milliseconds."""


class Catalog:
    """An open catalogue. Every list is in the order of registration; times are aware UTC."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generations(self) -> list[dict[str, Any]]:
        """id, codebook_hash, parent_codebook_hash, directory, trained_through, state (live, removing, removed), registered_at."""
        return self._rows(GENERATIONS, "registered_at", "trained_through")

    def snapshots(self) -> list[dict[str, Any]]:
        """generation, as_of, servable_at, computed_at, hindsight, items, registered_at."""
        return self._rows(SNAPSHOTS, "generation", "as_of")

    def rankers(self) -> list[dict[str, Any]]:
        """hash, directory, recipe, generation, trained_through, state (ready, removing, removed), registered_at."""
        return self._rows(RANKERS, "registered_at", "directory")

    def promotions(self) -> list[dict[str, Any]]:
        """number, ranker (hash), generation, codebook_hash, promoted_at, state: pending, serving, retired or abandoned."""
        return self._rows(PROMOTIONS, "number")

    def runs(self) -> list[dict[str, Any]]:
        """number, command, started_at, ended_at, state (running, killed, or how it ended), facts."""
        return self._rows(RUNS, "number")

    def events(self) -> list[dict[str, Any]]:
        """number, at, event, subject, facts: every change, oldest first."""
        return self._rows(EVENTS, "number")

    def _rows(self, table: Table, *order: str) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(select(table).order_by(*(table.c[name] for name in order))).mappings()]

    @contextmanager
    def write(self, *, at: datetime) -> Iterator["Writer"]:
        """Change the catalogue: one transaction of the one writer; an exception undoes all of it. at: aware UTC, stamps the events."""
        with only_one(self.engine, "write", wait=WAIT), self.engine.begin() as connection:
            yield Writer(connection, utc(at, name="at"))

    @contextmanager
    def alone(self, name: str, *, wait: float = 0.0) -> Iterator[None]:
        """Hold `name` (retrain, gc, deploy) for as long as the block runs; raises InputError when another process does, after `wait` seconds."""
        with only_one(self.engine, name, wait=wait):
            yield


class Writer:
    """One transaction. What is put twice is changed once: an event tells of each real change."""

    def __init__(self, connection: Connection, at: datetime) -> None:
        self._connection, self.at = connection, at

    def put(self, table: Table, key: Mapping[str, Any], values: Mapping[str, Any], *, event: str) -> bool:
        """Insert the row of this key, or change what differs; True when anything did."""
        where = and_(*(table.c[name] == value for name, value in key.items()))
        found = self._connection.execute(select(table).where(where)).mappings().first()
        changed = {name: value for name, value in values.items() if found is None or found[name] != value}
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
        number = int(self._connection.execute(table.insert().values(**values)).inserted_primary_key[0])  # type: ignore[index]
        self.record(event, str(number), values)
        return number

    def record(self, event: str, subject: str, facts: Mapping[str, Any]) -> None:
        """Append an event."""
        self._connection.execute(EVENTS.insert().values(at=self.at, event=event, subject=subject, facts=json.loads(json_text(facts))))

    def rows(self, table: Table, **where: Any) -> list[dict[str, Any]]:
        """Rows as this transaction sees them."""
        found = self._connection.execute(select(table).where(*(table.c[name] == value for name, value in where.items())))
        return [dict(row) for row in found.mappings()]


def open_catalog(url: str) -> Catalog:
    """Open the catalogue at an SQLAlchemy URL, made or brought up to date first.

    Raises InputError for a URL that is none or a database that cannot be reached, ArtifactError when a newer version of this library
    wrote the catalogue or the database holds something else.
    """
    try:
        engine = create_engine(url)
        if engine.dialect.name == "sqlite":
            Path(str(engine.url.database)).parent.mkdir(parents=True, exist_ok=True)
            event.listen(engine, "connect", _durable)
        _upgrade(engine)
    except (ArgumentError, NoSuchModuleError) as error:
        raise InputError(f"{url!r} is no catalogue ({error}); give an SQLAlchemy URL such as sqlite:///runs/demo/catalog.db") from error
    except DBAPIError as error:
        raise InputError(
            f"the catalogue {engine.url.render_as_string()} cannot be used ({error.orig}); check that the database runs and may be written"
        ) from error
    return Catalog(engine)


def _durable(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=30000")


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _upgrade(engine: Engine) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        now = MigrationContext.configure(connection).get_current_revision()
        strangers = inspect(connection).has_table(EVENTS.name) and now is None
    if now == scripts.get_current_head():
        return
    if strangers or (now is not None and now not in {s.revision for s in scripts.walk_revisions()}):
        raise ArtifactError(
            f"the catalogue {engine.url.render_as_string()} has revision {now or 'none'}, this library knows up to {scripts.get_current_head()}: "
            "a newer version, or another program, wrote it; use that version, or give another database"
        )
    with only_one(engine, "write", wait=WAIT), engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
