"""Rankers of the former format: what they read, against plain loops over the frame's rows."""

import json
from dataclasses import asdict, fields, replace

import numpy as np
import pyarrow as pa
import pytest
import xgboost as xgb
from ranking_world import GENERATION, START, frame, interactions, snapshots, sources

from adc_features.artifact import seal
from adc_features.data.statistics import SMOOTHING
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.formats import FORMATS
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.legacy.boosted import boosted_matrix
from adc_features.ranking.legacy.features import (
    ID_COLUMNS,
    ITEM_COLUMNS,
    KINDS,
    SETTLED_DAYS,
    USER_COLUMNS,
    recent_items,
    settled_features,
    taste,
)
from adc_features.ranking.legacy.inputs import HASH_BUCKETS, InputEncoder, Inputs
from adc_features.ranking.legacy.match import code_match
from adc_features.ranking.legacy.recipe_inputs import recipe_inputs
from adc_features.ranking.legacy.trained import LegacyTrained
from adc_features.ranking.recipes import RECIPES
from adc_features.ranking.trained import load_trained


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(400, seed=0))


@pytest.fixture(scope="module")
def encoder(whole):
    """Vocabularies of half of the ids, scales that change nothing."""
    return InputEncoder(
        {name: np.unique(whole.texts(name).astype(str))[::2] for name in ID_COLUMNS},
        np.unique(whole.user_ids),
        *(scale(width) for width in (len(ITEM_COLUMNS) + len(KINDS), len(USER_COLUMNS), 2)),
    )


def scale(width):
    return np.stack([np.zeros(width), np.ones(width)])


def rows_of(whole):
    return whole.table.to_pylist()


def test_settled_features_leave_out_young_events(whole):
    """Count and mean residual of the events older than SETTLED_DAYS, from a plain loop over the
    user's earlier rows.
    """
    rows = rows_of(whole)
    got = settled_features(whole)
    for n in range(0, len(rows), 7):
        row = rows[n]
        times, residuals = row["user_recent_times"] or [], row["user_recent_residuals"] or []
        now = (row["event_timestamp"] - START).total_seconds() * 1e6 + START.timestamp() * 1e6
        old = [
            r for t, r in zip(times, residuals, strict=True) if now - t >= SETTLED_DAYS * 86_400e6
        ]
        assert got[n, 0] == pytest.approx(np.log1p(len(old)))
        assert got[n, 1] == pytest.approx(sum(old) / (len(old) + SMOOTHING), abs=1e-5)


def test_taste_is_how_the_user_rated_this_brand_beside_how_they_rate(whole):
    """From a plain loop over the user's recent events; the kind "" is no kind; one user's row
    stands for all candidates.
    """
    names = np.array([n["item_brand"] if n["item_brand"] != "b3" else "" for n in rows_of(whole)])
    table = whole.table.set_column(
        whole.table.column_names.index("item_brand"), "item_brand", pa.array(names)
    )
    frame = TrainingFrame(table, whole.generation, whole.codebook_size, whole.resolution)
    got = taste(frame, frame)
    for n in range(0, len(frame), 7):
        row = frame.table.slice(n, 1).to_pylist()[0]
        residuals = np.array(row["user_recent_residuals"] or [])
        liking = residuals - residuals.sum() / (len(residuals) + 2)
        for place, (mine, theirs) in enumerate(
            (
                (row["item_brand"], row["user_recent_brands"]),
                (row["item_path"], row["user_recent_paths"]),
            )
        ):
            same = [
                value
                for value, kind in zip(liking, theirs or [], strict=True)
                if kind == mine and mine
            ]
            assert got[n, place] == pytest.approx(sum(same) / (len(same) + 2), abs=1e-6)
    assert got[:, 0].any()
    assert got[:, 1].any()
    user = frame.take(np.array([399]))
    alone = np.concatenate([taste(frame.take(np.array([n])), user) for n in range(50)])
    assert np.array_equal(taste(frame.take(np.arange(50)), user), alone)
    assert np.array_equal(taste(user, user)[0], got[399])


@pytest.mark.parametrize("weighted", [False, True])
def test_code_match_counts_equal_codes_in_the_users_recent_items(whole, weighted):
    """Per position the smoothed share of recent items with the item's code as of the row's time,
    plain and signed by liking.
    """
    timeline = snapshots()
    sid, weight, _ = timeline.gather(whole.item_ids, whole.times)
    got = code_match(whole, timeline, sid, weight, weighted=weighted)
    for n, row in enumerate(rows_of(whole)):
        if n % 9 or not row["user_recent_items"]:
            continue
        theirs, their_weight, _ = timeline.gather(
            np.array(row["user_recent_items"]),
            np.full(len(row["user_recent_items"]), whole.times[n]),
        )
        liked = np.array(row["user_recent_labels"]) - row["user_label_mean"]
        for place in range(sid.shape[1]):
            same = (theirs[:, place] == sid[n, place]) & (theirs[:, place] >= 0)
            mass = same * (their_weight[:, place] * weight[n, place] if weighted else 1.0)
            assert got[n, place] == pytest.approx(mass.sum() / (len(liked) + 2), abs=1e-5)
            assert got[n, sid.shape[1] + place] == pytest.approx(
                (mass * liked).sum() / (len(liked) + 2), abs=1e-5
            )


