"""Item vectors as of a time. Reads: adc_features.codes.embeddings."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from adc_features.codes.embeddings import EmbeddingTable, id_array, vector_matrix
from adc_features.errors import InputError

AS_OF = datetime(2024, 1, 1, tzinfo=UTC)


def table(**changes):
    fields = {
        "item_ids": np.array(["a", "b", "c"]),
        "vectors": {"title": np.array([[1, 0], [0, 2], [0, 0]], np.float32)},
        "present": {"title": np.array([True, True, False])},
        "interaction_count": np.array([5, 0, 1]),
        "as_of": AS_OF,
    }
    return EmbeddingTable(**{**fields, **changes})


def title(values, dtype=np.float32):
    return {"title": np.array(values, dtype)}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"item_ids": np.array([], str)}, "empty; expected at least one item"),
        ({"item_ids": np.array(["a", "b", "a"])}, "1 item ids stand more than once .first .*'a'"),
        (
            {"vectors": title([[1, 0], [0, np.nan], [0, 0]])},
            "1 vectors hold NaN or infinite values .first item .*'b'",
        ),
        ({"vectors": title([[1, 0], [0, np.inf], [0, 0]])}, "NaN or infinite"),
        ({"vectors": title([[1, 0], [0, 1], [0, 3]])}, "marked absent holds values"),
        ({"vectors": title([[1, 0], [0, 1]])}, r"expected float32 \[3, D\]"),
        ({"vectors": title([[1, 0], [0, 1], [0, 0]], np.float64)}, r"expected float32 \[3, D\]"),
        ({"vectors": {}, "present": {}}, "no modality"),
        ({"present": {"image": np.ones(3, bool)}}, "give both for each modality"),
        ({"interaction_count": np.array([5, -1, 0])}, "none negative"),
        ({"interaction_count": np.array([5.0, 1.0, 0.0])}, "expected int64"),
        ({"as_of": datetime(2024, 1, 1)}, "as_of is 2024-01-01T00:00:00 without a time zone"),
    ],
)
def test_a_broken_table_is_refused(changes, words):
    """The table checks itself once, with the item that is at fault."""
    with pytest.raises(InputError, match=words):
        table(**changes)


@pytest.mark.parametrize("ids", [np.array(["a", "b", "c"]), np.array([7, 8, 9])])
def test_parquet_gives_the_same_table_back(ids, tmp_path):
    """A written table is read back equal, absent vectors absent, with its as_of."""
    wrote = table(item_ids=ids)
    wrote.write(tmp_path / "t.parquet")
    read = EmbeddingTable.read(tmp_path / "t.parquet")
    assert read.item_ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(read.vectors["title"], wrote.vectors["title"])
    np.testing.assert_array_equal(read.present["title"], wrote.present["title"])
    assert read.interaction_count.tolist() == [5, 0, 1]
    assert read.as_of == AS_OF


def test_a_stranger_s_parquet_is_refused(tmp_path):
    """A Parquet file that carries no as_of is refused: its vectors could have seen anything."""
    pq.write_table(pa.table({"item_id": ["a"], "vector_x": [[1.0]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="no as_of in its metadata"):
        EmbeddingTable.read(tmp_path / "t.parquet")


def test_take_keeps_rows_together():
    """Rows are taken in the order asked for, all columns alike; a missing modality is named."""
    taken = table().take(np.array([1, 0]))
    assert taken.item_ids.tolist() == ["b", "a"]
    assert taken.vectors["title"].tolist() == [[0, 2], [1, 0]]
    assert taken.interaction_count.tolist() == [0, 5]
    with pytest.raises(
        InputError, match=r"modality 'image' is missing; this table has \['title'\]"
    ):
        taken.width("image")


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)]
)
def test_any_list_type_becomes_a_matrix(kind):
    """Null lists are absent zero rows, whatever the list type, in any chunking, sliced or not."""
    column = pa.chunked_array(
        [pa.array([[9, 9], [1, 2]], kind).slice(1), pa.array([None, [3, 4]], kind)]
    )
    matrix, present = vector_matrix(column, name="vector_x")
    assert matrix.tolist() == [[1, 2], [0, 0], [3, 4]]
    assert matrix.dtype == np.float32
    assert present.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[1.0], [1.0, 2.0]], r"widths \[1, 2\]"),
        ([[]], "one width above 0"),
        ([[1.0, None]], "1 nulls inside"),
    ],
)
def test_ragged_vectors_are_refused(values, words):
    """Vectors of several widths, of none, or with holes are refused."""
    with pytest.raises(InputError, match=words):
        vector_matrix(pa.chunked_array([pa.array(values, pa.list_(pa.float32()))]), name="vector_x")


def test_ids_are_integers_or_strings():
    """Ids are int64 or text; nulls and other types are refused."""
    assert id_array(pa.chunked_array([pa.array([3, 1], pa.int32())])).dtype == np.int64
    assert id_array(pa.array(["b", "aa"])).tolist() == ["b", "aa"]
    with pytest.raises(InputError, match="1 ids are null"):
        id_array(pa.array(["a", None]))
    with pytest.raises(InputError, match="type double; expected integers or strings"):
        id_array(pa.array([1.0]))
