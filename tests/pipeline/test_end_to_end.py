"""The whole flow on a generated catalogue, through the command line, once; every test below looks
at that one run.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import generation_of, serving_time, snapshots_of
from adc_features.ranking.recipes import RECIPES
from training.stages import ALL_STAGES, RETROACTIVE, frame_of

SETTINGS = ["--seeds", "1", "--snapshots", "3", "--codebook-size", "8", "--steps", "150"]


def adc(*words: str) -> Any:
    """Run a command in this process; its exit code must be 0."""
    result = CliRunner().invoke(application(), [*words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a dataset `shop` and a finished run `run`."""
    place = tmp_path_factory.mktemp("end_to_end")
    adc(
        "data",
        "synthetic",
        "--out",
        str(place / "shop"),
        "--items",
        "400",
        "--users",
        "300",
        "--interactions",
        "6000",
    )
    adc(
        "run",
        "--data",
        str(place / "shop"),
        "--run",
        str(place / "run"),
        *SETTINGS,
        "--json",
        str(place / "first.json"),
    )
    return place


@pytest.fixture(scope="module")
def metrics(workplace: Path) -> dict[str, Any]:
    return json.loads((workplace / "run" / "metrics.json").read_text())


def test_metrics_have_the_shape_that_other_tools_read(metrics: dict[str, Any]) -> None:
    """Recipes, paired differences, quality, parity and costs stand under their documented names."""
    assert set(metrics["recipes"]) == {*RECIPES, RETROACTIVE}
    for scores in metrics["recipes"].values():
        for name in ("auc", "gauc", "logloss", "tail_auc"):
            assert set(scores[name]) == {"mean", "low", "high"}
    for pair in (
        "codes_minus_no_sid",
        "codes_weights_minus_no_sid",
        "codes_weights_minus_codes",
        "codes_weights_minus_weights_permuted",
    ):
        assert (
            set(metrics["paired"][pair]["auc"])
            == set(metrics["paired"][pair]["gauc"])
            == {"mean", "low", "high"}
        )
    assert all(
        0 < book["entropy"] <= np.log(8) + 1e-9 and 0 < book["utilisation"] <= 1
        for book in metrics["quality"]["codebooks"]
    )
    assert metrics["reliability_rank_correlation"] >= 0.3
    assert set(metrics["stage_seconds"]) == {stage.name for stage in ALL_STAGES}
    assert metrics["peak_memory_bytes"] > 0


def test_every_row_that_goes_into_the_join_comes_out(metrics: dict[str, Any]) -> None:
    """The join neither loses nor adds a row."""
    assert metrics["rows_in"] == metrics["rows_out"] > 0


def test_online_values_equal_offline_values(metrics: dict[str, Any]) -> None:
    """Every item and user of the sample reads the same online as offline, bit for bit."""
    assert metrics["parity"]["different"] == 0
    assert metrics["parity"]["items"] == 400


def test_without_final_no_test_row_is_joined(workplace: Path, metrics: dict[str, Any]) -> None:
    """A validation run neither scores nor reads a row of the test window, and logs no opening."""
    end = metrics["dataset"]["split"]["eval_end"]
    assert frame_of(Run.open(workplace / "run")).times.max() < np.datetime64(end[:19])
    assert metrics["test_openings"] == []


def test_a_runs_joined_rows_are_proved_and_audited(
    workplace: Path, metrics: dict[str, Any]
) -> None:
    """`adc dataset --verify` joins again and finds the same content; `adc audit` finds every view's
    age and no feature of the future.
    """
    run = ["--run", str(workplace / "run"), "--json", "-"]
    assert json.loads(adc("dataset", "--verify", *run).stdout)["rows"] == metrics["rows_in"]
    views = json.loads(adc("audit", *run).stdout)["views"]
    assert {"item_profile", "user_activity", "sid_as_of"} <= set(views)
    assert all(
        view["future"] == 0 and view["none"] < view["rows"] == metrics["rows_in"]
        for view in views.values()
    )


