"""Examples in docstrings that need nothing else run; those of public names run in
`packaging/test_public_docstrings.py`. Reads: modules of the library.
"""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "adc_features.pipeline.run_settings",
        "adc_features.ranking.legacy.inputs",
        "adc_features.ranking.legacy.shape",
        "adc_features.serving.protocol",
        "adc_features.tokenizer.settings",
    ],
)
def test_examples_in_docstrings_run(name: str) -> None:
    """What a docstring shows is what happens."""
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
