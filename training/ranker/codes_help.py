"""Whether semantic IDs help the rankers that read them. Reads: the content of evaluation.json.
Writes: sentences.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from training.ranker.results import BY

KIND = "semantic_id"


def codes_help(judged: Mapping[str, Any]) -> list[str]:
    """A sentence for each task and pair of rankers of which one reads semantic IDs: whether it is
    better, with the interval of the difference in the first metric of BY that is defined. Where the
    two differ in other inputs as well, the sentence names those of one side alone.

    Parameters
    ----------
    judged : mapping
        "tasks" and "about", as `adc evaluate` writes them.
    """
    about = judged.get("about") or {}
    return [
        _said(task, pair, about, found["paired"])
        for task, found in judged["tasks"].items()
        for pair in _pairs(found["paired"], about)
    ]


class _Pair(NamedTuple):
    """Rankers with and without codes; key, sign: how their difference was kept."""

    coded: str
    plain: str
    key: str
    sign: int


def _pairs(paired: Mapping[str, Any], about: Mapping[str, Any]) -> Iterator[_Pair]:
    reads = {
        name: any(one["kind"] == KIND for one in facts["inputs"].values())
        for name, facts in about.items()
    }
    for a in about:
        for b in about:
            if reads[a] and not reads[b]:
                for key, sign in ((f"{a}_minus_{b}", 1), (f"{b}_minus_{a}", -1)):
                    if key in paired:
                        yield _Pair(a, b, key, sign)


def _said(task: str, pair: _Pair, about: Mapping[str, Any], paired: Mapping[str, Any]) -> str:
    coded, plain, key, sign = pair
    scores = paired[key]
    metric = next(m for m in BY if (scores.get(m) and _known(scores[m])) or m == BY[-1])
    found = scores[metric]
    if not _known(found):
        return f"{task}: whether semantic IDs help cannot be told, {metric} is not defined."
    mean, *ends = (sign * found[name] for name in ("mean", "low", "high"))
    low, high = sorted(ends)
    word = "better" if low > 0 else "worse" if high < 0 else "neither better nor worse for sure"
    mine, theirs = (about[name]["inputs"] for name in (coded, plain))
    others = sorted(n for n in set(mine) ^ set(theirs) if mine.get(n, {}).get("kind") != KIND)
    beside = f" (they differ in {', '.join(others)} too)" if others else ""
    return (
        f"{task}: {coded}, which reads semantic IDs, is {word} than {plain}, which reads"
        f" none{beside}: {metric} {mean:+.4f} [{low:+.4f}, {high:+.4f}]."
    )


def _known(found: Mapping[str, Any]) -> bool:
    return all(v is not None and math.isfinite(v) for v in found.values())
