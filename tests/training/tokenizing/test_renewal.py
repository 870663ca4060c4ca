"""Codes of a published generation, renewed as items arrive."""

import json
import sys
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from coded_feed import feast_apply, make_coded_feed
from feed_world import START as FEED_START
from things_world import ASOF, DAY, IDS, START, make_things

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, Task
from adc_features.store import published_snapshots, published_timeline
from adc_features.store.services.code_view import declare_codes
from adc_features.store.services.schema import service_schema
from adc_features.store.services.training_rows import join_service
from training.ranker.label_sources import SqlLabels
from training.tokenizing.behavior import LabelledEvents
from training.tokenizing.record import asked_from_facts, asked_to_facts
from training.tokenizing.renewal import renew_codes
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import tokenize

LAG = timedelta(hours=6)
FAST = TokenizeSettings(steps=80, codebook_size=4, publish_lag=LAG)
PICTURES = ItemSources(["pictures__picture"])
NOW = START + 90 * DAY
UTC = pa.timestamp("us", "UTC")
SOURCES = """
from pathlib import Path

from feast import FileSource
from feast.data_format import ParquetFormat


def codes(view):
    return FileSource(
        name=view,
        path=str(Path(__file__).parent / "loaded"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
"""


def add_pictures(repo, codes, day):
    """Rows at a day after the start, with the picture of the second thing."""
    path = repo / "pictures.parquet"
    old = pq.read_table(path)
    columns = {
        "code": codes,
        "at": [START + day * DAY] * len(codes),
        "size": [1] * len(codes),
        "picture": [old["picture"][1].as_py()] * len(codes),
    }
    pq.write_table(pa.concat_tables([old, pa.table(columns, old.schema)]), path)


def joined(repo, codes, at, feature="sid"):
    """Codes by Feast's point-in-time join; null where there are none."""
    asked = pa.table({"code": codes, "event_timestamp": pa.array([at] * len(codes), UTC)})
    schema = service_schema(repo, "things_g1")
    answer = join_service(repo, schema, asked, features=[f"item_sid_g1__{feature}"])
    return answer[f"item_sid_g1__{feature}"].to_pylist()


@pytest.mark.parametrize("offline", ["duckdb", ASOF])
def test_new_items_get_codes_and_the_rest_keeps_theirs(tmp_path, offline):
    """A new thing has codes from its servable time on, and none before; a thing that looks like
    another kind gets that kind's codes; rows of the others stay bit for bit, and so does the past.
    """
    repo = make_things(tmp_path, offline=offline)
    tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    declare_codes(repo, "g1", service="things")
    old, before = IDS["String"], START + 3 * DAY + LAG - timedelta(seconds=1)
    first = {name: joined(repo, old, before, name) for name in ("sid", "sid_weight", "reliability")}
    folder = repo / "data" / "item_sid_g1"
    rows = next((folder / "rows").glob("*.parquet"))
    bits = rows.read_bytes()
    add_pictures(repo, ["new", old[0]], 2)
    (told,) = renew_codes(repo, as_of=START + 3 * DAY, computed_at=NOW)
    snapshot = told["snapshots"][0]
    assert (told["fitted"], told["current"]) == (False, False)
    assert (snapshot["new"], snapshot["recoded"], snapshot["gone"]) == (1, 1, 0)
    after = START + 3 * DAY + LAG
    assert joined(repo, ["new"], before) == [None]
    assert joined(repo, ["new", old[0]], after) == [first["sid"][1]] * 2
    for name, values in first.items():
        assert joined(repo, old, before, name) == values
        assert joined(repo, old[1:], after, name) == values[1:]
    assert rows.read_bytes() == bits


def test_repeating_a_renewal_changes_nothing(tmp_path):
    """A time that is published is not computed again, a later one without news publishes nothing,
    and an earlier one is refused.
    """
    repo = make_things(tmp_path)
    tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    add_pictures(repo, ["new"], 2)
    renew_codes(repo, ["g1"], as_of=START + 3 * DAY, computed_at=NOW)
    manifest = repo / "data" / "item_sid_g1" / "manifest.json"
    bits = manifest.read_bytes()
    (told,) = renew_codes(repo, ["g1"], as_of=START + 3 * DAY, computed_at=NOW + DAY)
    assert told == {"generation": "g1", "current": True, "rows_loaded": 0}
    (told,) = renew_codes(repo, as_of=START + 4 * DAY, computed_at=NOW + DAY)
    assert told["snapshots"][0]["published_rows"] == 0
    assert manifest.read_bytes() == bits
    with pytest.raises(InputError, match=r"lies before .* codes of the past stay"):
        renew_codes(repo, as_of=START + 2 * DAY, computed_at=NOW)
    with pytest.raises(InputError, match="in the future"):
        renew_codes(repo, as_of=NOW + DAY, computed_at=NOW)
    assert manifest.read_bytes() == bits


