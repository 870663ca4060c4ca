"""Parquet files. Reads: adc_features.parquet_files, every module. Writes: files."""

import ast
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import adc_features
from adc_features.errors import ArtifactError
from adc_features.parquet_files import read_parquet


def test_tables_are_written_with_checksums_of_pages_and_read_with_them():
    """No module writes Parquet without them, and none reads a file without comparing them."""
    asked = {
        "write_table": "write_page_checksum",
        "ParquetWriter": "write_page_checksum",
        "read_table": "page_checksum_verification",
        "ParquetFile": "page_checksum_verification",
    }
    root = Path(adc_features.__file__).parents[1]
    found = [
        ast.unparse(node)
        for module in (
            p for top in ("adc_features", "training") for p in (root / top).rglob("*.py")
        )
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "pq"
        and node.func.attr in asked
        and asked[node.func.attr] not in {keyword.arg for keyword in node.keywords}
    ]
    assert sorted(found) == ["pq.ParquetFile(empty)", "pq.ParquetWriter(empty, schema)"]  # no rows


def test_a_damaged_parquet_file_is_refused_by_name_whatever_arrow_says_of_it(tmp_path):
    """A table is read as it was written; a bit flipped anywhere gives it, or an ArtifactError."""
    path = tmp_path / "table.parquet"
    table = pa.table({"text": [f"value {n}" for n in range(500)], "number": list(range(500))})
    pq.write_table(table, path, write_page_checksum=True)
    assert read_parquet(path).equals(table)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        with suppress(ArtifactError):
            assert read_parquet(path).num_rows
    with pytest.raises(ArtifactError, match="is missing"):
        read_parquet(tmp_path / "none.parquet")