def test_codes_of_a_row_were_servable_at_its_time(workplace: Path) -> None:
    """Joined codes equal those of the newest snapshot whose cut-off is not after the row; earlier
    rows have none.
    """
    run = Run.open(workplace / "run")
    frame, snapshots = frame_of(run), snapshots_of(run)
    cutoffs = np.array([np.datetime64(s.as_of.replace(tzinfo=None), "us") for s in snapshots])
    which = np.searchsorted(cutoffs, frame.times, side="right") - 1
    found = frame.table["sid_found"].to_numpy()
    np.testing.assert_array_equal(found, which >= 0)
    sid = np.array(frame.table["sid"].to_pylist())
    assert (sid[~found] == -1).all()
    for number, snapshot in enumerate(snapshots):
        rows = np.flatnonzero(which == number)
        np.testing.assert_array_equal(sid[rows], snapshot.lookup(frame.item_ids[rows]).sid)


def test_items_without_behaviour_have_content_codes_only(workplace: Path) -> None:
    """A cold item's behavioural positions hold no code and no weight, its content positions do."""
    run = Run.open(workplace / "run")
    newest, behavioral = snapshots_of(run)[-1], np.array(generation_of(run).spec.is_behavioral)
    assert newest.is_cold.any()
    assert (newest.sid[newest.is_cold][:, behavioral] == -1).all()
    assert (newest.sid_weight[newest.is_cold][:, behavioral] == 0).all()
    assert (newest.sid[newest.is_cold][:, 0] >= 0).all()


def test_a_second_run_reuses_every_stage(workplace: Path) -> None:
    """Nothing has changed, so nothing is built."""
    result = json.loads(adc("run", "--run", str(workplace / "run"), "--json", "-").stdout)
    assert result["built"] == []
    assert len(result["reused"]) == len(ALL_STAGES)


@pytest.mark.slow  # runs the whole flow again
def test_the_same_seed_gives_the_same_codes(workplace: Path) -> None:
    """Behaviour vectors and a tokenizer trained anew, on every core, give the same generation, bit
    for bit.
    """
    again = workplace / "again"
    shutil.copytree(workplace / "run", again)
    for stage in ("behavior", "generation"):
        shutil.rmtree(again / stage)
    adc("embed", "behavior", "--run", str(again))
    adc("fit", "--run", str(again))
    assert (
        generation_of(Run.open(again)).codebook_hash
        == generation_of(Run.open(workplace / "run")).codebook_hash
    )


def test_lookup_reports_an_unknown_item_as_absent(workplace: Path) -> None:
    """A known item has codes; an unknown one is not found, has no codes, and weights of 0."""
    known, unknown = json.loads(
        adc("lookup", "i000001", "nobody", "--run", str(workplace / "run"), "--json", "-").stdout
    )["items"]
    assert known["found"]
    assert max(known["sid"]) >= 0
    assert not unknown["found"]
    assert set(unknown["sid"]) == {-1}
    assert set(unknown["sid_weight"]) == {0.0}


