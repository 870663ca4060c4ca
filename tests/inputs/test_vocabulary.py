"""Rows of values. Reads: adc_features.inputs.vocabulary."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adc_features.errors import ArtifactError, InputError
from adc_features.inputs import counting
from adc_features.inputs import vocabulary as module
from adc_features.inputs.counting import Counted
from adc_features.inputs.declaration import VocabularyOptions
from adc_features.inputs.hashing import bucket_of, hashes
from adc_features.inputs.vocabulary import FORGOTTEN, Vocabulary

words = st.sampled_from(["", "a", "b", "B", "ab", "é", "12", "z" * 40])
numbers = st.integers(-4, 4) | st.sampled_from([2**63 - 1, -(2**63)])
columns = st.one_of(
    st.lists(st.none() | words, min_size=1).map(lambda v: pa.array(v, pa.string())),
    st.lists(st.none() | numbers, min_size=1).map(lambda v: pa.array(v, pa.int64())),
)


def fit(values, **options) -> Vocabulary:
    """A vocabulary of a list or an array; every value is admitted unless said."""
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return Vocabulary.fit(array, VocabularyOptions(**{"min_count": 1, **options}))


def rows_of_many(vocabulary: Vocabulary, values: pa.Array) -> list[int]:
    """The rows as a long column gets them, all at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", -1)
        patch.setattr(module, "_SORTED_FROM", 0)
        return vocabulary.rows(values).tolist()


def key(value):
    """By which equal counts are ordered."""
    return value.encode() if isinstance(value, str) else value


def test_rows_by_hand():
    """0 absent, 1 unknown, then ids by count and, where equal, by their bytes."""
    vocabulary = fit(["b", "a", "a", None, "c", "c", "b", "z"], min_count=2)
    assert vocabulary.rows(pa.array(["a", "b", "c", "z", "new", None])).tolist() == [
        2,
        3,
        4,
        1,
        1,
        0,
    ]
    assert vocabulary.counts.tolist() == [1, 1, 2, 2, 2]
    assert (vocabulary.size, vocabulary.own) == (5, 2)


@given(columns, st.integers(1, 3), st.none() | st.integers(1, 3), st.sampled_from([0, 5]))
def test_rows_follow_from_counts(column, min_count, max_size, buckets):
    """Admission, its order, hash rows and counts are those of a count in plain Python."""
    vocabulary = fit(column, min_count=min_count, max_size=max_size, buckets=buckets)
    counts = Counter(v for v in column.to_pylist() if v is not None)
    admitted = sorted(
        (v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], key(v))
    )[:max_size]

    def row(value):
        if value is None:
            return 0
        if value in admitted:
            return 2 + buckets + admitted.index(value)
        if not buckets:
            return 1
        return 2 + int(bucket_of(hashes(pa.array([value], column.type)), buckets)[0])

    wanted = [row(value) for value in column.to_pylist()]
    assert vocabulary.rows(column).tolist() == wanted
    assert vocabulary.rows(column).tolist() == wanted  # from what was asked before
    assert rows_of_many(vocabulary, column) == wanted
    assert vocabulary.counts.tolist() == np.bincount(wanted, minlength=vocabulary.size).tolist()
    assert vocabulary.rows(pa.chunked_array([column, column])).tolist() == wanted * 2
    assert vocabulary.rows(column.dictionary_encode()).tolist() == wanted


@settings(deadline=None)
@given(columns, st.integers(1, 3), st.sampled_from([0, 5]))
def test_a_file_gives_the_same_rows(tmp_path_factory, column, min_count, buckets):
    """Saved and mapped again, a vocabulary has the same rows, counts and growth."""
    path = tmp_path_factory.mktemp("vocabulary") / "ids.arrow"
    vocabulary = fit(column, min_count=min_count, buckets=buckets)
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded.rows(column).tolist() == vocabulary.rows(column).tolist()
    assert loaded.counts.tolist() == vocabulary.counts.tolist()
    grown, again = vocabulary.grown(column), loaded.grown(column)
    assert again.rows(column).tolist() == grown.rows(column).tolist()


