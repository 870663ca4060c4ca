"""Fit a tokenizer on the items of a user's own Feast repository and publish their codes as one more
feature view of it. Reads: item vectors and text, a label log. Writes: the directories below, a
publication, Python files that declare it.

<repo>/tokenizers/<generation>/generation/    the frozen tokenizer
<repo>/tokenizers/<generation>/behavior/      states of the behaviour model, one a time
<repo>/tokenizers/<generation>/manifest.json  written last: what the tokenizer was fitted on
<repo>/data/item_sid_<generation>/            codes, a snapshot a time
<repo>/adc_codes.py, adc_code_services.py     declare the view, and services with it
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal
from adc_features.clock import utc
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.generation import Generation, check_generation_id, open_generation
from adc_features.codes.raw_items import RAW_TOKENIZERS
from adc_features.codes.sids import SidTable, changed_rows, find_rows
from adc_features.codes.spec import BEHAVIOR, SidSpec
from adc_features.errors import InputError
from adc_features.pipeline.recipes import behavior_settings, tokenizer_settings
from adc_features.ranking.base import Progress
from adc_features.store import published_snapshots
from adc_features.store.code_tables import OwnSource, code_tables
from adc_features.store.repository import (
    ItemKey,
    declare_code_service,
    declare_code_views,
    live_generations,
    publication_path,
)
from training.tokenizing.behavior import LabelledEvents, fitted_behavior, interactions
from training.tokenizing.catalogue import Catalogue, codebook_size_of
from training.tokenizing.record import asked_to_facts
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ContentReader, ItemSources

log = logging.getLogger(__name__)

TOKENIZERS = "tokenizers"


def tokenizer_place(repo: Path, generation: str) -> Path:
    """Where a repository keeps the tokenizer of a generation."""
    return Path(repo) / TOKENIZERS / check_generation_id(generation)


def tokenize(
    repo: Path,
    sources: ItemSources,
    *,
    times: Sequence[datetime],
    computed_at: datetime,
    settings: TokenizeSettings | None = None,
    events: LabelledEvents | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Give the items of a repository codes as of each time, and publish them.

    The first call of a generation fits its tokenizer on the items as of all times. A later call
    encodes further times with the frozen tokenizer, and publishes what changed.

    Parameters
    ----------
    repo : Path
        A Feast repository that was applied. Its offline store reads Parquet files, or is one that
        `adc_features.store.code_tables` can write to.
    sources : ItemSources
        Vectors and text of its items.
    times : sequence of datetime
        Cut-offs, aware and exclusive.
    computed_at : datetime
        Now, aware.
    settings : TokenizeSettings, optional
        How codes are made.
    events : LabelledEvents, optional
        Behaviour: positive rows of a label log. Without it codes are of content alone.
    progress : callable, optional
        Called with a label, steps done and their number.

    Returns
    -------
    dict
        What was made, and what to do next.

    Raises
    ------
    InputError
        Sources, label log or times are wrong, a time lies before what is published, or a
        generation is asked for that was fitted on other sources.
    QualityError
        The fitted codes are used too unevenly; nothing is written.
    """
    settings, repo = settings or TokenizeSettings(), Path(repo).resolve()
    times = sorted(utc(time, name="as_of") for time in times)
    if not times or len(set(times)) < len(times):
        raise InputError(
            f"times are {[t.isoformat() for t in times]}; give at least one, none twice"
        )
    if (database := code_tables(repo)) is not None:
        database.check()
    reader = ContentReader(repo, sources)
    place = tokenizer_place(repo, settings.generation)
    fitted = (place / MANIFEST).is_file()
    made_of = _made_of(reader, sources, events)
    _refuse_times(repo, settings.generation, times, computed_at)
    if fitted:
        _refuse_other_sources(place, made_of, settings)
        settings = replace(settings, behavior=_behavior_of(place))
    elif settings.generation in {g.id for g in live_generations(repo)}:
        raise InputError(
            f"generation {settings.generation!r} is published in {repo}, and its tokenizer is not"
            f" in {place}; give another id, --generation"
        )
    behavior = None if events is None else interactions(repo, events, reader.key.join_key)
    content = [reader.at(time, progress) for time in times]
    catalogue = Catalogue(times, content, behavior)
    if not fitted:
        asked = asked_to_facts(repo, sources, settings, events)
        _fit(place, catalogue, settings, {"made_of": made_of, "asked": asked}, progress)
    generation = open_generation(place / "generation")
    tables = catalogue.tables(place / "behavior", settings, progress)
    snapshots = _published(
        repo,
        generation,
        tables,
        key=reader.key,
        lag=settings.publish_lag,
        computed_at=computed_at,
        progress=progress,
    )
    return {
        "fitted": not fitted,
        **_facts(generation, reader.key, tables[-1]),
        "snapshots": snapshots,
        "items_without_codes": catalogue.bare(-1),
        "declared_in": declare_code_views(repo),
        "to_load": _to_load(repo, generation.id, times) if isinstance(database, OwnSource) else [],
    }


