"""What every encoder of an input promises. A new one passes by adding its cases to
`tests/worlds/encoder_cases.py`.
"""

import json
from dataclasses import fields

import numpy as np
import pytest
from encoder_cases import CASES, ROWS, Case
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.inputs.encoded import (
    Bag,
    Block,
    Encoded,
    History,
    Layout,
    Lookup,
    Projected,
    picked_elements,
)
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.encoders.base import State
from adc_features.inputs.facts import input_from_facts, input_to_facts

KINDS = {
    "lookup": Lookup,
    "bag": Bag,
    "projected": Projected,
    "history": History,
    "similarity": History,
    "gate": Projected,
    "mixture": Bag,
}
SETTINGS = settings(max_examples=15, deadline=None)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(scope="module")
def fitted():
    """A case's encoder, fitted once."""
    known: dict[str, InputEncoder] = {}
    return lambda case: known.setdefault(case.name, case.fitted())


def arrays(block: Block) -> list[np.ndarray]:
    """All arrays of a block, in order."""
    found = [block.dense]
    for slot in block.slots:
        found += [v for f in fields(slot) if (v := getattr(slot, f.name)) is not None]
    return found


def assert_same(one: Block, other: Block) -> None:
    """Both hold the same bits."""
    pairs = list(zip(arrays(one), arrays(other), strict=True))
    assert [type(s) for s in one.slots] == [type(s) for s in other.slots]
    for a, b in pairs:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def assert_all_same(one: Encoded, other: Encoded) -> None:
    """Both hold the same bits for every input."""
    assert list(one.blocks) == list(other.blocks)
    for name, block in one.blocks.items():
        assert_same(block, other.blocks[name])


def spread(block: Block, rows: int) -> Block:
    """A block of N rows, of one that stands for all."""
    at = np.zeros(rows, np.int64)

    def of_slot(slot):
        if isinstance(slot, Lookup) and len(slot.rows) == 1:
            return Lookup(slot.rows[at], None if slot.weights is None else slot.weights[at])
        if isinstance(slot, Projected) and len(slot.values) == 1:
            return Projected(slot.values[at])
        if isinstance(slot, Bag | History) and len(slot.offsets) == 2:
            element, offsets = picked_elements(slot.offsets, at)
            changed = {"rows": slot.rows[element], "weights": slot.weights[element]}
            rest = {f.name: getattr(slot, f.name) for f in fields(slot)}
            return type(slot)(**{**rest, **changed, "offsets": offsets})
        return slot

    dense = block.dense[at] if len(block.dense) == 1 else block.dense
    return Block(dense, tuple(of_slot(slot) for slot in block.slots))


@each_case
def test_a_saved_encoder_gives_the_same_bits(case: Case, fitted, tmp_path):
    """Saved and loaded, an encoder has the same layout and encodes every row to the same bits."""
    encoder = fitted(case)
    encoder.save(tmp_path / "inputs")
    loaded = InputEncoder.load(tmp_path / "inputs")
    assert loaded.layout == encoder.layout
    assert loaded.specs == encoder.specs
    assert_all_same(loaded.encode(case.parts()), encoder.encode(case.parts()))
    assert loaded.counts(case.parts()) == encoder.counts(case.parts())


@each_case
def test_its_state_is_json_and_arrays(case: Case, fitted):
    """An encoder restored from its facts as JSON and its arrays is the same; so is its input."""
    encoder = fitted(case)
    for each in encoder.encoders.values():
        facts, learned = each.state()
        spec = input_from_facts(json.loads(json.dumps(input_to_facts(each.spec))))
        assert spec == each.spec
        state = State(json.loads(json.dumps(facts)), learned)
        restored = type(each).restore(spec, state, encoder.vocabularies)
        assert_same(restored.encode(case.parts()), each.encode(case.parts()))


