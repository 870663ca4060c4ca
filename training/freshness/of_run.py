"""The refresh schedules of a run. Reads: its settings, its repository. Writes: schedules.

The setting `refresh` of a run holds VIEW=SCHEDULE, comma-separated; without it the run's repository
says how its views are refreshed (feature_store.yaml), else every row is fresh.
"""

from adc_features.codes.sids import CodeTimeline
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import repository_of
from adc_features.store.freshness import asked_refresh, declared_refresh, online_timeline
from adc_features.store.refresh import RefreshSchedule, parse_refreshes
from adc_features.store.repository import sid_view_name


def views_of(run: Run) -> dict[str, str | None]:
    """The views that a run joins -> the generation whose codes they hold."""
    generation = run.settings.generation
    return {sid_view_name(generation): generation, "item_profile": None, "user_activity": None}


def refresh_of(run: Run, asked: str | None = None) -> dict[str, RefreshSchedule]:
    """View -> schedule, of the views that are not fresh. asked: in place of the run's setting."""
    repo, views = repository_of(run), views_of(run)
    text = run.settings.refresh if asked is None else asked
    if text is None:
        return declared_refresh(repo, views)
    return asked_refresh(repo, parse_refreshes([t for t in text.split(",") if t]), views)


def codes_online(
    run: Run, timeline: CodeTimeline, refresh: dict[str, RefreshSchedule]
) -> CodeTimeline:
    """The run's codes through time as they were online."""
    return online_timeline(timeline, refresh.get(sid_view_name(run.settings.generation)))
