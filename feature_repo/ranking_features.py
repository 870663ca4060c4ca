"""Entities, statistics views and one service per ranker. Reads: the schemas of what was published
under data/.
"""

from pathlib import Path

from adc_features.store.definitions import entities, services, statistics_views

REPO = Path(__file__).parent
globals().update(
    {
        declared.name: declared
        for declare in (entities, statistics_views, services)
        for declared in declare(REPO)
    }
)
