"""What a generation was asked to be made of, so that its codes can be renewed. Reads, writes:
values of the tokenizer's manifest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from adc_features.errors import ArtifactError
from adc_features.inputs.facts import ranker_from_facts, ranker_to_facts
from adc_features.redaction import redacted_url
from adc_features.store.services.item_files import is_file
from adc_features.uris import is_address
from training.ranker.label_sources import LabelSource, SqlLabels
from training.tokenizing.behavior import LabelledEvents
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ItemSources

_SETTINGS = ("generation", "tokenizer", "behavior_codes", "behavior", "seed")


@dataclass(frozen=True)
class Asked:
    """Sources, settings and label log of a generation.

    labelled: whether its behaviour comes from a label log. events: None too where that log cannot
    be told again, a frame or a database whose URL has a password.
    """

    sources: ItemSources
    settings: TokenizeSettings
    labelled: bool
    events: LabelledEvents | None

    def with_labels(self, source: LabelSource, facts: Mapping[str, Any]) -> LabelledEvents:
        """The same interactions from another place. facts: of the manifest."""
        told = facts["events"]
        return LabelledEvents(source, ranker_from_facts(told["ranker"]), told["task"])


def asked_to_facts(
    repo: Path, sources: ItemSources, settings: TokenizeSettings, events: LabelledEvents | None
) -> dict[str, Any]:
    """As JSON values: files inside the repository relative to it, no password."""
    labelled = None
    if events is not None:
        labelled = {
            "labels": _place(repo, events.source),
            "ranker": ranker_to_facts(events.ranker),
            "task": events.task,
        }
    return {
        "sources": {
            "vectors": [_name(repo, name) for name in sources.vectors],
            "text": [_name(repo, name) for name in sources.text],
            "entity": sources.entity,
            "text_model": sources.text_model,
        },
        "settings": {name: getattr(settings, name) for name in _SETTINGS}
        | {"publish_lag_seconds": settings.publish_lag.total_seconds()},
        "events": labelled,
    }


def asked_from_facts(repo: Path, facts: Mapping[str, Any]) -> Asked:
    """What `asked_to_facts` wrote. Raises ArtifactError for anything else."""
    try:
        sources, told = dict(facts["sources"]), dict(facts["settings"])
        for kind in ("vectors", "text"):
            sources[kind] = [str(repo / n) if is_file(n) else n for n in sources[kind]]
        lag = timedelta(seconds=told.pop("publish_lag_seconds"))
        asked = Asked(
            ItemSources(**sources),
            TokenizeSettings(publish_lag=lag, **told),
            facts["events"] is not None,
            None,
        )
        if (labelled := facts["events"]) is None or labelled["labels"] is None:
            return asked
        place = labelled["labels"]
        source: LabelSource
        if isinstance(place, Mapping):
            source = SqlLabels(**place)
        else:
            source = place if is_address(place) else repo / place
        events = asked.with_labels(source, facts)
        return Asked(asked.sources, asked.settings, asked.labelled, events)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"the sources that the tokenizer's manifest names cannot be read ({error!r}); run"
            " `adc tokenize` with them and a later --as-of"
        ) from error


def _place(repo: Path, source: LabelSource) -> Any:
    """Where a label log is, if that can be written down."""
    if isinstance(source, str) and is_address(source):
        return source
    if isinstance(source, Path | str):
        return _name(repo, str(Path(source).resolve()))
    if isinstance(source, SqlLabels) and redacted_url(source.url) == source.url:
        return {"url": source.url, "query": source.query}
    return None


def _name(repo: Path, name: str) -> str:
    """A feature as it is; a file relative to the repository, where it lies inside it."""
    if not is_file(name):
        return name
    path, repo = Path(name).resolve(), Path(repo).resolve()
    # "./": a file beside feature_store.yaml may have any name
    return f"./{path.relative_to(repo)}" if path.is_relative_to(repo) else str(path)
