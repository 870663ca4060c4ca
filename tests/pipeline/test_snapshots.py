"""Snapshots of a frozen generation beyond those of its run, through the command line; one run, its
snapshots in order.
"""

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from adc_features.artifact import json_text
from adc_features.cli.main import application
from adc_features.data.dataset import Dataset, read_dataset, write_dataset
from adc_features.encoders.behavior_state import read_state
from adc_features.errors import InputError, QualityError
from adc_features.pipeline import renewal
from adc_features.pipeline.context import embedding_tables
from adc_features.pipeline.run import Run
from adc_features.pipeline.snapshots import backfill_times, renew, snapshot
from adc_features.pipeline.stages import BEHAVIOR_STAGE as BEHAVIOR
from adc_features.pipeline.stages import (
    CODES,
    DATA,
    GENERATION,
    PUBLICATION,
    TEXT,
    cutoffs_of,
    dataset_of,
    generation_of,
    repository_of,
    split_of,
)
from adc_features.store import published_before, published_snapshots, published_timeline
from adc_features.tokenizer.encode import encode

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published run on a small shop whose catalogue holds one item that nobody meets."""
    place = tmp_path_factory.mktemp("snapshots")
    adc(
        "data",
        "synthetic",
        "--out",
        str(place / "shop"),
        "--items",
        "150",
        "--users",
        "150",
        "--interactions",
        "2500",
    )
    run = Run.start(place / "run", settings(place))
    for stage in (DATA, TEXT, BEHAVIOR, GENERATION, CODES, PUBLICATION):
        run.ensure(stage)
    return place


def settings(place: Path) -> Any:
    from adc_features.pipeline.run import RunSettings

    return RunSettings(source=str(place / "shop"), snapshots=2, codebook_size=8, steps=80)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it to work on."""
    return Path(shutil.copytree(made, tmp_path / "work"))


def adc(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(application(), [*words])
    assert result.exit_code == code, result.output or result.exception
    return result


def opened(place: Path) -> Run:
    return Run.open(place / "run")


def published(run: Run) -> list[datetime]:
    return [s.as_of for s in published_snapshots(repository_of(run), "g1")]


def timeline(run: Run, generation: str = "g1") -> dict[datetime, Any]:
    return {
        s.as_of: s.table()[0] for s in published_timeline(repository_of(run), generation).snapshots
    }


def middle(a: datetime, b: datetime) -> datetime:
    return (a + (b - a) / 2).replace(hour=0, minute=0, second=0, microsecond=0)


def test_codes_encoded_from_files_are_published_as_a_snapshot(place: Path) -> None:
    """`adc encode --run` holds on to the codes that the run published before, as `adc snapshot`
    does, and `adc publish --codes` makes a snapshot of the run of them.
    """
    run, folder = opened(place), str(place / "run")
    end = split_of(run).eval_end
    assert end is not None
    items = replace(embedding_tables(run)[-1], as_of=end)
    items.write(place / "items.parquet")
    before = published_before(repository_of(run), "g1", end)
    files = ("--items", str(place / "items.parquet"), "--out", str(place / "codes"))
    adc("encode", "--run", folder, *files)
    facts = place / "facts.json"
    adc("publish", "--run", folder, "--codes", str(place / "codes"), "--json", str(facts))
    expected = encode(items, generation_of(run), previous=before)
    got = timeline(run)[end].lookup(items.item_ids)
    for name in ("sid", "sid_weight", "reliability", "collision_count", "is_cold"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name))
    assert json.loads(facts.read_text())["kept_codes"] == 1  # the same vectors, a later time
    lag = ("--publish-lag-hours", "2")
    refused = CliRunner().invoke(
        application(), ["publish", "--run", folder, "--codes", str(place / "codes"), *lag]
    )
    assert "a run keeps its own lag" in str(refused.exception)


def test_a_later_snapshot_publishes_what_changed(place: Path) -> None:
    """`adc snapshot` encodes newer behaviour in the old vocabulary; fewer rows than items are
    published, and the timeline is whole.
    """
    run = opened(place)
    end, before = split_of(run).eval_end, cutoffs_of(run)[-1]
    adc(
        "snapshot",
        "--run",
        str(place / "run"),
        "--as-of",
        f"{end:%Y-%m-%d}",
        "--json",
        str(place / "facts.json"),
    )
    facts = json.loads((place / "facts.json").read_text())
    whole = timeline(run)
    items = len(dataset_of(run).items)
    assert 0 < facts["published_rows"] < items == len(whole[end])
    assert not facts["hindsight"]
    assert 0.8 < facts["kept_codes"] < 1
    assert 0 < facts["alignment_residual"] < 1
    assert facts["cold_items"] == whole[end].is_cold.sum()
    np.testing.assert_array_equal(np.sort(whole[end].item_ids), np.sort(whole[before].item_ids))
    # an item without an event since keeps its row, behaviour vector included
    old, new = (
        read_state(p)
        for p in (
            max((run.output("behavior") / "states").iterdir()),
            run.directory / "snapshots" / f"{end:%Y%m%dT%H%M%S%f}" / "state.npz",
        )
    )
    a, b = old.over(new.item_ids), new.over(new.item_ids)
    still = a.present & (a.interaction_count == b.interaction_count)
    assert still.any()
    np.testing.assert_array_equal(a.vectors[still], b.vectors[still])


