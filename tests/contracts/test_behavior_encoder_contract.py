"""What every encoder of behaviour promises. A new one passes by adding one line to SMALL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from adc_features.encoders.behavior import (
    ENCODERS,
    RECIPES,
    behavior_series,
    continued,
    drift,
    encoder_of,
    full_softmax,
    half_agreement,
    read_state,
)
from adc_features.encoders.behavior_settings import ContentSettings, FactorSettings
from adc_features.errors import ArtifactError, InputError

START = datetime(2014, 1, 1, tzinfo=UTC)
CUTOFFS = [START + timedelta(days=d) for d in (40, 70)]
ITEMS = np.array([f"i{k:02d}" for k in range(30)])
SASREC = replace(full_softmax(), dim=8, length=8, batch=64, epochs=2, continued_epochs=1)
SMALL = {
    "sasrec": SASREC,
    "sasrec_content": ContentSettings(SASREC, content_width=4),
    "wmf_content": FactorSettings(dim=8, item_penalty=50, rounds=3, content_width=4),
}
READERS = [name for name, encoder in ENCODERS.items() if encoder.reads_content]


def table(rows: list[tuple[str, str, float]]) -> pa.Table:
    """(user, item, day) rows."""
    user, item, day = zip(*rows, strict=True)
    times = [START + timedelta(days=d) for d in day]
    return pa.table(
        {"user_id": user, "item_id": item, "time": pa.array(times, pa.timestamp("us", tz="UTC"))}
    )


def log(users: int = 40) -> pa.Table:
    """Each user walks along the items; i28 comes only on day 50, i29 never."""
    rng = np.random.default_rng(0)
    rows = [("u0", "i28", 50), ("u1", "i28", 50)]
    for user in range(users):
        first = rng.integers(0, 28)
        rows += [
            (f"u{user}", ITEMS[(first + step) % 28], int(rng.integers(0, 100)))
            for step in range(rng.integers(1, 9))
        ]
    return table(rows)


def content(items: int = 30) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two modalities, of which i03 lacks one and i04 both."""
    rng = np.random.default_rng(1)
    present = {"title": np.arange(items) != 4, "image": ~np.isin(np.arange(items), (3, 4))}
    return {
        m: (np.where(p[:, None], rng.normal(size=(items, 6)), 0).astype(np.float32), p)
        for m, p in present.items()
    }


def series(name: str, interactions: pa.Table, item_ids=ITEMS, **changes):
    arguments = {"cutoffs": CUTOFFS, "settings": SMALL[name], "seed": 1}
    arguments["content"] = [content(len(item_ids))] * len(changes.get("cutoffs", CUTOFFS))
    return behavior_series(interactions, item_ids, **(arguments | changes))


def assert_same(a, b) -> None:
    for left, right in zip(a, b, strict=True):
        assert left.as_of == right.as_of
        for field in ("vectors", "present", "interaction_count"):
            np.testing.assert_array_equal(getattr(left, field), getattr(right, field))


def test_every_encoder_has_its_suite_and_every_recipe_an_encoder() -> None:
    """No encoder is offered that this suite does not hold to the contract, and the recipe that one
    names is its own.
    """
    assert set(SMALL) == set(ENCODERS)
    for name, encoder in ENCODERS.items():
        assert encoder_of(RECIPES[encoder.recipe]()) is encoder
        assert encoder_of(SMALL[name]) is encoder
    assert {encoder_of(made()) for made in RECIPES.values()} == set(ENCODERS.values())


@pytest.fixture(scope="module", params=SMALL)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def made(name):
    """The series of the log, learned once."""
    return series(name, log())


def test_an_absent_item_is_zero_and_a_present_one_is_not(made) -> None:
    """Absence is a mask, not a guess from content; counts are the events before the cut-off."""
    first, second = made
    assert [first.present[28], second.present[28], second.present[29]] == [False, True, False]
    for vectors in made:
        rows = [r for r in log().to_pylist() if r["time"] < vectors.as_of]
        expected = [sum(r["item_id"] == item for r in rows) for item in ITEMS]
        assert vectors.interaction_count.tolist() == expected
        assert vectors.vectors.dtype == np.float32
        assert np.isfinite(vectors.vectors).all()
        np.testing.assert_array_equal((vectors.vectors != 0).any(axis=1), vectors.present)


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(name, made) -> None:
    """All chance comes from the seed."""
    assert_same(made, series(name, log()))
    assert not np.array_equal(made[0].vectors, series(name, log(), seed=2)[0].vectors)


