"""The shop's stores on PostgreSQL (offline) and Redis (online): private servers of a test."""

from typing import Any

import psycopg
import pyarrow as pa

_TYPES = {
    pa.string(): "text",
    pa.bool_(): "boolean",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.timestamp("us", "UTC"): "timestamptz",
}


def server_stores(variables: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The offline_store and online_store blocks."""
    postgres = {
        "type": "postgres",
        "host": variables["ADC_POSTGRES_HOST"],
        "port": int(variables["ADC_POSTGRES_PORT"]),
        "database": variables["ADC_POSTGRES_DATABASE"],
        "db_schema": "public",
        "user": variables["ADC_POSTGRES_USER"],
        "password": variables["ADC_POSTGRES_PASSWORD"],
        "sslmode": "prefer",
    }
    address = f"{variables['ADC_REDIS_HOST']}:{variables['ADC_REDIS_PORT']}"
    return postgres, {"type": "redis", "connection_string": address}


POSTGRES_SOURCE = """
from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
    PostgreSQLSource,
)


def source(name):
    return PostgreSQLSource(
        name=f"{name}_rows", query=f"SELECT * FROM {name}", timestamp_field="happened_at"
    )

"""
"""Text of definitions that declares `source` over the tables of `postgres_rows`."""


def postgres_rows(variables: dict[str, str]) -> Any:
    """Puts rows into tables of a database."""

    def written(name: str, rows: pa.Table) -> None:
        columns = ", ".join(f"{field.name} {_sql(field.type)}" for field in rows.schema)
        marks = ", ".join(["%s"] * rows.num_columns)
        address = " ".join(
            f"{key}={variables['ADC_POSTGRES_' + key.upper()]}" for key in ("host", "port", "user")
        )
        with psycopg.connect(f"{address} dbname={variables['ADC_POSTGRES_DATABASE']}") as session:
            session.execute(f"CREATE TABLE {name} ({columns})")
            session.cursor().executemany(
                f"INSERT INTO {name} VALUES ({marks})",
                [tuple(row.values()) for row in rows.to_pylist()],
            )

    return written


def postgres_source(variables: dict[str, str]) -> Any:
    """Rows as tables of a database, and the source of them."""
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
        PostgreSQLSource,
    )

    put = postgres_rows(variables)

    def written(name: str, rows: pa.Table) -> Any:
        put(name, rows)
        return PostgreSQLSource(
            name=f"{name}_rows",
            query=f"SELECT * FROM {name}",
            timestamp_field="event_timestamp",
        )

    return written


def _sql(kind: pa.DataType) -> str:
    if pa.types.is_list(kind):
        return f"{_TYPES[kind.value_type]}[]"
    return _TYPES[kind]
