"""Label logs are read from where they are and refused for what they lack. Reads:
training.ranker.labels.
"""

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy
from label_world import RANKER, SCHEMA, at, log

from adc_features.errors import InputError
from adc_features.inputs.declaration import Inputs, Ranker, Skip, Task, category, infer, number
from adc_features.uris import open_uri
from training.cli.rankers import label_source
from training.ranker.label_columns import request_columns
from training.ranker.label_sources import SqlLabels
from training.ranker.labels import TaskCounts, check_matched, read_labels


def read(source, ranker=RANKER, **bounds):
    """The shop's log."""
    return read_labels(source, schema=SCHEMA, ranker=ranker, **bounds)


def refusal(source, ranker=RANKER, **bounds):
    """The words in which the log is refused."""
    with pytest.raises(InputError) as caught:
        read(source, ranker, **bounds)
    return str(caught.value)


def test_a_log_becomes_rows_by_time_with_their_keys_and_requests():
    """Rows are sorted by time and numbered; the join is asked with keys, time and request."""
    found = read(log().take([4, 0, 2, 1, 3, 5]))
    assert found.table["sku"].to_pylist() == [12, 13, 12, 14, 15, 16]
    assert found.table["row_id"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert found.entity_rows.column_names == [
        "row_id", "customer_id", "sku", "event_timestamp", "device", "hour",
    ]  # fmt: skip
    assert found.request_types == {"device": "String", "hour": "Int64"}
    assert found.users.tolist() == [0, 0, 1, 1, 0, 0]
    assert found.requests.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.weights.tolist() == [1] * 6
    assert found.end == at(9)


def test_labels_at_a_cutoff_obey_windows_and_the_given_task():
    """At 3 o'clock the first two slates are ripe; a purchase is defined for clicked rows only; the
    one that came 6 hours later, of 2, is a negative.
    """
    found = read(log())
    labels, mask = found.labels(at(3))
    assert mask.tolist() == [
        [True, True, True, True, False, False],
        [True, False, True, True, False, False],
    ]
    assert labels.tolist() == [[1, 0, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0]]
    counts = found.counts(at(3))["purchase"]
    assert counts == TaskCounts(
        rows=6, missing=1, unripe=1, not_given=1, used=3, positives=1, late=1
    )


def test_without_a_delay_the_window_is_what_was_observed():
    """Of known_at alone, the window covers 99 % of the delays known before, and can be pinned."""
    ranker = replace(RANKER, tasks=[Task("purchase", known_at="bought_at")])
    found = read(log(), ranker)
    assert found.windows(at(3))["purchase"] == at(1) - at(0)
    assert found.windows(at(8))["purchase"] == at(6) - at(0)
    labels, _ = found.labels(at(8), windows=found.windows(at(3)))
    assert labels.tolist() == [[1, 0, 0, 0, 0, 0]]


def in_database(table, url):
    """The rows as the table `events` of a database."""
    kinds = {
        "sku": sqlalchemy.BigInteger,
        "hour": sqlalchemy.BigInteger,
        "click": sqlalchemy.Integer,
        "purchase": sqlalchemy.Float,
        "event_timestamp": sqlalchemy.DateTime,
        "bought_at": sqlalchemy.DateTime,
    }
    columns = [sqlalchemy.Column(n, kinds.get(n, sqlalchemy.String)) for n in table.column_names]
    metadata, engine = sqlalchemy.MetaData(), sqlalchemy.create_engine(url)
    events = sqlalchemy.Table("events", metadata, *columns)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(events.insert(), table.to_pylist())
    engine.dispose()


@pytest.fixture(params=["file", "directory", "folders", "pandas", "polars", "arrow", "sql"])
def source(request, tmp_path):
    """The same log in every form that is read."""
    table, kind = log(), request.param
    if kind == "file":
        pq.write_table(table, tmp_path / "log.parquet")
        return tmp_path / "log.parquet"
    if kind == "directory":
        for part in range(3):
            pq.write_table(table.slice(2 * part, 2), tmp_path / f"{part}.parquet")
        return str(tmp_path)
    if kind == "folders":
        pq.write_to_dataset(table, tmp_path / "days", partition_cols=["slate"])
        return tmp_path / "days"
    if kind == "pandas":
        return table.to_pandas()
    if kind == "polars":
        return pl.from_arrow(table)
    if kind == "arrow":
        return table.cast(table.schema)
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    in_database(table, url)
    return SqlLabels(url, "events")


def test_every_form_of_a_log_gives_the_same_rows(source):
    """Files, folders, frames and database tables are one log."""
    names = ["row_id", "customer_id", "sku", "event_timestamp", "click", "purchase", "bought_at"]
    assert read(source).table.select(names).equals(read(log()).table.select(names))


def test_a_period_is_half_open(source):
    """start <= time < end."""
    assert len(read(source, start=at(0), end=at(9))) == 4
    assert read(source, start=at(1)).table["sku"].to_pylist() == [12, 14, 15, 16]


def test_all_missing_columns_are_told_at_once_with_the_nearest_name():
    """Keys, labels, times and request fields that lack are named, each with its use."""
    table = log(bought_at=None, hour=None).rename_columns(
        {"customer_id": "customerid", "click": "clicks"}
    )
    words = refusal(table)
    assert "4 problems" in words
    assert "'customer_id' (a join key) is missing; did you mean 'customerid'?" in words
    assert "'click' (the label of a task) is missing; did you mean 'clicks'?" in words
    assert "'hour' (a request field" in words
    assert "'bought_at' (the time at which labels became known) is missing" in words


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sku": ["12", "13", "12", "14", "15", "16"]}, "'sku' is of type string, the"),
        ({"sku": [12.0, 13, 12, 14, 15, 16]}, "'sku' is of type double, the service's is Int64"),
        ({"customer_id": [1, 1, 2, 2, 1, 1]}, "'customer_id' is of type int64, the service's is"),
        ({"customer_id": ["ann", None, "bob", "bob", "ann", None]}, "2 rows have no 'customer_id'"),
        ({"slate": ["s1", "s1", "s2", None, "s3", "s3"]}, "1 rows have no 'slate'"),
        ({"slate": ["a", "a", "a", "a", "b", "b"]}, "1 requests of column 'slate' have rows of"),
        ({"hour": ["0"] * 6}, "the on-demand view reads Int64; cast it"),
        ({"device": pa.array([{"a": 1}] * 6)}, "which no kind of input reads"),
        ({"event_timestamp": ["2024-01-01"] * 6}, "event_timestamp is of type string"),
        ({"event_timestamp": [at(0), None, *[at(1)] * 4]}, "1 values are null; drop these rows"),
        ({"click": ["1", "0", "1", "1", "0", "1"]}, "'click' are of type string; expected 0, 1"),
        ({"click": [1, 0, 2, 3, 0, 1]}, r"2 labels .* are not 0 or 1 \(first: 2 in row 2"),
        ({"click": [1.0, 0.0, float("inf"), 1, 0, 1]}, "first: inf in row 2"),
        ({"click": [1] * 6}, "labels of task 'click' are constant: all 6 are 1"),
        ({"click": [0] * 6}, "task 'click' has no positive among 6 labels"),
        ({"click": pa.nulls(6)}, "task 'click' has no label in these 6 rows"),
        ({"bought_at": pa.nulls(6)}, "2 positive labels of task 'purchase' have no time"),
        ({"bought_at": [at(1), None, at(0), None, None, None]}, "known before their row's time"),
        ({"bought_at": ["x"] * 6}, "bought_at is of type string"),
        ({"sku": [12, 12, 12, 14, 15, 15]}, "2 rows repeat another with the same keys, time and"),
    ],
)  # fmt: skip
def test_what_cannot_be_learned_from_is_refused(changed, words):
    """Types, nulls, values, order in time and repeated rows are checked before any join."""
    assert re.search(words, refusal(log(**changed)))


