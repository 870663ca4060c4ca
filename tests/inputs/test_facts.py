"""Declarations and resolved inputs survive JSON, and what was altered is refused."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from declarations import KINDS, NAMES, RANKERS
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.facts import (
    input_from_facts,
    input_to_facts,
    ranker_from_facts,
    ranker_to_facts,
)
from adc_features.inputs.resolved import ResolvedInput, SourceColumn


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
