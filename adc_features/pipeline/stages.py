"""The library's stages of a run, in order. Reads: a data source. Writes: stage directories and the
run's Feast repository.

    data -> text -> behavior -> generation -> codes -> publication -> online

`training.stages` goes on from here. `context` answers what the finished stages hold.
"""

from adc_features.codes.embeddings import id_array
from adc_features.pipeline.code_stages import CODES, GENERATION
from adc_features.pipeline.context import (
    content_vectors,
    cutoffs_of,
    dataset_of,
    embedding_tables,
    generation_of,
    known_interactions,
    raw_of,
    refresh_times,
    repository_of,
    servable_at,
    serving_time,
    snapshots_of,
    split_of,
    text_of,
    timeline_of,
)
from adc_features.pipeline.embedding_stages import BEHAVIOR_STAGE, DATA, TEXT, popularity_deciles
from adc_features.pipeline.publication_stages import (
    ONLINE,
    PUBLICATION,
    online_time,
    statistics_of,
)
from adc_features.pipeline.source import load_source

STAGES = (DATA, TEXT, BEHAVIOR_STAGE, GENERATION, CODES, PUBLICATION, ONLINE)

__all__ = [
    "BEHAVIOR_STAGE",
    "CODES",
    "DATA",
    "GENERATION",
    "ONLINE",
    "PUBLICATION",
    "STAGES",
    "TEXT",
    "content_vectors",
    "cutoffs_of",
    "dataset_of",
    "embedding_tables",
    "generation_of",
    "id_array",
    "known_interactions",
    "load_source",
    "online_time",
    "popularity_deciles",
    "raw_of",
    "refresh_times",
    "repository_of",
    "servable_at",
    "serving_time",
    "snapshots_of",
    "split_of",
    "statistics_of",
    "text_of",
    "timeline_of",
]
