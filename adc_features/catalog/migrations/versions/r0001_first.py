"""The first tables. A revision says what it makes and does not import it: what it made stays what
it was.
"""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "r0001", None
TIME = sa.DateTime(timezone=True)


def _text(name: str, length: int, *, key: bool = False, null: bool = False) -> sa.Column:
    return sa.Column(name, sa.String(length), primary_key=key, nullable=null)


def _time(name: str, *, key: bool = False, null: bool = False) -> sa.Column:
    return sa.Column(name, TIME, primary_key=key, nullable=null)


def _number() -> sa.Column:
    return sa.Column("number", sa.Integer, primary_key=True, autoincrement=True)


def upgrade() -> None:
    """Create the six tables."""
    op.create_table(
        "generations",
        _text("id", 64, key=True),
        _text("codebook_hash", 64),
        _text("parent_codebook_hash", 64, null=True),
        _text("directory", 1024),
        _time("trained_through"),
        _text("state", 16),
        _time("registered_at"),
    )
    op.create_table(
        "snapshots",
        _text("generation", 64, key=True),
        _time("as_of", key=True),
        _time("servable_at"),
        _time("computed_at"),
        sa.Column("hindsight", sa.Boolean, nullable=False),
        sa.Column("items", sa.Integer, nullable=False),
        _time("registered_at"),
    )
    op.create_table(
        "rankers",
        _text("hash", 64, key=True),
        _text("directory", 1024),
        _text("recipe", 64),
        _text("generation", 64, null=True),
        _time("trained_through"),
        _text("state", 16),
        _time("registered_at"),
    )
    op.create_table(
        "promotions",
        _number(),
        _text("ranker", 64),
        _text("generation", 64, null=True),
        _text("codebook_hash", 64, null=True),
        _time("promoted_at"),
        _text("state", 16),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "runs",
        _number(),
        _text("command", 64),
        _time("started_at"),
        _time("ended_at", null=True),
        _text("state", 16),
        sa.Column("facts", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "events",
        _number(),
        _time("at"),
        _text("event", 64),
        _text("subject", 128),
        sa.Column("facts", sa.JSON, nullable=False),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("events", "runs", "promotions", "rankers", "snapshots", "generations"):
        op.drop_table(name)
