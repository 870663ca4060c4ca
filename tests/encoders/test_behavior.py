"""Behaviour vectors: what is seen, what is not, and the same answer twice."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from adc_features.encoders.behavior import (
    RECIPES,
    BehaviorSettings,
    behavior_series,
    carried,
    continued,
    drift,
    full_softmax,
    half_agreement,
    norm_rising,
)
from adc_features.encoders.behavior_state import BehaviorVectors, read_state
from adc_features.errors import ArtifactError, InputError

START = datetime(2014, 1, 1, tzinfo=UTC)
CUTOFFS = [START + timedelta(days=d) for d in (40, 70)]
ITEMS = np.array([f"i{k:02d}" for k in range(30)])
SMALL = replace(full_softmax(), dim=8, length=8, batch=64, epochs=2, continued_epochs=1)


def log(users: int = 40, days: int = 100, *, seed: int = 0) -> pa.Table:
    """Each user walks along the items; i28 comes only on day 50, i29 never."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        first = rng.integers(0, 28)
        for step in range(rng.integers(1, 9)):
            rows.append((f"u{user}", ITEMS[(first + step) % 28], int(rng.integers(0, days))))
    rows.append(("u0", "i28", 50))
    rows.append(("u1", "i28", 50))
    return table(rows)


def table(rows: list[tuple[str, str, int]]) -> pa.Table:
    """(user, item, day) rows."""
    user, item, day = zip(*rows, strict=True)
    return pa.table(
        {
            "user_id": user,
            "item_id": item,
            "time": pa.array(
                [START + timedelta(days=d) for d in day], pa.timestamp("us", tz="UTC")
            ),
        }
    )


def series(interactions: pa.Table, **changes):
    return behavior_series(
        interactions, ITEMS, **({"cutoffs": CUTOFFS, "settings": SMALL, "seed": 1} | changes)
    )


def assert_same(a, b) -> None:
    for left, right in zip(a, b, strict=True):
        assert left.as_of == right.as_of
        for field in ("vectors", "present", "interaction_count"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


def test_an_event_exactly_at_as_of_is_not_seen() -> None:
    """Events stamped at the cut-off change nothing in it:
    not a vector, not a count, not a presence.
    """
    base = log()
    at_cutoff = table([("a_new_user", "i29", 70), ("a_new_user", "i03", 70), ("u3", "i29", 70)])
    assert_same(series(base), series(pa.concat_tables([at_cutoff, base])))


def test_an_event_just_before_as_of_is_seen() -> None:
    """A microsecond earlier the same event counts."""
    event = table([("u3", "i29", 70)])
    event = event.set_column(
        2, "time", pa.array([CUTOFFS[1] - timedelta(microseconds=1)], pa.timestamp("us", tz="UTC"))
    )
    newest = series(pa.concat_tables([log(), event]))[1]
    assert newest.present[29]
    assert newest.interaction_count[29] == 1


def test_later_events_and_later_cutoffs_never_change_an_earlier_one() -> None:
    """The first cut-off is the same whether
    or not the rest of the log, or of the series, exists.
    """
    base = log()
    past = base.filter(pa.compute.less(base["time"], pa.scalar(CUTOFFS[0], base["time"].type)))
    assert_same(series(base)[:1], series(past, cutoffs=CUTOFFS[:1]))


def test_a_larger_catalogue_changes_no_vector() -> None:
    """Items that nobody met yet are neither negatives nor a source of chance."""
    small, large = (
        series(log()),
        behavior_series(log(), np.append(ITEMS, "zz"), cutoffs=CUTOFFS, settings=SMALL, seed=1),
    )
    for a, b in zip(small, large, strict=True):
        np.testing.assert_array_equal(a.vectors, b.vectors[:-1])


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others() -> None:
    """All chance comes from the seed, and the caller's own torch chance is left alone."""
    import torch

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = series(log())
    assert torch.equal(before, torch.get_rng_state())
    assert_same(first, series(log()))
    assert not np.array_equal(first[0].vectors, series(log(), seed=2)[0].vectors)


def test_rows_follow_the_catalogue() -> None:
    """Row n is the vector of item n, in whatever order the catalogue and the log stand."""
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(len(ITEMS))
    a = series(log())[1]
    b = behavior_series(log(), ITEMS[shuffled], cutoffs=CUTOFFS, settings=SMALL, seed=1)[1]
    np.testing.assert_array_equal(a.interaction_count[shuffled], b.interaction_count)
    np.testing.assert_array_equal(a.present, a.interaction_count > 0)
    np.testing.assert_array_equal((a.vectors != 0).any(axis=1), a.present)


def test_an_unseen_item_is_absent_until_its_first_event() -> None:
    """Absence is a mask, not a guess: the rows are zero and not present."""
    first, second = series(log())
    assert [first.present[28], second.present[28], second.present[29]] == [False, True, False]
    assert not first.vectors[28].any()
    assert second.vectors[28].any()
    assert second.vectors.dtype == np.float32
    assert second.interaction_count.dtype == np.int64


def test_counts_are_the_events_before_the_cutoff() -> None:
    """Oracle: count by hand."""
    base = log()
    for vectors in series(base):
        rows = [r for r in base.to_pylist() if r["time"] < vectors.as_of]
        expected = [sum(r["item_id"] == item for r in rows) for item in ITEMS]
        assert vectors.interaction_count.tolist() == expected


def test_a_killed_series_continues_to_the_same_result(tmp_path) -> None:
    """Resumed from the first cut-off's checkpoint, the second equals that of an
    uninterrupted run.
    """

    class Killed(Exception):
        pass

    def kill(label: str, done: int, total: int) -> None:
        if label.startswith("behaviour 2"):
            raise Killed

    with pytest.raises(Killed):
        series(log(), checkpoint=tmp_path, progress=kill)
    seen: list[str] = []
    resumed = series(
        log(), checkpoint=tmp_path, progress=lambda label, done, total: seen.append(label)
    )
    assert set(seen) == {"behaviour 2/2"}
    assert_same(resumed, series(log()))


def test_a_checkpoint_of_another_past_is_not_used(tmp_path) -> None:
    """A log that differs before the cut-off trains again."""
    series(log(), checkpoint=tmp_path)
    assert_same(series(log(seed=9), checkpoint=tmp_path), series(log(seed=9)))


def test_an_altered_checkpoint_is_named(tmp_path) -> None:
    """A checkpoint that cannot be read is an error with its path, not a silent retraining."""
    series(log(), checkpoint=tmp_path)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match=newest.name):
        series(log(), checkpoint=tmp_path)