def test_one_user_may_see_an_item_twice_in_a_second_in_two_requests():
    """Rows with the same keys and time are told apart by their request."""
    table = log(sku=[12, 12, 13, 14, 15, 16], slate=["a", "b", "c", "c", "d", "d"])
    assert len(read(table)) == 6
    assert "1 rows repeat" in refusal(table, replace(RANKER, request=None))


@pytest.mark.parametrize("value", [None, -1.0, float("nan"), float("inf"), "heavy"])
def test_weights_are_finite_and_not_negative(value):
    """A missing, negative, infinite or textual weight is an error, as are zeros alone."""
    ranker = replace(RANKER, sample_weight="w")
    good = log().append_column("w", pa.array([1, 2, 3, 4, 5, 0.5]))
    assert read(good, ranker).weights.tolist() == [1, 2, 3, 4, 5, 0.5]
    wrong = [value] * 6 if isinstance(value, str) else [1.0, value, 1, 1, 1, 1]
    assert "weights in column 'w'" in refusal(log().append_column("w", pa.array(wrong)), ranker)
    zeros = log().append_column("w", pa.array([0.0] * 6))
    assert "all weights in column 'w' are 0" in refusal(zeros, ranker)


def test_nan_and_null_labels_are_absent_and_booleans_are_labels():
    """NaN is null; True is 1."""
    clicks = pa.array([True, False, True, True, None, True])
    ranker = replace(RANKER, tasks=[Task("click"), Task("purchase")])
    found = read(log(click=clicks, purchase=[1.0, 0, float("nan"), 0, 0, 0]), ranker)
    _, mask = found.labels(at(9))
    assert mask.tolist() == [[1, 1, 1, 1, 0, 1], [1, 1, 0, 1, 1, 1]]


