"""The tables of the catalogue. Migrations under `migrations/` make them; a test holds the two
against each other.

All times are aware UTC. Directories lie relative to the deployment's own, so that it may be moved.
Numbers rise with every promotion, run and event: a clock that steps back cannot reorder them.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
)

from adc_features.clock import utc


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC in and out, on databases with time zones and on SQLite, which has none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return utc(value) if dialect.name != "sqlite" else utc(value).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        return (
            None
            if value is None
            else value.replace(tzinfo=UTC)
            if value.tzinfo is None
            else value.astimezone(UTC)
        )


METADATA = MetaData()
GENERATIONS = Table(
    "generations",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("codebook_hash", String(64), nullable=False),
    # of the generation that its codes are named after: the same line
    Column("parent_codebook_hash", String(64)),
    Column("directory", String(1024), nullable=False),
    Column("trained_through", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("registered_at", UtcTime, nullable=False),
)
SNAPSHOTS = Table(
    "snapshots",
    METADATA,
    Column("generation", String(64), primary_key=True),
    Column("as_of", UtcTime, primary_key=True),
    Column("servable_at", UtcTime, nullable=False),
    Column("computed_at", UtcTime, nullable=False),
    Column("hindsight", Boolean, nullable=False),
    Column("items", Integer, nullable=False),
    Column("registered_at", UtcTime, nullable=False),
)
RANKERS = Table(
    "rankers",
    METADATA,
    Column("hash", String(64), primary_key=True),
    Column("directory", String(1024), nullable=False),
    Column("recipe", String(64), nullable=False),
    Column("generation", String(64)),
    Column("trained_through", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    Column("registered_at", UtcTime, nullable=False),
)
PROMOTIONS = Table(
    "promotions",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("ranker", String(64), nullable=False),
    Column("generation", String(64)),
    Column("codebook_hash", String(64)),
    Column("promoted_at", UtcTime, nullable=False),
    Column("state", String(16), nullable=False),
    sqlite_autoincrement=True,
)
RUNS = Table(
    "runs",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("command", String(64), nullable=False),
    Column("started_at", UtcTime, nullable=False),
    Column("ended_at", UtcTime),
    Column("state", String(16), nullable=False),
    Column("facts", JSON, nullable=False),
    sqlite_autoincrement=True,
)
EVENTS = Table(
    "events",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("event", String(64), nullable=False),
    Column("subject", String(128), nullable=False),
    Column("facts", JSON, nullable=False),
    sqlite_autoincrement=True,
)
