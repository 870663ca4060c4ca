"""The examples in docstrings run. Reads: the modules of loader, ranking and serving."""

import doctest
import importlib

import pytest

MODULES = (
    "adc_features.loader.batches",
    "adc_features.loader.columns",
    "adc_features.loader.row_groups",
    "adc_features.loader.torch_batches",
    "adc_features.loader.xgboost_batches",
    "adc_features.ranking.inputs",
    "adc_features.ranking.ppnet.shape",
    "adc_features.serving.promotion",
    "adc_features.serving.protocol",
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name):
    """Each example of a docstring prints what stands below it."""
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed
