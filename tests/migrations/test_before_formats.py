"""A run, its Feast repository, a promotion and a catalogue that were written before artefacts
carried format numbers: they open as they are, and after `adc migrate`, with equal answers.
"""

import json
import lzma
import re
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import feast
import pandas as pd
import pyarrow.parquet as pq
import pytest
from before_formats import ARCHIVE, adc, answers, unpacked

from adc_features.encoders import behavior
from adc_features.formats import FORMATS
from adc_features.pipeline.migrations import migrate
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import generation_of
from adc_features.store import apply
from adc_features.store.repository import check_repository
from training import recipes

REPO = "feature_repo"


@pytest.fixture(scope="module", params=["as it was", "migrated"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The old run in a place of its own; its registry knows the place where it lies now."""
    run = unpacked(tmp_path_factory.mktemp("old"))
    if request.param == "migrated":
        migrate(run)
    else:
        apply(run / REPO)
    return run


def test_the_archive_names_no_path_of_the_machine_that_made_it():
    """Its files hold the one made-up place only, and it is small."""
    assert ARCHIVE.stat().st_size < 1 << 20
    content = lzma.decompress(ARCHIVE.read_bytes())
    assert b"/srv/adc-before-formats/run/feature_repo/data" in content
    for place in (*map(str, Path(__file__).parents[:3]), str(Path.home()), "site-packages"):
        assert place.encode() not in content


def test_the_run_opens_with_its_settings_and_its_generation(run):
    """Its settings are read, and its codebook has the hash under which it was published."""
    opened = Run.open(run)
    assert opened.settings.codebook_size == 8
    generation = generation_of(opened)
    [on_record] = answers(run)["versions"]["generations"]
    assert generation.codebook_hash == on_record["codebook_hash"]


def test_codes_are_looked_up_as_they_were(run):
    """`adc lookup` answers to the bit what the old version answered, unknown items included."""
    old = answers(run)
    assert adc("lookup", *old["items"], "--run", run) == old["lookup"]


def test_the_promoted_ranker_scores_as_it_did(run):
    """`adc rank` serves the old promotion: the same pair, the same order, scores within 1e-6."""
    old = answers(run)
    now = adc("rank", old["user"], *old["items"], "--run", run, "--now", old["now"])
    assert {k: v for k, v in now.items() if k != "items"} == {
        k: v for k, v in old["rank"].items() if k != "items"
    }
    assert [i["item_id"] for i in now["items"]] == [i["item_id"] for i in old["rank"]["items"]]
    assert [i["score"] for i in now["items"]] == pytest.approx(
        [i["score"] for i in old["rank"]["items"]], abs=1e-6
    )


def test_the_boosted_ranker_is_promoted_today(run, tmp_path):
    """A ranker directory of the old version, of the other kind, is checked, promoted and served."""
    file = tmp_path / "promotion.json"
    told = adc("promote", "--run", run, "--recipe", "xgboost_codes_weights", "--promotion", file)
    assert told["generation"] == "g1"
    assert json.loads(file.read_text())["format"] == FORMATS["promotion"]


def test_the_catalogue_tells_what_it_told(run):
    """Generations, rankers and promotions on record are those that the old version listed."""
    assert adc("versions", "--run", run) == answers(run)["versions"]


def test_the_repository_declares_itself_with_its_own_files(run):
    """The generated files import `adc_features.store.definitions`, and give the views and services
    that they gave.
    """
    assert check_repository(run / REPO) == []
    declared = {
        name
        for file in ("item_sids.py", "ranking_features.py")
        for name, value in runpy.run_path(str(run / REPO / file)).items()
        if isinstance(value, feast.FeatureView | feast.FeatureService | feast.Entity)
    }
    assert declared == {
        *("item_sid_g1", "item_profile", "user_activity"),
        *("item", "user", "ranker_g1", "ranker_no_sid"),
    }


def test_feast_opens_the_repository_with_the_plugins_that_its_file_names(run):
    """Feast itself, by the dotted paths of the old feature_store.yaml, joins past rows to the
    values of the frame that the old version joined, and reads the codes that it put online.
    """
    store = feast.FeatureStore(repo_path=str(run / REPO))
    frame = pq.read_table(run / "dataset" / "frame.parquet").to_pandas().tail(200)
    entities = frame[["user_id", "item_id", "event_timestamp"]]
    features = ["item_sid_g1:sid", "item_sid_g1:reliability"]
    joined = store.get_historical_features(entities, features).to_df()
    assert len(joined) == 200
    order = ["event_timestamp", "user_id", "item_id"]
    both = [pd.DataFrame(f).sort_values(order, kind="stable") for f in (joined, frame)]
    seen = both[1]["sid_found"].to_numpy()
    assert seen.any()
    got, wanted = ([list(sid) for sid in f["sid"][seen]] for f in both)
    assert got == wanted
    # what was loaded online then is what the newest of those rows read
    newest = {"item_id": frame["item_id"].iloc[-1]}
    online = store.get_online_features(features[:1], [newest]).to_dict()
    assert online["sid"] == [list(frame["sid"].iloc[-1])]


def test_the_join_of_the_old_version_is_proven_anew(run):
    """The rows that the old version joined are those that its retrieval manifest tells, and today's
    join gives the same content.
    """
    proven = adc("dataset", "--run", run, "--verify")
    assert proven["rows"] == 2_247


def test_the_doctor_finds_nothing_broken(run):
    """No error; what is older than this version's formats is named until it is migrated."""
    told = adc("doctor", run)
    assert told["errors"] == 0
    old = [f["what"] for f in told["findings"] if "adc migrate" in f["do"]]
    migrated = json.loads((run / "run.json").read_text()).get("format") == 1
    assert len(old) == (0 if migrated else 4)
    assert all(re.search("of format 0, this version writes [12]", what) for what in old)


def test_a_later_snapshot_and_a_retraining_go_on_from_it(run, monkeypatch):
    """`adc snapshot` continues from the old states with the old generation, and `adc retrain`
    decides with the old catalogue; what they write carries its format.
    """
    narrow(monkeypatch)
    shop = run.parent / "shop"
    made = adc("snapshot", "--run", run, "--as-of", "2024-12-20", "--data", shop)
    assert (made["generation"], made["reused"]) == ("g1", False)
    answer = adc("retrain", "--run", run, "--data", shop, "--min-rows", "50", expect=(0, 10))
    assert answer["decision"] in ("kept", "promoted")
    assert formats(run / REPO / "data" / "item_sid_g1" / "manifest.json") == ("publication", 1)


def test_no_file_names_a_module_but_the_plugins(run):
    """What is stored names no class or function by a dotted path, except feature_store.yaml and the
    generated declarations, whose names stay.
    """
    dotted = re.compile(rb"(?:adc_features|training)\.[a-z_]+[a-zA-Z_.]*")
    named = {
        (path.name, name.decode())
        for path in run.rglob("*")
        if path.is_file() and ".py" not in path.suffixes
        for name in dotted.findall(path.read_bytes())
        if not name.startswith((b"adc_features.join_rows", b"adc_features.vocabulary"))
    }
    assert named == {
        ("feature_store.yaml", f"adc_features.store.{name}")
        for name in (
            "offline_store.AsofOfflineStore",
            "online_store.LmdbOnlineStore",
            "compute_engine.ArrowComputeEngine",
        )
    }


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks as narrow as in make_fixture.py, so that what was trained there can go on."""
    recipe = replace(behavior.RECIPES["full_softmax"](), dim=16, blocks=1, length=16)
    monkeypatch.setitem(behavior.RECIPES, "full_softmax", lambda: recipe)
    small = {"embedding": 4, "hidden": (8, 4), "gate": 4, "networks": 2, "fresh_hidden": 8}
    monkeypatch.setattr(recipes, "SETTINGS", {**recipes.SETTINGS, **small})


def formats(path: Path) -> tuple[Any, Any]:
    """Kind and number of a document."""
    document = json.loads(path.read_text())
    return document.get("kind"), document.get("format")
