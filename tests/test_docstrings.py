"""Examples in docstrings run. Reads: modules of the library."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "adc_features.codes.sids",
        "adc_features.data.dataset",
        "adc_features.pipeline.run_settings",
        "adc_features.tokenizer.settings",
    ],
)
def test_examples_in_docstrings_run(name: str) -> None:
    """What a docstring shows is what happens."""
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
