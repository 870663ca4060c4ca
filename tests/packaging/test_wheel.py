"""The wheel in fresh environments keeps what each extra promises,
from a folder outside of the repository.
"""

import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from fresh_environments import ROOT, outside, run

from adc_features.serving import promote

pytestmark = pytest.mark.wheel


def test_the_plugins_alone(environment, tmp_path):
    """Without extras: a Feast repository with the three plugins, SID lookups and NumPy batches;
    what needs an extra names it.
    """
    place = environment("")
    shutil.copy(ROOT / "tests" / "worlds" / "store_world.py", tmp_path)
    shutil.copy(ROOT / "tests" / "packaging" / "plugin_program.py", tmp_path)
    told = json.loads(
        run(place / "bin/python", "plugin_program.py", tmp_path, cwd=tmp_path).splitlines()[-1]
    )
    assert told["installed"] == []
    assert told["plugins"] == ["AsofOfflineStore", "LmdbOnlineStore", "ArrowComputeEngine"]
    assert told["joined"] == [[1, 1, -1], [2, 2, -1], [-1, -1, -1]]
    assert told["batches"] == [
        ["ndarray", [[2, 2, 0], [3, 3, 0]]],
        ["ndarray", [[0, 0, 0]]],
    ]
    assert told["online"] == [[2, 2, -1]]
    assert told["history"] == 3
    assert told["lookup"] == [[[2, 2, -1], [-1, -1, -1]], [True, False]]
    assert 'pip install "adc-features[train]"' in told["extras"]["train"]
    assert 'pip install "adc-features[serve]"' in told["extras"]["serve"]

    refused = subprocess.run(
        [place / "bin/adc", "run", "--data", "synthetic", "--run", "r"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=outside(),
    )
    assert refused.returncode == 1
    assert 'pip install "adc-features[train]"' in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run(place / "bin/adc", "--version", cwd=tmp_path).startswith("adc-features ")


def test_the_service(environment, shop, tmp_path):
    """With `[serve]`: PPNet and XGBoost rankers answer /rank over HTTP without torch, with the
    scores of the offline join.
    """
    from serving_world import NOW

    place = environment("[serve]")
    found = (
        "import importlib.util as u; print(*[m for m in ('torch', 'xgboost') if u.find_spec(m)])"
    )
    assert run(place / "bin/python", "-c", found, cwd=tmp_path).split() == ["xgboost"]
    users, items = ["u3"] * 3, ["i05", "i07", "i11"]
    for name in ("xgboost_codes_weights", "codes_weights"):
        promotion = tmp_path / f"{name}.json"
        promote(promotion, shop.pair(name))
        with served(place, promotion, NOW.isoformat(), tmp_path) as url:
            answer = posted(f"{url}/rank", {"user": "u3", "items": items})
        ranked = {row["item_id"]: row["score"] for row in answer["items"]}
        expected = shop.offline(name, users, items, NOW)
        assert np.allclose([ranked[item] for item in items], expected, rtol=0, atol=1e-6)


@contextmanager
def served(place, promotion, now, folder):
    """The URL of `adc serve` while it runs."""
    told = folder / f"{promotion.stem}.told.json"
    command = [place / "bin/adc", "serve", "--promotion", promotion, "--port", "0", "--now", now]
    with subprocess.Popen(
        [*map(str, command), "--json", str(told)], cwd=folder, env=outside()
    ) as service:
        try:
            deadline = time.monotonic() + 600
            while not (told.exists() and told.stat().st_size):
                assert service.poll() is None, "adc serve ended"
                assert time.monotonic() < deadline, "adc serve did not start"
                time.sleep(0.1)
            yield json.loads(told.read_text(encoding="utf-8"))["url"]
        finally:
            service.terminate()


def posted(url, body):
    """The answer to a JSON body."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_everything(environment, tmp_path):
    """With `[all]`: the whole flow on a generated catalogue runs
    from any folder and writes its report.
    """
    place = environment("[all]")
    small = ["--codebook-size", "16", "--snapshots", "2", "--seeds", "1", "--steps", "61"]
    command = [place / "bin/adc", "run", "--data", "synthetic", "--run", "demo", *small]
    run(*command, cwd=tmp_path, env=outside(OMP_NUM_THREADS="1"))
    assert "<svg" in (tmp_path / "demo" / "report.html").read_text(encoding="utf-8")