def test_drift_of_a_rotated_copy_is_all_rotation() -> None:
    """The residual after Procrustes is nought when only the axes moved, and drift to itself is
    nought without it.
    """
    newest = series(log())[1]
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    turned = replace(newest, vectors=newest.vectors @ turn)
    still, moved = drift(newest, newest), drift(newest, turned)
    assert still["cosine_mean"] == pytest.approx(1)
    assert still["residual"] == pytest.approx(0, abs=1e-6)
    assert moved["residual"] > 0.5
    assert moved["rotated_residual"] == pytest.approx(0, abs=1e-5)
    assert moved["items"] == newest.present.sum()


def test_half_agreement_is_nan_exactly_where_an_item_is_absent_from_a_half() -> None:
    """Agreement lies in [-1, 1]; an item with one user cannot stand in both halves."""
    agreement = half_agreement(log(), ITEMS, as_of=CUTOFFS[1], settings=SMALL, seed=1)
    assert agreement.dtype == np.float32
    assert np.isnan(agreement[29])
    assert np.nanmax(np.abs(agreement)) <= 1 + 1e-6
    np.testing.assert_array_equal(
        agreement, half_agreement(log(), ITEMS, as_of=CUTOFFS[1], settings=SMALL, seed=1)
    )
    lonely = pa.concat_tables([log(), table([("u2", "i29", 3), ("u2", "i01", 4)])])
    assert np.isnan(half_agreement(lonely, ITEMS, as_of=CUTOFFS[1], settings=SMALL, seed=1)[29])


