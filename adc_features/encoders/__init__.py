"""Item vectors from text and from behaviour. Reads: items, interactions. Writes: vectors with
presence masks.
"""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.encoders.behavior import behavior_series
    from adc_features.encoders.text import text_vectors
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "behavior_series": "behavior",
            "text_vectors": "text",
        },
    )

__all__ = ["behavior_series", "text_vectors"]
