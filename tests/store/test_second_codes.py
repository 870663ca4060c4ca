"""Second codes and their probabilities, from publishing to every reader: the same everywhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store_world import (
    DAY,
    day,
    frame,
    generation,
    publish_default_statistics,
    snapshot,
    with_second,
)

from adc_features import store
from adc_features.clock import instant
from adc_features.codes.embeddings import id_array
from adc_features.codes.sids import SidTable, SidTimeline, changed_rows
from adc_features.errors import GenerationMismatch, InputError
from adc_features.loader.row_groups import CodedGroups, TableGroups
from adc_features.store.packed.overlay import Overlay, _rows_of, row_bytes
from adc_features.store.packed.timeline import PackedTimeline
from adc_features.store.registry import open_store

NAMES = ["sid_second", "sid_second_weight"]
ROWS = [("u", item, day(at)) for item in "abcx" for at in (5, 11, 15, 22)]


def tables() -> list[SidTable]:
    """a and b from day 10 on, with code 1; on day 20 b is gone and c is there, with code 2."""
    return [
        with_second(snapshot(day(10), 1, items=["a", "b"])),
        with_second(snapshot(day(20), 2, items=["a", "c"], removed=["b"])),
    ]


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("second")
    store.create_repository(directory, project="second")
    published(directory, generation(), *tables())
    published(directory, generation("g2", codebook="22"), snapshot(day(10), 1, id="g2"))
    publish_default_statistics(directory)
    store.apply(directory)
    store.materialize(directory, now=day(30))
    return directory


def published(repo: Path, made, *snapshots: SidTable) -> None:
    store.publish(
        repo,
        made,
        snapshots,
        servable_at=[s.as_of + DAY for s in snapshots],
        computed_at=day(40),
    )


def shown(columns: pa.Table | SidTable) -> list[list]:
    if isinstance(columns, SidTable):
        columns = columns.to_arrow()
    return [columns[name].to_pylist() for name in NAMES]


def test_every_reader_sees_what_was_published(repo):
    """Point-in-time join, late join, loader, packed lookup and Feast's online store agree: none
    before the first snapshot, for strangers and for removed items.
    """
    rows = frame(ROWS)
    joined = store.training_features(repo, rows, service="ranker_g1")
    codes, chances = shown(joined)
    assert codes[:4] == [[-1, -1, -1], [2, -1, -1], [2, -1, -1], [3, -1, -1]]
    assert chances[:4] == [[0, 0, 0], *[[0.25, 0, 0]] * 3]
    assert codes[7] == codes[12] == [-1, -1, -1]  # b is removed by then; nobody knows x
    timeline = store.published_timeline(repo, "g1")
    times = rows["event_timestamp"].to_numpy().astype("datetime64[us]")
    late = timeline.gather_second(id_array(rows["item_id"]), times)
    assert [matrix.tolist() for matrix in late] == [codes, chances]
    assert shown(CodedGroups(TableGroups(rows), timeline).read(0)) == [codes, chances]
    items = ["a", "b", "c", "x"]
    now = store.training_features(
        repo, frame([("u", item, day(30)) for item in items]), service="ranker_g1"
    )
    packed = store.OnlineSids(repo, "g1", clock=lambda: day(30))
    assert shown(packed.lookup(items)) == shown(packed.snapshot().features(items)) == shown(now)
    online = store.online_features(repo, service="ranker_g1", item_ids=np.array(items))
    assert shown(online) == shown(now)


def test_a_view_has_them_only_where_its_generation_tells_them(repo):
    """The other generation of the same repository has neither features nor columns of them."""
    features = {
        view.name: [field.name for field in view.features]
        for view in open_store(repo).list_feature_views()
    }
    assert set(NAMES) <= set(features["item_sid_g1"])
    assert not set(NAMES) & set(features["item_sid_g2"])
    timeline = store.published_timeline(repo, "g2")
    assert not timeline.has_second
    with pytest.raises(InputError, match="generation 'g2' has no second codes; fit one with"):
        timeline.gather_second(np.array(["a"]), np.array([instant(day(30))]))


def test_snapshots_with_and_without_them_never_meet(tmp_path):
    """Neither at once nor one after the other, in files or in memory; nothing is published then."""
    store.create_repository(tmp_path, project="second")
    told, silent = tables()[0], snapshot(day(20), 2)
    with pytest.raises(GenerationMismatch, match=r"those as of 2014-01-21.* have none"):
        published(tmp_path, generation(), told, silent)
    with pytest.raises(GenerationMismatch, match="have none"):
        SidTimeline([told, silent], [day(11), day(21)])
    with pytest.raises(GenerationMismatch, match="have none"):
        changed_rows(told, silent)
    published(tmp_path, generation(), told)
    with pytest.raises(GenerationMismatch, match="have none"):
        published(tmp_path, generation(), silent)
    with pytest.raises(GenerationMismatch, match="have none"):
        published(tmp_path, generation(), snapshot(day(5), 2))
    assert len(store.published_timeline(tmp_path, "g1").snapshots) == 1


def test_an_item_that_came_since_has_them_too(repo):
    """Laid over the snapshots, as the rows of a commit hold them; a removal hides them."""
    came = with_second(snapshot(day(25), 4, items=["n"], removed=["c"]))
    rows = _rows_of(row_bytes(came, [int(instant(day(25)).astype(np.int64))] * 2))
    laid: PackedTimeline = store.published_timeline(repo, "g1").overlaid(Overlay(rows, 3))
    times = np.array([instant(day(at)) for at in (24, 26, 24, 26)])
    codes, chances = laid.gather_second(["n", "n", "c", "c"], times)
    assert codes[:, 0].tolist() == [-1, 5, 3, -1]
    assert chances[:, 0].tolist() == [0, 0.25, 0.25, 0]
    assert shown(laid.at(day(26)).lookup(["n", "c"])) == shown(came)


def test_a_change_of_a_second_code_alone_is_a_change():
    """The rows to publish hold the item whose second probability differs."""
    before = with_second(snapshot(day(10), 1))
    chance = before.sid_second_weight.copy()
    chance[1, 0] = 0.5
    after = replace(before, as_of=day(11), sid_second_weight=chance)
    assert changed_rows(before, after).item_ids.tolist() == ["b"]
