"""The library's commands as a person types them.
Reads: adc_features.cli.commands, adc_features.cli.console.
"""

import errno
import json
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer

from adc_features.artifact import MANIFEST
from adc_features.cli import console
from adc_features.cli.main import application
from adc_features.data.dataset import DAY, read_dataset
from adc_features.data.synthetic import synthetic
from adc_features.errors import ArtifactError, GenerationMismatch, InputError, ParityError

SMALL = ("--items", "150", "--users", "120", "--interactions", "1500")


@pytest.fixture
def adc(monkeypatch, capsys):
    """Run one command in this process: (exit code, stdout, stderr)."""

    def command(*words, run=None):
        monkeypatch.setattr(sys, "argv", ["adc", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            console.run_app(run or application())
        return stop.value.code, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def made():
    return synthetic(seed=0, items=150, users=120, interactions=1_500).dataset


# ---- making data


def test_a_generated_catalogue_is_a_dataset_directory(adc, tmp_path):
    """`adc data synthetic` writes a dataset, its truth beside it, and says what comes next."""
    code, out, _ = adc("data", "synthetic", "--out", tmp_path / "made", "--seed", 1, *SMALL)
    assert code == 0
    assert f"next: adc run --data {tmp_path / 'made'}" in out
    assert len(read_dataset(tmp_path / "made").items) == 150
    assert sorted(p.name for p in tmp_path.iterdir()) == ["made", "made-truth.npz"]


def test_json_goes_to_stdout_or_to_a_file(adc, tmp_path):
    """`--json -` prints JSON and nothing else; `--json FILE` writes the same to a file, in a new
    folder if need be.
    """
    code, out, _ = adc("data", "synthetic", "--out", tmp_path / "made", *SMALL, "--json", "-")
    assert code == 0
    facts = json.loads(out)
    assert facts["items"] == 150
    assert facts["resolution_seconds"] == DAY.total_seconds()
    assert facts["modalities"] == ["text", "image"]
    adc(
        "data",
        "synthetic",
        "--out",
        tmp_path / "made",
        *SMALL,
        "--json",
        tmp_path / "new" / "facts.json",
    )
    assert json.loads((tmp_path / "new" / "facts.json").read_text()) == facts


def test_own_tables_become_a_dataset(adc, made, tmp_path):
    """`adc data tables` reads Parquet or SQL,
    embeds the named text, and takes the windows that are given.
    """
    pq.write_table(made.items, tmp_path / "items.parquet")
    database = f"sqlite:///{tmp_path / 'shop.db'}"
    events = made.interactions.to_pandas()
    events["time"] = events["time"].map(lambda t: t.isoformat())
    events.to_sql("events", database, index=False)
    words = (
        "data",
        "tables",
        "--items",
        tmp_path / "items.parquet",
        "--interactions",
        f"{database}#events",
        "--out",
        tmp_path / "data",
    )
    code, _, err = adc(
        *words,
        "--text",
        "words=title,category",
        "--validation-start",
        "2024-09-01",
        "--test-start",
        "2024-10-01T00:00+00:00",
    )
    assert code == 0, err
    data = read_dataset(tmp_path / "data")
    assert data.text_views == {"words": ("title", "category")}
    assert [
        f"{t:%m-%d}"
        for t in (
            data.windows.validation_start,
            data.windows.validation_end,
            data.windows.test_start,
        )
    ] == ["09-01", "10-01", "10-01"]
    assert data.interactions.equals(made.interactions)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--text", "title"), "--text is 'title'; expected modality=column"),
        (("--text", "words=colour"), "text view words: columns ['colour'] are missing"),
        (
            ("--test-start", "2024-10-01"),
            "only one of --validation-start and --test-start is given",
        ),
        (
            ("--test-start", "soon", "--validation-start", "2024-09-01"),
            "--test-start is 'soon'; expected an ISO 8601",
        ),
    ],
)
def test_wrong_options_are_refused_in_words(adc, made, tmp_path, extra, words):
    """A refusal is one message and exit code 1; no dataset is written, no stack trace shown."""
    for name in ("items", "interactions"):
        pq.write_table(getattr(made, name), tmp_path / f"{name}.parquet")
    code, out, err = adc(
        "data",
        "tables",
        "--items",
        tmp_path / "items.parquet",
        "--interactions",
        tmp_path / "interactions.parquet",
        "--out",
        tmp_path / "data",
        *extra,
    )
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert words in err
    assert not (tmp_path / "data").exists()