def test_a_renewal_that_was_killed_is_completed(tmp_path, monkeypatch):
    """A failure while codes are published leaves the old ones; the same call completes them."""
    repo = make_things(tmp_path)
    tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    add_pictures(repo, ["new"], 2)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(sys.modules["adc_features.store.publish.codes"], "seal", killed)
        renew_codes(repo, as_of=START + 3 * DAY, computed_at=NOW)
    assert [s.as_of for s in published_snapshots(repo, "g1")] == [START + DAY]
    renew_codes(repo, as_of=START + 3 * DAY, computed_at=NOW)
    times = np.full(1, np.datetime64(NOW.replace(tzinfo=None), "us"))
    codes, _, _ = published_timeline(repo, "g1").gather(np.array(["new"]), times)
    assert (codes >= 0).all()


def test_what_cannot_be_renewed_is_said(tmp_path):
    """A repository without codes, an unknown generation, a tokenizer that is gone, and a label log
    that the generation has no use for.
    """
    repo = make_things(tmp_path)
    with pytest.raises(InputError, match="has no codes of a tokenizer that is kept there"):
        renew_codes(repo, as_of=START + DAY, computed_at=NOW)
    tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    with pytest.raises(InputError, match="'g2' is not published"):
        renew_codes(repo, ["g1", "g2"], as_of=START + 2 * DAY, computed_at=NOW)
    with pytest.raises(InputError, match="without a label log; leave --labels out"):
        renew_codes(repo, as_of=START + 2 * DAY, computed_at=NOW, labels=tmp_path / "x.parquet")
    (repo / "tokenizers" / "g1").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="its tokenizer is not in"):
        renew_codes(repo, ["g1"], as_of=START + 2 * DAY, computed_at=NOW)
    assert len(published_snapshots(repo, "g1")) == 1


def test_files_that_people_load_are_named(tmp_path):
    """With a source of the user's own, each call names the Parquet files to load; loaded, they are
    what the point-in-time join reads.
    """
    repo = make_things(tmp_path)
    config = repo / "feature_store.yaml"
    config.write_text(config.read_text() + "adc_features:\n  code_source: sources:codes\n")
    (repo / "sources.py").write_text(SOURCES, encoding="utf-8")
    made = tokenize(repo, PICTURES, times=[START + DAY], computed_at=NOW, settings=FAST)
    add_pictures(repo, ["new"], 2)
    (told,) = renew_codes(repo, as_of=START + 3 * DAY, computed_at=NOW)
    (repo / "loaded").mkdir()
    for number, file in enumerate((*made["to_load"], *told["to_load"])):
        (repo / "loaded" / f"{number}.parquet").write_bytes((repo / file).read_bytes())
    declare_codes(repo, "g1", service="things")
    late = START + 3 * DAY + LAG
    assert joined(repo, ["new", IDS["String"][1]], late - timedelta(seconds=1))[0] is None
    found = joined(repo, ["new", IDS["String"][1]], late)
    assert found[0] == found[1] is not None


def test_behavior_is_renewed_from_the_label_log(tmp_path):
    """The label log of a generation is written down with what its rows mean, and read again."""
    feed = make_coded_feed(tmp_path, rows=800, products=40)
    feast_apply(feed.folder)
    ranker = Ranker(service="plain_v1", tasks=[Task("click")], user=["customer_id"], item=["sku"])
    settings = TokenizeSettings(steps=80, codebook_size=4, behavior_codes=1)
    made = tokenize(
        feed.folder,
        ItemSources(["looks__vector"]),
        times=[FEED_START + 20 * DAY],
        computed_at=FEED_START + 60 * DAY,
        settings=settings,
        events=LabelledEvents(feed.labels, ranker),
    )
    (told,) = renew_codes(
        feed.folder, as_of=FEED_START + 30 * DAY, computed_at=FEED_START + 60 * DAY
    )
    assert told["codebook_hash"] == made["codebook_hash"]
    assert told["items_with"]["behavior"] >= made["items_with"]["behavior"]


def test_what_was_asked_is_read_as_it_was_written(tmp_path):
    """Files inside the repository stay inside when it moves; a password is not written down, and
    the label log has to be given again then.
    """
    ranker = Ranker(service="s", tasks=[Task("click", delay="3d")], user=["u"], item=["i"])
    sources = ItemSources(["a__b", str(tmp_path / "here" / "v.parquet")], entity="thing")
    settings = TokenizeSettings(generation="g7", seed=3, publish_lag=LAG)
    url = "postgresql+psycopg://me@host/shop"
    events = LabelledEvents(SqlLabels(url, "events"), ranker, "click")
    facts = json.loads(json.dumps(asked_to_facts(tmp_path / "here", sources, settings, events)))
    asked = asked_from_facts(tmp_path / "there", facts)
    assert asked.sources.vectors == ("a__b", str(tmp_path / "there" / "v.parquet"))
    assert (asked.settings, asked.events) == (settings, events)
    secret = SqlLabels("postgresql+psycopg://me:secret@host/shop", "events")
    events = LabelledEvents(secret, ranker, "click")
    facts = asked_to_facts(tmp_path, sources, settings, events)
    assert "secret" not in json.dumps(facts)
    asked = asked_from_facts(tmp_path, facts)
    assert (asked.labelled, asked.events) == (True, None)
    assert asked.with_labels(secret, facts) == events
