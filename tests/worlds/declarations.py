"""Declarations of every kind with any options, for property tests."""

from dataclasses import fields
from datetime import UTC

from hypothesis import strategies as st

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Inputs, Ranker, Task

NAMES = st.text(min_size=1, max_size=8)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
VALUES = {
    "clip": st.none() | st.tuples(NUMBERS, NUMBERS),
    "of": st.tuples(NAMES, NAMES),
    "default": st.none()
    | st.booleans()
    | st.integers()
    | NUMBERS
    | NAMES
    | st.datetimes(timezones=st.just(UTC)),
    "order": st.sampled_from(["newest_last", "newest_first"]),
    "max_size": st.none() | st.integers(1),
    "length": st.none() | st.integers(1),
}
BY_DEFAULT = {
    bool: st.booleans(),
    int: st.integers(0, 10**12),
    float: NUMBERS,
    str: NAMES,
    type(None): st.none() | NAMES,
}


def kinds(cls):
    options = {
        f.name: VALUES[f.name] if f.name in VALUES else BY_DEFAULT[type(f.default)]
        for f in fields(cls)
        if f.name in VALUES or type(f.default) in BY_DEFAULT
    }
    return st.builds(cls, **options)


KINDS = st.one_of(*(kinds(cls) for cls in d.KINDS.values() if cls is not d.Skip))
TASKS = st.builds(
    Task,
    name=NAMES,
    column=st.none() | NAMES,
    weight=NUMBERS,
    known_at=st.none() | NAMES,
    delay=st.none() | st.just("7d") | st.timedeltas(),
    given=st.none() | NAMES,
)
LISTS = st.lists(NAMES, max_size=3)
RANKERS = st.builds(
    Ranker,
    service=NAMES,
    tasks=st.lists(TASKS, max_size=3),
    inputs=st.builds(
        Inputs, st.dictionaries(NAMES, KINDS | st.just(d.skip()), max_size=3), st.booleans()
    ),
    name=st.none() | NAMES,
    gates=LISTS,
    domain=st.none() | NAMES,
    user=LISTS,
    item=LISTS,
    request=st.none() | NAMES,
    score=st.none() | st.dictionaries(NAMES, NUMBERS, max_size=2),
    score_sum=st.booleans(),
    model=st.sampled_from(["ppnet", "xgboost"]),
    listwise=NUMBERS,
)
