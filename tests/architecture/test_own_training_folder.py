"""A user's repository may have a `training` package of its own. Reads: the library, the pages."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from store_world import published_world

from adc_features.serving.promotion import promote

pytestmark = pytest.mark.slow  # a fresh process each

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A repository of somebody else's: a Feast repository, and a package named `training`."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "training").mkdir()
    (folder / "training" / "__init__.py").write_text('OWNER = "the user"\n')
    (folder / "training" / "model.py").write_text("LAYERS = 3\n")
    published_world(folder / "repository")
    return folder


INSTALLED = """
import sys  # an editable install's finder would find our `training.cli` inside their `training`
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in f"{f!r}".lower()]
"""


def python(folder: Path, code: str) -> subprocess.CompletedProcess:
    """Run code in their folder, with that folder first on the path, as `python script.py` has."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-c", INSTALLED + code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200"},
        check=False,
    )


def passes(folder: Path, code: str) -> list[str]:
    """What the code printed, in words; it must succeed, and `training` must be theirs."""
    done = python(folder, f"import training; assert training.OWNER == 'the user'\n{code}")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_every_module_of_the_library_is_imported(theirs):
    """No module of the library reads our `training`, so theirs is in nobody's way."""
    code = """
import importlib, pkgutil, adc_features
names = [m.name for m in pkgutil.walk_packages(adc_features.__path__, "adc_features.")]
for name in names:
    if ".migrations." not in name:  # scripts that only Alembic runs
        importlib.import_module(name)
import training.model
print(len(names), training.model.LAYERS)
"""
    found, layers = passes(theirs, code)
    assert int(found) > 80
    assert layers == "3"


def test_the_feast_store_is_opened_and_joins(theirs):
    """Feast loads our plugins by their dotted names, and a join fills codes point-in-time."""
    code = """
from datetime import datetime, timezone
import feast, pandas as pd
store = feast.FeatureStore("repository")
frame = pd.DataFrame({
    "user_id": ["u"], "item_id": ["a"],
    "event_timestamp": [datetime(2014, 1, 15, tzinfo=timezone.utc)],
})
sid = store.get_historical_features(frame, ["item_sid_g1:sid"]).to_df()["sid"][0]
print(*sid, type(store._get_provider().offline_store).__name__)
"""
    assert passes(theirs, code) == ["1", "1", "-1", "AsofOfflineStore"]


def test_the_loader_gives_batches(theirs):
    """Rows come as batches in a training loop of theirs."""
    code = """
from datetime import datetime, timezone
import pyarrow as pa
from adc_features import store
from adc_features.loader.batches import Columns, Order, array_batches
from adc_features.loader.frame import label_table
from adc_features.loader.row_groups import TableGroups
time = pa.array([datetime(2014, 1, 15, tzinfo=timezone.utc)] * 2, pa.timestamp("us", tz="UTC"))
labels = label_table(pa.table({
    "user_id": ["u", "v"], "item_id": ["a", "b"], "time": time,
    "label": pa.array([0.0, 1.0], pa.float32()),
}))
table = store.training_features("repository", labels, service=store.service_name("g1"))
columns = Columns(scalars=("label",), lists={"sid": 3}, codes={"sid": 10})
order = Order(batch_rows=2, seed=None)
for batch in array_batches(TableGroups(table), columns, order):
    print(*batch["label"].astype(int), *batch["sid"].ravel())
"""
    assert passes(theirs, code) == ["0", "1", "2", "2", "0", "2", "2", "0"]


def test_a_promoted_ranker_is_opened_and_scores(theirs, shop):
    """A serving process needs nothing of ours that is named `training`."""
    promote(theirs / "pair.json", shop.pair("codes_weights"))
    code = """
from pathlib import Path
from adc_features.serving.promotion import read_promotion
from adc_features.serving.opening import open_bundle
bundle = open_bundle(read_promotion(Path("pair.json")))
print(bundle.promotion.generation)
"""
    assert passes(theirs, code) == ["g1"]


def adc(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """The `adc` command, run in their folder."""
    return python(
        folder,
        f"sys.argv = ['adc', *{list(words)!r}]\nfrom adc_features.cli.main import main\nmain()",
    )


def test_the_library_s_commands_work_and_the_others_are_left_out_in_words(theirs):
    """`adc` runs with what the library has, and a warning says why training's commands lack."""
    shown = adc(theirs, "--help")
    assert shown.returncode == 0, shown.stderr
    assert " lookup " in shown.stdout
    assert " retrain " not in shown.stdout
    assert "left out" in shown.stderr
    assert "training" in shown.stderr
    lacked = adc(theirs, "retrain")
    assert lacked.returncode != 0
    assert "No such command" in lacked.stderr
    sizes = ["--items", "100", "--users", "100", "--interactions", "1000"]
    made = adc(theirs, "data", "synthetic", "--out", "generated", *sizes)
    assert made.returncode == 0, made.stderr


def test_no_page_tells_anybody_to_import_training():
    """What a user's own program imports is in the library."""
    told = [
        f"{page.name}: {line.strip()}"
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if re.search(r"\bfrom training(\.\w+)* import\b|\bimport training\b", line)
    ]
    assert told == []
