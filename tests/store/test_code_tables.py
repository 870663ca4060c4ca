"""Where codes lie for offline stores that read no Parquet files of ours."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from adc_features.errors import InputError
from adc_features.store.code_tables import code_tables
from adc_features.store.code_tables.tables import CodeFile, Stored, differences, table_name
from adc_features.store.repository import ItemKey, LiveGeneration

POSTGRES = "feast.infra.offline_stores.contrib.postgres_offline_store.postgres"


def repository(folder, kind, **own):
    """feature_store.yaml with this offline store."""
    config = {"project": "shop", "offline_store": {"type": kind}, "adc_features": own}
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("duckdb", "NoneType"),
        ("file", "NoneType"),
        ("feast.infra.offline_stores.duckdb.DuckDBOfflineStore", "NoneType"),
        ("adc_features.store.offline_store.AsofOfflineStore", "NoneType"),
        ("postgres", "PostgresTables"),
        (f"{POSTGRES}.PostgreSQLOfflineStore", "PostgresTables"),
    ],
)
def test_a_store_reads_files_or_tables(tmp_path, kind, expected):
    """A store is known by its short name and by its class."""
    assert type(code_tables(repository(tmp_path, kind))).__name__ == expected


@pytest.mark.parametrize("kind", ["bigquery", "redshift", "spark", "shop.stores.TheirOfflineStore"])
def test_a_store_without_an_adapter_is_named(tmp_path, kind):
    """The refusal says which store it is, and how codes get into it."""
    with pytest.raises(InputError, match=f"{kind!r}.*code_source: sources:codes.*for you to load"):
        code_tables(repository(tmp_path, kind))


def test_a_source_of_ones_own_is_asked_for_by_view(tmp_path):
    """Its function gets the view's name; a missing file, one that cannot be imported, a missing
    function and something that is no source of that name are refused.
    """
    repo = repository(tmp_path, "bigquery", code_source="sources:codes")
    tables = code_tables(repo)
    with pytest.raises(InputError, match="expected module:function of a Python file"):
        tables.check()
    path = repo / "sources.py"
    path.write_text("import nowhere_to_be_found\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"sources\.py.*ModuleNotFoundError: No module"):
        tables.check()
    path.write_text("def other(view): ...\n", encoding="utf-8")
    with pytest.raises(InputError, match="has no function 'codes'"):
        tables.check()
    for returned, fits in (("None", False), ("source('x')", False), ("source(view)", True)):
        path.write_text(
            "from feast import FileSource\n\n\n"
            "def source(name):\n"
            "    return FileSource(name=name, path='codes', timestamp_field='at')\n\n\n"
            f"def codes(view):\n    return {returned}\n",
            encoding="utf-8",
        )
        tables.check()
        if fits:
            assert tables.source("item_sid_g1", "t", tags={}).path == "codes"
            continue
        with pytest.raises(InputError, match="expected a Feast source with name='item_sid_g1'"):
            tables.source("item_sid_g1", "t", tags={})


def test_a_name_of_a_function_is_checked(tmp_path):
    """A path or an expression is no module:function."""
    with pytest.raises(InputError, match=r"code_source is '\.\./x:codes'"):
        code_tables(repository(tmp_path, "bigquery", code_source="../x:codes"))


def test_a_table_is_named_after_project_view_and_codebook():
    """Long names are cut so that they stay apart, within the 63 bytes of PostgreSQL."""

    def live(codebook):
        key = ItemKey("product", "sku", "Int64")
        return LiveGeneration("g1", codebook, datetime(2026, 1, 1, tzinfo=UTC), 4, 3, "int64", key)

    assert table_name("shop", live("0123456789")) == "shop_item_sid_g1_01234567"
    long = {
        table_name("s" * 60 + end, live(book)) for end in "ab" for book in ("01" * 32, "2" * 64)
    }
    assert len(long) == 4
    assert max(map(len, long)) <= 63


DAY = st.integers(0, 4).map(lambda n: datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=n))
ROWS = st.lists(st.builds(Stored, DAY, DAY, st.integers(1, 3)), max_size=6)


@given(
    stored=ROWS.map(lambda rows: list({(r.servable_at, r.computed_at): r for r in rows}.values())),
    wanted=ROWS.map(lambda rows: list({r.servable_at: r for r in rows}.values())),
    data=st.data(),
)
def test_any_table_becomes_what_is_published(stored, wanted, data):
    """Whatever a table holds, deleting the stale times and writing the missing files leaves the
    published rows, those of fresh files written anew, and the rest untouched.
    """
    files = [
        CodeFile(Path(str(n)), *row, fresh=data.draw(st.booleans())) for n, row in enumerate(wanted)
    ]
    stale, missing = differences(stored, files)
    kept = [row for row in stored if row.servable_at not in stale]
    assert Counter(kept + [file.stored for file in missing]) == Counter(wanted)
    assert {f.path for f in files if f.fresh} <= {f.path for f in missing}
    assert {row.servable_at for row in kept} == {
        f.servable_at for f in files if f.stored in stored and f not in missing
    }
