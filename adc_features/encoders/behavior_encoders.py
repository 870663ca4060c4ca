"""The encoders of behaviour, by name. Reads: settings. Writes: the learner that they are for."""

from typing import NamedTuple

from adc_features.encoders.behavior_settings import (
    BehaviorSettings,
    ContentSettings,
    FactorSettings,
    Settings,
)
from adc_features.encoders.evidence import Learner
from adc_features.encoders.factors import factorise
from adc_features.encoders.sasrec_training import train, train_with_content


class Encoder(NamedTuple):
    """settings: their class. recipe: of the encoder where nobody names another. reads_content:
    whether the items' content is evidence too.
    """

    settings: type
    recipe: str
    learn: Learner
    reads_content: bool


ENCODERS: dict[str, Encoder] = {
    "sasrec": Encoder(BehaviorSettings, "full_softmax", train, False),
    "sasrec_content": Encoder(ContentSettings, "sasrec_content", train_with_content, True),
    "wmf_content": Encoder(FactorSettings, "wmf_content", factorise, True),
}


def encoder_of(settings: Settings) -> Encoder:
    """The encoder that these settings are for."""
    return next(e for e in ENCODERS.values() if e.settings is type(settings))
