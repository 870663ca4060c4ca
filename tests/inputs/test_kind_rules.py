"""What `adc inputs` says of an input is what its encoder makes."""

import pytest
from encoder_cases import CASES, Case

from adc_features.inputs.encoded import InputLayout
from adc_features.inputs.kind_rules import width

EMBEDDING, OF_HISTORY = 100, 2
"""Columns of an embedding, and embeddings that a history becomes: pooled and attended to."""


def columns(layout: InputLayout) -> int:
    """Dense columns and embeddings of an input, as a network lays them out."""
    embeddings = numbers = 0
    for slot in layout.slots:
        if slot.kind == "similarity":
            numbers += len(slot.tables)
        elif slot.kind != "gate":  # which is multiplied, and laid out nowhere
            embeddings += OF_HISTORY if slot.kind == "history" else 1
    return len(layout.dense) + numbers + embeddings * EMBEDDING


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_width_in_words_is_that_of_the_encoder(case: Case):
    """E, L and the numbers of the text add up to the columns of the layout, for every kind."""
    layout = case.fitted().layout.inputs[case.spec.name]
    text = width(case.spec).replace("*", "")
    positions = 2  # every case with codes has two
    for name, value in (("L", positions), ("E", EMBEDDING)):
        text = text.replace(f"L{name}", f"{positions}*{value}").replace(f"2{name}", f"2*{value}")
        text = text.replace(name, str(value))
    assert eval(text) == columns(layout), width(case.spec)


def test_a_history_of_ids_with_times_and_labels_is_wider():
    """Size, age, two matches and two indicators: 2E + 6; without matches 2E + 4."""
    widths = {case.name: width(case.spec) for case in CASES}
    assert widths["history_of_ids"] == "2E + 6"
    assert widths["history_without_match"] == "2E + 4"
    assert widths["history_of_codes"] == "2E + 2L + 4"
    assert widths["history_of_numbers_alone"] == "6"
    assert widths["semantic_id"] == "L*E + L + 2"
