"""A declared ranker that is trained on joined rows in files, beside one of rows in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoder_cases import CASES, ROWS, TIMES, Case, spec
from feed_world import CONFIG, apply_feed, make_feed
from numpy.testing import assert_array_equal
from typer.testing import CliRunner

from adc_features.cli.main import application
from adc_features.errors import InputError
from adc_features.file_lock import file_lock
from adc_features.inputs.counting import Tally, counted_values
from adc_features.inputs.declaration import Ranker, number
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.in_pieces import fit_in_pieces
from adc_features.inputs.rows import Parts
from adc_features.ranking.multitask.trained import TrainedRanker, load_ranker
from adc_features.store.services.schema import declared_rankers
from training.ranker.epochs import Epochs
from training.ranker.fitting import TrainSettings, fit_ranker, fit_then_refit, predictions
from training.ranker.joined import JoinedRows, join_labels
from training.ranker.joined_files import ROWS as ROWS_DIRECTORY
from training.ranker.joined_files import JoinedFiles, join_files
from training.ranker.splits import split_labels
from training.ranker.workflow import train_rankers

NOW = datetime(2026, 2, 12, tzinfo=UTC)
QUICK = TrainSettings(seeds=1, quick=True)
OURS = CONFIG.replace("duckdb", "adc_features.store.offline_store.AsofOfflineStore")
RANKERS = """
from adc_features.inputs.declaration import Ranker, Task, category, infer, skip

INPUTS = infer() | {
    "device": category(request=True),
    "position": category(request=True, train_only=True, default=0, min_count=1),
}
COMMON = dict(service="feed_v1", inputs=INPUTS, user=["customer_id"], item=["sku"],
              request="request_id", gates=["profile__segment"])
CLICK = [Task("click")]
BOTH = [*CLICK, Task("purchase", weight=0.3, known_at="bought_at", delay="3d", given="click")]
SMALL = {"embedding": 4, "hidden": (8,), "max_epochs": 2, "level_epochs": 1}
both = Ranker(name="both", tasks=BOTH, settings=SMALL, **COMMON)
slates = Ranker(name="slates", tasks=CLICK, listwise=0.5, settings=SMALL, **COMMON)
level = Ranker(name="level", tasks=CLICK, settings=SMALL, **COMMON | {
    "inputs": INPUTS | {"stock__quality": number(level="fresh")}})
