"""The compared recipes as declarations, on a repository that holds the statistics of a run."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ranking_world import interactions

from adc_features.errors import InputError
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.resolution import resolution
from adc_features.ranking.recipes import RECIPES
from adc_features.store import service_name
from adc_features.store.services.schema import service_schema
from training.ranker.joined import join_labels
from training.ranker.labelled import Labelled
from training.ranker.models import ModelFit
from training.recipes import declared_recipe


@pytest.mark.parametrize("name", [name for name, r in RECIPES.items() if not r.vectors])
def test_a_recipe_is_a_declaration_of_the_runs_service(shop, name):
    """Each recipe resolves against the service that a run applies, and reads codes and the item's
    id as its recipe says."""
    schema = service_schema(shop.repository, service_name("g1"))
    found = resolution(declared_recipe(name, schema.service), schema)
    named, recipe = {i.name: i for i in found.inputs}, RECIPES[name]
    assert ("item_id" in named) == (recipe.item_id and recipe.model == "ppnet")
    assert ("sid" in named) == ("recent" in named) == (recipe.codes != "none")
    assert set(found.ranker.gates) <= set(named)
    assert {n for n, i in named.items() if i.kind.level == "settled"} == {
        "settled_count",
        "settled_residual",
    }


def test_an_unknown_recipe_is_refused():
    """A recipe that does not exist is refused with those there are."""
    with pytest.raises(InputError, match=re.escape("choose from no_sid, codes, codes_weights")):
        declared_recipe("hashes", "ranker_g1")


def test_a_declared_recipe_learns_from_the_runs_repository(shop, tmp_path):
    """Labels joined with the features of the run's own service train the declared network, levels
    and codes of recent items included, better than chance."""
    log = interactions(1200, seed=4)
    labels = pa.table(
        {
            "user_id": log["user_id"],
            "item_id": log["item_id"],
            "event_timestamp": log["time"],
            "label": log["label"].cast(pa.int32()),
        }
    )
    pq.write_table(labels, tmp_path / "labels.parquet")
    ranker = declared_recipe("codes_weights", service_name("g1"))
    joined = join_labels(shop.repository, ranker, tmp_path / "labels.parquet")
    assert joined.generation == "g1"
    parts = joined.parts(np.arange(len(joined.log.times)))
    encoder = InputEncoder.fit(joined.resolution.inputs, parts)
    encoded = encoder.encode(parts, training=True)
    label = joined.log.table["label"].to_numpy().astype(np.float32)[None]
    rows = Labelled(
        encoded,
        label,
        np.ones_like(label, bool),
        np.ones(label.shape[1]),
        None,
        joined.log.users,
    )
    model = ModelFit(joined.resolution.ranker, encoder).fit(rows, seed=0, rounds=4)
    scores = model.predict(encoder.encode(parts))[0]
    assert scores[label[0] == 1].mean() > scores[label[0] == 0].mean() + 0.05
