"""The refresh schedules of a run. Reads: its settings, its repository. Writes: schedules.

The setting `refresh` of a run holds VIEW=SCHEDULE, comma-separated; without it the run's repository
says how its views are refreshed (feature_store.yaml), else every row is fresh.
"""

from collections.abc import Mapping
from pathlib import Path

from adc_features.codes.sids import CodeTimeline
from adc_features.pipeline.run_settings import RunSettings
from adc_features.store.freshness import asked_refresh, declared_refresh, online_timeline
from adc_features.store.refresh import RefreshSchedule, parse_refreshes
from adc_features.store.repository import sid_view_name


def views_of(settings: RunSettings) -> dict[str, str | None]:
    """The views that a run joins -> the generation whose codes they hold."""
    generation = settings.generation
    return {sid_view_name(generation): generation, "item_profile": None, "user_activity": None}


def refresh_of(
    repo: Path, settings: RunSettings, asked: Mapping[str, str] | None = None
) -> dict[str, RefreshSchedule]:
    """View -> schedule, of a run's views that are not fresh. asked: in place of its setting."""
    views = views_of(settings)
    if asked is None:
        if settings.refresh is None:
            return declared_refresh(repo, views)
        asked = parse_refreshes(settings.refresh.split(",")) if settings.refresh else {}
    return asked_refresh(repo, asked, views)


def codes_online(
    timeline: CodeTimeline, settings: RunSettings, refresh: Mapping[str, RefreshSchedule]
) -> CodeTimeline:
    """The run's codes through time as they were online."""
    return online_timeline(timeline, refresh.get(sid_view_name(settings.generation)))
