"""What a recipe changes in joined rows before they are encoded, and whose names are known here."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from ranking_world import DAY, catalogue, day, frame, interactions, snapshots, sources

import adc_features.ranking
from adc_features.codes.sids import list_matrix
from adc_features.data.statistics import item_profile, user_activity
from adc_features.errors import GenerationMismatch, InputError
from adc_features.ranking.inputs import recipe_table
from adc_features.ranking.recipes import RECIPES, Sources, exchange, recipe

KEYS = {"user_id", "item_id", "event_timestamp"}


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(400, seed=0))


def weights(table):
    return list_matrix(table["sid_weight"].combine_chunks(), 3, np.float32)


def test_exchanged_weights_are_other_items_rows_by_one_mapping(whole):
    """The control keeps codes and moves whole weight rows; within deciles items trade with items
    about as popular.
    """
    trade = exchange(whole, np.unique(whole.item_ids), within="all", seed=0)
    assert sorted(trade.source_ids) == sorted(trade.item_ids)
    real, moved = (
        recipe_table(whole, RECIPES["codes_weights"], sources(), e) for e in (None, trade)
    )
    assert real["sid"].equals(moved["sid"])
    assert real.equals(whole.table)
    source = dict(zip(trade.item_ids, trade.source_ids, strict=True))
    expected = snapshots().gather(np.array([source[i] for i in whole.item_ids]), whole.times)[1]
    assert np.array_equal(weights(moved), expected)
    counts = dict(zip(*np.unique(whole.item_ids, return_counts=True), strict=True))
    near = exchange(whole, np.unique(whole.item_ids), within="decile", seed=0)
    gap = [abs(counts[a] - counts[b]) for a, b in zip(near.item_ids, near.source_ids, strict=True)]
    wide = [
        abs(counts[a] - counts[b]) for a, b in zip(trade.item_ids, trade.source_ids, strict=True)
    ]
    assert np.mean(gap) < np.mean(wide) / 2


def test_recipes_without_their_sources_are_refused(whole):
    """Codes need a timeline of the frame's generation, vectors a vector timeline, names must
    exist.
    """
    with pytest.raises(InputError, match="reads codes"):
        recipe_table(whole, RECIPES["codes"], Sources())
    with pytest.raises(InputError, match="reads raw vectors"):
        recipe_table(whole, RECIPES["vectors"], Sources())
    with pytest.raises(GenerationMismatch, match="g2"):
        recipe_table(whole, RECIPES["codes"], Sources(sids=snapshots("g2")))
    with pytest.raises(InputError, match="choose from no_sid"):
        recipe("sid_only")


def test_no_feature_is_named_where_rankers_are():
    """The columns of both views of statistics stand in declarations; only the reader of the former
    format knows some of them by name.
    """
    log = interactions(50, seed=1)
    tables: list[pa.Table] = [
        user_activity(log, catalogue(), resolution=DAY),
        item_profile(log, catalogue(), resolution=DAY, refresh_at=[day(0)]),
    ]
    names = {name for table in tables for name in table.column_names} - KEYS
    assert {"user_recent_items", "item_event_count"} <= names
    named = re.compile("|".join(rf"\b{name}\b" for name in sorted(names)))
    root = Path(adc_features.ranking.__file__).parent
    found = {
        (str(path.relative_to(root)), hit)
        for path in root.rglob("*.py")
        if "legacy" not in path.parts
        for hit in named.findall(path.read_text())
    }
    assert not found
