"""Items of a file, the place of the tokenizer, and texts."""

import json
import shutil

import numpy as np
import pytest
from items_world import Clock, day, make_run, opened, sent, vectors

from adc_features import store
from adc_features.encoders import text as text_encoder
from adc_features.encoders.text import SingleTexts, text_vectors
from adc_features.errors import GenerationMismatch, InputError
from adc_features.live.item_files import ingest_items
from adc_features.live.items import kept_texts
from adc_features.live.items_encoding import ItemEncoder, open_encoder
from adc_features.live.items_incoming import ItemShape, incoming_items
from adc_features.store import OnlineSids


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("items") / "run")


def test_a_file_of_items_is_taken_and_each_faulty_line_named(repo, tmp_path):
    """Lines are counted from 1; the others are served, and given again they keep their codes."""
    file = tmp_path / "items.jsonl"
    good = [json.dumps(one) for one in sent(["f1", "f2"], vectors(2, seed=4))]
    gone = json.dumps({"id": "i010", "removed": True})
    file.write_text("\n".join([good[0], "{", "", good[1], '{"id": 3}', gone]) + "\n")
    told = ingest_items(repo, file)
    assert (told["added"], told["removed"], told["refused"]) == (2, 1, 2)
    assert [fault["line"] for fault in told["reasons"]] == [2, 5]
    sids = OnlineSids(repo, "g1")
    first = sids.lookup(["f1", "f2", "i010"])
    assert first.found.tolist() == [True, True, False]
    assert ingest_items(repo, file)["added"] == 2
    assert sids.lookup(["f1", "f2"]).sid.tolist() == first.sid[:2].tolist()
    with pytest.raises(InputError, match="there is no file"):
        ingest_items(repo, tmp_path / "nothing")


def test_the_tokenizer_is_found_or_missed_in_words(repo, tmp_path):
    """Beside the repository as a run has it, or in it as `adc tokenize` leaves it; another one is
    refused.
    """
    run = shutil.copytree(repo.parent, tmp_path / "run")
    moved = run / "feature_repo"
    with pytest.raises(InputError, match="generation 'g9' is not published"):
        open_encoder(moved, "g9")
    shutil.rmtree(run / "generation")
    with pytest.raises(InputError, match="the tokenizer of generation 'g1' is neither in"):
        open_encoder(moved)
    own = moved / "tokenizers" / "g1"
    shutil.copytree(repo.parent / "generation" / "generation", own / "generation")
    assert open_encoder(moved).live.id == "g1"
    live = store.repository.live_generations(moved)[0]
    from dataclasses import replace

    store.repository.write_live_generations(moved, [replace(live, codebook_hash="0" * 64)])
    with pytest.raises(GenerationMismatch, match="holds another tokenizer"):
        open_encoder(moved)


class Words:
    """An encoder whose vectors depend on who else is encoded, as padding makes them."""

    def encode(self, sentences, *, show_progress_bar):
        return np.array([[len(s), len(sentences)] + [1.0] * 4 for s in sentences], np.float32)


def test_the_next_snapshot_reads_the_vector_of_a_text_that_came(repo, monkeypatch):
    """Alone and among others the text has one vector, and `text_vectors` takes it over its own."""
    monkeypatch.setattr(text_encoder, "_encoder", lambda source: Words())
    given = open_encoder(repo)
    shape = ItemShape("string", given.shape.widths, {"title": ("name",)})
    encoder = ItemEncoder(given.live, given.generation, shape, given.network, SingleTexts("words"))
    items = opened(repo, Clock(day(9)))
    items.encoder = encoder
    asked = [{"id": f"t{n}", "text": "x" * (n + 1)} for n in range(3)]
    items.commit(incoming_items(shape, asked).changes)
    texts = ["x", "xx", "xxx", "other text"]
    kept, _ = text_vectors(texts, model="words", cache=None, kept=kept_texts(repo))
    assert kept[:, 1].tolist() == [1, 1, 1, 1]
    made, _ = text_vectors(texts, model="words", cache=None)
    assert made[:, 1].tolist() == [4, 4, 4, 4]
