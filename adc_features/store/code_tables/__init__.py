"""Where the offline store reads codes from, if not from our Parquet files: tables of its database.
Reads: feature_store.yaml. Writes: tables.

A further store is one adapter: a class with the methods of `CodeTables`, and a line in `_ADAPTERS`.
"""

from collections.abc import Callable
from pathlib import Path

from adc_features.errors import InputError
from adc_features.store.code_tables.own_source import OwnSource
from adc_features.store.code_tables.postgres import PostgresTables
from adc_features.store.code_tables.tables import CodeFile, CodeTables, table_name
from adc_features.store.repository import (
    CONFIG,
    LiveGeneration,
    offline_store_type,
    read_config,
    settings,
)

__all__ = ["CodeFile", "CodeTables", "OwnSource", "code_tables", "tables_of"]

_READS_PARQUET = {
    "file": "DaskOfflineStore",
    "dask": "DaskOfflineStore",
    "duckdb": "DuckDBOfflineStore",
    "adc_features.store.offline_store.AsofOfflineStore": "AsofOfflineStore",
}
"""Offline stores whose views may lie in Parquet files -> their class."""

_ADAPTERS: dict[str, Callable[[Path], CodeTables]] = {
    "postgres": PostgresTables,
    "PostgreSQLOfflineStore": PostgresTables,
}
"""Offline store, by its short name and by its class -> what writes tables that it reads."""


def code_tables(repo: Path) -> CodeTables | None:
    """What writes codes where the repository's offline store reads them; None where it reads our
    Parquet files.

    Raises InputError for a store that we cannot write to, saying what to do.
    """
    kind, own = offline_store_type(read_config(repo)), settings(repo).code_source
    if own is not None:
        return OwnSource(repo, own)
    names = kind, kind.rpartition(".")[2]
    if kind in _READS_PARQUET or names[1] in _READS_PARQUET.values():
        return None
    for name in names:
        if name in _ADAPTERS:
            return _ADAPTERS[name](repo)
    raise InputError(
        f"the offline store of {repo} is {kind!r}: it reads no Parquet files, and codes can be"
        f" written to tables of {', '.join(n for n in _ADAPTERS if n.islower())} alone. Name a"
        " function of the repository that returns the source of a view of codes, under"
        f" adc_features in {CONFIG} (code_source: sources:codes); then codes are written as Parquet"
        " files, for you to load"
    )


def tables_of(repo: Path, live: LiveGeneration) -> tuple[CodeTables, str] | None:
    """The same for one generation, with the name of its table; None too for our own repositories,
    whose statistics are Parquet files as well.
    """
    if live.key is None or (tables := code_tables(repo)) is None:
        return None
    return tables, table_name(str(read_config(repo)["project"]), live)
