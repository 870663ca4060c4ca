"""Weighted matrix factorisation with a content prior, against what it is said to minimise."""

from dataclasses import replace

import numpy as np
import pytest

from adc_features.encoders.behavior_settings import ContentSettings, FactorSettings, full_softmax
from adc_features.encoders.content_axes import content_axes
from adc_features.encoders.event_log import Events
from adc_features.encoders.evidence import Evidence
from adc_features.encoders.factors import factorise
from adc_features.encoders.sasrec_training import train_with_content
from adc_features.errors import InputError

USERS, ITEMS = 12, 7


def evidence() -> Evidence:
    """A few users, items met once to ten times."""
    rng = np.random.default_rng(3)
    met = rng.random((USERS, ITEMS)) < np.linspace(0.1, 0.8, ITEMS)
    met[0, 0] = met[1] = True
    users, items = np.nonzero(met)
    content = rng.normal(size=(ITEMS, 3)).astype(np.float32)
    return Evidence(
        Events(users, items, np.zeros(len(users), "datetime64[us]")),
        np.arange(ITEMS),
        met.sum(0),
        {"title": (content, np.ones(ITEMS, bool))},
    )


def learned(settings, start=None):
    return factorise(evidence(), start, settings=settings, seed=(0, 0), label="", progress=None)


def test_factors_are_where_every_exact_step_stands_still() -> None:
    """Oracle: from the factors, users by dense weighted ridge regression, a row at a time; from
    those, items about the map of their content, and the map itself: nothing moves.
    """
    s = FactorSettings(dim=3, confidence=5, user_penalty=1, item_penalty=2, rounds=3000)
    given = evidence()
    found = learned(s)
    items, chart = found.vectors.astype(np.float64), found.parameters["map"].astype(np.float64)
    met = np.zeros((USERS, ITEMS))
    met[given.events.users, given.events.items] = 1
    weight = 1 + s.confidence * met
    users = np.stack(
        [
            np.linalg.solve((items.T * w) @ items + s.user_penalty * np.eye(3), (items.T * w) @ p)
            for w, p in zip(weight, met, strict=True)
        ]
    )
    content = content_axes(given.content, width=128, earlier=None).of(given.content)
    prior = content @ chart
    again = np.stack(
        [
            np.linalg.solve(
                (users.T * w) @ users + s.item_penalty * np.eye(3),
                (users.T * w) @ p + s.item_penalty * prior[i],
            )
            for i, (w, p) in enumerate(zip(weight.T, met.T, strict=True))
        ]
    )
    np.testing.assert_allclose(items, again, atol=1e-4)
    square = content.T @ content + s.ridge * np.eye(3)
    np.testing.assert_allclose(square @ chart, content.T @ items, atol=1e-3)
    assert np.abs(items).max() > 0.1


def test_the_penalty_holds_items_at_what_content_says() -> None:
    """The larger it is, the smaller the share of the factors that the map leaves unsaid."""
    given, shares = evidence(), []
    content = content_axes(given.content, width=128, earlier=None).of(given.content)
    for penalty in (0.1, 3.0, 10.0):
        found = learned(FactorSettings(dim=3, item_penalty=penalty, ridge=0.01, rounds=50))
        left = found.vectors - content @ found.parameters["map"]
        shares.append(np.square(left).sum() / np.square(found.vectors).sum())
    assert shares[0] > shares[1] > shares[2]


def test_the_own_part_of_an_item_grows_with_its_events() -> None:
    """Of SASRec with content: the length of an item's own row, by the number of its events."""
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(40), 6)
    shares = np.geomspace(1, 40, 20) / np.geomspace(1, 40, 20).sum()
    items = np.concatenate([rng.choice(20, 6, replace=False, p=shares) for _ in range(40)])
    count = np.bincount(items, minlength=20)
    known = np.flatnonzero(count)
    given = Evidence(
        Events(users, items, np.zeros(len(items), "datetime64[us]")),
        known,
        count[known],
        {"title": (rng.normal(size=(len(known), 4)).astype(np.float32), np.ones(len(known), bool))},
    )
    strict = ContentSettings(
        replace(full_softmax(), dim=8, length=8, batch=64, epochs=4), own_decay=200
    )
    found = train_with_content(given, None, settings=strict, seed=(0, 0), label="", progress=None)
    own = np.linalg.norm(found.parameters["table"], axis=1)
    rare = count[known] <= np.median(count[known])
    assert own[rare].mean() < own[~rare].mean()


def test_axes_of_content_keep_what_they_were_made_of() -> None:
    """All axes of two modalities keep every distance between items, each modality at a mean squared
    length of 1; an absent vector adds nothing.
    """
    rng = np.random.default_rng(0)
    title, image = (rng.normal(size=(9, n)).astype(np.float32) for n in (2, 3))
    there = np.arange(9) > 0
    content = {"title": (title * 50, np.ones(9, bool)), "image": (image, there)}
    axes = content_axes(content, width=9, earlier=None)
    found = axes.of(content)
    assert found.shape == (9, 5)
    centred = [title - title.mean(0), np.where(there[:, None], image - image[1:].mean(0), 0)]
    sizes = (9, 8)
    scaled = np.hstack(
        [c / np.sqrt(np.square(c).sum() / n) for c, n in zip(centred, sizes, strict=True)]
    )
    np.testing.assert_allclose(found @ found.T, scaled @ scaled.T, atol=1e-5)
    again = content_axes({}, width=9, earlier=axes.arrays())
    np.testing.assert_array_equal(again.of(content), found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContentSettings(full_softmax(), own_decay=-1), "own_decay"),
        (lambda: ContentSettings(full_softmax(), content_width=0), "content_width"),
        (lambda: FactorSettings(rounds=0), "at least 1"),
        (lambda: FactorSettings(item_penalty=0), "above 0"),
        (lambda: FactorSettings(new_event_weight=0), "above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message) -> None:
    """Each names what it got."""
    with pytest.raises(InputError, match=message):
        make()
