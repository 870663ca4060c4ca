"""How any feature enters a ranker: declared, fitted, and turned into the arrays that models
read.

declaration -> resolution (with a ServiceSchema) -> encoder (fitted on training rows) -> Encoded.
The same encoder turns joined rows and a request's online rows into the same arrays. The names here
are what a declaration is written with.
"""

from typing import TYPE_CHECKING

from adc_features.extras import names_of

if TYPE_CHECKING:
    from adc_features.inputs.declaration import (
        Inputs,
        Ranker,
        Task,
        category,
        category_sequence,
        category_set,
        cross,
        flag,
        infer,
        item_history,
        match,
        number,
        remainder,
        semantic_id,
        skip,
        time,
        vector,
    )
    from adc_features.inputs.kinds import Input, VocabularyOptions
else:  # imported when a name is first read
    __getattr__ = names_of(
        __name__,
        {
            "Input": "kinds",
            "Inputs": "declaration",
            "Ranker": "declaration",
            "Task": "declaration",
            "VocabularyOptions": "kinds",
            "category": "declaration",
            "category_sequence": "declaration",
            "category_set": "declaration",
            "cross": "declaration",
            "flag": "declaration",
            "infer": "declaration",
            "item_history": "declaration",
            "match": "declaration",
            "number": "declaration",
            "remainder": "declaration",
            "semantic_id": "declaration",
            "skip": "declaration",
            "time": "declaration",
            "vector": "declaration",
        },
    )

__all__ = [
    "Input",
    "Inputs",
    "Ranker",
    "Task",
    "VocabularyOptions",
    "category",
    "category_sequence",
    "category_set",
    "cross",
    "flag",
    "infer",
    "item_history",
    "match",
    "number",
    "remainder",
    "semantic_id",
    "skip",
    "time",
    "vector",
]
