"""Frames refuse what a join must not do."""

from datetime import UTC

import numpy as np
import pyarrow as pa
import pytest
from ranking_world import CODES, DAY, GENERATION, day, frame, interactions

from adc_features.errors import InputError
from adc_features.loader.frame import TrainingFrame, label_table, training_frame


@pytest.fixture(scope="module")
def whole():
    return frame(interactions(300, seed=0))


def rejoin(table, labels):
    return training_frame(table, labels, generation=GENERATION, codebook_size=CODES, resolution=DAY)


def test_a_reordered_join_is_put_back_in_order(whole):
    """Rows come back in the order of the labels, whatever order the store chose."""
    labels = whole.table.select(["row_id", "user_id", "item_id", "event_timestamp", "label"])
    shuffled = whole.table.take(np.random.default_rng(0).permutation(len(whole)))
    assert rejoin(shuffled, labels).table.equals(whole.table)


def test_lost_repeated_and_changed_rows_are_refused(whole):
    """A join that drops, doubles or changes a row is named for what it did."""
    labels = whole.table.select(["row_id", "user_id", "item_id", "event_timestamp", "label"])
    with pytest.raises(InputError, match="1 lost, 0 repeated"):
        rejoin(whole.table.slice(1), labels)
    with pytest.raises(InputError, match="0 lost, 1 repeated"):
        rejoin(pa.concat_tables([whole.table, whole.table.slice(0, 1)]), labels)
    flipped = whole.table.set_column(4, "label", pa.array(1 - whole.labels))
    with pytest.raises(InputError, match="changed column label"):
        rejoin(flipped, labels)


def test_features_from_the_future_are_refused(whole):
    """Statistics that hold an event of the row's own day, or codes younger than the row, name the
    row and the column.
    """
    own_day = whole.table["event_timestamp"].cast(pa.int64())
    for name in ("user_last_time", "item_last_time"):
        with pytest.raises(InputError, match=f"read {name} from the future"):
            TrainingFrame(
                whole.table.set_column(whole.table.column_names.index(name), name, own_day),
                GENERATION,
                CODES,
                DAY,
            )
    later = pa.array([day(119)] * len(whole), pa.timestamp("us", tz="UTC"))
    with pytest.raises(InputError, match="sid_as_of from the future"):
        TrainingFrame(whole.table.append_column("sid_as_of", later), GENERATION, CODES, DAY)


def test_codes_need_a_named_generation(whole):
    """A frame with codes names their generation; one without names none."""
    with pytest.raises(InputError, match="generation"):
        TrainingFrame(whole.table, None, CODES, DAY)
    with pytest.raises(InputError, match="generation"):
        TrainingFrame(whole.table.drop_columns(["sid"]), GENERATION, CODES, DAY)


def test_windows_are_half_open(whole):
    """between(start, end) keeps start and leaves end out."""
    part = whole.between(day(10), day(20))
    assert part.times.min() >= np.datetime64("2024-01-11")
    assert part.times.max() < np.datetime64("2024-01-21")
    assert len(whole.between(None, day(10))) + len(part) + len(whole.between(day(20), None)) == len(
        whole
    )


def test_labels_are_entity_rows():
    """Label rows carry a row number, keys, the aware time and the label."""
    table = label_table(interactions(5, seed=1))
    assert table.column_names == ["row_id", "user_id", "item_id", "event_timestamp", "label"]
    assert table["row_id"].to_pylist() == [0, 1, 2, 3, 4]
    assert table["event_timestamp"][0].as_py().tzinfo.utcoffset(None) == UTC.utcoffset(None)


@pytest.mark.parametrize(
    ("code", "says"), [(-7, "-7"), (CODES, f"expected -1..{CODES - 1}"), (0.5, "0.5")]
)
def test_what_is_no_code_of_the_generation_is_refused(whole, code, says):
    """A frame gives codes of -1..K-1 only; nothing is cut to fit."""
    lists = [[float(c) for c in row] for row in whole.table["sid"].to_pylist()]
    lists[0][0] = float(code)
    altered = whole.table.set_column(whole.table.column_names.index("sid"), "sid", pa.array(lists))
    with pytest.raises(InputError, match=says):
        TrainingFrame(altered, GENERATION, CODES, DAY).codes(len(lists[0]))
