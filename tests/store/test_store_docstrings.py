"""What the store says of its public names. Reads: docstrings of adc_features.store."""

import doctest
import importlib
import inspect
import re

import pytest

from adc_features import store
from adc_features.store.compute_engine import ArrowComputeEngine
from adc_features.store.offline_store import AsofOfflineStore
from adc_features.store.online_store import LmdbOnlineStore

PUBLIC = {name: getattr(store, name) for name in store.__all__}


def sections(text: str) -> dict[str, str]:
    """Title -> content of the sections of a NumPy docstring."""
    parts = re.split(r"^(\w[\w ]*)\n-+\n", inspect.cleandoc(text), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", [n for n, value in PUBLIC.items() if inspect.isfunction(value)])
def test_every_argument_and_result_of_a_public_function_is_described(name):
    """`Parameters` names each argument once, `Returns` is there where something is returned."""
    function = PUBLIC[name]
    found, signature = sections(function.__doc__ or ""), inspect.signature(function)
    lines = re.findall(r"^(\w[\w, ]*) : ", found.get("Parameters", ""), flags=re.MULTILINE)
    told = [argument.strip() for line in lines for argument in line.split(",")]
    assert told == [*signature.parameters]
    assert ("Returns" in found) == (signature.return_annotation not in (None, "None"))


@pytest.mark.parametrize(
    "shown",
    [v for v in PUBLIC.values() if inspect.isclass(v)]
    + [AsofOfflineStore, LmdbOnlineStore, ArrowComputeEngine],
    ids=lambda shown: shown.__name__,
)
def test_a_public_class_says_what_it_is_for(shown):
    """A summary line of its own, then more."""
    summary, _, rest = inspect.cleandoc(shown.__doc__ or "").partition("\n\n")
    assert summary.endswith(".")
    assert rest


@pytest.mark.parametrize("module", sorted({value.__module__ for value in PUBLIC.values()}))
def test_examples_run(module):
    """Every example of a public name returns what it says."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0
