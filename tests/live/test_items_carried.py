"""Items that came for one generation, when another one takes over."""

from dataclasses import replace

import numpy as np
import pytest
from items_world import (
    CONTENT,
    SPEC,
    Clock,
    catalogue,
    day,
    make_run,
    publish,
    sent,
    table,
    vectors,
)

from adc_features import store
from adc_features.codes.generation import generation_place
from adc_features.live.items import Items
from adc_features.live.items_carried import carry_over
from adc_features.live.items_encoding import open_encoder
from adc_features.live.items_incoming import incoming_items
from adc_features.store import OnlineSids


def taken(items, asked):
    request = incoming_items(items.encoder.shape, asked)
    assert not request.faults
    return items.commit(request.changes).codes


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A repository with a generation g1, as of day 0, and g2, as of day 2, which has n1 and n2."""
    from adc_features.tokenizer.encode import encode
    from adc_features.tokenizer.fit import adc, fit

    repo = make_run(tmp_path_factory.mktemp("carried") / "run")
    small = {"hidden": 16, "latent": 16, "aligned": 16, "min_utilisation": 0.0, "batch": 64}
    second = fit(
        [catalogue(day(0))],
        SPEC,
        settings=replace(adc(), steps=60, warmup_steps=10, **small),
        generation_id="g2",
        directory=repo.parent / generation_place("g2"),
        seed=1,
    )
    of = vectors(2, seed=3)
    all_ = {m: np.concatenate([v, of[m]]) for m, v in catalogue(day(2)).vectors.items()}
    ids = [*catalogue(day(2)).item_ids.tolist(), "n1", "n2"]
    publish(repo, second, encode(table(ids, all_, day(2), cold=2), second), day(2))
    store.apply(repo)
    return repo


def test_what_the_next_generation_lacks_is_carried_over(two):
    """Not n1, which its snapshot has; n2, described anew since; n3, which it never had; and i001
    goes, although its snapshot lists it. The codes are those of an item that is sent. Again, only
    what came meanwhile.
    """
    clock = Clock(day(1))
    first = opened_as(two, "g1", clock)
    taken(first, [*sent(["n1", "n2"], vectors(2, seed=3)), {"id": "i001", "removed": True}])
    clock.now = day(3)
    taken(first, sent(["n2", "n3"], vectors(2, seed=4)))
    second = opened_as(two, "g2", clock)
    assert carry_over(first, second) == (3, 0)
    clock.now = day(4)
    got = OnlineSids(two, "g2").lookup(["n1", "n2", "n3", "i001"], now=day(4))
    assert got.found.tolist() == [True, True, True, False]
    again = taken(second, sent(["m2", "m3"], vectors(2, seed=4)))
    assert got.sid[1:3, CONTENT].tolist() == again.sid[:, CONTENT].tolist()
    assert carry_over(first, second) == (0, 0)
    taken(first, sent(["n4"], vectors(1, seed=5)))
    assert carry_over(first, second) == (1, 0)


def test_an_item_of_which_nothing_fits_is_left(two):
    """The next generation has no such modality, or one of another width: counted, not guessed."""
    clock = Clock(day(6))
    first, second = opened_as(two, "g1", clock), opened_as(two, "g2", clock)
    carry_over(first, second)
    shape = replace(second.encoder.shape, widths={"title": 5, "sound": 4})
    second.encoder = replace(second.encoder, shape=shape)
    taken(first, sent(["n7"], vectors(1, seed=6)))
    assert carry_over(first, second) == (0, 1)
    assert not OnlineSids(two, "g2").lookup(["n7"], now=day(7)).found.any()


def opened_as(repo, generation, clock):
    return Items(repo, open_encoder(repo, generation), clock=clock)
