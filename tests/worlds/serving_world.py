"""ranking_world, published into a Feast repository and materialized, with rankers trained on it:
what a service needs.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from ranking_world import CODES, DAY, START, catalogue, day, interactions, snapshots

from adc_features import store
from adc_features.artifact import MANIFEST, file_hash
from adc_features.codes.generation import Generation
from adc_features.codes.sids import SidTable
from adc_features.codes.spec import SidSpec
from adc_features.data.statistics import item_profile, user_activity
from adc_features.loader.frame import TrainingFrame, label_table, training_frame
from adc_features.ranking.recipes import READERS, RECIPES, Sources
from adc_features.ranking.trained import Trained
from adc_features.serving.promotion import Promotion
from training.fit import train

NOW = day(121)
SPEC = SidSpec(content={"title": 1}, shared=1, behavior=1, codebook_size=CODES)
CODEBOOK = {"g1": "11" * 32, "g2": "22" * 32}


@dataclass(frozen=True)
class Shop:
    """A repository with the generations g1 and g2, and by name the rankers: their directory and
    what was trained.
    """

    repository: Path
    rankers: dict[str, tuple[Path, Trained]]

    def pair(self, name: str, *, at: datetime = START) -> Promotion:
        directory, trained = self.rankers[name]
        codebook = CODEBOOK[trained.generation] if trained.generation else None
        return Promotion(
            directory,
            file_hash(directory / MANIFEST),
            self.repository,
            trained.generation,
            codebook,
            at,
        )

    def offline(self, name: str, users: list[str], items: list[str], time: datetime) -> np.ndarray:
        """The ranker's scores of (user, item) rows at `time`, through Feast's point-in-time join:
        what serving must equal.
        """
        trained = self.rankers[name][1]
        rows = pa.table(
            {
                "user_id": users,
                "item_id": items,
                "time": pa.array([time] * len(users), pa.timestamp("us", tz="UTC")),
                "label": [0.0] * len(users),
            }
        )
        timeline = (
            store.published_timeline(self.repository, trained.generation)
            if trained.generation
            else None
        )
        return trained.predict(
            joined(self.repository, rows, trained.generation), Sources(sids=timeline)
        )[0]


def joined(repository: Path, log: pa.Table, generation: str | None) -> TrainingFrame:
    labels = label_table(log)
    table = store.training_features(repository, labels, service=store.service_name(generation))
    return training_frame(table, labels, generation=generation, codebook_size=CODES, resolution=DAY)


def open_shop(directory: Path) -> Shop:
    """g2 names the groups the other way round,
    so that the rankers of the two generations differ.
    """
    log = interactions(1200, seed=4)
    repository = directory / "repository"
    store.create_repository(repository, project="shop")
    for id, codebook in CODEBOOK.items():
        tables = [other_codes(table, id) for table in snapshots().snapshots]
        generation = Generation(id, "test", SPEC, {}, {}, {}, day(70), codebook)
        store.publish(
            repository,
            generation,
            tables,
            servable_at=[t.as_of for t in tables],
            computed_at=day(125),
        )
    profile = item_profile(log, catalogue(), resolution=DAY, refresh_at=[day(0), day(60)])
    store.publish_statistics(
        repository,
        item_profile=profile,
        user_activity=user_activity(log, catalogue(), resolution=DAY),
        resolution=DAY,
    )
    store.apply(repository)
    store.materialize(repository, now=NOW)
    frames = {id: joined(repository, log, id) for id in (*CODEBOOK, None)}
    wanted = {
        "codes_weights": "g1",
        "xgboost_codes_weights": "g1",
        "codes_expected": "g1",
        "no_sid": None,
        "second": "g2",
    }
    known = {**RECIPES, **READERS}
    rankers = {}
    for name, id in wanted.items():
        sources = Sources(sids=store.published_timeline(repository, id) if id else None)
        trained = train(
            frames[id], known.get(name, RECIPES["codes_weights"]), sources=sources, seeds=(0,)
        )
        trained.save(directory / name)
        rankers[name] = (directory / name, trained)
    return Shop(repository, rankers)


def other_codes(table: SidTable, id: str) -> SidTable:
    if id == "g1":
        return replace(table, generation=id)
    renamed = {
        name: np.where(codes >= 0, CODES - 1 - codes, -1).astype(np.int32)
        for name, codes in (("sid", table.sid), ("sid_second", table.sid_second))
    }
    return replace(table, **renamed, generation=id)


def later(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)