def test_bad_tables_are_refused_with_every_error(adc, made, tmp_path):
    """All errors at once, a line each, before any work."""
    pq.write_table(
        made.items.set_column(0, "item_id", pa.array(["same"] * 150)), tmp_path / "items.parquet"
    )
    pq.write_table(
        made.interactions.set_column(3, "label", pa.array([1] * len(made.interactions))),
        tmp_path / "interactions.parquet",
    )
    code, _, err = adc(
        "data",
        "tables",
        "--items",
        tmp_path / "items.parquet",
        "--interactions",
        tmp_path / "interactions.parquet",
        "--out",
        tmp_path / "data",
    )
    assert code == 1
    assert "149 rows repeat an item id (first same)" in err
    assert "every label is 1; a ranker needs both classes" in err


# ---- doctor and runs


def test_the_doctor_s_exit_code(adc, made, tmp_path):
    """0 when nothing must be repaired, 1 when something must; findings as text or JSON."""
    adc("data", "synthetic", "--out", tmp_path / "data", *SMALL)
    assert adc("doctor", tmp_path / "data")[0] == 0
    (tmp_path / "data" / "items.parquet").write_bytes(b"broken")
    code, out, _ = adc("doctor", tmp_path / "data", "--json", "-")
    assert code == 1
    result = json.loads(out)
    assert result["errors"] == 1
    assert "sha256" in result["findings"][0]["what"]
    assert adc("doctor", tmp_path / "nowhere")[0] == 1


def test_a_stage_is_built_then_reused(adc, tmp_path):
    """`adc embed text` starts the run; the same command again says that it reused the stage, from
    wherever it is typed.
    """
    adc("data", "synthetic", "--out", tmp_path / "data", *SMALL)
    words = ("embed", "text", "--run", tmp_path / "run", "--json", "-")
    assert json.loads(adc(*words, "--data", tmp_path / "data")[1])["reused"] is False
    assert json.loads(adc(*words)[1])["reused"] is True
    assert json.loads((tmp_path / "run" / "run.json").read_text())["source"] == str(
        tmp_path / "data"
    )


def test_windows_without_rows_of_both_classes_are_refused(adc, made, tmp_path):
    """A cut-off before the first event, no row to score, or one class on one side: refused before
    anything is embedded.
    """
    early = made.windows.validation_start
    one_sided = made.interactions.set_column(
        3,
        "label",
        pa.array([float(t >= early) for t in made.interactions["time"].to_pylist()], pa.float32()),
    )
    tables = {"interactions": made.interactions, "one_sided": one_sided, "items": made.items}
    for name, table in tables.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
    for events, start, end, words in (
        (
            "interactions",
            "2020-01-01",
            "2024-06-01",
            "no interaction lies before the cut-off 2020-01-01",
        ),
        ("interactions", "2030-01-01", "2030-06-01", "no interaction lies from 2030-01-01"),
        (
            "one_sided",
            f"{early:%Y-%m-%d}",
            "2030-06-01",
            "have label 0; a ranker needs both classes",
        ),
    ):
        data = tmp_path / f"{events}-{start}"
        source = (
            "--items",
            tmp_path / "items.parquet",
            "--interactions",
            tmp_path / f"{events}.parquet",
        )
        assert (
            adc(
                "data",
                "tables",
                *source,
                "--out",
                data,
                "--validation-start",
                start,
                "--test-start",
                end,
            )[0]
            == 0
        )
        code, _, err = adc(
            "embed", "text", "--data", data, "--run", tmp_path / f"run-{events}-{start}"
        )
        assert code == 1
        assert words in err
        assert not (tmp_path / f"run-{events}-{start}" / "data").exists()


