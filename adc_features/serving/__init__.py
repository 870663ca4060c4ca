"""Rank and look up over HTTP what a promotion names."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.serving.opening import open_bundle
    from adc_features.serving.promotion import Promotion, promote, read_promotion
    from adc_features.serving.scoring import Bundle
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "Bundle": "scoring",
            "Promotion": "promotion",
            "open_bundle": "opening",
            "promote": "promotion",
            "read_promotion": "promotion",
        },
    )

__all__ = [
    "Bundle",
    "Promotion",
    "open_bundle",
    "promote",
    "read_promotion",
]