def _to_load(repo: Path, generation: str, times: Sequence[datetime]) -> list[str]:
    """The Parquet files of these times, for a store that people load themselves."""
    folder = publication_path(repo, generation)
    new = [s for s in published_snapshots(repo, generation) if s.as_of in times]
    return [str((folder / snapshot.file).relative_to(repo)) for snapshot in new]


def _facts(generation: Generation, key: ItemKey, newest: EmbeddingTable) -> dict[str, Any]:
    return {
        "generation": generation.id,
        "codebook_hash": generation.codebook_hash,
        "positions": [p.name for p in generation.spec.positions],
        "codebook_size": generation.spec.codebook_size,
        "entity": key.entity,
        "join_key": key.join_key,
        "view": f"item_sid_{generation.id}",
        "items": len(newest),
        "items_with": {m: int(p.sum()) for m, p in newest.present.items()},
    }


def add_to_service(repo: Path, service: str, generation: str) -> dict[str, str]:
    """Declare `<service>_<generation>` in a file of the repository: the service and the codes.

    Raises InputError when no Python file declares the service.
    """
    file = declare_code_service(repo, *check_declared(repo, service), generation)
    return {"service": f"{service}_{generation}", "service_declared_in": file}


def check_declared(repo: Path, service: str) -> tuple[str, str]:
    """Module and variable of a feature service. Raises InputError when no Python file of the
    repository declares it.
    """
    from adc_features.store.services.rankers import declared_service

    found = declared_service(repo, service)
    if found is None:
        raise InputError(
            f"no Python file of {repo} declares feature service {service!r}; add the codes where it"
            " is declared, without --add-to-service"
        )
    return found


# ---- checks


def refuse_future(as_of: datetime, computed_at: datetime) -> None:
    """Raise InputError for a cut-off after now."""
    if as_of > utc(computed_at, name="computed_at"):
        raise InputError(
            f"as_of {as_of.isoformat()} lies in the future; what will be known then is not known"
            " now"
        )


def newest_cut_off(repo: Path, generation: str) -> datetime:
    """That of the newest snapshot of a published generation."""
    return max(s.as_of for s in published_snapshots(repo, generation))


def _refuse_times(
    repo: Path, generation: str, times: Sequence[datetime], computed_at: datetime
) -> None:
    refuse_future(times[-1], computed_at)
    if generation not in {g.id for g in live_generations(repo)}:
        return
    newest = newest_cut_off(repo, generation)
    if times[0] <= newest:
        raise InputError(
            f"as_of {times[0].isoformat()} is not after {newest.isoformat()}, the newest snapshot"
            f" of generation {generation!r}; give a later time, or fit another generation"
        )


def _made_of(
    reader: ContentReader, sources: ItemSources, events: LabelledEvents | None
) -> dict[str, Any]:
    """What a frozen tokenizer cannot do without."""
    return {
        "entity": reader.key.entity,
        "join_key": reader.key.join_key,
        "modalities": reader.modalities,
        "text_model": sources.text_model if sources.text else None,
        "behavior": events is not None,
    }


def _refuse_other_sources(
    place: Path, made_of: Mapping[str, Any], settings: TokenizeSettings
) -> None:
    was = read_manifest(place)["made_of"]
    if changed := {k: (was[k], made_of[k]) for k in made_of if was[k] != made_of[k]}:
        told = "; ".join(f"{k} was {old!r} and is {new!r}" for k, (old, new) in changed.items())
        raise InputError(
            f"generation {settings.generation!r} was fitted on other sources: {told}; give the same"
            " ones, or fit another generation, --generation"
        )


def _behavior_of(place: Path) -> str:
    """The recipe of a generation's behaviour vectors, which another default cannot continue."""
    asked = read_manifest(place).get("asked")  # absent where only full_softmax was there
    return "full_softmax" if asked is None else str(asked["settings"]["behavior"])


# ---- fit