@given(st.lists(st.lists(words, min_size=1), min_size=2, max_size=12), st.sampled_from([0, 3]))
def test_growth_keeps_every_row(windows, buckets):
    """An id keeps its row through retrainings until it is forgotten, and no row has two ids."""
    vocabulary = fit(windows[0], buckets=buckets)
    missed = dict.fromkeys(windows[0], 0)
    rows = {w: int(vocabulary.rows(pa.array([w]))[0]) for w in missed}
    given_away = set(rows.values())
    for window in windows[1:]:
        vocabulary = vocabulary.grown(pa.array(window))
        for word in list(missed):
            missed[word] = 0 if word in window else missed[word] + 1
            if missed[word] >= FORGOTTEN:
                del missed[word], rows[word]
                assert int(vocabulary.rows(pa.array([word]))[0]) < vocabulary.own
        for word in sorted(set(window) - set(rows)):
            missed[word], rows[word] = 0, int(vocabulary.rows(pa.array([word]))[0])
            assert rows[word] not in given_away
            given_away.add(rows[word])
        assert {w: int(vocabulary.rows(pa.array([w]))[0]) for w in rows} == rows


def test_growth_by_hand():
    """New ids are appended by count, an id that is rare now keeps its row, max_size holds."""
    vocabulary = fit(["a", "a", "b", "b"], min_count=2, max_size=3)
    grown = vocabulary.grown(pa.array(["d", "d", "c", "c", "c", "a", None]))
    assert grown.rows(pa.array(["a", "b", "c", "d"])).tolist() == [2, 3, 4, 1]
    assert grown.counts.tolist() == [1, 2, 1, 0, 3]
    assert grown.unseen.tolist() == [0, 1, 0]


def test_a_forgotten_id_that_returns_is_new():
    """After six retrainings without it an id is unknown; back again, it has a row of its own that
    nobody had.
    """
    vocabulary = fit(["a", "b"])
    for _ in range(FORGOTTEN):
        vocabulary = vocabulary.grown(pa.array(["a"]))
    assert vocabulary.rows(pa.array(["a", "b"])).tolist() == [2, 1]
    vocabulary = vocabulary.grown(pa.array(["a", "b"]))
    assert vocabulary.rows(pa.array(["a", "b"])).tolist() == [2, 4]
    assert vocabulary.size == 5


@pytest.mark.parametrize("buckets", [0, 4])
def test_two_ids_of_one_hash_stay_apart(monkeypatch, tmp_path, buckets):
    """Ids whose hashes are equal have rows of their own, in a file too; a third is unknown."""

    def same(values):
        return np.array([len(str(v)) for v in values.to_pylist()], np.uint64)

    monkeypatch.setattr(module, "hashes", same)
    vocabulary = fit(["aa", "aa", "bb", "c"], buckets=buckets)
    asked = pa.array(["bb", "aa", "c", "dd", "aa"])
    other = 1 if not buckets else 2
    wanted = [3 + buckets, 2 + buckets, 4 + buckets, other, 2 + buckets]
    assert vocabulary.rows(asked).tolist() == wanted
    assert rows_of_many(vocabulary, asked) == wanted
    vocabulary.save(tmp_path / "ids.arrow")
    assert Vocabulary.load(tmp_path / "ids.arrow").rows(asked).tolist() == wanted
    grown = vocabulary.grown(pa.array(["dd", "aa"]))
    assert grown.rows(asked).tolist() == [*wanted[:3], 5 + buckets, wanted[4]]


def test_the_type_is_pinned():
    """12 is not "12"; integers of another width are the same ids."""
    vocabulary = fit([12, 13])
    assert vocabulary.rows(pa.array([12, 13], pa.int16())).tolist() == [2, 3]
    with pytest.raises(InputError, match=r"column c holds values of type string.*int64.*convert"):
        vocabulary.rows(pa.array(["12"]), of="column c")
    with pytest.raises(InputError, match="fitted on int64"):
        vocabulary.grown(pa.array(["12"]))
    assert vocabulary.rows(pa.nulls(2)).tolist() == [0, 0]
    assert vocabulary.grown(pa.nulls(2)).counts.tolist() == [2, 0, 0, 0]
    with pytest.raises(InputError, match="type double, which are no ids"):
        fit([1.5])
    with pytest.raises(InputError, match="outside of 64 bits"):
        fit(pa.array([2**64 - 1], pa.uint64()))


def test_an_unbounded_column_is_refused():
    """More than a million distinct values need a bound; the message has column, count and bytes."""
    counted = Counted(pa.array(range(1_000_001)), np.ones(1_000_001, np.int64))
    with pytest.raises(
        InputError, match=r"input 'u' has 1,000,001 distinct .* 64,000,064 bytes .*set min_count"
    ):
        Vocabulary.fit(counted, VocabularyOptions(min_count=1), of="input 'u'")
    bounded = VocabularyOptions(min_count=1, max_size=3)
    assert Vocabulary.fit(counted, bounded).rows(pa.array([0, 2, 3])).tolist() == [2, 4, 1]


