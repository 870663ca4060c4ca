"""What a run hands on to its tokenizer."""

import hashlib
import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from adc_features.data.synthetic import noisy_behavior, synthetic
from adc_features.encoders import behavior as behaviors
from adc_features.errors import InputError
from adc_features.pipeline import code_stages
from adc_features.pipeline.recipes import behavior_recipe, tokenizer_settings
from adc_features.pipeline.run import RunSettings
from adc_features.pipeline.stages import BEHAVIOR_STAGE, GENERATION
from adc_features.tokenizer import fit as fitting


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


def test_a_tokenizer_of_few_steps_warms_up_for_a_share_of_them():
    """30 steps are 18 without codes and 12 with them; of 600 the recipe's own 60 are without."""
    for steps, warm in ((30, 18), (100, 60), (600, 60)):
        settings = tokenizer_settings(RunSettings("synthetic", steps=steps))
        assert (settings.steps, settings.warmup_steps) == (steps, warm)


def test_an_encoder_of_behaviour_is_named_with_or_without_a_recipe_of_its_own():
    """An encoder has a recipe where nobody names one; that of another, or a name that there is not,
    is refused with those that there are.
    """
    assert behavior_recipe(None, None) is None
    assert behavior_recipe(None, "norm_rising") == "norm_rising"
    assert behavior_recipe("sasrec_content", None) == RunSettings("synthetic").behavior
    assert behavior_recipe("sasrec", None) == "full_softmax"
    assert behavior_recipe("sasrec", "norm_rising") == "norm_rising"
    assert behavior_recipe("wmf_content", None) == "wmf_content"
    with pytest.raises(InputError, match="'bert4rec'; expected one of sasrec, sasrec_content"):
        behavior_recipe("bert4rec", None)
    with pytest.raises(InputError, match="'norm_rising' is none of encoder 'sasrec_content'"):
        behavior_recipe("sasrec_content", "norm_rising")


def test_what_behaviour_is_made_of_names_the_text_model_where_it_reads_content():
    """Another text model makes other behaviour, for the encoders that read it."""
    made_of = BEHAVIOR_STAGE.recipe
    assert made_of is not None
    alone = RunSettings("synthetic", behavior="full_softmax")
    assert made_of(replace(alone, text_model="other")) == made_of(alone)
    for name in ("sasrec_content", "wmf_content"):
        found = made_of(RunSettings("synthetic", behavior=name, text_model="other"))
        assert found["text_model"] == "other"


def test_the_defaults_are_those_that_version_0_1_had():
    """Runs of version 0.1 do not hold the values of their recipes, so they are reused only while
    the first version of the two stages means these. Whoever changes a default: raise the `version`
    of BEHAVIOR_STAGE or GENERATION, then the hash here. A recipe that is new since is no default.
    """
    then = ("full_softmax", "norm_rising")
    behavior = {name: asdict(behaviors.RECIPES[name]()) for name in then}
    tokenizers = {
        name: recipe().to_dict()
        for name, recipe in fitting.RECIPES.items()
        if not name.startswith(("diger", "etegrec", "posterior", "qarm", "unisid_e2e"))
    }
    assert [sha(behavior), sha(tokenizers)] == ["1770a57a1c5b152c", "0c6fef91adc5c464"]
    assert (BEHAVIOR_STAGE.version, GENERATION.version) == (1, 1)


def sha(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def test_a_fit_gets_the_interactions_of_the_run(monkeypatch, tmp_path):
    """Tokenizers that learn from what users chose find them, all of them: `fit` takes those before
    the oldest cut-off.
    """

    class Asked(Exception):
        pass

    def fit(*_, events, **__):
        raise Asked(events.num_rows)

    world = synthetic(seed=0, items=150, users=100, interactions=900)
    made = world.dataset
    vectors = noisy_behavior(world, as_of=made.windows.validation_end, noise=1.0, seed=0)
    monkeypatch.setattr(fitting, "fit", fit)
    monkeypatch.setattr(code_stages, "embedding_tables", lambda _: [vectors.items])
    monkeypatch.setattr(code_stages, "dataset_of", lambda _: made)
    run = SimpleNamespace(
        settings=RunSettings("synthetic", tokenizer="diger"),
        progress=None,
        partial=lambda _: tmp_path,
    )
    with pytest.raises(Asked) as asked:
        code_stages._build_generation(run, tmp_path)
    assert asked.value.args == (made.interactions.num_rows,)
