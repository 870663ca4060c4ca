"""Declarations and resolved inputs survive JSON, and what was altered is refused."""

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Inputs, Ranker, Task
from adc_features.inputs.facts import (
    input_from_facts,
    input_to_facts,
    ranker_from_facts,
    ranker_to_facts,
)
from adc_features.inputs.resolved import ResolvedInput, SourceColumn

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


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))


@given(RANKERS)
def test_a_declaration_survives_json(ranker):
    """Whatever is declared is read back equal."""
    assert ranker_from_facts(through_json(ranker_to_facts(ranker))) == ranker


@given(
    st.builds(
        ResolvedInput,
        name=NAMES,
        kind=KINDS,
        columns=st.dictionaries(
            NAMES,
            st.builds(
                SourceColumn, NAMES, NAMES, st.sampled_from(["user", "item"]), st.integers(0)
            ),
            max_size=3,
        ),
        side=st.sampled_from(["user", "item", "pair", "request", "global"]),
        origin=st.sampled_from(["declared", "tag", "type"]),
    )
)
def test_a_resolved_input_survives_json(resolved):
    """Whatever was resolved is read back equal."""
    assert input_from_facts(through_json(input_to_facts(resolved))) == resolved


def test_moments_and_delays_keep_their_types():
    """A time as default and a timedelta as delay come back as such."""
    then = datetime(2026, 1, 1, tzinfo=UTC)
    ranker = Ranker(
        service="s",
        tasks=[Task("buy", delay=timedelta(days=7))],
        inputs={"t": d.time(train_only=True, default=then)},
    )
    again = ranker_from_facts(through_json(ranker_to_facts(ranker)))
    assert again.tasks[0].delay == timedelta(days=7)
    assert again.declared.declared["t"].default == then


def test_what_was_altered_is_refused():
    """An unknown kind, option or missing part is an ArtifactError in words."""
    facts = ranker_to_facts(Ranker(service="s", tasks=[Task("t")], inputs={"a": d.number()}))
    for change in (
        {"inputs": {}},
        {"tasks": [{"nme": "t"}]},
        {"inputs": {"inferred": False, "declared": {"a": {"kind": "nr", "options": {}}}}},
    ):
        with pytest.raises(ArtifactError, match="cannot be read"):
            ranker_from_facts({**facts, **change})
    with pytest.raises(ArtifactError, match="cannot be read"):
        input_from_facts({"name": "a", "kind": "skip", "options": {}})


def test_a_text_where_a_list_belongs_is_refused():
    """`gates="sid"` would be three gates."""
    with pytest.raises(InputError, match=r"expected a list, write \['sid'\]"):
        Ranker(service="s", tasks=[Task("t")], gates="sid")
