"""A ranker that reads codes, from the tokenizer to served scores, where rows and codes are tables
of a PostgreSQL database.
"""

from datetime import timedelta

import pyarrow.parquet as pq
import pytest
import start  # docs/servers
import yaml
from coded_feed import LATER, feast_apply, make_coded_feed, materialize
from conftest import FAST, NOW
from feed_world import START
from own_world_servers import POSTGRES_SOURCE, postgres_rows, server_stores

from adc_features.inputs.declaration import ItemHistory, SemanticId
from adc_features.serving.declared import open_declared
from adc_features.serving.promotion import read_promotion
from adc_features.serving.workspace import Workspace
from adc_features.store.services.rankers import declared_rankers
from training.ranker.fitting import TrainSettings
from training.ranker.served_parity import TOLERANCE, served_parity
from training.ranker.workflow import promote_ranker, train_rankers
from training.tokenizing.sources import ItemSources
from training.tokenizing.workflow import add_to_service, tokenize

pytestmark = [pytest.mark.servers, pytest.mark.slow]
ROWS = 1_000


@pytest.fixture
def feed(tmp_path):
    """The feed with its views in a database of its own, and nothing of them in files."""
    if start.postgres_binaries() is None:
        pytest.skip("needs a PostgreSQL server (apt-get install postgresql)")
    with start.postgres() as found:
        variables = {**found, "ADC_REDIS_HOST": "", "ADC_REDIS_PORT": ""}
        config = {
            "project": "feed",
            "provider": "local",
            "registry": "registry.db",
            "offline_store": server_stores(variables)[0],
            "online_store": {"type": "sqlite", "path": "online.db"},
            "entity_key_serialization_version": 3,
        }
        feed = make_coded_feed(tmp_path, config=yaml.safe_dump(config), rows=2_400, products=40)
        put = postgres_rows(variables)
        for name in ("profile", "stock", "affinity", "looks"):
            file = tmp_path / f"{name}.parquet"
            rows = pq.read_table(file)
            if name == "affinity":  # Feast's store gives every row of a key and time that has two
                once = rows.to_pandas().drop_duplicates(["customer_id", "sku"])
                rows = rows.take(once.index.to_numpy())
            names = ["happened_at" if n == "event_timestamp" else n for n in rows.column_names]
            put(name, rows.rename_columns(names))
            file.unlink()
        definitions = tmp_path / "definitions.py"
        before, _, after = definitions.read_text(encoding="utf-8").partition("def source(name):")
        after = after[after.index("profile = FeatureView(") :]
        definitions.write_text(before + POSTGRES_SOURCE + after, encoding="utf-8")
        feast_apply(tmp_path)
        yield feed


def test_served_scores_are_those_of_the_joined_rows(feed):
    """Tokenized, trained, promoted and served: with the candidate's codes, and those of the user's
    recent items through time, each row scores online as it does joined from the database.
    """
    repo, sources = feed.folder, ItemSources(vectors=["looks__vector"])
    for time in (START + timedelta(days=1), LATER + timedelta(days=5)):
        tokenize(repo, sources, times=[time], computed_at=NOW, settings=FAST)
    add_to_service(repo, "plain_v1", "g1")
    feast_apply(repo)
    materialize(repo, feed.end)
    coded = {"coded": declared_rankers(repo)["coded"]}
    train_rankers(repo, coded, feed.labels, at=NOW, settings=TrainSettings(seeds=1, quick=True))
    promote_ranker(repo, "coded", at=NOW)
    bundle = open_declared(read_promotion(Workspace(repo, "coded").promotion))
    kinds = {type(spec.kind) for spec in bundle.trained.encoder.specs}
    assert {SemanticId, ItemHistory} <= kinds
    assert bundle.trained.reads_timeline
    rows = pq.read_table(feed.labels).slice(0, ROWS)
    found = served_parity(bundle, rows, feed.end)
    assert found["rows"] == ROWS
    assert found["max_difference"] <= TOLERANCE, found["first_differences"]
