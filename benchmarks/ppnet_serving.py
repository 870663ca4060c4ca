"""How long does a served PPNet take for one request, without torch and with it? Reads: nothing.
Writes: JSON.

    python benchmarks/ppnet_serving.py --json -

A PPNet of the default settings and of Beauty's size with random parameters, scored by numpy
(`PPNetRanker`) and by torch (`FittedPPNet`) in turn, on one thread each. One user a request, as
`POST /rank` has it.
"""

import argparse
import os
import time

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"  # before numpy and torch are imported

import numpy as np  # noqa: E402
from _measure import write_report  # noqa: E402

ROWS = (1, 100, 500)
ID_ROWS = (22_427, 12_165, 2_139, 309)
POSITIONS, CODES = 5, 257
STATE, SETTLED, ITEM = 6, 2, 19


def request(rows: int, rng: np.random.Generator):
    """Inputs of the candidates of one request."""
    from adc_features.ranking.legacy.inputs import Inputs

    def normal(*size: int) -> np.ndarray:
        return rng.normal(size=size).astype(np.float32)

    ids = np.stack([rng.integers(0, size, rows) for size in ID_ROWS], axis=1)
    ids[:, 0] = ids[0, 0]
    return Inputs(
        label=np.zeros(rows, np.float32),
        user=np.zeros(rows, np.int64),
        ids=ids,
        item=normal(rows, ITEM),
        user_state=normal(rows, STATE),
        settled=normal(rows, SETTLED),
        sid=rng.integers(0, CODES, (rows, POSITIONS)),
        weight=rng.random((rows, POSITIONS)).astype(np.float32),
        reliability=normal(rows, 1),
        match=normal(rows, 2 * POSITIONS),
        vectors={},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="-", help="a file, or - for standard output")
    parser.add_argument("--repeat", type=int, default=30, help="blocks of each; the fastest counts")
    asked = parser.parse_args()

    import torch
    from adc_features.ranking.legacy.network import build
    from training.ppnet import FittedPPNet

    from adc_features.ranking.legacy.shape import PPNetSettings, PPNetShape

    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = PPNetSettings()
    shape = PPNetShape(
        ID_ROWS, True, POSITIONS, CODES, ITEM + 1 + 3 * POSITIONS, STATE, SETTLED, [], users=1
    )
    with_torch = FittedPPNet(settings, shape, build(settings, shape))
    with_torch.finish()
    rankers = {"numpy": with_torch.ranker(), "torch": with_torch}
    rng, systems, ratios = np.random.default_rng(0), {}, {}
    for rows in ROWS:
        best: dict[str, float] = {}
        requests = [request(rows, rng) for _ in range(20)]
        for _ in range(asked.repeat):
            for name, ranker in rankers.items():
                began = time.process_time()
                for inputs in requests:
                    ranker.predict(inputs)
                taken = (time.process_time() - began) / len(requests)
                best[name] = min(best.get(name, taken), taken)
        apart = max(
            float(np.abs(rankers["numpy"].predict(r) - with_torch.predict(r)).max())
            for r in requests
        )
        systems |= {f"{name}_{rows}": {"cpu_s": best[name]} for name in rankers}
        systems[f"numpy_{rows}"]["largest_difference"] = apart
        ratios[f"torch_over_numpy_{rows}"] = best["torch"] / best["numpy"]
    write_report(asked.json, systems=systems, ratios=ratios)


if __name__ == "__main__":
    main()