def test_an_unknown_recipe_is_refused_with_those_that_exist(adc, tmp_path):
    """A recipe is named; another name is refused with the list."""
    adc("data", "synthetic", "--out", tmp_path / "data", *SMALL)
    code, _, err = adc(
        "embed",
        "behavior",
        "--data",
        tmp_path / "data",
        "--run",
        tmp_path / "run",
        "--recipe",
        "best",
    )
    assert code == 1
    assert "behavior is 'best'; expected one of full_softmax, norm_rising" in err


@pytest.mark.parametrize(
    "words",
    [
        ("fit",),
        ("publish",),
        ("materialize",),
        ("quality",),
        ("lookup", "i1"),
        ("embed", "behavior"),
    ],
)
def test_a_command_without_a_run_says_how_to_start_one(adc, tmp_path, words):
    """A directory that holds no run is refused with the command that makes one; nothing is created
    in it.
    """
    code, _, err = adc(*words, "--run", tmp_path / "none")
    assert code == 1
    assert "holds no run.json; start one with `adc run --data" in err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "words", [("fit",), ("publish",), ("materialize",), ("quality",), ("lookup", "i1")]
)
def test_a_command_out_of_order_says_what_is_missing(adc, tmp_path, words):
    """A stage whose inputs are not there names the first one that is missing."""
    (tmp_path / "run.json").write_text('{"source": "synthetic"}')
    code, _, err = adc(*words, "--run", tmp_path)
    assert code == 1
    assert "is not complete; build it first" in err


# ---- ends


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (InputError("got 1, expected 2; give 2"), 1, "error: got 1, expected 2; give 2"),
        (ArtifactError("x is missing"), 1, "error: x is missing"),
        (GenerationMismatch("g1 met g2"), 1, "error: g1 met g2"),
        (ParityError("7 of 1000 items differ"), 3, "error: 7 of 1000 items differ"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/run/x"),
            1,
            "No space left on device: '/run/x'; nothing half-written was published. Make room",
        ),
        (OSError("90000 requested and 25584 written"), 1, "nothing half-written was published"),
        (
            RuntimeError("I/O error: No space left on device (os error 28)"),
            1,
            "nothing half-written was published",
        ),
        (KeyboardInterrupt(), 130, "stopped; run the same command again"),
    ],
)
def test_how_a_command_ends(adc, error, code, words):
    """Refusals, differences between online and offline, a full disk and ctrl-C each end in words
    and in their exit code.
    """
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise error

    ended, out, err = adc(run=failing)
    assert (ended, out) == (code, "")
    assert words in err


def test_what_nobody_foresaw_keeps_its_trace(adc):
    """A bug is not dressed up as a refusal."""
    failing = typer.Typer(pretty_exceptions_enable=False)

    @failing.command()
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        adc(run=failing)


def test_wrong_usage_exits_with_2(adc):
    """An unknown option is a usage error."""
    code, _, err = adc("fit", "--colour", "red")
    assert code == 2
    assert "--colour" in err


def test_a_killed_command_leaves_nothing_half_done(tmp_path):
    """`adc data synthetic` killed while it writes leaves no directory;
    the same command then succeeds.
    """
    code = """
import os, signal
import pyarrow.parquet as pq
from adc_features.cli.main import main
write, calls = pq.write_table, []
def fatal(*a, **k):
    calls.append(1)
    os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 2 else write(*a, **k)
pq.write_table = fatal
main()
"""
    command = ["data", "synthetic", "--out", str(tmp_path / "made"), *SMALL]
    assert (
        subprocess.run(
            [sys.executable, "-c", code, *command], check=False, capture_output=True
        ).returncode
        == -9
    )
    assert not (tmp_path / "made").exists()
    assert (
        subprocess.run(
            [sys.executable, "-c", code.replace("== 2", "== 0"), *command],
            check=False,
            capture_output=True,
        ).returncode
        == 0
    )
    assert (tmp_path / "made" / MANIFEST).is_file()
    assert not list(tmp_path.glob(".made.*"))
