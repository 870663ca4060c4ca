"""Inputs against plain loops over the frame's rows."""

from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pytest
from ranking_world import GENERATION, START, day, frame, interactions, snapshots, sources, vectors

from adc_features.data.statistics import SMOOTHING
from adc_features.errors import GenerationMismatch, InputError
from adc_features.loader.frame import TrainingFrame
from adc_features.ranking.legacy.features import SETTLED_DAYS, recent_items, settled_features, taste
from adc_features.ranking.legacy.inputs import HASH_BUCKETS, InputEncoder, Inputs
from adc_features.ranking.legacy.match import code_match, vector_match
from adc_features.ranking.recipes import RECIPES, Sources, exchange, recipe, recipe_inputs


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(400, seed=0))


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
def test_one_user_row_stands_for_every_candidate(name, whole):
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
        encoder = InputEncoder.fit(whole, min_count=4)
        expected = recipe_inputs(frames[0], RECIPES[name], encoder, sources())
        got = recipe_inputs(frames[1], RECIPES[name], encoder, sources(), user=user)
        for field in fields(Inputs):
            if field.name != "vectors":
                assert np.allclose(
                    getattr(got, field.name), getattr(expected, field.name), rtol=0, atol=1e-7
                ), field.name


def _only_items_known_at(table, time):
    """The rows whose item was last seen before `time`: what a frame at that time may hold."""
    last = table["item_last_time"].to_numpy()
    return table.filter(pa.array(last < time.astype(np.int64)))


def test_vectors_are_those_of_the_rows_time(whole):
    """Text is held once, behaviour by snapshot; before the first snapshot and for absent vectors
    there is row 0, all zeros.
    """
    timeline = vectors()
    ids, times = np.array(["i01", "i01", "i01", "i09", "zz"]), np.array([19, 20, 70, 70, 70])
    moments = np.array([np.datetime64(day(int(t)).replace(tzinfo=None), "us") for t in times])
    text, behavior = (timeline.rows(m, ids, moments) for m in ("text", "behavior"))
    assert text.tolist() == [0, 2, 2, 10, 0]
    assert behavior.tolist() == [0, 2, 62, 0, 0]
    assert not timeline.matrices["text"][0].any()
    assert timeline.bytes_per_item() == 4 * (6 + 4)
    assert vector_match(whole, timeline).shape == (len(whole), 4)
    assert np.array_equal(vector_match(whole, timeline, chunk=17), vector_match(whole, timeline))


def test_rare_ids_share_buckets_and_scales_come_from_training_rows(whole):
    """An id below the cut-off has no row of its own; later rows are scaled by what training rows
    said.
    """
    train, later = whole.between(None, day(60)), whole.between(day(60), None)
    encoder = InputEncoder.fit(train, min_count=4)
    values, counts = np.unique(train.user_ids, return_counts=True)
    users = encoder.ids(later)[:, 0]
    kept = np.isin(later.user_ids, values[counts >= 4])
    assert (users[kept] >= HASH_BUCKETS).all()
    assert (users[~kept] < HASH_BUCKETS).all()
    assert encoder.id_rows[0] == HASH_BUCKETS + (counts >= 4).sum()
    known = np.isin(later.user_ids, values)
    assert ((encoder.user_rows(later) > 0) == known).all()
    assert encoder.item(train).mean(axis=0) == pytest.approx(0, abs=0.05)
    assert abs(encoder.item(later)).max() <= 5


def test_an_encoder_survives_its_file(tmp_path, whole):
    """Written and read again, it encodes the same."""
    encoder = InputEncoder.fit(whole, min_count=4)
    encoder.write(tmp_path / "encoder.npz")
    again = InputEncoder.read(tmp_path / "encoder.npz")
    for name in ("ids", "user_rows", "item", "user_state", "settled"):
        assert np.array_equal(getattr(encoder, name)(whole), getattr(again, name)(whole))


def test_recipes_show_what_they_say(whole):
    """Without codes nothing of them is there; plain codes weigh 1 where there is a code; missing
    codes are row 0 with weight 0.
    """
    encoder = InputEncoder.fit(whole, min_count=4)
    bare, plain, weighted, raw = (
        recipe_inputs(whole, RECIPES[n], encoder, sources())
        for n in ("no_sid", "codes", "codes_weights", "vectors")
    )
    assert (
        bare.sid.shape[1]
        == bare.weight.shape[1]
        == bare.reliability.shape[1]
        == bare.match.shape[1]
        == 0
    )
    assert np.array_equal(plain.weight, (plain.sid > 0).astype(np.float32))
    assert plain.reliability.shape[1] == 0
    assert (weighted.weight[weighted.sid == 0] == 0).all()
    assert not weighted.sid[whole.times < np.datetime64("2024-01-21")].any()
    assert set(raw.vectors) == {"text", "behavior"}
    for other in (plain, weighted, raw):
        assert np.array_equal(bare.item, other.item)
        assert np.array_equal(bare.user_state, other.user_state)


def test_exchanged_weights_are_other_items_rows_by_one_mapping(whole):
    """The control keeps codes and moves whole weight rows; within deciles items trade with items
    about as popular.
    """
    encoder = InputEncoder.fit(whole, min_count=4)
    trade = exchange(whole, np.unique(whole.item_ids), within="all", seed=0)
    assert sorted(trade.source_ids) == sorted(trade.item_ids)
    real, moved = (
        recipe_inputs(whole, RECIPES["codes_weights"], encoder, sources(), exchanged=e)
        for e in (None, trade)
    )
    assert np.array_equal(real.sid, moved.sid)
    source = dict(zip(trade.item_ids, trade.source_ids, strict=True))
    expected = snapshots().gather(np.array([source[i] for i in whole.item_ids]), whole.times)[1]
    assert np.array_equal(moved.weight, np.where(real.sid > 0, expected, 0))
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
    encoder = InputEncoder.fit(whole, min_count=4)
    with pytest.raises(InputError, match="reads codes"):
        recipe_inputs(whole, RECIPES["codes"], encoder, Sources())
    with pytest.raises(InputError, match="reads raw vectors"):
        recipe_inputs(whole, RECIPES["vectors"], encoder, Sources())
    with pytest.raises(GenerationMismatch, match="g2"):
        recipe_inputs(whole, RECIPES["codes"], encoder, Sources(sids=snapshots("g2")))
    with pytest.raises(InputError, match="choose from no_sid"):
        recipe("sid_only")
    assert whole.generation == GENERATION


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