@each_case
@SETTINGS
@given(rows=st.lists(st.integers(0, ROWS - 1), min_size=1, max_size=60))
def test_some_rows_are_encoded_as_among_all(case: Case, fitted, rows):
    """Encoding a choice of rows is choosing from the encoded rows: to the bit, one row too."""
    encoder, chosen = fitted(case), np.array(rows)
    of_all = encoder.encode(case.parts()).take(chosen)
    assert_all_same(encoder.encode(case.parts(chosen)), of_all)


@each_case
def test_every_row_alone_is_encoded_as_in_the_batch(case: Case, fitted):
    """One row by itself has the bits that it has among all rows."""
    encoder = fitted(case)
    of_all = encoder.encode(case.parts())
    for row in range(ROWS):
        assert_all_same(encoder.encode(case.parts(np.array([row]))), of_all.take(np.array([row])))


@each_case
def test_absence_is_visible(case: Case, fitted):
    """A row without a value is encoded like no row that has one, and is counted absent."""
    encoder, name = fitted(case), case.spec.name
    absent = encoder.encode(case.parts(np.array([0]))).blocks[name]
    bits = [a.tobytes() for a in arrays(absent)]
    counts = encoder.counts(case.parts())[name]
    assert counts["absent"] >= 1
    assert counts["absent"] + counts["unknown"] + counts["present"] == ROWS
    for row in range(1, ROWS):
        parts = case.parts(np.array([row]))
        same = [a.tobytes() for a in arrays(encoder.encode(parts).blocks[name])] == bits
        assert same == (encoder.counts(parts)[name]["absent"] == 1)


@each_case
def test_a_request_is_encoded_as_its_joined_rows(case: Case, fitted):
    """One user's row that stands for all candidates gives what the joined rows give."""
    encoder = fitted(case)
    for row in (0, 1, 2):
        online, joined = case.request(row, np.array([3, 0, 5, 1, 4]))
        found, wanted = encoder.encode(online), encoder.encode(joined)
        for spec in case.inputs:
            once = spec.side not in ("item", "pair")
            assert len(found.blocks[spec.name].dense) == (1 if once else 5)
            assert_same(spread(found.blocks[spec.name], 5), wanted.blocks[spec.name])


@each_case
def test_the_layout_describes_the_blocks(case: Case, fitted):
    """Dense columns, slots, table rows and indicators are as the layout says; all is finite."""
    encoder = fitted(case)
    layout: Layout = encoder.layout
    encoded = encoder.encode(case.parts())
    assert list(layout.inputs) == list(encoded.blocks)
    for name, block in encoded.blocks.items():
        shape = layout.inputs[name]
        assert block.dense.dtype == np.float32
        assert block.dense.shape == (ROWS, len(shape.dense))
        assert np.isfinite(block.dense).all()
        for column, indicator in (shape.indicators or {}).items():
            missing = block.dense[:, indicator]
            assert set(np.unique(missing)) <= {0.0, 1.0}
            assert (block.dense[missing == 1, column] == 0).all()
        assert len(shape.slots) == len(block.slots)
        for slot_layout, slot in zip(shape.slots, block.slots, strict=True):
            assert isinstance(slot, KINDS[slot_layout.kind])
            if isinstance(slot, Projected):
                assert slot.values.shape == (ROWS, slot_layout.width)
                assert slot.values.dtype == np.float32
                continue
            rows = slot.rows.reshape(len(slot.rows), -1)
            assert slot.rows.dtype == np.int64
            for place, table in enumerate(slot_layout.tables):
                assert ((rows[:, place] >= 0) & (rows[:, place] < layout.tables[table])).all()


@each_case
def test_a_retraining_keeps_every_row(case: Case, fitted):
    """Grown on the rows it was fitted on, an encoder encodes them to the same bits."""
    encoder = fitted(case)
    grown = encoder.grown(case.parts())
    assert_all_same(grown.encode(case.parts()), encoder.encode(case.parts()))
