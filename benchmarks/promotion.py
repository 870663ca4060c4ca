"""Does anybody notice a promotion? Reads: a finished run, or nothing. Writes: JSON.

    python benchmarks/promotion.py --json -                 # makes a catalogue first
    python benchmarks/promotion.py --json - --run runs/beauty

Open loop, as in `serve.py`: requests of 1 user + 500 items at a fixed rate, a latency counts from
the moment its request was due. In the middle of each window another pair is promoted, there and
back again, several times. Every answer is compared with the scores of the pair that it names.
`quiet` is the same load without a promotion.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import apart, write_report
from serve import (
    ASKED,
    Heard,
    World,
    _load_apart,
    adc_server,
    generated,
    mixed,
    opened,
    summary,
)

SECONDS = 10.0
"""Length of a window; the promotion is in its middle."""


def measure(world: World, scratch: Path, *, items: int, rate: float, rounds: int) -> dict[str, Any]:
    """The windows with a promotion, all together and by round, and one without."""
    from adc_features.serving.opening import open_bundle
    from adc_features.serving.promotion import promote

    rng, file = np.random.default_rng(1), scratch / "promotion.json"
    some = min(items, len(world.items))
    asked = [
        (rng.choice(world.users).item(), rng.choice(world.items, some, replace=False).tolist())
        for _ in range(ASKED)
    ]
    bodies = [json.dumps({"user": user, "items": ids}).encode() for user, ids in asked]
    expected: dict[str, list[dict]] = {}
    for pair in world.pairs:
        bundle = open_bundle(pair)
        scores = (bundle.score(user, ids, now=world.now).score.tolist() for user, ids in asked)
        expected[pair.name] = [
            dict(zip(ids, scored, strict=True))
            for (_, ids), scored in zip(asked, scores, strict=True)
        ]
    promote(file, world.pairs[0])
    with adc_server(file, world.now, scratch) as (port, _):

        def window(seconds: float = SECONDS) -> list[Heard]:
            how = {"seconds": seconds, "connections": 16, "rate": rate}
            return apart(_load_apart, port, "/rank", bodies, how)

        window(3)  # warm
        quiet, windows = window(), []
        for n in range(1, rounds + 1):
            # the process that asks starts in about one and a half seconds
            timer = threading.Timer(1.5 + SECONDS / 2, promote, (file, world.pairs[n % 2]))
            timer.start()
            windows.append(window())
            timer.join()
    heard = [h for w in windows for h in w]
    wrong, by_pair = mixed(heard, expected)
    around = summary(heard, cpu_s=1.0)
    return {
        "systems": {"quiet": _latencies(quiet), "around_a_promotion": _latencies(heard)},
        "promotion": {"p99_ms": around["p99_ms"], "failed": around["failed"], "mixed": wrong},
        "rounds": [_latencies(w) for w in windows],
        "answers_by_pair": by_pair,
    }


def _latencies(heard: list[Heard]) -> dict[str, Any]:
    """`summary` without what needs the server's CPU time."""
    facts = summary(heard, cpu_s=1.0)
    return {n: v for n, v in facts.items() if n not in ("requests_per_core_s", "cpu_ms")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--run", type=Path, help="a finished run; default: a generated catalogue")
    parser.add_argument("--items", type=int, default=500, help="candidates of a request")
    parser.add_argument("--rate", type=float, default=50, help="requests a second")
    parser.add_argument("--rounds", type=int, default=4, help="promotions")
    asked = parser.parse_args()
    began = time.time()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        world = opened(asked.run) if asked.run else generated(place)
        measured = measure(world, place, items=asked.items, rate=asked.rate, rounds=asked.rounds)
    systems = measured.pop("systems")
    ratio = systems["around_a_promotion"]["p99_ms"] / systems["quiet"]["p99_ms"]
    write_report(
        asked.json,
        systems=systems,
        ratios={"p99_around_over_quiet": ratio},
        pairs=[p.name for p in world.pairs],
        seconds=time.time() - began,
        **measured,
    )


if __name__ == "__main__":
    main()
