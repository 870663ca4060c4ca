"""Semantic IDs as values: item vectors, generations, codes with their weights."""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.codes.embeddings import EmbeddingTable
    from adc_features.codes.generation import Generation, open_generation
    from adc_features.codes.sids import SidTable
    from adc_features.codes.spec import SidSpec
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "EmbeddingTable": "embeddings",
            "Generation": "generation",
            "SidSpec": "spec",
            "SidTable": "sids",
            "open_generation": "generation",
        },
    )

__all__ = ["EmbeddingTable", "Generation", "SidSpec", "SidTable", "open_generation"]
