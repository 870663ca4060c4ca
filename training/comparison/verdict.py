"""What a comparison says in words. Reads: the result of `training.comparison.significance`. Writes:
sentences.
"""

import math
from collections.abc import Mapping
from typing import Any

from training.comparison.plan import MIN_FITS
from training.comparison.significance import NEW_ITEM_EVENTS


def covers_text(result: Mapping[str, Any]) -> str:
    """What the intervals cover, and what they leave out."""
    fits = result["fits"]
    if fits == 1:
        return (
            "Intervals of 95 % cover the choice of users and leave out the chance of fitting:"
            f" everything was fitted once; ask for --fits {MIN_FITS} or more."
        )
    said = (
        f"Intervals of 95 % cover the choice of users and the chance of {fits} fits (degrees of"
        f" freedom of Student's t: {fits - 1})."
    )
    if fits < MIN_FITS:
        said += f" So few fits make them wide; ask for --fits {MIN_FITS} or more."
    if result.get("behavior_fits", fits) == 1:
        said += (
            " Behaviour vectors were learned once for all fits of tokenizers and rankers: their own"
            " chance is left out."
        )
    return said


def codes_verdict(result: Mapping[str, Any], *, first: str) -> str | None:
    """Whether the codes of `first` help the network here, in one sentence with its interval, and
    what they do for new items; None where it was not ranked beside no codes.
    """
    paired = result.get("paired", {}).get(f"{first}_minus_no_sid")
    if paired is None:
        return None
    gauc = paired["gauc"]
    if gauc["survives"]:
        word = "help" if gauc["mean"] > 0 else "cost"
    else:
        word = "cannot be told from none"
    return (
        f"Codes of {first} {word} here: GAUC {difference_text(gauc)} against the same ranker"
        f" without codes, AUC {difference_text(paired['auc'])}; on items of at most"
        f" {NEW_ITEM_EVENTS} training rows, AUC {difference_text(paired['new_auc'])}."
    )


def difference_text(found: Mapping[str, Any]) -> str:
    """A difference with its interval, to four places; "-" where it is undefined."""
    values = [found[name] for name in ("mean", "low", "high")]
    if any(v is None or math.isnan(v) for v in values):
        return "-"
    mean, low, high = values
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"