def test_a_snapshot_is_made_once(place: Path) -> None:
    """The command can be repeated;
    a run killed between writing and publishing publishes what was written.
    """
    run = opened(place)
    end = split_of(run).eval_end
    before = Path(shutil.copytree(repository_of(run), place / "before"))
    first = snapshot(run, end)
    assert snapshot(run, end)["reused"]
    shutil.rmtree(repository_of(run))
    before.rename(repository_of(run))  # as if it had never been published
    written = (
        (run.directory / "snapshots" / f"{end:%Y%m%dT%H%M%S%f}" / "codes.parquet")
        .stat()
        .st_mtime_ns
    )
    again = snapshot(run, end)
    assert again == first
    assert (
        run.directory / "snapshots" / f"{end:%Y%m%dT%H%M%S%f}" / "codes.parquet"
    ).stat().st_mtime_ns == written


def test_a_cutoff_before_the_generation_must_be_asked_for_as_backfill(place: Path) -> None:
    """Codes made in hindsight are refused with the reason and change nothing, unless that is what
    was asked for.
    """
    run = opened(place)
    cutoffs = cutoffs_of(run)
    past = middle(*cutoffs[-2:])
    result = adc("snapshot", "--run", str(place / "run"), "--as-of", f"{past:%Y-%m-%d}", code=1)
    assert isinstance(result.exception, InputError)
    assert "hindsight" in str(result.exception)
    assert published(run) == cutoffs
    assert not (run.directory / "snapshots").exists()
    assert snapshot(run, past, backfill=True)["hindsight"]
    entry = next(s for s in published_snapshots(repository_of(run), "g1") if s.as_of == past)
    assert entry.hindsight


def test_a_backfill_between_snapshots_leaves_the_later_ones_as_they_were(place: Path) -> None:
    """A later snapshot that holds only differences stays whole when one is put before it."""
    run = opened(place)
    cutoffs, end = cutoffs_of(run), split_of(run).eval_end
    snapshot(run, end)
    between = middle(cutoffs[-1], end)
    expected = timeline(run)[end]
    snapshot(run, between)
    after = timeline(run)[end].lookup(expected.item_ids)
    for name in ("sid", "sid_weight", "reliability", "is_cold", "collision_count"):
        np.testing.assert_array_equal(getattr(after, name), getattr(expected, name))
    assert published(run) == [*cutoffs, between, end]


def test_backfill_sees_events_before_each_cutoff_only(place: Path) -> None:
    """Later events, replaced by nonsense, change nothing in a backfilled snapshot."""
    run = opened(place)
    cutoffs = cutoffs_of(run)
    past = middle(*cutoffs[-2:])
    adc(
        "backfill",
        "--run",
        str(place / "run"),
        "--from",
        f"{past:%Y-%m-%d}",
        "--to",
        f"{past:%Y-%m-%d}",
        "--every",
        "1d",
    )
    honest = timeline(run)[past]
    shop = read_dataset(place / "shop")
    log = shop.interactions
    late = log["time"].to_numpy() >= np.datetime64(past.replace(tzinfo=None))
    rng = np.random.default_rng(0)
    items = np.where(late, rng.permutation(log["item_id"].to_numpy()), log["item_id"].to_numpy())
    nonsense = log.set_column(
        log.column_names.index("item_id"), "item_id", pa.array(items, log["item_id"].type)
    )
    write_dataset(
        Dataset("other", shop.items, nonsense, shop.resolution, shop.windows, shop.text_views),
        place / "other",
    )
    shutil.rmtree(run.directory / "snapshots")
    other = opened(place)
    from adc_features.pipeline.continuation import state_until, table_of
    from adc_features.pipeline.snapshots import _encoded

    dataset = read_dataset(place / "other")
    same = _encoded(
        other,
        generation_of(other),
        table_of(other, dataset, state_until(other, dataset, past), own=True),
    )
    np.testing.assert_array_equal(same.lookup(honest.item_ids).sid, honest.sid)
    np.testing.assert_array_equal(same.lookup(honest.item_ids).sid_weight, honest.sid_weight)