def test_what_was_asked_before_is_forgotten_in_time(monkeypatch):
    """However many values are asked for, only so many are kept; rows stay right."""
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    vocabulary = fit(["a", "b"])
    for word in ("a", "x", "b", "y", "a", "z", None):
        found = vocabulary.rows(pa.array([word, "b"], pa.string())).tolist()
        assert found == [{"a": 2, "b": 3, None: 0}.get(word, 1), 3]
        assert len(vocabulary._asked) <= 4


def test_a_damaged_file_is_refused(tmp_path):
    """Missing, cut off, foreign or with rows outside of its table: an error names the file."""
    path = tmp_path / "ids.arrow"
    with pytest.raises(ArtifactError, match=r"ids\.arrow is no whole vocabulary"):
        Vocabulary.load(path)
    vocabulary = fit(["a", "b", "b"])
    vocabulary.save(path)
    whole = path.read_bytes()
    for content in (b"", whole[:-40], whole[: len(whole) // 2], b"ARROW1 but no more" * 20):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"ids\.arrow is no whole vocabulary"):
            Vocabulary.load(path)
    for rows, fault in (([9, 2], "outside"), ([2, 0], "outside")):
        wrong = module.replace(vocabulary, hash_rows=np.array(rows, np.uint32))
        wrong.save(path)
        with pytest.raises(ArtifactError, match=fault):
            Vocabulary.load(path)
    module.replace(vocabulary, hashes=vocabulary.hashes[::-1].copy()).save(path)
    with pytest.raises(ArtifactError, match="not in order"):
        Vocabulary.load(path)
    path.write_bytes(whole.replace(b'"format": 1', b'"format": 9'))
    with pytest.raises(ArtifactError, match="format 9, this version reads up to 1"):
        Vocabulary.load(path)


def test_a_file_written_under_another_hash_is_refused(monkeypatch, tmp_path):
    """The vectors in the file are checked when it is loaded."""
    monkeypatch.setattr(module, "hash_vectors", lambda: {"0": "00"})
    fit([0]).save(tmp_path / "ids.arrow")
    with pytest.raises(ArtifactError, match="was written where 0 hashes to '00'"):
        Vocabulary.load(tmp_path / "ids.arrow")


@given(columns, st.integers(0, 3))
def test_values_counted_in_shares_are_counted_alike(column, start):
    """Counting a share at a time finds the same values as often, nulls and slices included."""
    part = column.slice(start)
    whole = counting.counted_values(part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "mostly_distinct", lambda values: True)
        shared = counting.counted_values(pa.chunked_array([part], column.type))
    assert shared.absent == whole.absent
    found, wanted = (
        dict(zip(c.values.to_pylist(), c.counts.tolist(), strict=True)) for c in (shared, whole)
    )
    assert found == wanted


@given(columns, st.integers(1, 3), st.none() | st.integers(1, 3), st.sampled_from([0, 2]))
def test_a_column_in_pieces_gives_the_same_file(
    tmp_path_factory, column, min_count, max_size, buckets
):
    """Counted in shares, from chunks, or by the caller: the same ids, counts and rows."""
    folder = tmp_path_factory.mktemp("files")
    options = VocabularyOptions(min_count=min_count, max_size=max_size, buckets=buckets)
    half = len(column) // 2
    pieces = pa.chunked_array([column.slice(0, half), column.slice(half)], column.type)
    Vocabulary.fit(counting.counted_values(column), options).save(folder / "whole.arrow")
    Vocabulary.fit(pieces, options).save(folder / "chunks.arrow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "mostly_distinct", lambda values: True)
        Vocabulary.fit(pieces, options).save(folder / "shares.arrow")
    whole = (folder / "whole.arrow").read_bytes()
    assert (folder / "chunks.arrow").read_bytes() == whole
    assert (folder / "shares.arrow").read_bytes() == whole


def test_a_vocabulary_holds_no_value_that_it_did_not_admit(monkeypatch):
    """What was counted is given back, though it is many times what is kept."""
    monkeypatch.setattr(counting, "_MANY", 1_000)
    monkeypatch.setattr(counting, "_SAMPLE", 100)
    column = pa.array([f"sku-{n:060d}" for n in range(20_000)])
    before = pa.total_allocated_bytes()
    vocabulary = fit(column, max_size=10)
    assert vocabulary.size == 12
    assert pa.total_allocated_bytes() - before < column.nbytes / 100