def test_ids_of_any_width_and_dictionaries_are_read():
    """int32, uint64 and dictionary-encoded keys become the service's types; 2 ** 63 does not."""
    ids = pa.array([12, 13, 12, 14, 15, 16], pa.uint64())
    users = pa.array(["ann", "ann", "bob", "bob", "ann", "ann"]).dictionary_encode()
    found = read(log(sku=ids, customer_id=users)).table
    assert found["sku"].type == pa.int64()
    assert found["customer_id"].type == pa.string()
    ids = pa.array([2**63, 13, 12, 14, 15, 16], pa.uint64())
    assert "'sku' does not fit the service's Int64" in refusal(log(sku=ids))


def test_an_integer_key_with_nulls_in_a_database_keeps_its_digits(tmp_path):
    """2 ** 53 + 1 survives beside a null label, which pandas would make a float column of."""
    big, url = 2**53 + 1, f"sqlite:///{tmp_path / 'shop.db'}"
    table = log(sku=pa.array([big, 13, 12, 14, 15, 16], pa.int64()), click=[1, 0, None, 1, 0, 1])
    in_database(table, url)
    ranker = replace(RANKER, tasks=[Task("click")])
    assert read(SqlLabels(url, "events"), ranker).table["sku"].to_pylist()[0] == big
    selected = SqlLabels(url, "SELECT * FROM events WHERE sku < 0")
    assert "gives no rows" in refusal(selected, ranker)


def test_rows_of_a_database_come_in_pieces(tmp_path, monkeypatch):
    """A piece in which a column is null throughout joins the others, in which it is not."""
    monkeypatch.setattr("training.ranker.label_sources.SQL_ROWS", 1)
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    in_database(log(), url)
    assert read(SqlLabels(url, "events")).table.equals(read(log()).table)


def test_a_log_on_an_object_store_gives_the_rows_of_one_here(bucket):
    """A file, and a directory of files, by their address; what is missing there is said, and so is
    an address that is none of a store.
    """
    filesystem, folder = open_uri(f"{bucket}/logs")
    for name, part in {"a": log().slice(0, 2), "b": log().slice(2)}.items():
        pq.write_table(part, f"{folder}/day={name}/part.parquet", filesystem=filesystem)
    pq.write_table(log(), f"{folder}.parquet", filesystem=filesystem)
    here = read(log()).table
    assert read(label_source(f"{bucket}/logs.parquet", None)).table.equals(here)
    assert read(label_source(f"{bucket}/logs", None)).table.select(here.column_names).equals(here)
    assert "does not exist" in refusal(f"{bucket}/nowhere")
    assert "is the URL of a database" in refusal("ftp://somewhere/log")


def test_a_frame_with_two_types_in_a_column_is_refused():
    """Objects of pandas that are texts and numbers are no column of ids."""
    frame = log().to_pandas()
    frame["customer_id"] = ["ann", 1, "bob", 2, "ann", "ann"]
    assert "give each column one type" in refusal(frame)


def test_no_password_is_told():
    """An unreachable database and a bare URL are named without what is secret in them."""
    url = "postgresql+psycopg://ann:hunter2@127.0.0.1:1/shop?connect_timeout=1"
    for source in (SqlLabels(url, "events"), url):
        words = refusal(source)
        assert "hunter2" not in words
        assert "ann:***@127.0.0.1" in words
    assert "hunter2" not in repr(SqlLabels(url, "events"))


