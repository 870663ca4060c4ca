"""What a deployment has made and what serves: generations, snapshots, rankers, promotions, runs,
and every change of them as an event.

The catalogue is a record, not the truth: artefacts are what their directories hold, and what serves
is what the promotion file names. `training.deployment.record` brings the record up to both
before it changes anything, so a killed command leaves nothing to repair by hand.
"""

from adc_features.catalog.catalog import (
    DATABASE,
    VARIABLE,
    WAIT,
    Catalog,
    Writer,
    catalog_to_read,
    open_catalog,
    revisions,
    undisturbed,
)

__all__ = ["Catalog", "catalog_to_read"]
