"""Few rows are encoded side by side to the same bits. Reads: adc_features.inputs.few."""

import numpy as np
import pyarrow as pa
import pytest
from encoder_cases import TIMES, rows_of, spec
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.inputs.declaration import category, flag, number
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.few import FewRows
from adc_features.inputs.rows import FeatureRows, Parts

NUMBERS = {
    "plain": number(),
    "logged": number(log=True),
    "clipped": number(clip=(-1.0, 2.0)),
    "binned": number(bins=3, log=True, clip=(-5.0, 5.0)),
    "raw": number(standardise=False),
}
INPUTS = [
    *(spec(f"user_{name}", kind, side="user") for name, kind in NUMBERS.items()),
    spec("colour", category(min_count=1), "String"),
    *(spec(name, kind) for name, kind in NUMBERS.items()),
    spec("seen", flag()),
    spec("place", number(request=True, train_only=True, default=3), "Int64", side="request"),
]
FITTED_ON = {
    **{name: [None, -3.0, 0.5, 2.5, 7.0] for name in NUMBERS},
    **{f"user_{name}": [1.0, 4.0, None, -2.0, 0.0] for name in NUMBERS},
    "colour": ["red", "blue", None, "red", "red"],
    "seen": [True, False, None, True, True],
    "place": [1, 2, 3, 4, 5],
}
VALUES = st.none() | st.floats(width=32) | st.sampled_from([0.0, -0.0, np.inf, 1e300, np.nan])
ENCODER = InputEncoder.fit(INPUTS, rows_of(FITTED_ON))


def request(user: dict, items: dict) -> Parts:
    """One user for all candidates, as a request has them."""
    count = len(items["colour"])
    one = FeatureRows(
        pa.table({n: pa.array([v], pa.float64()) for n, v in user.items()}), TIMES[:1]
    )
    columns = {n: pa.array(v, pa.float64()) for n, v in items.items() if n in NUMBERS}
    columns |= {"colour": pa.array(items["colour"], pa.string())}
    columns |= {"seen": pa.array(items["seen"], pa.bool_())}
    many = FeatureRows(pa.table(columns), np.repeat(TIMES[:1], count))
    return Parts({"user": one, "request": one, "item": many, "pair": many}, count)


def encoded_apart(parts: Parts, monkeypatch: pytest.MonkeyPatch):
    """One input at a time, as many rows are encoded."""
    with monkeypatch.context() as patch:
        patch.setattr(FewRows, "most", 0)
        return ENCODER.encode(parts)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 5))
def test_side_by_side_gives_the_bits_of_one_by_one(data, count):
    """Every number, bin, indicator and row, of any values and of one candidate too; counts as
    well; and the matrices hold what the blocks hold, in their order."""
    several = st.lists(VALUES, min_size=count, max_size=count)
    parts = request(
        {f"user_{name}": data.draw(VALUES) for name in NUMBERS},
        {name: data.draw(several) for name in NUMBERS}
        | {"colour": ["red", None, "new", "blue", "red"][:count]}
        | {"seen": [None, True, False, True, None][:count]},
    )
    with pytest.MonkeyPatch.context() as patch:
        apart, together = encoded_apart(parts, patch), ENCODER.encode(parts)
    assert list(apart.blocks) == list(together.blocks)
    sides: dict[bool, list[np.ndarray]] = {True: [], False: []}
    for name, block in apart.blocks.items():
        other = together.blocks[name]
        assert other.dense.dtype == block.dense.dtype
        np.testing.assert_array_equal(other.dense, block.dense, name)
        for one, two in zip(block.slots, other.slots, strict=True):
            np.testing.assert_array_equal(one.rows, two.rows, name)
        if block.dense.shape[1]:
            sides[len(block.dense) == 1 != count].append(block.dense)
    packed = together.blocks.packed
    for single, matrix in ((True, packed.one), (False, packed.many)):
        if sides[single]:
            np.testing.assert_array_equal(matrix, np.concatenate(sides[single], 1))
    assert ENCODER.counts(parts, together) == ENCODER.counts(parts, apart)


def test_huge_numbers_are_counted_without_a_warning():
    """Of two candidates beyond what a 32-bit sum holds."""
    huge = {name: [1e300, 1e300] for name in NUMBERS}
    parts = request(
        dict.fromkeys((f"user_{name}" for name in NUMBERS), 1e300),
        {**huge, "colour": ["red", None], "seen": [True, None]},
    )
    counts = ENCODER.counts(parts, ENCODER.encode(parts))
    assert counts["raw"] == {"absent": 0, "unknown": 0, "present": 2}


def test_another_block_leaves_the_matrices_behind():
    """Whoever puts a block in another's place reads it, not what stood side by side."""
    encoded = ENCODER.encode(rows_of(FITTED_ON))
    assert hasattr(encoded.blocks, "packed")
    assert not hasattr({**encoded.blocks, "plain": encoded.blocks["raw"]}, "packed")
    assert not hasattr(encoded.take(np.array([0])).blocks, "packed")


def test_all_that_few_rows_refuse_is_told_at_once():
    """A number that is text and a flag that is 7: both are named."""
    wrong = rows_of({**FITTED_ON, "plain": ["x"] * 5, "seen": [7] * 5})
    with pytest.raises(InputError, match=r"(?s)2 inputs cannot be encoded.*'seen'.*'plain'"):
        ENCODER.encode(wrong)