def test_sources_that_are_no_label_log_are_refused(tmp_path):
    """A missing path, text, another file and an empty directory say what to give instead."""
    (tmp_path / "log.csv").write_text("a,b\n1,2\n")
    (tmp_path / "log.parquet").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "write it as Parquet first" in refusal(tmp_path / "log.csv")
    assert "cannot be read as Parquet" in refusal(tmp_path / "log.parquet")
    assert "holds no Parquet file" in refusal(tmp_path / "empty")
    assert "give a pandas, Arrow or polars frame" in refusal([1, 2])


def test_files_of_two_types_are_refused(tmp_path):
    """One file of texts among files of integers, or of other units of time, is named."""
    pq.write_table(log(), tmp_path / "a.parquet")
    pq.write_table(log(sku=["x"] * 6), tmp_path / "b.parquet")
    assert "all with the same types" in refusal(tmp_path)
    times = log()["event_timestamp"].cast(pa.timestamp("s", "UTC")).cast(pa.date32())
    pq.write_table(log(event_timestamp=times), tmp_path / "b.parquet")
    assert "write the files alike" in refusal(tmp_path)


def test_times_without_the_usual_name_and_in_local_zones():
    """The only other column of times is the row's; two need a name; dates mean midnight UTC."""
    named = log().rename_columns({"event_timestamp": "shown_at"})
    assert read(named).times.tolist() == read(log()).times.tolist()
    extra = named.append_column("loaded_at", named["shown_at"])
    assert "2 other columns of times ['shown_at', 'loaded_at']" in refusal(extra)
    local = log().to_pandas()
    local["event_timestamp"] = local["event_timestamp"].dt.tz_convert("Asia/Tokyo")
    assert read(local).times.tolist() == read(log()).times.tolist()


def test_a_period_without_rows_and_a_naive_bound_are_told():
    """Nothing between start and end is an error before any join."""
    assert "has no rows in this period" in refusal(log(), start=at(100))
    assert "without a time zone" in refusal(log(), start=datetime(2024, 1, 1))
    assert "expected timestamps or dates" in refusal(log(event_timestamp=range(6)), start=at(0))


def test_a_label_that_is_also_an_input_is_a_leak():
    """A label column declared as a request field is refused."""
    ranker = replace(RANKER, inputs=infer() | {"click": number(request=True)})
    assert "the answer would leak into the question" in refusal(log(), ranker)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Task("click", delay=7), "delay of task 'click' is 7, which has no unit"),
        (Task("click", given="view"), "given 'view', which is no task"),
    ],
)
def test_a_task_that_is_declared_wrongly_is_told_before_anything_is_read(task, words):
    """Delays and given tasks are checked before the source is opened."""
    assert words in refusal("nowhere.parquet", replace(RANKER, tasks=[task]))


def test_request_fields_are_those_that_inputs_and_used_views_read():
    """A skipped or unread on-demand view needs no request field; optional ones are columns too."""
    skipped = infer() | {"discount__share": Skip(), "device": category(request=True, optional=True)}
    alone = Inputs({"stock__price": number()})
    system = category(source="system", request=True)
    used = Inputs({"share": number(source="discount__share"), "os": system})
    for inputs, expected in [
        (infer(), {"hour": "Int64"}),
        (skipped, {"device": None}),
        (alone, {}),
        (used, {"system": None, "hour": "Int64"}),
    ]:
        ranker = Ranker("feed_v3", [Task("click")], inputs=inputs)
        assert request_columns(ranker, SCHEMA) == expected


def test_a_join_that_matched_nothing_is_told_with_the_view():
    """A view without a value for any row is an error; shares of the others are given."""
    joined = log().append_column("profile__segment", pa.array(["a", None, None, None, "b", "b"]))
    half = joined.append_column("stock__price", pa.array([1.0, *[None] * 5], pa.float32()))
    assert check_matched(half, SCHEMA) == {"profile": 0.5, "stock": pytest.approx(1 / 6)}
    nothing = joined.append_column("stock__price", pa.nulls(6, pa.float32()))
    with pytest.raises(InputError, match="view stock has a value for 0 % of 6 rows") as caught:
        check_matched(nothing, SCHEMA)
    assert "{'sku': 12}" in str(caught.value)


def test_some_rows_keep_their_numbers():
    """take(rows) gives those rows, with the row_id that they had."""
    found = read(log().to_pandas().astype({"hour": "Int64"}))
    part = found.take(np.array([1, 4]))
    assert part.table["row_id"].to_pylist() == [1, 4]
    assert part.times.tolist() == found.times[[1, 4]].tolist()