def _fit(
    place: Path,
    catalogue: Catalogue,
    settings: TokenizeSettings,
    facts: Mapping[str, Any],
    progress: Progress | None,
) -> None:
    recipe = tokenizer_settings(settings.as_run())
    if settings.tokenizer in RAW_TOKENIZERS:
        raise InputError(
            f"{settings.tokenizer} reads raw titles and images, and items of a repository come as"
            " vectors and texts of modalities; choose another tokenizer, or fit it on a run (adc"
            " run --tokenizer) and bring its vectors (adc embed unisid)"
        )
    for number in range(len(catalogue.times)):
        catalogue.table(number)  # refuses vectors that cannot be used, before behaviour is trained
    try:
        with fresh_directory(place) as aside:
            _fill(aside, catalogue, settings, recipe, progress)
            seal(aside, {**facts, "times": list(catalogue.times)})
    finally:
        with suppress(OSError):  # there is something in it
            place.parent.rmdir()


def _fill(
    directory: Path,
    catalogue: Catalogue,
    settings: TokenizeSettings,
    recipe: Any,
    progress: Progress | None,
) -> None:
    """The behaviour model and the tokenizer of a new generation."""
    from adc_features.tokenizer.fit import fit

    if catalogue.events is not None:
        catalogue.behavior = fitted_behavior(
            catalogue.events,
            catalogue.ids,
            catalogue.times,
            settings=behavior_settings(settings.as_run().behavior),
            seed=settings.seed,
            content=catalogue.content_at,
            directory=directory / "behavior",
            progress=progress,
            device=settings.device,
        )
    tables = [catalogue.table(number) for number in range(len(catalogue.times))]
    spec = SidSpec(
        content={m: 1 for m in tables[0].vectors if m != BEHAVIOR},
        behavior=0 if catalogue.events is None else settings.behavior_codes,
        codebook_size=settings.codebook_size or codebook_size_of(tables[-1]),
    )
    fit(
        tables,
        spec,
        settings=recipe,
        generation_id=settings.generation,
        directory=directory / "generation",
        seed=settings.seed,
        events=catalogue.events,
        progress=progress,
        device=settings.device,
    )


# ---- publication


def _published(
    repo: Path,
    generation: Generation,
    tables: Sequence[EmbeddingTable],
    *,
    key: ItemKey,
    lag: timedelta,
    computed_at: datetime,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    """Encode and publish: whole snapshots of a new generation, what changed of a live one."""
    from adc_features.store import load_codes, publish, publish_changes, published_before
    from adc_features.tokenizer.encode import encode, encode_series

    if generation.id not in {g.id for g in live_generations(repo)}:
        made = list(encode_series(tables, generation, progress=progress))
        publish(
            repo,
            generation,
            made,
            servable_at=[s.as_of + lag for s in made],
            computed_at=computed_at,
            key=key,
        )
        return [_told(s, lag, rows=len(s)) for s in made]
    load_codes(repo, generation.id)
    told = []
    for table in tables:
        before = published_before(repo, generation.id, table.as_of)
        snapshot = encode(table, generation, previous=before, progress=progress)
        changed = changed_rows(before, snapshot) if before is not None else snapshot
        rows = 0  # what is the same is not published again
        if len(changed):
            rows = publish_changes(
                repo,
                generation,
                snapshot,
                servable_at=snapshot.as_of + lag,
                computed_at=computed_at,
            )
        told.append(_told(snapshot, lag, rows=rows) | _changes(before, changed))
    return told


def _changes(before: SidTable | None, changed: SidTable) -> dict[str, int]:
    """How many items got their first codes, other codes, or have none any more."""
    gone = int((~changed.found).sum())
    if before is None:
        return {"new": len(changed) - gone, "recoded": 0, "gone": gone}
    place, known = find_rows(before.item_ids, changed.item_ids)
    if len(known):
        known &= before.found[place]
    both = known & changed.found
    other = (before.sid[place[both]] != changed.sid[both]).any(axis=1)
    return {
        "new": int((changed.found & ~known).sum()),
        "recoded": int(other.sum()),
        "gone": gone,
    }


def _told(snapshot: SidTable, lag: timedelta, *, rows: int) -> dict[str, Any]:
    return {
        "as_of": snapshot.as_of,
        "servable_at": snapshot.as_of + lag,
        "items": len(snapshot),
        "without_behavior": int(snapshot.is_cold.sum()),
        "distinct_codes": len(np.unique(snapshot.sid, axis=0)),
        "published_rows": rows,
    }