def test_newer_data_brings_new_items(place: Path) -> None:
    """With --data an item that the run never saw gets codes of the old vocabulary, cold without an
    event, warm with one.
    """
    run = opened(place)
    shop = read_dataset(place / "shop")
    last = shop.interactions["time"].to_numpy().max()
    items = pa.concat_tables(
        [
            shop.items,
            shop.items.slice(0, 2).set_column(
                shop.items.column_names.index("item_id"), "item_id", new_ids(shop)
            ),
        ]
    )
    event = shop.interactions.slice(len(shop.interactions) - 1, 1)
    event = event.set_column(
        event.column_names.index("item_id"), "item_id", new_ids(shop).slice(0, 1)
    )
    write_dataset(
        Dataset(
            "newer",
            items,
            pa.concat_tables([shop.interactions, event]),
            shop.resolution,
            shop.windows,
            shop.text_views,
        ),
        place / "newer",
    )
    as_of = datetime.fromisoformat(str(last.astype("datetime64[D]"))).replace(tzinfo=UTC) + DAY
    with pytest.raises(InputError, match="--data"):
        snapshot(run, as_of)
    facts = snapshot(run, as_of, source=str(place / "newer"))
    assert facts["new_items"] == 2
    rows = timeline(run)[as_of].lookup(np.array(new_ids(shop).to_pylist()))
    assert rows.found.all()
    assert rows.is_cold.tolist() == [False, True]
    content = ~np.array(generation_of(run).spec.is_behavioral)
    assert (rows.sid[:, content] >= 0).all()
    assert (rows.sid[1, ~content] == -1).all()


def new_ids(shop: Dataset) -> pa.Array:
    kind = shop.items["item_id"].type
    return (
        pa.array(["new a", "new b"], kind)
        if pa.types.is_string(kind)
        else pa.array([10**9, 10**9 + 1], kind)
    )


def test_backfilled_rows_reach_the_training_set(place: Path) -> None:
    """The join is redone when a snapshot was published, and not when none was."""
    from adc_features.store import apply
    from training.stages import DATASET

    run = opened(place)
    apply(repository_of(run))  # the registry of a copied repository names the files of the original
    run.ensure(DATASET)
    assert "dataset" in run.built
    again = opened(place)
    again.ensure(DATASET)
    assert again.reused == ["dataset"]
    past = middle(*cutoffs_of(run)[-2:])
    snapshot(run, past, backfill=True)
    fuller = opened(place)
    fuller.ensure(DATASET)
    assert fuller.built == ["dataset"]
    as_of = pq.read_table(fuller.output("dataset") / "frame.parquet")["sid_as_of"].to_pylist()
    assert past in as_of


def killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow  # fits again
def test_a_renewed_generation_stands_beside_the_old_one(place: Path) -> None:
    """`adc renew` needs a newer snapshot, keeps most codes, publishes every cut-off under its own
    id and leaves the old codes as they were.
    """
    from adc_features.store import apply

    run = opened(place)
    apply(repository_of(run))
    with pytest.raises(InputError, match="adc snapshot"):
        renew(run, "g2")
    end = split_of(run).eval_end
    snapshot(run, end)
    before = timeline(run)[end]
    with pytest.raises(QualityError, match="budget"):
        renew(run, "g2", warm=False, churn_budget=0.0)
    assert not (run.directory / "generations").exists() or not list(
        (run.directory / "generations").iterdir()
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(renewal, "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            renew(run, "g2", churn_budget=0.5)
    written = (run.directory / "generations" / "g2" / "manifest.json").stat().st_mtime_ns
    adc(
        "renew",
        "--run",
        str(place / "run"),
        "--generation",
        "g2",
        "--churn-budget",
        "0.5",
        "--json",
        str(place / "facts.json"),
    )
    # fitted once, published by the second call
    assert (run.directory / "generations" / "g2" / "manifest.json").stat().st_mtime_ns == written
    facts = json.loads((place / "facts.json").read_text())
    assert 0 <= facts["changed"] <= 0.5
    new = timeline(run, "g2")[end].lookup(before.item_ids)
    both = (before.sid >= 0) & (new.sid >= 0)
    assert facts["changed_served"] == pytest.approx((before.sid != new.sid)[both].mean())
    assert facts["changed_served"] < 0.2
    assert [s.as_of for s in published_snapshots(repository_of(run), "g2")] == [
        *cutoffs_of(run),
        end,
    ]
    np.testing.assert_array_equal(timeline(run)[end].sid, before.sid)
    with pytest.raises(InputError, match="new id"):
        renew(run, "g2")


def test_a_cutoff_before_all_behaviour_is_refused(place: Path) -> None:
    """There is no space of vectors yet before the run's first cut-off."""
    run = opened(place)
    with pytest.raises(InputError, match="first cut-off"):
        snapshot(run, cutoffs_of(run)[0] - DAY, backfill=True)


def test_backfill_times_by_hand() -> None:
    """Months are calendar months, the end is included, and nonsense has its own words."""
    day = lambda m, d: datetime(2024, m, d, tzinfo=UTC)  # noqa: E731
    assert backfill_times(day(1, 1), day(3, 1), "1mo") == [day(1, 1), day(2, 1), day(3, 1)]
    assert backfill_times(day(1, 1), day(1, 20), "1w") == [day(1, 1), day(1, 8), day(1, 15)]
    assert backfill_times(day(1, 1), day(1, 1), "30d") == [day(1, 1)]
    for bad in (
        (day(1, 2), day(1, 1), "1d"),
        (day(1, 31), day(3, 1), "1mo"),
        (day(1, 1), day(2, 1), "0d"),
        (day(1, 1), day(2, 1), "weekly"),
    ):
        with pytest.raises(InputError):
            backfill_times(*bad)
    assert json_text(backfill_times(day(1, 1), day(1, 1), "1d"))
