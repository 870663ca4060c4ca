"""Where vectors and text of items come from, and what is refused before any work."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from coded_feed import LATER, categories
from feed_world import START

from adc_features.errors import InputError
from adc_features.inputs.declaration import Ranker, Task
from training.tokenizing import workflow
from training.tokenizing.behavior import LabelledEvents, interactions
from training.tokenizing.catalogue import Catalogue
from training.tokenizing.settings import TokenizeSettings
from training.tokenizing.sources import ContentReader, ItemSources
from training.tokenizing.workflow import tokenize

DAY = timedelta(days=1)
NOW = START + timedelta(days=60)


def _items(path, **columns):
    pq.write_table(pa.table(columns), path)
    return str(path)


def _refused(repo, sources, *, times=(START + DAY,), match, **options):
    """The call is refused with these words, and the repository is as it was."""
    before = sorted(repo.rglob("*"))
    with pytest.raises(InputError, match=match):
        tokenize(repo, sources, times=times, computed_at=NOW, **options)
    assert sorted(repo.rglob("*")) == before


def test_features_are_read_as_of_a_time(applied):
    """A feature gives the newest vector of each item with a time before the cut-off."""
    reader = ContentReader(applied.folder, ItemSources(vectors=["looks__vector"]))
    stored = pq.read_table(applied.folder / "looks.parquet").to_pylist()
    for time, rows in ((START + DAY, stored[:40]), (LATER + DAY, stored)):
        content = reader.at(time)["looks__vector"]
        newest = {row["sku"]: row["vector"] for row in rows}
        assert content.present.all()
        order = np.argsort(content.ids)
        assert content.ids[order].tolist() == sorted(newest)
        wanted = np.array([newest[s] for s in sorted(newest)], np.float32)
        assert (content.vectors[order] == wanted).all()
    assert len(reader.at(START)["looks__vector"].ids) == 0, "a cut-off is exclusive"


def test_files_are_read_as_of_a_time(applied, tmp_path):
    """A file with event times gives the newest row before the cut-off; one without holds always;
    an item with a null vector is absent."""
    utc = pa.timestamp("us", "UTC")
    path = _items(
        tmp_path / "v.parquet",
        sku=[1000, 1000, 1001],
        event_timestamp=pa.array([START, START + 2 * DAY, START], utc),
        vector_image=[[1.0, 2.0], [3.0, 4.0], None],
    )
    reader = ContentReader(applied.folder, ItemSources(vectors=[path]))
    assert reader.key.entity == "product"
    assert reader.modalities == ["image"]
    early, late = reader.at(START + DAY)["image"], reader.at(START + 3 * DAY)["image"]
    assert early.vectors[early.ids == 1000].tolist() == [[1.0, 2.0]]
    assert late.vectors[late.ids == 1000].tolist() == [[3.0, 4.0]]
    assert late.present[late.ids == 1001].tolist() == [False]
    timeless = _items(tmp_path / "w.parquet", sku=[1000], w=[[1.0, 2.0]])
    always = ContentReader(applied.folder, ItemSources(vectors=[timeless])).at(START)["w"]
    assert always.ids.tolist() == [1000]


@pytest.mark.parametrize(
    ("vectors", "text", "match"),
    [
        ([], [], "no item vectors"),
        (["looks__vektor"], [], r"'looks__vektor' is not applied.*looks__vector"),
        (["pictures__vector"], [], "'pictures__vector' is not applied"),
        (["stock__price"], [], r"'stock__price' is Float32; expected Array\(Float32\)"),
        (["looks__vector"], ["stock__quality"], "'stock__quality' is Float64; expected String"),
        (["affinity__visits"], [], r"looked up by \['customer_id', 'sku'\]"),
        (["looks__vector"], ["profile__segment"], "belong to 2 entities"),
        (["/nowhere/vectors.parquet"], [], "/nowhere/vectors.parquet does not exist"),
    ],
)
def test_sources_that_do_not_fit_are_refused(applied, vectors, text, match):
    """Each says what is wrong, by name, before anything is read or written."""
    if not vectors and not text:
        with pytest.raises(InputError, match=match):
            ItemSources(vectors, text)
        return
    _refused(applied.folder, ItemSources(vectors, text), match=match)


def test_files_that_do_not_fit_are_refused(applied, tmp_path):
    """Ids of another type, no key, no vectors, two widths, doubled items and NaN are refused."""
    repo = applied.folder
    text_ids = _items(tmp_path / "text.parquet", sku=["1000", "1001"], v=[[1.0], [2.0]])
    _refused(
        repo, ItemSources([text_ids]), match="'sku' is string, entity 'product' has ids.*Int64"
    )
    no_key = _items(tmp_path / "nokey.parquet", item=[1000], v=[[1.0]])
    _refused(repo, ItemSources([no_key]), match="which entity are these items")
    _refused(repo, ItemSources(["looks__vector", no_key]), match="has no column 'sku'")
    _refused(repo, ItemSources([no_key], entity="produkt"), match="'produkt' is not applied")
    empty = _items(tmp_path / "empty.parquet", sku=[1000], price=[1.0])
    _refused(repo, ItemSources([empty]), match="no column of vectors")
    widths = _items(tmp_path / "widths.parquet", sku=[1000, 1001], v=[[1.0], [1.0, 2.0]])
    _refused(repo, ItemSources([widths]), match=r"'v' holds vectors of widths \[1, 2\]")
    twice = _items(tmp_path / "twice.parquet", sku=[1000, 1000], v=[[1.0], [2.0]])
    _refused(repo, ItemSources([twice]), match="stand more than once")
    nan = _items(tmp_path / "nan.parquet", sku=[1000, 1001], v=[[1.0], [float("nan")]])
    _refused(repo, ItemSources([nan]), match="NaN or infinite")
    few = _items(tmp_path / "few.parquet", sku=[1000, 1001], v=[[1.0], [2.0]])
    _refused(
        repo,
        ItemSources([few]),
        match="fewer than the 50 codes",
        settings=TokenizeSettings(codebook_size=50),
    )
    both = ItemSources(["looks__vector", _items(tmp_path / "b.parquet", sku=[1], behavior=[[1.0]])])
    _refused(repo, both, match="reserved")


def test_widths_that_differ_over_time_are_refused(applied, tmp_path):
    """Vectors of one modality have one width at all times asked."""
    path = _items(
        tmp_path / "v.parquet",
        sku=[1000, 1000],
        event_timestamp=pa.array([START, START + 2 * DAY], pa.timestamp("us", "UTC")),
        v=[[1.0, 2.0], [3.0, 4.0, 5.0]],
    )
    times = [START + DAY, START + 3 * DAY]
    _refused(applied.folder, ItemSources([path]), times=times, match=r"'v' has vectors of widths")


def test_items_without_any_vector_get_no_codes(applied, tmp_path):
    """Items without a value in any modality are counted and left out; where none has one, the call
    is refused."""
    skus = list(categories(applied.folder))
    rng = np.random.default_rng(0)
    vectors = [None if n < 3 else rng.normal(size=4).tolist() for n in range(len(skus))]
    path = _items(tmp_path / "v.parquet", sku=skus, v=vectors)
    found = Catalogue([START], [ContentReader(applied.folder, ItemSources([path])).at(START)], None)
    assert found.bare(0) == 3
    assert found.table(0).item_ids.tolist() == skus[3:]
    none = _items(tmp_path / "none.parquet", sku=[1000], v=pa.array([None], pa.list_(pa.float32())))
    _refused(applied.folder, ItemSources([none]), match="widths none")
    _refused(applied.folder, ItemSources(["looks__vector"]), times=[START], match="widths none")


def test_times_are_refused(applied):
    """No time, one twice, one without a zone and one in the future are refused."""
    sources = ItemSources(["looks__vector"])
    _refused(applied.folder, sources, times=[], match="at least one")
    _refused(applied.folder, sources, times=[START, START], match="none twice")
    _refused(applied.folder, sources, times=[START.replace(tzinfo=None)], match="time zone")
    _refused(applied.folder, sources, times=[NOW + DAY], match="in the future")


def test_a_generation_keeps_its_sources_and_its_past(coded):
    """A later call of a generation takes the sources that it was fitted on, and later times."""
    match = r"was fitted on other sources: modalities was \['looks__vector'\]"
    late = [LATER + 10 * DAY]
    _refused(coded.repo, ItemSources(["looks__wide"]), times=late, match=match)
    sources = ItemSources(["looks__vector"])
    _refused(coded.repo, sources, times=[LATER], match="is not after .* the newest snapshot")


def test_a_service_that_no_file_declares_is_refused(coded):
    """A service is added to where a Python file declares it."""
    with pytest.raises(InputError, match=r"no Python file .* declares feature service 'feed_v9'"):
        workflow.add_to_service(coded.repo, "feed_v9", "g1")


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path):
    """An offline store that neither reads Parquet files nor takes tables of ours is named before
    any work, with what to do.
    """
    config = {"project": "p", "offline_store": {"type": "snowflake.offline"}}
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    match = "'snowflake.offline': it reads no Parquet files.*code_source.*for you to load"
    _refused(tmp_path, ItemSources(["looks__vector"]), match=match)


RANKER = Ranker(
    service="plain_v1",
    tasks=[Task("click"), Task("purchase", known_at="bought_at", delay="3d")],
    user=["customer_id"],
    item=["sku"],
)


def test_positive_rows_are_interactions_once_they_are_known(applied):
    """Rows with the label count, by the time at which it became known."""
    log = pq.read_table(applied.labels)
    clicks = interactions(applied.folder, LabelledEvents(applied.labels, RANKER), "sku")
    assert len(clicks) == sum(log["click"].to_pylist())
    bought = interactions(applied.folder, LabelledEvents(applied.labels, RANKER, "purchase"), "sku")
    known = [t for t in log["bought_at"].to_pylist() if t is not None]
    assert sorted(bought["time"].to_pylist()) == sorted(known)
    with pytest.raises(InputError, match="has no task 'like'"):
        interactions(applied.folder, LabelledEvents(applied.labels, RANKER, "like"), "sku")
    with pytest.raises(InputError, match="'isbn' among the item keys"):
        interactions(applied.folder, LabelledEvents(applied.labels, RANKER), "isbn")


def test_behavior_codes_come_from_the_label_log(applied):
    """With a label log an ID has behavioural positions; counts are those of the log, and a later
    snapshot continues the behaviour model that was fitted, whatever the default is by then."""
    repo, sources = applied.folder, ItemSources(["looks__vector"])
    settings = TokenizeSettings(generation="b1", steps=80, codebook_size=4, behavior_codes=1)
    events = LabelledEvents(applied.labels, RANKER)
    log = interactions(repo, events, "sku")
    first, later = START + 20 * DAY, START + 30 * DAY
    made = tokenize(repo, sources, times=[first], computed_at=NOW, settings=settings, events=events)
    assert made["positions"] == ["shared", "looks__vector", "behavior"]
    seen = {row["item_id"] for row in log.to_pylist() if row["time"] < first}
    assert made["items_with"]["behavior"] == len(seen)
    by_now = replace(settings, behavior="wmf_content")
    again = tokenize(repo, sources, times=[later], computed_at=NOW, settings=by_now, events=events)
    assert not again["fitted"]
    assert again["items_with"]["behavior"] >= len(seen)
    assert again["codebook_hash"] == made["codebook_hash"]
    states = sorted((workflow.tokenizer_place(repo, "b1") / "behavior").glob("*.npz"))
    assert len(states) == 2
    match = "behavior was True and is False"
    _refused(repo, sources, times=[later + DAY], match=match, settings=settings)