@pytest.mark.parametrize("name", ["no_sid", "codes", "codes_weights"])
def test_one_user_row_stands_for_every_candidate(name, whole, encoder):
    """A request (candidates with item features, one row of the user) gives the inputs of rows that
    each repeat the user.
    """
    asker = int(np.argmax(recent_items(whole).size))
    for who in (asker, 0):  # the user with the most recent items, and one who had none
        user = whole.take(np.array([who]))
        repeated, alone = whole.table, whole.table
        for column in whole.table.column_names:
            if column.startswith("user_") or column == "event_timestamp":
                repeated = repeated.set_column(
                    repeated.column_names.index(column),
                    column,
                    whole.table[column].take(pa.array(np.full(len(whole), who))),
                )
        now = repeated["event_timestamp"]
        alone = alone.set_column(
            alone.column_names.index("event_timestamp"), "event_timestamp", now
        )
        alone = alone.drop_columns(
            [c for c in alone.column_names if c.startswith("user_") and c != "user_id"]
        )
        frames = [
            replace(whole, table=_only_items_known_at(t, whole.times[who]))
            for t in (repeated, alone)
        ]
        expected = recipe_inputs(frames[0], RECIPES[name], encoder, sources())
        got = recipe_inputs(frames[1], RECIPES[name], encoder, sources(), user=user)
        for field in fields(Inputs):
            assert np.allclose(
                getattr(got, field.name), getattr(expected, field.name), rtol=0, atol=1e-7
            ), field.name


def _only_items_known_at(table, time):
    """The rows whose item was last seen before `time`: what a frame at that time may hold."""
    last = table["item_last_time"].to_numpy()
    return table.filter(pa.array(last < time.astype(np.int64)))


def test_rows_of_unknown_users_have_no_history(whole):
    """A row whose user was never seen has an empty history, not a null that shifts those of
    others.
    """
    unknown = (
        np.asarray(whole.table["user_recent_items"].combine_chunks().is_null())
        if isinstance(whole.table["user_recent_items"], pa.ChunkedArray)
        else None
    )
    recent = recent_items(whole)
    assert unknown.any()
    assert (recent.size[unknown] == 0).all()
    assert recent.size.sum() == len(recent.item) == len(recent.label) == len(recent.row)


def test_ids_without_a_row_share_buckets(whole, encoder, tmp_path):
    """An id outside the vocabulary falls into one of the shared rows, whatever it is; read from its
    file the encoder says the same.
    """
    rows = encoder.ids(whole)[:, 0]
    kept = np.isin(whole.user_ids, encoder.vocabulary["user_id"])
    assert (rows[kept] >= HASH_BUCKETS).all()
    assert (rows[~kept] < HASH_BUCKETS).all()
    written(encoder, tmp_path / "encoder.npz")
    assert np.array_equal(InputEncoder.read(tmp_path / "encoder.npz").ids(whole)[:, 0], rows)


def written(encoder, path):
    """The file as older versions wrote it."""
    arrays = {f"vocabulary {name}": ids for name, ids in encoder.vocabulary.items()}
    scales = {n: getattr(encoder, n) for n in ("item_scale", "user_scale", "settled_scale")}
    np.savez(path, users=encoder.users, **scales, **arrays)


@pytest.fixture
def trees(whole, encoder, tmp_path):
    """A directory of boosted trees in the former format, and what they say of every row."""
    recipe, settings = RECIPES["xgboost_codes_weights"], BoostedSettings()
    matrix = boosted_matrix(recipe_inputs(whole, recipe, encoder, sources()))
    booster = xgb.train(settings.parameters(seed=0), matrix, 5)
    seed = tmp_path / "ranker" / "seed_0"
    seed.mkdir(parents=True)
    booster.save_model(seed / "trees.ubj")
    facts = {"settings": asdict(settings), "codebook_size": whole.codebook_size}
    (seed / "boosted.json").write_text(json.dumps(facts))
    written(encoder, seed.parent / "encoder.npz")
    return seed.parent, recipe, booster.predict(matrix)


def sealed(monkeypatch, directory, recipe):
    """With the manifest of the former format."""
    monkeypatch.setitem(FORMATS, "ranker", 1)
    facts = {"recipe": asdict(recipe), "generation": GENERATION, "seeds": [0], "rounds": 5}
    seal(directory, {"kind": "ranker", **facts, "curve": []})
    monkeypatch.undo()


def test_trees_of_the_former_format_score_as_they_did(trees, whole, monkeypatch):
    """The directory is recognised by its number and opens without a declaration; codes of another
    generation are refused.
    """
    directory, recipe, expected = trees
    sealed(monkeypatch, directory, recipe)
    trained = load_trained(directory, generation=GENERATION)
    assert isinstance(trained, LegacyTrained)
    assert np.array_equal(trained.predict(whole, sources())[0], expected)
    assert {"item_event_count", "item_path"} <= trained.reads("item_id")
    with pytest.raises(GenerationMismatch, match="g2"):
        trained.predict(frame(interactions(50, seed=3), generation="g2"), sources())


def test_what_older_versions_alone_could_score_is_refused(trees, whole, monkeypatch):
    """A recipe that read raw vectors is to be trained again; a seed without files means that the
    directory was altered.
    """
    directory, recipe, _ = trees
    sealed(monkeypatch, directory, replace(recipe, vectors=True))
    with pytest.raises(InputError, match="train it again"):
        load_trained(directory, generation=GENERATION).predict(whole, sources())
    for file in (directory / "seed_0").iterdir():
        file.unlink()
    sealed(monkeypatch, directory, recipe)
    with pytest.raises(ArtifactError, match="names no file of seed 0"):
        load_trained(directory, generation=GENERATION)