def test_what_happens_at_or_after_a_cutoff_is_not_seen_by_it(name, made) -> None:
    """Events stamped at the cut-off, and the rest of the log and of the series, change nothing."""
    late = table([("new", "i29", 70), ("new", "i03", 70), ("u3", "i29", 70)])
    assert_same(made, series(name, pa.concat_tables([late, log()])))
    past = log().filter(pa.compute.less(log()["time"], pa.scalar(CUTOFFS[0])))
    assert_same(made[:1], series(name, past, cutoffs=CUTOFFS[:1]))


def test_an_item_that_nobody_met_changes_no_vector(name, made) -> None:
    """Neither its place in the catalogue nor its content is evidence."""
    more = {
        m: (np.vstack([v, np.full((1, 6), 9, np.float32)]), np.append(p, True))
        for m, (v, p) in content().items()
    }
    larger = series(name, log(), np.append(ITEMS, "zz"), content=[more] * 2)
    for a, b in zip(made, larger, strict=True):
        np.testing.assert_array_equal(a.vectors, b.vectors[:-1])
        assert not b.present[-1]


def test_an_item_without_new_events_keeps_its_vector_to_the_bit(name) -> None:
    """Where nothing was learned nothing moves, and every item with new events does move."""
    before, after = series(name, log(users=12))
    still = before.present & (after.interaction_count == before.interaction_count)
    moved = before.present & (after.interaction_count > before.interaction_count)
    assert min(still.sum(), moved.sum()) >= 3
    np.testing.assert_array_equal(before.vectors[still], after.vectors[still])
    assert (before.vectors[moved] != after.vectors[moved]).any(axis=1).all()


def test_consecutive_cutoffs_share_a_space(made) -> None:
    """A rotation brings two cut-offs hardly nearer than they already are."""
    facts = drift(*made)
    assert 0 <= facts["rotated_cosine_mean"] - facts["cosine_mean"] < 0.02
    assert 0 < made[1].alignment_residual < 1


def test_a_state_continued_is_the_series(name, made, tmp_path) -> None:
    """Oracle: the state kept at the first cut-off, continued to the second; and a series that finds
    both states kept.
    """
    assert_same(made, series(name, log(), checkpoint=tmp_path))
    kept = sorted(tmp_path.iterdir())
    later = continued(
        read_state(kept[0]),
        log(),
        ITEMS,
        as_of=CUTOFFS[1],
        settings=SMALL[name],
        seed=1,
        content=content(),
    )
    assert_same(made[1:], [later.over(ITEMS)])
    work = []
    found = series(name, log(), checkpoint=tmp_path, progress=lambda *told: work.append(told))
    assert_same(made, found)
    assert not work
    kept[1].write_bytes(b"half a file")
    with pytest.raises(ArtifactError, match=kept[1].name):
        series(name, log(), checkpoint=tmp_path)


def groups(users: int = 60) -> tuple[list[tuple[str, str, int]], dict]:
    """Users of items 0-9 and users of 10-19; content tells the two groups apart, except that 20 and
    21 look like the first: nobody but one loner met 20, and the second group often meets 21.
    """
    rng = np.random.default_rng(0)
    rows = [("loner", "i20", 1), ("loner", "i22", 2)]
    for user in range(users):
        group = user % 2 * 10
        taken = [ITEMS[group + int(k)] for k in rng.permutation(10)[:6]]
        taken[2:2] = ["i21"] if group else []
        rows += [(f"u{user}", item, day) for day, item in enumerate(taken)]
    vectors = np.zeros((30, 4), np.float32)
    vectors[:10, 0] = vectors[20:22, 0] = vectors[10:20, 1] = 1
    vectors += 0.1 * rng.normal(size=vectors.shape).astype(np.float32)
    return rows, {"title": (vectors, np.ones(30, bool))}


