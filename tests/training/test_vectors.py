"""Raw vectors as columns of joined rows."""

import numpy as np
import pytest
from ranking_world import day, frame, interactions, vectors

from training.vectors import column_names, vector_match


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(400, seed=0))


def test_vectors_are_those_of_the_rows_time():
    """Text is held once, behaviour by snapshot; before the first snapshot and for absent vectors
    there is row 0, all zeros.
    """
    timeline = vectors()
    ids, times = np.array(["i01", "i01", "i01", "i09", "zz"]), np.array([19, 20, 70, 70, 70])
    moments = np.array([np.datetime64(day(int(t)).replace(tzinfo=None), "us") for t in times])
    text, behavior = (timeline.rows(m, ids, moments) for m in ("text", "behavior"))
    assert text.tolist() == [0, 2, 2, 10, 0]
    assert behavior.tolist() == [0, 2, 62, 0, 0]
    assert not timeline.matrices["text"][0].any()
    assert timeline.bytes_per_item() == 4 * (6 + 4)


def test_columns_are_null_where_an_item_has_no_vector(whole):
    """Every modality has the vector, its likeness to the user's recent items, and how those were
    liked; a row before the first snapshot has no vector.
    """
    timeline = vectors()
    columns = timeline.columns(whole)
    for modality, width in (("text", 6), ("behavior", 4)):
        names = column_names(modality)
        found = columns[names.vector].to_pylist()
        rows = timeline.rows(modality, whole.item_ids, whole.times)
        assert [vector is None for vector in found] == (rows == 0).tolist()
        assert {len(vector) for vector in found if vector} == {width}
        assert columns[names.match].null_count == columns[names.liking].null_count == 0
        assert np.asarray(columns[names.liking]).any()


def test_likeness_does_not_depend_on_how_many_rows_are_taken_at_once(whole):
    """Mean cosines of 17 elements at a time are those of all at once."""
    timeline = vectors()
    parts, at_once = (vector_match(whole, timeline, "text", chunk=n) for n in (17, 100_000))
    assert parts == at_once