def test_training_learns_which_items_follow_each_other() -> None:
    """Items that share neighbours end nearer to each other than to the rest."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(120):
        group = user % 2 * 10
        rows += [
            (f"u{user}", ITEMS[group + int(k)], day)
            for day, k in enumerate(rng.permutation(10)[:6])
        ]
    vectors = behavior_series(
        table(rows), ITEMS, cutoffs=[CUTOFFS[0]], settings=replace(SMALL, epochs=20), seed=0
    )[0].vectors[:20]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = np.equal.outer(np.arange(20) // 10, np.arange(20) // 10)
    assert cosine[same].mean() > cosine[~same].mean() + 0.5


@pytest.mark.parametrize(
    "recipe", [name for name, made in RECIPES.items() if isinstance(made(), BehaviorSettings)]
)
def test_every_recipe_of_sasrec_trains(recipe) -> None:
    """A name in RECIPES is a whole recipe."""
    small = replace(RECIPES[recipe](), dim=8, length=8, batch=64, epochs=1, continued_epochs=1)
    for vectors in series(log(), settings=small):
        assert np.isfinite(vectors.vectors).all()


def test_norm_rising_starts_small_and_decays() -> None:
    """The recipe that the paper's norm premise needs differs in loss, start and decay."""
    settings = norm_rising()
    assert (settings.loss, settings.init_std, settings.table_decay) == ("in_batch", 0.002, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.slice(0, 0), "empty"),
        (lambda t: t.set_column(2, "time", t["time"].cast(pa.timestamp("us"))), "time zone"),
        (lambda t: t.set_column(0, "user_id", pa.array([None] * len(t), pa.string())), "null"),
        (lambda t: t.set_column(1, "item_id", pa.array([None] * len(t), pa.string())), "null"),
        (lambda t: t.set_column(1, "item_id", pa.array(["nowhere"] * len(t))), "nowhere"),
        (lambda t: t.set_column(0, "user_id", pa.array(["one"] * len(t))), "1 users"),
        (lambda t: t.set_column(1, "item_id", pa.array(["i01"] * len(t))), "1 items"),
        (
            lambda t: t.set_column(0, "user_id", pa.array([f"u{k}" for k in range(len(t))])),
            "two events",
        ),
        (lambda t: t.drop_columns("user_id"), "user_id"),
    ],
)
def test_bad_interactions_are_refused_before_any_work(change, message, tmp_path) -> None:
    """The message names what is wrong; nothing was trained or written."""

    def no_work(*_: object) -> None:
        raise AssertionError("work was done")

    with pytest.raises(InputError, match=message):
        series(change(log()), checkpoint=tmp_path, progress=no_work)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("cutoffs", "message"),
    [
        ([START - timedelta(days=1)], "no event before"),
        ([], "at least one"),
        (CUTOFFS[::-1], "ascending"),
        ([CUTOFFS[0], CUTOFFS[0]], "none twice"),
        ([datetime(2014, 3, 1)], "time zone"),
    ],
)
def test_bad_cutoffs_are_refused(cutoffs, message) -> None:
    """Before the first event, unordered, repeated or naive: each has its own words."""
    with pytest.raises(InputError, match=message):
        series(log(), cutoffs=cutoffs)


def test_consecutive_cutoffs_share_a_space() -> None:
    """A rotation brings two cut-offs hardly nearer than they already are, and an unrelated run is
    further away.
    """
    first, second, third = series(log(), cutoffs=[*CUTOFFS, CUTOFFS[1] + timedelta(days=20)])
    other = series(log(), seed=2)[1]
    for a, b in pairwise([first, second, third]):
        facts = drift(a, b)
        assert 0 <= facts["rotated_cosine_mean"] - facts["cosine_mean"] < 0.01
        assert facts["cosine_mean"] > drift(a, other)["cosine_mean"] + 0.3
        assert 0 < b.alignment_residual < 1


def test_an_item_without_new_events_keeps_its_vector_to_the_bit() -> None:
    """Where nothing was learned nothing moves, and every item with new events does move."""
    before, after = series(log(users=12))
    still = before.present & (after.interaction_count == before.interaction_count)
    moved = before.present & (after.interaction_count > before.interaction_count)
    assert still.sum() >= 3
    assert moved.sum() >= 3
    np.testing.assert_array_equal(before.vectors[still], after.vectors[still])
    assert (before.vectors[moved] != after.vectors[moved]).any(axis=1).all()