trees = Ranker(name="trees", tasks=CLICK, model="xgboost", **COMMON)
""".replace("category, infer", "category, infer, number")


@dataclass(frozen=True)
class Shop:
    """A repository with rows in memory. labels: its log."""

    repo: Path
    labels: Path
    rankers: dict[str, Ranker]

    def joined(self, name: str) -> JoinedRows:
        """The rows of a ranker, in memory."""
        return join_labels(self.repo, self.rankers[name], self.labels)

    def files(self, name: str, directory: Path, **options: Any) -> JoinedFiles:
        """The same rows in files, 400 at a time."""
        directory.mkdir()
        options = {"group_rows": 400} | options
        ranker = self.rankers[name]
        return join_files(self.repo, ranker, self.labels, directory=directory, **options)


def interleaved(path: Path) -> None:
    """Write a log anew in which rows of some requests stand between those of others."""
    table = pq.read_table(path)
    times = table["event_timestamp"].cast(pa.int64()).to_numpy().copy()
    times += np.random.default_rng(3).integers(0, 1_800_000_000, len(times))
    column = pa.array(times).cast(pa.timestamp("us", "UTC"))
    place = table.column_names.index("event_timestamp")
    pq.write_table(table.set_column(place, "event_timestamp", column), path)


def made(folder: Path, config: str = OURS) -> Shop:
    feed = make_feed(folder, rows=2_400, rankers=RANKERS, config=config)
    apply_feed(folder)
    return Shop(folder, feed.labels, declared_rankers(folder))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return made(tmp_path_factory.mktemp("files") / "repo")


def assert_same_model(found: TrainedRanker, expected: TrainedRanker) -> None:
    """Vocabularies, scales and parameters to the bit; what was counted, and the choice of rounds;
    calibrations, which are fitted on scores, but for the order of sums."""
    for one, two in zip(
        found.encoder.encoders.values(), expected.encoder.encoders.values(), strict=True
    ):
        assert one.state().facts == two.state().facts
    for name, vocabulary in expected.encoder.vocabularies.items():
        assert found.encoder.vocabularies[name].ids.equals(vocabulary.ids)
        assert_array_equal(found.encoder.vocabularies[name].counts, vocabulary.counts)
    for seed, model in expected.models.items():
        for name, values in model.tensors.items():
            assert_array_equal(found.models[seed].tensors[name], values, err_msg=name)
    for key in ("rows", "first", "positives", "inputs", "rounds", "matched", "sampling"):
        assert found.facts[key] == expected.facts[key], key
    for one, two in zip(found.calibration, expected.calibration, strict=True):
        assert one.to_dict() == pytest.approx(two.to_dict(), abs=1e-4)


@pytest.mark.parametrize("name", ["both", "slates", "level"])
def test_files_train_the_ranker_of_memory(shop: Shop, name: str, tmp_path: Path) -> None:
    """Where a buffer holds all rows: the same vocabularies, scales, rounds and parameters to the
    bit, for two tasks, whole requests and level inputs; scores differ by the order of sums.
    """
    joined, files = shop.joined(name), shop.files(name, tmp_path / "rows")
    assert len(files.groups.rows) > 4
    assert files.matched == joined.matched
    splits = split_labels(joined.log)
    settings = TrainSettings(seeds=1, keep_negatives=0.7)
    trained = [
        fit_ranker(rows, splits.train, settings, validation=splits.validation)
        for rows in (files, joined)
    ]
    assert_same_model(*trained)
    window = splits.validation
    scores = [predictions(trained[1], rows, window) for rows in (files, joined)]
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert files.reference.equals(joined.reference.combine_chunks())


def test_rows_of_a_request_stand_together(tmp_path: Path) -> None:
    """A listwise ranker on a log whose requests run side by side: rows of one are in one group, and
    the parameters are those of rows in memory.
    """
    shop = made(tmp_path / "repo")
    interleaved(shop.labels)
    joined, files = shop.joined("slates"), shop.files("slates", tmp_path / "rows", group_rows=64)
    assert files.order is not None
    assert joined.log.requests is not None
    for group in np.split(joined.log.requests[files.order], np.cumsum(files.groups.rows)[:-1]):
        assert (np.bincount(group)[np.unique(group)] == 8).all()
    some = np.array([5, 900, 17, 2_000])
    assert files.parts(some)["item"].table.equals(joined.table.take(pa.array(some)))
    splits = split_labels(joined.log)
    trained = [fit_ranker(rows, splits.train, QUICK) for rows in (files, joined)]
    assert_same_model(*trained)


def test_more_rows_than_a_buffer_learn_as_well(shop: Shop, tmp_path: Path) -> None:
    """In several buffers the order of batches is another, and the ranker nearly as good."""
    files = replace(shop.files("both", tmp_path / "rows"), buffer_rows=600)
    joined = shop.joined("both")
    splits = split_labels(joined.log)
    losses = []
    for rows in (files, joined):
        trained = fit_ranker(rows, splits.train, replace(QUICK, seeds=3))
        scores = predictions(trained, rows, splits.validation).mean(axis=0)[0]
        labels = splits.validation.labels[0]
        losses.append(-np.log(np.where(labels > 0, scores, 1 - scores)).mean())
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_the_last_fit_reads_the_files_again(shop: Shop, tmp_path: Path) -> None:
    """`--final` fits on training rows, then on all before the test, from the same joined rows."""
    files, joined = shop.files("both", tmp_path / "rows"), shop.joined("both")
    splits = split_labels(joined.log)
    windows = splits.train, splits.validation, splits.final_train
    assert_same_model(*(fit_then_refit(rows, *windows, QUICK) for rows in (files, joined)))


def test_another_offline_store_is_joined_in_pieces_too(tmp_path: Path) -> None:
    """DuckDB, asked for one group of rows after the other."""
    shop = made(tmp_path / "repo", CONFIG)
    joined, files = shop.joined("both"), shop.files("both", tmp_path / "rows")
    found, tied = files.parts(np.arange(len(joined)))["item"].table, "affinity__visits"
    # of two rows of one key and time it takes either
    assert found.drop(tied).equals(joined.table.drop(tied).combine_chunks())


def test_the_command_trains_from_files(shop: Shop) -> None:
    """`adc train --rows-in-files` writes a version that scores its reference rows, judges it as the
    one of rows in memory, and leaves no rows behind.
    """
    asked = ["train", "--repo", str(shop.repo), "--labels", str(shop.labels), "--ranker", "both"]
    asked += ["--quick", "--importance"]
    found = CliRunner().invoke(application(), [*asked, "--rows-in-files"])
    assert found.exit_code == 0, found.output
    directory = shop.repo / "rankers" / "both"
    assert not (directory / ROWS_DIRECTORY).exists()
    told = train_rankers(
        shop.repo,
        {"both": shop.rankers["both"]},
        shop.labels,
        at=NOW,
        settings=QUICK,
        importance=True,
    )
    versions = {path: load_ranker(path) for path in directory.glob("*/") if path.name[0] != "."}
    here = versions.pop(told.versions["both"])
    assert_same_model(*versions.values(), here)


def test_a_report_from_files_is_that_of_memory(shop: Shop) -> None:
    """Metrics, shares of inputs, importance and calibration, but for the order of sums."""
    options: dict[str, Any] = {"at": NOW, "settings": TrainSettings(seeds=1)}
    reports = []
    for in_files in (True, False):
        named = {"both": shop.rankers["both"]}
        judged = train_rankers(shop.repo, named, shop.labels, rows_in_files=in_files, **options)
        reports.append(judged.to_dict())
    for report in reports:
        about = report["about"]["both"]
        report["numbers"] = [
            one["drop"]["auc"]["mean"] for one in about["importance"]["inputs"].values()
        ]
        report["scores"] = report["tasks"]["click"]["rankers"]["both"]
    one, two = reports
    assert one["about"]["both"]["inputs"] == two["about"]["both"]["inputs"]
    assert one["about"]["both"]["labels"] == two["about"]["both"]["labels"]
    assert one["numbers"] == pytest.approx(two["numbers"], abs=1e-4)
    for metric in ("auc", "gauc", "logloss", "calibration"):
        assert one["scores"][metric] == pytest.approx(two["scores"][metric], abs=1e-4), metric


def test_what_does_not_learn_from_files_is_refused_at_once(shop: Shop) -> None:
    """Trees, logged values and pretrained codes, before any row is read; a warm start, and a
    second process, too."""
    trees = {name: shop.rankers[name] for name in ("trees",)}
    options: dict[str, Any] = {"at": NOW, "rows_in_files": True}
    with pytest.raises(InputError, match=r"trees learn from rows in memory.*--rows-in-files"):
        train_rankers(shop.repo, trees, shop.labels, **options)
    named = {"level": shop.rankers["level"]}
    with pytest.raises(InputError, match=r"--logged-values .* does not go with --rows-in-files"):
        train_rankers(shop.repo, named, shop.labels, logged=True, **options)
    assert not (shop.repo / "rankers" / "level").exists()
    directory = shop.repo / "rankers" / "level" / ROWS_DIRECTORY
    directory.mkdir(parents=True)
    with file_lock(directory), pytest.raises(InputError, match="another process writes"):
        train_rankers(shop.repo, named, shop.labels, **options)


def test_a_stopped_training_is_begun_anew(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in memory, it writes no version; its rows are gone, and what a killed process left there
    does not hinder the next one.
    """
    name = "slates"
    named, step = {name: shop.rankers[name]}, Epochs._step

    def stopped(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(Epochs, "_step", stopped)
    options: dict[str, Any] = {"at": NOW, "settings": QUICK, "rows_in_files": True}
    with pytest.raises(KeyboardInterrupt):
        train_rankers(shop.repo, named, shop.labels, **options)
    rows = shop.repo / "rankers" / name / ROWS_DIRECTORY
    assert not rows.parent.exists()
    (rows / "learned").mkdir(parents=True)
    (rows / "joined.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(Epochs, "_step", step)
    assert train_rankers(shop.repo, named, shop.labels, **options).versions[name].is_dir()
    assert not rows.exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pieces_fit_the_encoder_of_all_rows(case: Case) -> None:
    """Every kind of input, and one that carries its default in some training rows: the encoder that
    is fitted on pieces, in another order even, encodes every row as that of all rows at once.
    """
    inputs = (*case.inputs, spec("shelf", number(train_only=True, default=3)))
    table = pa.table({**case.columns, "shelf": np.arange(float(ROWS))})
    weights = np.random.default_rng(0).random(ROWS)
    whole = Parts.joined(table, TIMES, timeline=case.timeline)
    cuts = np.split(np.random.default_rng(1).permutation(ROWS), [3, ROWS // 2])

    def pieces() -> Iterator[tuple[np.ndarray, Parts]]:
        for places in cuts:
            part = table.take(pa.array(places))
            parts = Parts.joined(part, TIMES[places], timeline=case.timeline)
            yield places, replace(parts, first=int(places.min()), places=places)

    found = fit_in_pieces(inputs, pieces(), weights=weights, seed=4)
    expected = InputEncoder.fit(inputs, whole, weights=weights, seed=4)
    assert found.layout == expected.layout
    ours, theirs = (e.encode(whole, training=True, seed=4) for e in (found, expected))
    for name, block in theirs.blocks.items():
        assert_array_equal(ours.blocks[name].dense, block.dense, err_msg=name)
    assert found.counts(whole) == expected.counts(whole)


def test_scales_of_many_rows_are_those_of_a_sample() -> None:
    """Values are counted on all rows; a mean is that of rows at even distances."""
    values = np.arange(1_000.0)
    table = pa.table({"price": values})
    times = np.full(1_000, TIMES[0])
    parts = [
        (np.arange(start, start + 250), Parts.joined(table.slice(start, 250), times[:250]))
        for start in range(0, 1_000, 250)
    ]
    found = fit_in_pieces(
        (spec("price", number()),), parts, weights=np.ones(1_000), sample_rows=101
    )
    facts = found.encoders["price"].state().facts
    chosen = np.linspace(0, 999, 101).astype(int)
    assert facts["mean"] == pytest.approx(values[chosen].mean())


def test_values_that_are_counted_in_pieces_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where sums are made in between, and where a piece holds nulls alone."""
    monkeypatch.setattr("adc_features.inputs.counting._PENDING", 10)
    ids = np.random.default_rng(0).integers(0, 40, 500).tolist()
    whole = pa.array([None if n == 7 else f"i{n}" for n in ids])
    tally = Tally()
    assert not len(tally.counted().values)
    for start in range(0, 500, 9):
        tally.add(whole.slice(start, 9))
    tally.add(pa.nulls(3))
    found, expected = tally.counted(), counted_values(whole)
    assert found.absent == expected.absent + 3
    counts = [
        dict(zip(c.values.to_pylist(), c.counts.tolist(), strict=True)) for c in (found, expected)
    ]
    assert counts[0] == counts[1]
