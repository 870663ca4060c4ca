"""Codes of a repository kept up to date: new and changed items get codes of the frozen tokenizers.
Reads: a repository, the sources that its tokenizers name. Writes: publications.

A generation is never fitted again here: codes that do not change keep their rows bit for bit, and
what is published has its time, before which no join sees it.
"""

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.ranking.base import Progress
from adc_features.store import load_codes
from adc_features.store.repository import live_generation, live_generations
from training.ranker.label_sources import LabelSource
from training.tokenizing.behavior import LabelledEvents
from training.tokenizing.record import Asked, asked_from_facts
from training.tokenizing.workflow import newest_cut_off, refuse_future, tokenize, tokenizer_place

log = logging.getLogger(__name__)


def renew_codes(
    repo: Path,
    generations: Sequence[str] = (),
    *,
    as_of: datetime,
    computed_at: datetime,
    labels: LabelSource | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Give new and changed items codes of generations that are published already.

    Repeating it changes nothing: a time that is published is not computed again. A call that was
    killed is completed by the same call.

    Parameters
    ----------
    repo : Path
        A Feast repository in which `tokenize` published codes.
    generations : sequence of str
        Their ids; by default every published generation whose tokenizer is in the repository.
    as_of : datetime
        Cut-off, aware and exclusive; not before the newest snapshot of any of them.
    computed_at : datetime
        Now, aware.
    labels : optional
        The label log, where it lies elsewhere now or its place could not be written down.
    progress : callable, optional
        Called with a label, steps done and their number.

    Returns
    -------
    list of dict
        Of each generation what `tokenize` tells, without snapshots where it was up to date.

    Raises
    ------
    InputError
        There is nothing to renew, the time lies before what is published or in the future, sources
        are gone or do not fit, or a label log is missing. All generations are looked at before the
        first is renewed.
    """
    repo, as_of = Path(repo).resolve(), utc(as_of, name="as_of")
    refuse_future(as_of, computed_at)
    wanted = list(dict.fromkeys(generations)) or _renewable(repo)
    asked = {generation: _asked(repo, generation, labels) for generation in wanted}
    newest = {generation: _newest(repo, generation, as_of) for generation in wanted}
    told = []
    for generation, (made_of, events) in asked.items():
        if newest[generation] == as_of:
            loaded = load_codes(repo, generation)
            told.append({"generation": generation, "current": True, "rows_loaded": loaded})
            continue
        facts = tokenize(
            repo,
            made_of.sources,
            times=[as_of],
            computed_at=computed_at,
            settings=made_of.settings,
            events=events,
            progress=progress,
        )
        told.append({**facts, "current": False})
        log.info("stage=renew_codes generation=%s as_of=%s", generation, as_of.isoformat())
    return told


def reads_label_log(repo: Path, generation: str) -> bool:
    """Whether a renewal of the generation reads a label log, for behaviour."""
    place = tokenizer_place(Path(repo).resolve(), generation)
    if not (place / MANIFEST).is_file():
        return False
    return bool(read_manifest(place).get("made_of", {}).get("behavior"))


def _renewable(repo: Path) -> list[str]:
    live = [g.id for g in live_generations(repo)]
    found = [g for g in live if (tokenizer_place(repo, g) / MANIFEST).is_file()]
    if not found:
        raise InputError(
            f"{repo} has no codes of a tokenizer that is kept there (published: {live or 'none'});"
            " make the first with `adc tokenize --repo`"
        )
    return found


def _asked(
    repo: Path, generation: str, labels: LabelSource | None
) -> tuple[Asked, LabelledEvents | None]:
    live_generation(repo, generation)
    place = tokenizer_place(repo, generation)
    if not (place / MANIFEST).is_file():
        raise InputError(
            f"generation {generation!r} is published in {repo}, and its tokenizer is not in"
            f" {place}; it cannot be renewed, fit another one: `adc tokenize --generation`"
        )
    if "asked" not in (manifest := read_manifest(place)):
        raise InputError(
            f"generation {generation!r} was fitted by a version that did not write down its"
            f" sources; give them: `adc tokenize --repo {repo} --generation {generation}"
            " --vectors ... --as-of TIME`"
        )
    asked = asked_from_facts(repo, manifest["asked"])
    if not asked.labelled:
        if labels is not None:
            raise InputError(
                f"generation {generation!r} was fitted without a label log; leave --labels out, or"
                " fit another generation with it"
            )
        return asked, None
    if labels is not None:
        return asked, asked.with_labels(labels, manifest["asked"])
    if asked.events is None:
        raise InputError(
            f"generation {generation!r} needs its label log, whose place is not written down (a"
            " frame, or a URL with a password); give --labels"
        )
    return asked, asked.events


def _newest(repo: Path, generation: str, as_of: datetime) -> datetime:
    newest = newest_cut_off(repo, generation)
    if as_of < newest:
        raise InputError(
            f"as_of {as_of.isoformat()} lies before {newest.isoformat()}, the newest snapshot of"
            f" generation {generation!r}: codes of the past stay as they were; give a later time"
        )
    return newest
