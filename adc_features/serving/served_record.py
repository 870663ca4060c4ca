"""What a log keeps of an answer. Reads: what was ranked. Writes: Served."""

from datetime import datetime
from typing import Any

from adc_features.served.record import Served, without_values
from adc_features.serving.declared import DeclaredBundle
from adc_features.serving.ranked import Ranked


def served_record(
    bundle: Any,
    ranked: Ranked,
    *,
    request_id: str,
    received: datetime,
    now: datetime,
    answered: int,
    values: bool = True,
    variant: str | None = None,
) -> Served | None:
    """The record of an answer; None where the ranker reads no feature service.

    answered: how many candidates the answer holds. received, now: aware. values: keep the values of
    features. variant: the name of the variant that scored; None for the promoted pair.
    """
    if not isinstance(bundle, DeclaredBundle) or ranked.parts is None:
        return None
    about, promotion = bundle.about, bundle.promotion
    record = Served(
        about=about,
        request_id=request_id,
        received=received,
        now=now,
        served_as_of=ranked.served_as_of,
        torn=ranked.torn,
        version=promotion.ranker.name,
        pair=promotion.name,
        generation=promotion.generation,
        variant=variant,
        answered=answered,
        user_known=ranked.user_known,
        one=ranked.parts["user"].table,
        each=ranked.parts["item"].table,
        score=ranked.score,
        tasks={name: ranked.columns[f"p_{name}"] for name in about.tasks},
        known=ranked.known,
    )
    return record if values else without_values(record)
