"""The hash of ids. Reads: adc_features.inputs.hashing."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import ArtifactError
from adc_features.inputs.hashing import (
    bucket_of,
    check_hashes,
    hash_vectors,
    hashes,
    splitmix64,
)

MASK = 2**64 - 1


def in_words(value: int) -> int:
    """splitmix64 as its authors write it, in whole Python numbers."""
    z = (value + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers_hash_as_the_published_function(values):
    """Every int64, negative ones too, hashes to what splitmix64 says."""
    found = splitmix64(np.array(values, np.int64)).tolist()
    assert found == [in_words(value & MASK) for value in values]


def test_known_values():
    """The first output of SplitMix64 with seed 0, and MurmurHash3 x64 128 of "hello"."""
    assert hashes(pa.array([0])).tolist() == [0xE220A8397B1DCDAF]
    assert hashes(pa.array(["hello"])).tolist() == [0xCBD8A7B341BD9B02]


@given(st.text())
def test_text_hashes_as_its_utf8_bytes(text):
    """Text, large text and its bytes have one hash; case and Unicode form are kept."""
    one = hashes(pa.array([text])).tolist()
    assert hashes(pa.array([text], pa.large_string())).tolist() == one
    assert hashes(pa.array([text.encode()])).tolist() == one
    assert hashes(pa.array(["A", "a"])).tolist()[0] != hashes(pa.array(["a"])).tolist()[0]


def test_many_texts_hash_as_each_alone():
    """Chunks of the loop leave no seam."""
    texts = pa.array([f"item{i}" for i in range(70_000)])
    at = [0, 65_535, 65_536, 69_999]
    assert hashes(texts)[at].tolist() == [hashes(texts.slice(i, 1))[0] for i in at]


@given(st.lists(st.integers(0, MASK), min_size=1), st.integers(1, 2**31))
def test_a_bucket_is_the_high_half_scaled(hashed, buckets):
    """A bucket lies in [0, B) and is the high 32 bits * B >> 32."""
    found = bucket_of(np.array(hashed, np.uint64), buckets).tolist()
    assert found == [(h >> 32) * buckets >> 32 for h in hashed]
    assert all(0 <= bucket < buckets for bucket in found)


def test_other_vectors_are_refused():
    """Vectors of another hash, or none, are refused with the value that differs."""
    vectors = hash_vectors()
    check_hashes(vectors, of="x.arrow")
    with pytest.raises(ArtifactError, match=r"x\.arrow was written where '12' hashes to '0'"):
        check_hashes({**vectors, "'12'": "0"}, of="x.arrow")
    with pytest.raises(ArtifactError, match="write it again"):
        check_hashes(None, of="x.arrow")