def test_a_vector_moves_by_its_share_of_new_events() -> None:
    """By hand: learned vectors are turned by 90 degrees and turned back; 1 new event of weight 2
    beside 2 old ones moves an item half way.
    """
    before = BehaviorVectors(
        CUTOFFS[0],
        np.array([[1, 0], [0, 1], [1, 1], [0, 0]], np.float32),
        np.array([True, True, True, False]),
        np.array([4, 4, 2, 0]),
    )
    learned = BehaviorVectors(
        CUTOFFS[1],
        np.array([[0, 1], [-1, 0], [-3, 3], [0, -2]], np.float32),
        np.ones(4, bool),
        np.array([4, 9, 3, 1]),
    )
    after = carried(before, learned, new_event_weight=2.0)
    np.testing.assert_array_equal(after.vectors[0], [1, 0])  # nothing new
    # learned the same; half way to (3, 3); new
    np.testing.assert_allclose(after.vectors[1:], [[0, 1], [2, 2], [-2, 0]], atol=1e-6)
    assert after.alignment_residual == pytest.approx(8**0.5 / 2)
    assert (after.as_of, after.interaction_count.tolist()) == (CUTOFFS[1], [4, 9, 3, 1])


@pytest.mark.parametrize(
    "seed",
    [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow)],
)
def test_an_item_whose_company_changes_moves_towards_the_new_company(seed) -> None:
    """Item 20 is bought with items 0-9 before the first cut-off, then ten times as often with items
    10-19: its vector follows, whatever the seed.

    How far it gets depends on the seed and the processor; that it leaves the old company does not.
    """
    rng = np.random.default_rng(0)

    def walks(
        name: str, group: int, days: tuple[int, int], users: int
    ) -> list[tuple[str, str, int]]:
        return [
            (f"{name}{u}", ITEMS[k], d)
            for u in range(users)
            for d, k in enumerate(
                rng.permutation([20, *(group * 10 + rng.permutation(10)[:5])]), days[0]
            )
        ]

    others = [
        (f"o{u}", ITEMS[u % 2 * 10 + int(k)], day)
        for u in range(100)
        for day, k in enumerate(rng.permutation(10)[:6])
    ]
    rows = others + walks("a", 0, (0, 40), 12) + walks("b", 1, (45, 60), 120)
    vectors = [
        v.vectors[:21] / np.linalg.norm(v.vectors[:21], axis=1, keepdims=True)
        for v in series(
            table(rows), settings=replace(SMALL, epochs=30, continued_epochs=10), seed=seed
        )
    ]
    to_first, to_second = (
        [float((v[20] @ v[group : group + 10].T).mean()) for group in (0, 10)] for v in vectors
    )
    assert to_first[0] > to_first[1]
    # -2 with the old company alone, 2 with the new one
    nearer_new = [to[1] - to[0] for to in (to_first, to_second)]
    assert nearer_new[1] > nearer_new[0] + 1


def test_a_state_continues_to_what_a_longer_series_holds(tmp_path) -> None:
    """Oracle: the state kept at the first cut-off, continued to the second, equals the series
    through both, also over a catalogue that has grown.
    """
    first, second = series(log(), checkpoint=tmp_path)
    state = read_state(min(tmp_path.iterdir()))
    assert_same([state.over(ITEMS)], [first])
    grown = np.concatenate([ITEMS[::-1], ["zz"]])
    later = continued(state, log(), grown, as_of=CUTOFFS[1], settings=SMALL, seed=1)
    assert later.as_of == second.as_of
    assert later.alignment_residual == pytest.approx(second.alignment_residual, rel=0.2)
    assert not later.over(np.array(["zz"])).present[0]
    assert_same(
        [continued(state, log(), ITEMS, as_of=CUTOFFS[1], settings=SMALL, seed=1).over(ITEMS)],
        [second],
    )


@pytest.mark.parametrize(
    ("day", "message"), [(40, "later cut-off"), (39, "later cut-off"), (40.5, "no new data")]
)
def test_a_state_that_has_nothing_to_learn_is_not_continued(day, message, tmp_path) -> None:
    """A cut-off that is not later, or without an event since, is refused before any training."""
    series(log(), checkpoint=tmp_path, cutoffs=CUTOFFS[:1])
    state = read_state(min(tmp_path.iterdir()))
    past = log().filter(
        pa.compute.less(log()["time"], pa.scalar(CUTOFFS[0], pa.timestamp("us", tz="UTC")))
    )
    with pytest.raises(InputError, match=message):
        continued(state, past, ITEMS, as_of=START + timedelta(days=day), settings=SMALL, seed=1)
