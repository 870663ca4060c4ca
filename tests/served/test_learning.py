"""From what was served to a ranker, by the commands. Reads: a shop. Writes: logs, label logs."""

import hashlib
import json
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from served_world import END, outcomes
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.store.services.schema import declared_rankers
from training.cli.datasets import targets_of
from training.ranker.joined import join_labels


@pytest.fixture(scope="module")
def served(small_feed, tmp_path_factory):
    """A folder with the log of every request and what came of them."""
    folder = tmp_path_factory.mktemp("learning")
    small_feed.log(folder / "log")
    pq.write_table(outcomes(small_feed.labels), folder / "outcomes.parquet")
    return folder


def adc(*words):
    return CliRunner().invoke(application(), [str(word) for word in words])


def dataset(small_feed, served, out, *options):
    return adc(
        *("dataset", "--from-log", served / "log", "--labels", served / "outcomes.parquet"),
        *("--repo", small_feed.repo, "--ranker", "small", "--out", out),
        *("--until", (END + timedelta(days=4)).isoformat(), "--json", out.with_suffix(".json")),
        *options,
    )


def frame_hash(table: pa.Table) -> str:
    """sha256 of every value of a table, its columns and their types."""
    told = [(f.name, str(f.type)) for f in table.schema]
    digest = hashlib.sha256(repr(told).encode())
    for column in table.columns:
        digest.update(repr(column.to_pylist()).encode())
    return digest.hexdigest()


def test_learning_from_the_log_and_from_the_join_see_the_same_frame(small_feed, served, tmp_path):
    """Rows, labels and every value: logged ones, those joined to the same label log, and those
    joined to what the shop logged itself have one hash."""
    made = dataset(small_feed, served, tmp_path / "labels.parquet", "--logged-values")
    assert made.exit_code == 0, made.output
    told = json.loads((tmp_path / "labels.json").read_text())
    assert told["requests"] == len(small_feed.shown)
    assert told["shown"] == "impressions"
    assert told["orphans"] == {"click": 0, "impression": 0, "purchase": 0}
    ranker = declared_rankers(small_feed.repo)["small"]
    path = tmp_path / "labels.parquet"
    logged = join_labels(small_feed.repo, ranker, path, logged=True)
    joined = join_labels(small_feed.repo, ranker, path)
    own = join_labels(small_feed.repo, ranker, small_feed.labels)
    assert len({frame_hash(one.table) for one in (logged, joined, own)}) == 1
    assert len({frame_hash(one.log.table) for one in (logged, joined, own)}) == 1


def test_a_ranker_is_trained_on_what_was_served(small_feed, served, tmp_path):
    """`adc train --logged-values` takes the label log and judges the ranker."""
    path = tmp_path / "labels.parquet"
    assert dataset(small_feed, served, path, "--logged-values").exit_code == 0
    asked = ["train", "--repo", small_feed.repo, "--labels", path, "--quick", "--seeds", 1]
    trained = adc(*asked, "--logged-values", "--json", tmp_path / "trained.json")
    assert trained.exit_code == 0, trained.output
    assert json.loads((tmp_path / "trained.json").read_text())["tasks"]["click"]["rows"] > 0


def test_a_label_log_without_values_is_refused_where_they_are_asked_for(
    small_feed, served, tmp_path
):
    """The message names the features and the option that writes them."""
    path = tmp_path / "labels.parquet"
    assert dataset(small_feed, served, path).exit_code == 0
    ranker = declared_rankers(small_feed.repo)["small"]
    with pytest.raises(InputError, match=r"no logged values of profile__segment.*--logged-values"):
        join_labels(small_feed.repo, ranker, path, logged=True)


def test_the_audit_exits_with_0_where_nothing_differs(small_feed, served, tmp_path):
    """`adc audit --served` prints a line for each feature, writes JSON and a page."""
    found = adc(
        *("audit", "--served", served / "log", "--repo", small_feed.repo, "--sample", 20),
        *("--page", tmp_path / "skew.html", "--json", tmp_path / "skew.json"),
    )
    assert found.exit_code == 0, found.output
    assert "stock__price" in found.output
    told = json.loads((tmp_path / "skew.json").read_text())
    assert told["different"] == 0
    assert told["requests"] == 20
    assert (tmp_path / "skew.html").exists()


def test_the_audit_exits_with_10_where_a_value_differs(small_feed, served, tmp_path):
    """A served value that was altered is found, named, and told by the exit code."""
    for folder in ("requests", "candidates"):
        (tmp_path / "log" / folder).mkdir(parents=True)
        for path in (served / "log" / folder).glob("*.parquet"):
            table = pq.read_table(path)
            if folder == "candidates":
                place = table.column_names.index("feature.stock__quality")
                altered = pa.array([0.125, *table.column(place).to_pylist()[1:]])
                table = table.set_column(place, table.field(place), altered)
            pq.write_table(table, tmp_path / "log" / folder / path.name)
    found = adc("audit", "--served", tmp_path / "log", "--repo", small_feed.repo)
    assert found.exit_code == 10, found.output
    assert "1 values differ" in found.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["dataset"], "--run"),
        (["dataset", "--from-log", "x", "--run", "y"], "--from-log"),
        (["dataset", "--from-log", "x", "--labels", "y.parquet"], "--out"),
        (["audit", "--served", "x"], "--repo"),
        (["serve", "--run", "x", "--log", "y"], "--repo"),
        (["serve", "--repo", "x", "--log", "y", "--log-sample", "2"], "--log-sample"),
        (["serve", "--repo", "x", "--log", "y", "--log-values", "0"], "--log-values"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(words, told):
    """Exit code 2, and the option that is missing or too much."""
    found = adc(*words)
    assert found.exit_code == 2
    assert told in found.output


def test_windows_come_from_the_option_then_the_declared_delay_then_half_an_hour(small_feed):
    """A window of a task that is not declared is refused."""
    tasks = declared_rankers(small_feed.repo)["small"].tasks
    found = {t.name: t.window for t in targets_of(tasks, [])}
    assert found == {"click": timedelta(minutes=30), "purchase": timedelta(days=3)}
    (click, _) = targets_of(tasks, ["click=2h"])
    assert click.window == timedelta(hours=2)
    for wrong in ("view=2h", "click", "click=2"):
        with pytest.raises(InputError, match="window"):
            targets_of(tasks, [wrong])
