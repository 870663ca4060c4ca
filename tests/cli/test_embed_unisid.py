"""`adc embed unisid` as a person types it."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_bert import tiny_bert

from adc_features.cli import console
from adc_features.cli.main import application
from adc_features.codes.embeddings import EmbeddingTable
from adc_features.codes.spec import SidSpec
from adc_features.data.raw_items import raw_items
from adc_features.tokenizer.fit import RECIPES, fit


def test_an_item_table_gets_the_vectors_of_a_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every item with a text has a vector of 128 numbers, in a column that a data set reads as a
    modality; a second call replaces it.
    """
    titles = [*(f"no{n % 5} shoe no{n}" for n in range(29)), None]
    items = pa.table({"item_id": np.arange(30), "title": titles})
    table = EmbeddingTable(
        np.arange(30),
        {"title": np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)},
        {"title": np.ones(30, bool)},
        np.zeros(30, np.int64),
        datetime(2024, 1, 1, tzinfo=UTC),
        raw_items(items),
    )
    settings = replace(
        RECIPES["unisid_e2e"](), model=tiny_bert(), first=2, epochs=1, min_utilisation=0.0
    )
    spec = SidSpec(content={"title": 2}, shared=0, behavior=0, codebook_size=4)
    place = tmp_path / "g1"
    fit([table], spec, settings=settings, generation_id="g1", directory=place, seed=0)
    file = tmp_path / "items.parquet"
    pq.write_table(items, file)
    for _ in range(2):
        words = ["embed", "unisid", "--generation", place, "--items", file, "--out", file]
        monkeypatch.setattr(sys, "argv", ["adc", *map(str, words), "--json", "-"])
        with pytest.raises(SystemExit) as stop:
            console.run_app(application())
        assert stop.value.code == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["items"], told["without"]) == (30, 1)
    column = pq.read_table(file)["vector_unisid"]
    assert column.null_count == 1
    assert len(column[0]) == 128
