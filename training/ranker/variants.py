"""Variants beside the ranker that serves: started, ended, made the promotion. Reads: trained
rankers. Writes: the promotion file, the record of promotions.
"""

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.ranking.multitask.trained import load_ranker
from adc_features.serving.promoted import promote_on_record, promoting
from adc_features.serving.variants import Variant, end_variant, read_deployment, start_variant
from adc_features.serving.workspace import Workspace
from training.ranker.workflow import servable


def start_ranker_variant(
    repo: Path,
    beside: str,
    ranker: str | None,
    *,
    name: str,
    share: float = 0.0,
    sampled: float = 0.0,
    at: datetime,
) -> dict[str, Any]:
    """Let the newest version of a ranker, by default the best, serve a share of the users of the
    ranker `beside`, or score in its shadow.

    Raises
    ------
    InputError, ArtifactError, GenerationMismatch, ParityError
        As `promote_ranker` and `start_variant`; what serves is left as it was.
    """
    place = Workspace(repo, beside)
    read_deployment(place.promotion)  # refused before the checks, which take seconds
    choice, pair, warnings = servable(repo, ranker, at=at)
    if share and not load_ranker(pair.ranker).ranker.user:
        raise InputError(
            f"ranker {choice.name!r} reads no key of the user, so there are no users to share out;"
            " let it score in shadow, --shadow"
        )
    with promoting(place):
        asked = Variant(name, pair, share=share, sampled=sampled)
        variant = start_variant(place.promotion, asked)
    return {**_facts(place, variant), "ranker": choice.name, "warnings": warnings}


def end_ranker_variant(repo: Path, beside: str, name: str) -> dict[str, Any]:
    """End a variant; its users are served by the promoted version again. Raises InputError when it
    does not serve.
    """
    place = Workspace(repo, beside)
    with promoting(place):
        ended = end_variant(place.promotion, name)
    return {**_facts(place, ended), "ended": True}


def make_variant_whole(repo: Path, beside: str, name: str, *, at: datetime) -> dict[str, Any]:
    """Let a variant serve all users: it becomes the promotion and ends as a variant, in one step.

    Raises
    ------
    InputError
        It does not serve, or it is a version of another ranker, which has a promotion of its own.
    """
    place = Workspace(repo, beside)
    variant = read_deployment(place.promotion).variant(name)
    if variant.pair.ranker.parent != place.directory.resolve():
        other = variant.pair.ranker.parent.name
        raise InputError(
            f"variant {name!r} is a version of ranker {other!r}, and this is the promotion of"
            f" {beside!r}; promote it by `adc promote --repo {repo} --ranker {other}`, serve it by"
            f" `adc serve --repo {repo} --ranker {other}`, then end the variant, --end {name}"
        )
    pair = replace(variant.pair, promoted_at=at)
    number = promote_on_record(place, pair, why=f"variant {name}, now for all users", ended=[name])
    return {**_facts(place, replace(variant, share=1.0, sampled=0.0)), "number": number}


def _facts(place: Workspace, variant: Variant) -> dict[str, Any]:
    return {
        "variant": variant.name,
        **variant.part,
        "beside": place.name,
        "version": variant.pair.ranker.name,
        "pair": variant.pair.name,
        "promotion": str(place.promotion),
    }