@pytest.mark.slow
def test_what_is_promoted_ranks_on_the_command_line_and_over_http(workplace: Path) -> None:
    """Without a promotion codes_weights ranks, after one the promoted recipe; `adc serve` gives the
    scores of `adc rank`, and stops when told to.
    """
    run = ["--run", str(workplace / "run")]
    ask = [
        "rank",
        "u000001",
        "i000001",
        "i000002",
        "nobody",
        *run,
        "--now",
        "2025-01-01",
        "--json",
        "-",
    ]
    assert json.loads(adc(*ask).stdout)["recipe"] == "codes_weights"
    promoted = json.loads(
        adc("promote", *run, "--recipe", "xgboost_codes_weights", "--json", "-").stdout
    )
    ranked = json.loads(adc(*ask).stdout)
    assert (ranked["recipe"], ranked["pair"], ranked["unknown_items"]) == (
        "xgboost_codes_weights",
        promoted["pair"],
        1,
    )
    serve = [
        sys.executable,
        "-c",
        "from adc_features.cli.main import main; main()",
        "serve",
        *run,
        "--port",
        "0",
        "--json",
        str(workplace / "served.json"),
    ]
    with subprocess.Popen(
        serve, cwd=Path(__file__).parents[2], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as served:
        try:
            deadline = time.monotonic() + 600
            while not (workplace / "served.json").is_file():
                assert served.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            body = json.dumps(
                {
                    "user": "u000001",
                    "items": ["i000001", "i000002", "nobody"],
                    "now": "2025-01-01T00:00:00Z",
                }
            ).encode()
            with urllib.request.urlopen(
                json.loads((workplace / "served.json").read_text())["url"] + "/rank",
                body,
                timeout=60,
            ) as response:
                assert json.load(response) == ranked
        finally:
            served.terminate()
    assert served.returncode in (0, -signal.SIGTERM)


def test_a_control_is_not_promoted(workplace: Path) -> None:
    """Permuted weights and raw vectors are for comparison; they cannot serve."""
    for recipe in ("weights_permuted", "vectors", "nonsense"):
        with pytest.raises(InputError, match="is not served"):
            adc("promote", "--run", str(workplace / "run"), "--recipe", recipe)


def test_the_report_is_one_file_without_a_network(workplace: Path) -> None:
    """The page loads nothing from elsewhere."""
    page = (workplace / "run" / "report.html").read_text()
    assert "<html" in page
    assert not any(word in page for word in ('src="http', 'href="http', "<script", "@import"))


def test_doctor_calls_the_run_sound(workplace: Path) -> None:
    """Every artefact of a finished run is as its manifest says,
    and its Feast repository is sound.
    """
    findings = json.loads(adc("doctor", str(workplace / "run"), "--json", "-").stdout)
    assert findings["errors"] == 0


def test_quality_reads_the_generation(workplace: Path) -> None:
    """`adc quality` prints one entry for each codebook."""
    quality = json.loads(adc("quality", "--run", str(workplace / "run"), "--json", "-").stdout)
    assert len(quality["codebooks"]) == generation_of(Run.open(workplace / "run")).spec.length


def test_ranking_old_data_as_of_today_says_so(workplace: Path) -> None:
    """Without `--now` on data that ended years ago, a warning names the end of the data and the
    option; with it there is none.
    """
    run = workplace / "run"
    end = serving_time(Run.open(run)).isoformat()
    words = ["rank", "u000001", "i000001", "--run", str(run), "--json", "-"]
    today, then = adc(*words), adc(*words, "--now", end)
    assert "warning: ranking as of now" in today.stderr
    assert f"the run's data ends at {end}; give --now {end}" in today.stderr
    assert "warning" not in then.stderr
    assert json.loads(then.stdout)["now"] == end.replace("+00:00", "Z")
    assert json.loads(today.stdout)["now"] > json.loads(then.stdout)["now"]


READING = """
import sys
from typer.testing import CliRunner
from adc_features.pipeline.run import Run
from adc_features.pipeline.stages import generation_of, serving_time
from adc_features.cli.main import application
run = sys.argv[1]
opened = Run.open(run)
now = serving_time(opened).isoformat()
for words in (
    ["rank", "u000001", "i000001", "--now", now],
    ["versions"],
    ["show", generation_of(opened).id],
    ["doctor"],
    ["lookup", "i000001"],
    ["quality"],
):
    place = [run] if words == ["doctor"] else ["--run", run]
    told = CliRunner().invoke(application(), [*words, *place, "--json", "-"])
    print(words[0], told.exit_code, repr(told.exception), told.output if told.exit_code else "")
"""


@pytest.mark.slow  # many commands
def test_commands_that_only_read_need_no_writable_disk(workplace: Path) -> None:
    """On a run that is mounted read-only, ranking, lists, lookups and the check-up answer, and say
    nothing of the disk.
    """
    run = str(workplace / "run")
    mounted = (
        'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && ! touch "$0/file" 2>/dev/null'
    )
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, run], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting needs root and `unshare`")
    script = [sys.executable, "-c", READING, run]
    told = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'{mounted}; shift 0; exec "$@"', run, *script],
        check=False,
        capture_output=True,
        text=True,
    )
    answers = [line.split()[:2] for line in told.stdout.splitlines()]
    assert answers == [
        [name, "0"] for name in ("rank", "versions", "show", "doctor", "lookup", "quality")
    ], told.stdout + told.stderr
