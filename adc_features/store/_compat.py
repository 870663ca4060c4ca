"""The one door to feast. Reads: nothing. Writes: nothing.

Importing it costs what `import feast` costs (6-9 s), so the other modules of `store` import it inside functions. Feast ships
monthly and moves private names: every name that we use passes through here, and a test imports it.
"""

import atexit
import contextlib
import gc
import io
import logging
import os
from collections.abc import Iterator

os.environ.setdefault("FEAST_USAGE", "False")

from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float32, Float64, Int32, Int64, String

__all__ = [
    "Array",
    "Bool",
    "Entity",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "Field",
    "FileSource",
    "Float32",
    "Float64",
    "Int32",
    "Int64",
    "ParquetFormat",
    "RepoConfig",
    "String",
    "ValueType",
    "quiet",
]

_log = logging.getLogger(__name__)


@atexit.register
def _release_duckdb() -> None:
    """Let go of the DuckDB connection that ibis keeps until the interpreter ends; DuckDB then prints forty lines of leaks."""
    with contextlib.suppress(ImportError):
        import ibis

        ibis.options.default_backend = None
        gc.collect()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what Feast prints (coloured headings, progress bars); it goes to the debug log, and errors still fly."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            yield
    finally:
        if text := said.getvalue().strip():
            _log.debug("feast said: %s", text)
