"""Film ratings through the declared path. Reads: MovieTweetings. Writes: a Feast repository, JSON.

    python benchmarks/movietweetings.py --data MOVIETWEETINGS --work build/movietweetings --json -

The folder has `interactions.parquet` (user_id, item_id, rating 0 to 10, timestamp in seconds) and
`items.parquet` (item_id, title, categories, year). Four rankers learn whether a rating is at least
8, and whether it is above what the user gave on average before: `plain` from counts, means and ids,
`genres` and `history` with one group of inputs more, `full` with both. With --codes, `adc tokenize`
gives the films semantic IDs, and `coded` is `full` with these and a history that is read as codes.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _declared_path import SoFar, adc, feast, so_far, train_and_judge, utc, write_files
from _measure import write_report

LIKED, RECENT = 8, 20
CUT_OFFS = ("2013-04-01", "2013-05-01", "2013-06-01", "2013-07-01", "2013-08-01")

CONFIG = """\
project: movietweetings
provider: local
registry: data/registry.db
offline_store:
  type: adc_features.store.offline_store.AsofOfflineStore
online_store:
  type: adc_features.store.online_store.LmdbOnlineStore
  path: data/online_lmdb
batch_engine:
  type: adc_features.store.compute_engine.ArrowComputeEngine
entity_key_serialization_version: 3
"""

DEFINITIONS = '''\
"""Films, and what was known of films and users when."""
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Array, Float64, Int64, String, UnixTimestamp

film = Entity(name="film", join_keys=["film_id"], value_type=ValueType.STRING)
viewer = Entity(name="viewer", join_keys=["viewer_id"], value_type=ValueType.STRING)


def view(name, entity, fields):
    path = str(Path(__file__).parent / f"{name}.parquet")
    source = FileSource(name=name, path=path, timestamp_field="event_timestamp")
    key = Field(name=entity.join_key, dtype=String)
    return FeatureView(
        name=name, entities=[entity], ttl=timedelta(0), source=source, schema=[key, *fields]
    )


films = view("films", film, [
    Field(name="title", dtype=String, tags={"adc.skip": "true"}),
    Field(name="year", dtype=Int64),
    Field(name="genres", dtype=Array(String)),
    Field(name="first_genre", dtype=String),
])
film_so_far = view("film_so_far", film, [
    Field(name="film_ratings", dtype=Int64, tags={"adc.log": "true"}),
    Field(name="film_mean", dtype=Float64),
    Field(name="film_liked", dtype=Float64),
])
viewer_so_far = view("viewer_so_far", viewer, [
    Field(name="viewer_ratings", dtype=Int64, tags={"adc.log": "true"}),
    Field(name="viewer_mean", dtype=Float64),
    Field(name="viewer_liked", dtype=Float64),
    Field(name="recent_films", dtype=Array(String)),
    Field(name="recent_times", dtype=Array(UnixTimestamp)),
    Field(name="recent_likes", dtype=Array(Float64)),
    Field(name="recent_genres", dtype=Array(String)),
    Field(name="recent_genre_likes", dtype=Array(Float64)),
])
films_v1 = FeatureService(name="films_v1", features=[films, film_so_far, viewer_so_far])
'''

RANKERS = '''\
"""What genres and the history of the user add to counts and means."""
from adc_features.inputs.declaration import (
    Ranker, Task, category, category_sequence, infer, item_history, match, skip,
)

COMMON = {
    "tasks": [Task("like"), Task("above_mean", weight=0.3)],
    "user": ["viewer_id"],
    "item": ["film_id"],
    "gates": ["viewer_id", "viewer_so_far__viewer_ratings"],
}
PLAIN = infer() | {"viewer_id": category(gate_only=True)}
GENRES = {
    "liked_genres": category_sequence(source="recent_genres", last=40),
    "taste": match(
        source="recent_genres", candidate="first_genre", values="recent_genre_likes",
        centred=True, standardise=True,
    ),
    "recent_genre_likes": skip(),  # read by the match alone
}
NO_GENRES = {
    name: skip() for name in ("genres", "first_genre", "recent_genres", "recent_genre_likes")
}
HISTORY = {
    "recent": item_history(source="recent_films", times="recent_times", labels="recent_likes")
}
NO_HISTORY = {name: skip() for name in ("recent_films", "recent_times", "recent_likes")}


def ranker(name, inputs):
    return Ranker(name=name, service="films_v1", inputs=PLAIN | inputs, **COMMON)


plain = ranker("plain", NO_GENRES | NO_HISTORY)
genres = ranker("genres", GENRES | NO_HISTORY)
history = ranker("history", NO_GENRES | HISTORY)
full = ranker("full", GENRES | HISTORY)
'''

CODED = '''\
"""The same with semantic IDs."""
from adc_features.inputs.declaration import Ranker, item_history, semantic_id
from rankers import COMMON, GENRES, PLAIN

coded = Ranker(
    name="coded",
    service="films_v1_g1",
    inputs=PLAIN | GENRES | {
        "sid": semantic_id(),
        "recent": item_history(
            source="recent_films", times="recent_times", labels="recent_likes", codes=True
        ),
    },
    **COMMON,
)
'''


def views(ratings: pa.Table, items: pa.Table) -> dict[str, pa.Table]:
    """The rows of the three views.

    A film is known from the first day of its year, or from its first rating where that is earlier
    or the year is not known.
    """
    films, viewers = (_text(ratings[name]) for name in ("item_id", "user_id"))
    seconds = ratings["timestamp"].to_numpy()
    times = seconds.astype("datetime64[s]")
    rating = ratings["rating"].to_numpy().astype(np.float64)
    of_film, of_viewer = so_far(films, times), so_far(viewers, times)
    like = (rating >= LIKED).astype(np.float64)
    genres = dict(zip(items["item_id"].to_pylist(), items["categories"].to_pylist(), strict=True))
    seen = pa.array([genres.get(f) or [] for f in films.tolist()], pa.list_(pa.string()))
    sizes = seen.value_lengths().to_numpy()
    counted = pa.ListArray.from_arrays(seen.offsets, pa.array(np.repeat(like, sizes)))
    return {
        "films": _films(items, dict(zip(films[::-1].tolist(), times[::-1], strict=True))),
        "film_so_far": pa.table(
            {"film_id": _keys(films, of_film), **_statistics("film", of_film, rating, like)}
        ),
        "viewer_so_far": pa.table(
            {
                "viewer_id": _keys(viewers, of_viewer),
                **_statistics("viewer", of_viewer, rating, like),
                "recent_films": of_viewer.recent(pa.array(films.tolist()), RECENT),
                "recent_times": of_viewer.recent(utc(times), RECENT),
                "recent_likes": of_viewer.recent(pa.array(like), RECENT),
                "recent_genres": _flattened(of_viewer.recent(seen, RECENT)),
                "recent_genre_likes": _flattened(of_viewer.recent(counted, RECENT)),
            }
        ),
    }


def _text(column: pa.ChunkedArray) -> np.ndarray:
    return np.array(column.to_pylist())


def _keys(keys: np.ndarray, known: SoFar) -> list[str]:
    return keys[known.order[known.last]].tolist()


def _statistics(of: str, known: SoFar, rating: np.ndarray, like: np.ndarray) -> dict[str, Any]:
    return {
        "event_timestamp": utc(known.known),
        f"{of}_ratings": known.count,
        f"{of}_mean": known.total(rating) / known.count,
        f"{of}_liked": known.total(like) / known.count,
    }


def _films(items: pa.Table, first_rated: dict[str, np.datetime64]) -> pa.Table:
    """first_rated: film -> time of its first rating. Films with neither year nor rating are left
    out.
    """
    known = [
        [first_rated[film]] if film in first_rated else [] for film in items["item_id"].to_pylist()
    ]
    for times, year in zip(known, items["year"].to_pylist(), strict=True):
        if year:
            times.append(np.datetime64(f"{year:04d}-01-01", "s"))
    items = items.filter(pa.array([bool(times) for times in known]))
    return pa.table(
        {
            "film_id": items["item_id"],
            "event_timestamp": utc(np.array([min(times) for times in known if times])),
            "title": items["title"],
            "year": items["year"].cast(pa.int64()),
            "genres": items["categories"],
            "first_genre": [g[0] if g else None for g in items["categories"].to_pylist()],
        }
    )


def _flattened(lists: pa.ListArray) -> pa.ListArray:
    """Lists of lists as lists of what the inner ones hold."""
    inner = lists.values
    ends = np.concatenate([[0], np.cumsum(inner.value_lengths().to_numpy())])
    offsets = ends[lists.offsets.to_numpy()].astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), inner.flatten())


def label_log(ratings: pa.Table) -> pa.Table:
    """Both tasks of each rating; above_mean is null where the user had rated nothing before."""
    viewers = _text(ratings["user_id"])
    times = ratings["timestamp"].to_numpy().astype("datetime64[s]")
    rating = ratings["rating"].to_numpy().astype(np.float64)
    known = so_far(viewers, times)
    moment = np.empty(len(times), np.int64)  # the moment of each event, as a row of `known`
    moment[known.order] = np.searchsorted(known.last, np.arange(len(times)))
    before = np.maximum(moment - 1, 0)
    first = (moment == 0) | (known.start[before] != known.start[moment])
    mean = (known.total(rating) / known.count)[before]
    return pa.table(
        {
            "viewer_id": viewers.tolist(),
            "film_id": ratings["item_id"],
            "event_timestamp": utc(times),
            "like": rating >= LIKED,
            "above_mean": pa.array(rating > mean, mask=first),
        }
    )


def write_repository(folder: Path, ratings: pa.Table, items: pa.Table) -> Path:
    """The repository and, inside it, the label log, whose path is returned."""
    files = {"feature_store.yaml": CONFIG, "films.py": DEFINITIONS, "rankers.py": RANKERS}
    write_files(folder, {**views(ratings, items), "ratings": label_log(ratings)}, files)
    (folder / "data").mkdir()
    return folder / "ratings.parquet"


def tokenized(repo: Path, labels: Path, scratch: Path) -> dict[str, Any]:
    """Codes of the films at the start of each month, and the ranker that reads them."""
    words = ["--text", "films__genres", "--service", "films_v1", "--add-to-service", "--apply"]
    log = ["--labels", str(labels), "--ranker", "full"]
    times = [word for time in CUT_OFFS for word in ("--as-of", time)]
    found = adc(scratch, "tokenize", "--repo", str(repo), *words, *log, *times)
    (repo / "coded.py").write_text(CODED, encoding="utf-8")
    return found


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """Everything, by the commands that a user has."""
    ratings, items = (
        pq.read_table(asked.data / f"{name}.parquet") for name in ("interactions", "items")
    )
    repo = asked.work / "repo"
    labels = write_repository(repo, ratings, items)
    feast(repo, "apply")
    found: dict[str, Any] = {"rows": len(ratings)}
    if asked.codes:
        found["tokenize"] = tokenized(repo, labels, asked.work)
    options = {"seeds": asked.seeds, "final": asked.final}
    found |= train_and_judge(repo, labels, "full", asked.work, **options)
    feast(repo, "materialize", "1890-01-01", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    found["promote"] = adc(asked.work, "promote", "--repo", str(repo), "--ranker", "full")
    return found


def main() -> None:
    """Build, train, judge and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the folder of both files")
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codes", action="store_true", help="also with semantic IDs")
    parser.add_argument("--final", action="store_true", help="also judge on the test rows")
    parser.add_argument("--json", default="-", help="file, or - for standard output")
    asked = parser.parse_args()
    write_report(asked.json, systems={}, ratios={}, **measure(asked))


if __name__ == "__main__":
    main()
