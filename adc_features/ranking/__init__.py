"""A trained ranker: load it and score with it."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.ranking.recipes import Recipe, Sources
    from adc_features.ranking.trained import Trained, load_trained
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "Recipe": "recipes",
            "Sources": "recipes",
            "Trained": "trained",
            "load_trained": "trained",
        },
    )

__all__ = ["Recipe", "Sources", "Trained", "load_trained"]
