"""What a run hands on to its tokenizer."""

import pytest

from adc_features.errors import InputError
from adc_features.pipeline.recipes import tokenizer_settings
from adc_features.pipeline.run import RunSettings


def test_a_baseline_takes_the_options_that_it_has():
    """--tokenizer letter --steps 70 is LETTER of 70 steps; k-means has no steps and says so; an
    unknown name lists the known.
    """
    letter = tokenizer_settings(RunSettings("synthetic", tokenizer="letter", steps=70))
    assert (letter.tokenizer, letter.steps) == ("letter", 70)
    assert (
        tokenizer_settings(
            RunSettings("synthetic", tokenizer="opq", reliability="norm")
        ).reliability
        == "norm"
    )
    with pytest.raises(InputError, match="'rq_kmeans' has no steps"):
        tokenizer_settings(RunSettings("synthetic", tokenizer="rq_kmeans", steps=70))
    with pytest.raises(InputError, match="mm_rq_vae"):
        tokenizer_settings(RunSettings("synthetic", tokenizer="tiger"))