def learned(name: str) -> np.ndarray:
    """Centred unit vectors [30, D] of two groups, with epochs enough to learn them."""
    rows, told = groups()
    settings = {
        "sasrec": replace(SASREC, epochs=20),
        "sasrec_content": replace(SMALL["sasrec_content"], sasrec=replace(SASREC, epochs=20)),
        "wmf_content": replace(SMALL["wmf_content"], rounds=8),
    }[name]
    [found] = series(name, table(rows), cutoffs=CUTOFFS[:1], settings=settings, content=[told])
    vectors = found.vectors - found.vectors[:20].mean(0)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def test_items_that_share_company_end_near_each_other(name) -> None:
    """Whatever the encoder, users tell two groups apart, and an item that a group often meets is
    of that group, also where it looks like the other.
    """
    unit = learned(name)
    first, second = unit[:10].mean(0), unit[10:20].mean(0)
    assert (unit[:10] @ first).mean() > (unit[:10] @ second).mean() + 0.5
    assert unit[21] @ second > unit[21] @ first


@pytest.mark.parametrize("reader", READERS)
def test_an_item_with_one_event_is_where_its_content_is(reader) -> None:
    """The loner's item looks like the first group."""
    unit = learned(reader)
    assert unit[20] @ unit[:10].mean(0) > unit[20] @ unit[10:20].mean(0) + 0.3


def test_events_alone_are_enough_for_an_encoder_that_says_so() -> None:
    """The encoder that reads no content gives the same vectors with and without it."""
    assert_same(series("sasrec", log()), series("sasrec", log(), content=None))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "reads the items' content"),
        ([content(7)] * 2, "30 items of the catalogue"),
        ([content()], "1 times for 2 cut-offs"),
        ([{"t": (np.full((30, 2), np.nan, np.float32), np.ones(30, bool))}] * 2, "not finite"),
    ],
)
def test_content_that_does_not_fit_is_refused_before_any_work(reader, given, message) -> None:
    """None, of another catalogue, of too few times, or not finite: each has its own words."""
    work = []
    with pytest.raises(InputError, match=message):
        series(reader, log(), content=given, progress=lambda *told: work.append(told))
    assert not work


def test_a_catalogue_without_content_is_learned_from_events_or_refused() -> None:
    """The default encoder is SASRec then, to the bit; a factorisation has nothing to map."""
    assert_same(series("sasrec_content", log(), content=[{}, {}]), series("sasrec", log()))
    with pytest.raises(InputError, match="reads the items' content"):
        series("wmf_content", log(), content=[{}, {}])


@pytest.mark.parametrize("reader", READERS)
def test_content_of_other_widths_is_refused_later(reader, tmp_path) -> None:
    """The axes of content are those of the first cut-off."""
    wide = {"title": (np.ones((30, 9), np.float32), np.ones(30, bool))}
    with pytest.raises(InputError, match="the same modalities"):
        series(reader, log(), content=[content(), wide])


@pytest.mark.parametrize("reader", READERS)
def test_other_content_is_another_checkpoint(reader, tmp_path) -> None:
    """What was kept for one content is not found for another."""
    series(reader, log(), checkpoint=tmp_path)
    other = {m: (v[::-1].copy(), p[::-1].copy()) for m, (v, p) in content().items()}
    assert_same(
        series(reader, log(), content=[other] * 2, checkpoint=tmp_path),
        series(reader, log(), content=[other] * 2),
    )


def test_two_items_are_enough(name) -> None:
    """The smallest log that is accepted gives finite vectors of both items."""
    rows = [("u", "i00", 1), ("u", "i01", 2), ("v", "i01", 3)]
    [found] = series(name, table(rows), cutoffs=CUTOFFS[:1])
    assert found.present.sum() == 2
    assert np.isfinite(found.vectors).all()


def test_half_agreement_is_within_one_and_absent_where_an_item_is(name) -> None:
    """Agreement is a cosine; an item that a half lacks has none."""
    agreement = half_agreement(
        log(), ITEMS, as_of=CUTOFFS[1], settings=SMALL[name], seed=1, content=content()
    )
    assert np.isnan(agreement[29])
    assert np.nanmax(np.abs(agreement)) <= 1 + 1e-6
