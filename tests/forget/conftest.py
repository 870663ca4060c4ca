"""A shop with two streams: of `visits`, a view reads the customers themselves."""

import pytest
from live_world import emptied, make_shop

VISITS = """
from adc_features.aggregates.declaration import distinct

visits = EventStream(
    "visits", keys={"customer_id": "int64", "sku": "string"}, values={"label": Grid(20, 1.0)}
)
audience = AggregateView(
    "product_audience",
    visits,
    key=("sku",),
    features={
        "product_visitors": distinct("customer_id"),
        "product_newest_visitors": last(3, "customer_id"),
        "product_residual": residual_mean("label", against="customer_id"),
        "product_visit_time": last_time(),
    },
)
product_audience = live_view(audience, entities=[product], repo=HERE)

from feast import FeatureView, Field, FileSource
from feast.types import Int64, String


def ordinary(name, entities, **keys):
    path = str(HERE / f"{name}.parquet")
    return FeatureView(
        name=name, entities=entities, ttl=timedelta(0),
        source=FileSource(name=name, path=path, timestamp_field="event_timestamp"),
        schema=[Field(name=k, dtype=t) for k, t in keys.items()]
        + [Field(name=f"{name}_points", dtype=Int64)],
    )


loyalty = ordinary("loyalty", [customer], customer_id=Int64)
taste = ordinary("taste", [customer, product], customer_id=Int64, sku=String)
"""


@pytest.fixture(scope="session")
def made_shop(tmp_path_factory):
    """An applied repository without events; not to be written."""
    return make_shop(tmp_path_factory.mktemp("forget") / "shop", rankers=VISITS)


@pytest.fixture
def shop(made_shop):
    """The repository, without events and sources."""
    for source in made_shop.glob("*.parquet"):
        source.unlink()
    return emptied(made_shop)
