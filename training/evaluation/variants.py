"""Which variant did better on its own users. Reads: rows of what was served, with labels. Writes:
numbers.

Every user has one variant, so the variants' users are different people: each variant's users are
drawn anew by themselves, and a difference is one of independent draws. Rows of one user are never
counted as independent of each other.

Legend: n rows, U users of one variant, B draws.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adc_features.errors import InputError
from training.evaluation.metrics import Estimate, user_auc

DRAWS = 1000
PROMOTED = "promoted"
"""What the rows of no variant are called: those of the promoted pair."""


def compare_variants(
    variant: np.ndarray,
    user: np.ndarray,
    label: np.ndarray,
    score: np.ndarray | None = None,
    *,
    weight: np.ndarray | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare each variant with the promoted pair.

    Parameters
    ----------
    variant : ndarray
        object [n]: its name; None for rows that the promoted pair served.
    user : ndarray
        [n]: who was served.
    label : ndarray
        float [n], finite: what came of it, a click or an amount.
    score : ndarray, optional
        float [n], finite: what the row was ranked by; with it and labels of 0 and 1 also GAUC, by
        user.
    weight : ndarray, optional
        float [n], positive: of rows that stand for several, one over the probability that they were
        kept.
    draws : int
        Of users, for the intervals.
    seed : int
        Of the draws.

    Returns
    -------
    dict
        `variants`: name -> `users`, `rows`, `label` (its mean) and `gauc`, each with low and high;
        `against`: name -> the same less those of the promoted pair; `users_of_several`: users that
        had more than one, as when a variant began or ended in between.

    Raises
    ------
    InputError
        Lengths that differ, no rows, no rows of the promoted pair or of any variant, or values
        that are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> found = compare_variants(
    ...     np.array(["new", "new", None, None], dtype=object),
    ...     np.array(["u1", "u2", "u3", "u4"]),
    ...     np.array([1.0, 0.0, 0.0, 0.0]),
    ... )
    >>> found["against"]["new"]["label"]["mean"]
    0.5
    """
    named = np.array([PROMOTED if v is None else str(v) for v in variant], dtype=object)
    columns = {"user": user, "label": label, "score": score, "weight": weight}
    _check(named, columns)
    label, rows = np.asarray(label, float), np.ones(len(named)) if weight is None else weight
    binary = score is not None and bool(np.isin(label, (0.0, 1.0)).all())
    names = sorted(set(named) - {PROMOTED})
    estimates: dict[str, dict[str, Estimate]] = {}
    facts: dict[str, dict[str, Any]] = {}
    for place, name in enumerate((PROMOTED, *names)):
        own = named == name
        people, index = np.unique(np.asarray(user)[own], return_inverse=True)
        sums = np.bincount(index, rows[own]), np.bincount(index, rows[own] * label[own])
        parts = {"label": sums}
        if binary:
            assert score is not None
            auc, count = user_auc(label[own], np.asarray(score)[own], index)
            known = np.isfinite(auc)
            parts["gauc"] = known * count, np.where(known, auc, 0) * count
        rng = np.random.default_rng([seed, place])
        estimates[name] = _drawn(parts, rng, draws)
        facts[name] = {"users": len(people), "rows": int(own.sum())}
    promoted = estimates[PROMOTED]
    return {
        "variants": {n: {**facts[n], **_intervals(found)} for n, found in estimates.items()},
        "against": {
            n: _intervals(
                {metric: found - promoted[metric] for metric, found in estimates[n].items()}
            )
            for n in names
        },
        "users_of_several": _of_several(named, np.asarray(user)),
        "draws": draws,
    }


def _drawn(
    parts: Mapping[str, tuple[np.ndarray, np.ndarray]], rng: np.random.Generator, draws: int
) -> dict[str, Estimate]:
    """Ratios of sums over users, metric -> (below [U], above [U]), on all users and on draws."""
    (count,) = {len(below) for below, _ in parts.values()}
    found = {metric: np.empty(draws) for metric in parts}
    for b in range(draws):
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        for metric, (below, above) in parts.items():
            found[metric][b] = _ratio(times @ above, times @ below)
    return {
        metric: Estimate(_ratio(above.sum(), below.sum()), found[metric])
        for metric, (below, above) in parts.items()
    }


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else float("nan")


def _intervals(found: Mapping[str, Estimate]) -> dict[str, dict[str, float]]:
    return {metric: estimate.interval() for metric, estimate in found.items()}


def _of_several(named: np.ndarray, user: np.ndarray) -> int:
    """Users with rows of more than one variant."""
    people, who = np.unique(user, return_inverse=True)
    _, which = np.unique(named.astype(str), return_inverse=True)
    pairs = np.unique(np.stack([who, which]), axis=1)
    return int((np.bincount(pairs[0], minlength=len(people)) > 1).sum())


def _check(named: np.ndarray, columns: Mapping[str, np.ndarray | None]) -> None:
    for name, values in columns.items():
        if values is None:
            continue
        if len(values) != len(named):
            raise InputError(
                f"{name} has {len(values)} rows, variant has {len(named)}; give one of each a row"
            )
        if name == "user":
            continue
        bad = ~np.isfinite(np.asarray(values, float))
        if name == "weight":
            bad |= np.asarray(values, float) <= 0
        if bad.any():
            raise InputError(
                f"{name} of row {int(np.argmax(bad))} is {values[int(np.argmax(bad))]}; expected"
                f" {'a positive number' if name == 'weight' else 'a finite number'}: leave out rows"
                " whose label is not known yet"
            )
    if PROMOTED not in named or set(named) == {PROMOTED}:
        raise InputError(
            f"the rows are of {sorted(set(named)) or 'nobody'}; expected rows of the promoted pair"
            " and of at least one variant: is the log of the time in which the variant served?"
        )
