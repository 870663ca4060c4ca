"""The tokenizers by name: ADC-SID, its ablations, and the baselines. Writes: settings."""

from collections.abc import Callable
from dataclasses import replace

from adc_features.codes.generation import Generation
from adc_features.tokenizer import baselines
from adc_features.tokenizer.baselines.mmq import mmq
from adc_features.tokenizer.model import AdcSettings


def adc() -> AdcSettings:
    """ADC-SID with every gap closed; x from interaction counts. The controller halves at x = 0.2,
    which leaves the 40 % rarest rows of Beauty out, as the paper intends; under counts its own (10,
    9) would leave out all but 1 %.
    """
    return AdcSettings()


def adc_norm() -> AdcSettings:
    """The faithful reading: x from the norm of the behaviour vector,
    alpha = 10, beta = 9 (section 3.3.1).
    """
    return replace(raw_gate(), reliability="norm", alpha=10.0, beta=9.0)


def raw_gate() -> AdcSettings:
    """ADC-SID whose gate reads behaviour as long as it is, as the paper's: on generated catalogues
    its weights rank true reliability backwards (docs/evidence/tokenizers.md).
    """
    return replace(adc(), gate_input="raw")


def without_controller() -> AdcSettings:
    """Table 3, w/o alignment strength controller: every item aligns fully, w = 1."""
    return replace(adc(), alpha=0.0, beta=0.0)


def without_contrastive() -> AdcSettings:
    """Table 3, w/o behavior-content contrastive learning."""
    return replace(adc(), alignment_weight=0.0)


def without_gate() -> AdcSettings:
    """Table 3, w/o dynamic behavioral weighting gate: behavioural codes weigh 1."""
    return replace(adc(), gate_scale="equal", sparsity="off")


def without_sparsity() -> AdcSettings:
    """Table 3, w/o sparsely-activated training strategy: gates as dense as the loss likes them."""
    return replace(adc(), sparsity="off")


Settings = AdcSettings | baselines.Settings


RECIPES: dict[str, Callable[[], Settings]] = {
    **{
        recipe.__name__: recipe
        for recipe in (
            adc,
            adc_norm,
            raw_gate,
            without_controller,
            without_contrastive,
            without_gate,
            without_sparsity,
        )
    },
    "mmq": mmq,
    **baselines.RECIPES,
}


def name_of(settings: Settings) -> str:
    """The tokenizer that settings are of."""
    return "adc" if isinstance(settings, AdcSettings) else settings.tokenizer


def settings_of(generation: Generation) -> Settings:
    """The settings that a generation was fitted with. Raises ArtifactError when it does not hold
    those of its tokenizer.
    """
    name = generation.tokenizer
    if name == "adc":
        return AdcSettings.from_dict(generation.settings[name])
    return baselines.settings_of(generation)
