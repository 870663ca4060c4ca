"""Which of several rankers to promote, under one rule. Reads: estimates on the validation window.
Writes: Choice.

The best on the validation window is taken. Where others are not worse with certainty (the 95 %
interval of the paired difference holds 0), the one of them that reads least is taken, as what it
does not read cannot break.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """The ranker that the rule took, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Candidate:
    """mean: its metric on the validation window, None where undefined. reads: how much it reads,
    and the same in words.
    """

    mean: float | None
    reads: int
    words: str


def chosen(
    candidates: Mapping[str, Candidate],
    paired: Callable[[str, str], Mapping[str, Any] | None],
    *,
    metric: str,
) -> Choice:
    """The candidate that the rule takes.

    Parameters
    ----------
    candidates : mapping of str to Candidate
        At least one.
    paired : callable
        The interval {mean, low, high} of the difference of two candidates by name; None, or null
        ends, where it is not known: they then differ.
    metric : str
        As it is called in the reason.

    Examples
    --------
    >>> found = {"all": Candidate(0.71, 9, "9 inputs"), "few": Candidate(0.70, 4, "4 inputs")}
    >>> chosen(found, lambda a, b: {"mean": 0.01, "low": -0.01, "high": 0.03}, metric="gauc").name
    'few'
    """
    means = {name: one.mean for name, one in candidates.items()}
    best = max(means, key=lambda name: (means[name] is not None, means[name] or 0.0))
    equal = [n for n in means if n == best or _holds_zero(paired(best, n))]
    name = min(equal, key=lambda n: (candidates[n].reads, n != best))
    shown = ", ".join(f"{n} {mean:.4f}" for n, mean in means.items() if mean is not None)
    why = f"validation {metric}: {shown}"
    if name != best:
        why += (
            f"; {best} is not better with certainty and reads {candidates[best].words}, {name}"
            f" reads {candidates[name].words}"
        )
    return Choice(name, why)


def _holds_zero(interval: Mapping[str, Any] | None) -> bool:
    if not interval or interval["low"] is None or interval["low"] != interval["low"]:
        return False
    return bool(interval["low"] <= 0 <= interval["high"])
