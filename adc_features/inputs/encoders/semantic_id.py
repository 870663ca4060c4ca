"""Semantic IDs of the candidate. Reads: codes, weights and reliability of an item. Writes: one
Lookup for each position.

Legend: n rows, L positions, K codes per position.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from adc_features.codes.sids import list_matrix
from adc_features.codes.spec import NO_CODE
from adc_features.errors import InputError
from adc_features.inputs.declaration import SemanticId
from adc_features.inputs.encoded import (
    Bag,
    Block,
    InputLayout,
    Lookup,
    Projected,
    Slot,
    SlotLayout,
)
from adc_features.inputs.encoders.base import Fitting, State
from adc_features.inputs.encoders.category import described
from adc_features.inputs.encoders.combinations import Combinations
from adc_features.inputs.encoders.scaling import (
    BOUND,
    Scale,
    counted_indicator,
    standardised,
    stored_numbers,
)
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts

_KEPT = 2048
"""Rows up to which what is read of them is kept for the inputs that read it too."""


@dataclass(frozen=True)
class SemanticIdEncoder:
    """Codes as rows of one table a position, row 0 for no code, with their weights.

    Parameters
    ----------
    spec : ResolvedInput
        Columns "codes", and "weights", "reliability", "count", "second" and "second_weights" where
        they are read.
    length : int
        L.
    codebook_size : int
        K. A code that is not below it belongs to another codebook.
    popularity : Scale, optional
        Of log1p of the item's count, where codes and id share a gate.
    combined : Combinations, optional
        Pairs and combinations of codes that are embedded beside single ones.
    """

    spec: ResolvedInput
    length: int
    codebook_size: int
    popularity: Scale | None = None
    combined: Combinations | None = None

    @classmethod
    def fit(cls, spec: ResolvedInput, parts: Parts, fitting: Fitting) -> Self:
        column = spec.columns["codes"]
        lists = parts[column.side].column(column.name)
        lengths = pc.unique(pc.list_value_length(lists)).drop_null().to_pylist()
        if len(lengths) != 1 or not lengths[0]:
            raise InputError(
                f"{described(spec)} holds lists of lengths {sorted(lengths)}; expected one length,"
                " the number of positions: join rows in which codes are published"
            )
        popularity = None
        if "count" in spec.columns:
            logs = _log_counts(spec, parts)
            popularity = Scale.fit(logs, fitting.weights, of=described(spec))
        encoder = cls(spec, int(lengths[0]), codebook_size(spec, parts), popularity)
        assert isinstance(spec.kind, SemanticId)
        if not spec.kind.combinations:
            return encoder
        codes, _ = encoder.read(parts)
        combined = Combinations.fit(codes, encoder.codebook_size, spec.kind.combinations)
        return replace(encoder, combined=combined)

    @classmethod
    def restore(cls, spec: ResolvedInput, state: State, vocabularies: Mapping[str, Any]) -> Self:
        facts = state.facts
        popularity = Scale.of_facts(facts["popularity"]) if "popularity" in facts else None
        length, size = facts["length"], facts["codebook_size"]
        combined = None
        if "merges" in state.arrays:
            arrays = state.arrays
            combined = Combinations(length, size, arrays["pairs"], arrays["merges"])
        return cls(spec, length, size, popularity, combined)

    @property
    def table_names(self) -> tuple[str, ...]:
        """One table for each position."""
        return tuple(f"{self.spec.name}/{place}" for place in range(self.length))

    @property
    def _weighted(self) -> bool:
        """Whether codes count by their weights."""
        assert isinstance(self.spec.kind, SemanticId)
        return self.spec.kind.weights and "weights" in self.spec.columns

    @property
    def _expected(self) -> bool:
        """Whether a position is embedded by the mean of its two likeliest codes."""
        assert isinstance(self.spec.kind, SemanticId)
        return self.spec.kind.expected

    @property
    def tables(self) -> dict[str, int]:
        tables = dict.fromkeys(self.table_names, self.codebook_size + 1)
        if self.combined is not None:
            tables[f"{self.spec.name}/combined"] = self.combined.rows
        return tables

    @property
    def layout(self) -> InputLayout:
        what = "weight" if self._weighted else "coded"
        names = [f"{self.spec.name}_{what}_{place}" for place in range(self.length)]
        if "reliability" in self.spec.columns:
            names.append(f"{self.spec.name}_reliability")
        kind: Literal["bag", "lookup"] = "bag" if self._expected else "lookup"
        slots = [SlotLayout(kind, (table,), own=1) for table in self.table_names]
        if self.combined is not None:
            slots.append(SlotLayout("mixture", (f"{self.spec.name}/combined",), own=1))
        if self.popularity is not None:
            assert isinstance(self.spec.kind, SemanticId)
            slots.append(SlotLayout("gate", width=1, beside=self.spec.kind.id_input or ""))
        return InputLayout(
            (*names, f"{self.spec.name}_no_codes"),
            {place: len(names) for place in range(len(names))},
            tuple(slots),
        )

    def encode(self, parts: Parts) -> Block:
        codes, weights = self.read(parts)
        none = (codes == NO_CODE).all(axis=1)
        columns = [
            weights,  # without them whether a position has a code, which a level network reads
            self._reliability(parts, none),
            none[:, None].astype(np.float32),
        ]
        dense = np.concatenate([c for c in columns if c is not None], axis=1)
        slots: list[Slot] = []
        if self._expected:
            slots += self._expectations(parts, codes)
        else:
            rows, by_place = codes.T.astype(np.int64, "C") + 1, np.ascontiguousarray(weights.T)
            slots += [Lookup(*one) for one in zip(rows, by_place, strict=True)]
        if self.combined is not None:
            slots.append(Bag(*self.combined.encode(codes, weights)))
        if (scale := self.popularity) is None:
            return Block(dense, tuple(slots))
        logs = standardised(_log_counts(self.spec, parts), scale.mean, scale.scale, bound=BOUND)
        return Block(dense, (*slots, Projected(logs[:, None].astype(np.float32))))

    def counted(self, block: Block) -> dict[str, int]:
        """The counts of a block; without any code an item is absent."""
        return counted_indicator(block.dense[:, -1])

    def counts(self, parts: Parts) -> dict[str, int]:
        return self.counted(self.encode(parts))

    def state(self) -> State:
        facts: dict[str, Any] = {"length": self.length, "codebook_size": self.codebook_size}
        if self.popularity is not None:
            facts["popularity"] = self.popularity.facts()
        if self.combined is None:
            return State(facts, {})
        return State(facts, {"pairs": self.combined.pairs, "merges": self.combined.merges})

    def read(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        """Codes int32 [n, L], -1 for none, and weights float32 [n, L], 0 there.

        Raises InputError for lists of other lengths, codes of another codebook, and weights that
        are missing or negative.
        """
        columns = self.spec.columns
        rows = parts[columns["codes"].side]
        if len(rows) > _KEPT:
            return self._read(parts)
        shape = self._weighted, self.length, self.codebook_size
        key = columns["codes"], columns.get("weights"), shape
        if key not in rows.kept:  # a history reads the candidate's codes too
            rows.kept[key] = self._read(parts)
        found: tuple[np.ndarray, np.ndarray] = rows.kept[key]
        return found

    def _read(self, parts: Parts) -> tuple[np.ndarray, np.ndarray]:
        codes, found = self._matrix(parts, "codes", np.int32, NO_CODE)
        if codes.size and (codes.min() < NO_CODE or codes.max() >= self.codebook_size):
            row = int(np.argmax(((codes < NO_CODE) | (codes >= self.codebook_size)).any(axis=1)))
            raise InputError(
                f"{described(self.spec)} has the codes {codes[row].tolist()} in row {row}; expected"
                f" codes in {NO_CODE}..{self.codebook_size - 1}. They are of another codebook:"
                " read the generation that the ranker was trained on"
            )
        present = codes != NO_CODE
        if not self._weighted:
            return codes, present.astype(np.float32)
        weights, weighed = self._matrix(parts, "weights", np.float32, 0)
        bad = (found & ~weighed) | ~(np.isfinite(weights) & (weights >= 0)).all(axis=1)
        if bad.any():
            row = int(np.argmax(bad))
            raise InputError(
                f"{described(self.spec)}: row {row} has codes {codes[row].tolist()} and weights"
                f" {weights[row].tolist() if weighed[row] else None}; expected a weight of at least"
                " 0 for every position, publish the codes again"
            )
        return codes, np.where(present, weights, np.float32(0))

    def _expectations(self, parts: Parts, codes: np.ndarray) -> list[Bag]:
        """Both codes of each position, with their probabilities as shares of the two: of the first
        code alone its share is 1.
        """
        first, weighed = self._matrix(parts, "weights", np.float32, 0)
        second, _ = self._matrix(parts, "second", np.int32, NO_CODE)
        chance, _ = self._matrix(parts, "second_weights", np.float32, 0)
        coded = codes != NO_CODE
        some = coded & (second != NO_CODE)
        bad = (second < NO_CODE) | (second >= self.codebook_size) | ((second != NO_CODE) & ~coded)
        bad |= (coded & ~weighed[:, None]) | ~((first >= 0) & (chance >= 0))
        if (rows := bad.any(axis=1)).any():
            row = int(np.argmax(rows))
            raise InputError(
                f"{described(self.spec)}: row {row} has codes {codes[row].tolist()} with weights"
                f" {first[row].tolist()} and second codes {second[row].tolist()} with"
                f" {chance[row].tolist()}; expected second codes below {self.codebook_size} where"
                " there is a first one, and weights of at least 0: publish the codes again"
            )
        chance = np.where(some, chance, np.float32(0))
        total = first + chance
        share = np.divide(chance, total, out=np.zeros_like(chance), where=total > 0)
        offsets = np.arange(len(codes) + 1) * 2
        return [
            Bag(
                np.stack([codes[:, p], np.where(some[:, p], second[:, p], NO_CODE)], axis=1)
                .reshape(-1)
                .astype(np.int64)
                + 1,
                offsets,
                np.stack([coded[:, p] - share[:, p], share[:, p]], axis=1).reshape(-1),
            )
            for p in range(self.length)
        ]

    def _matrix(
        self, parts: Parts, role: str, dtype: type, fill: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """A list column as [n, L], filled where it is null, and where it is not."""
        column = self.spec.columns[role]
        stored = parts[column.side].stored(column.name)
        matrix = None if stored is None else stored.matrix(self.length, fill)
        if matrix is not None and matrix[0].dtype == dtype:
            return matrix
        lists = parts[column.side].column(column.name)
        found: np.ndarray = np.ones(len(lists), bool)
        if lists.null_count:
            found = lists.is_valid().to_numpy(zero_copy_only=False)
        elif pa.types.is_list(lists.type) and lists.type.value_type == pa.from_numpy_dtype(dtype):
            # what stores return: one width, no nulls
            flat = lists.flatten()
            whole = not flat.null_count and len(flat) == len(lists) * self.length
            if whole and (np.diff(np.asarray(lists.offsets)) == self.length).all():
                return np.asarray(flat).reshape(len(lists), self.length), found
        out: np.ndarray = np.full((len(lists), self.length), fill, dtype)
        try:
            valid = lists.filter(pa.array(found)) if lists.null_count else lists
            if len(valid):
                out[found] = list_matrix(valid, self.length, dtype)
        except InputError as error:
            raise InputError(f"{described(self.spec)}: {column.name}: {error}") from error
        return out, found

    def _reliability(self, parts: Parts, none: np.ndarray) -> np.ndarray | None:
        """float32 [n, 1], 0 for items without codes; None where it is not read."""
        if (column := self.spec.columns.get("reliability")) is None:
            return None
        rows = parts[column.side]
        stored = rows.stored(column.name)
        numbers = None if stored is None else stored.numbers()
        if numbers is None:
            values = rows.column(column.name)
            known = values.is_valid().to_numpy(zero_copy_only=False)
            filled = np.asarray(values.fill_null(0)).astype(np.float32)
        else:
            known = ~np.isnan(numbers)
            filled = np.where(known, numbers, 0).astype(np.float32)
        if (lost := ~known & ~none).any():
            raise InputError(
                f"{described(self.spec)}: row {int(np.argmax(lost))} has codes and no"
                f" {column.name}; expected both or none, publish the codes again"
            )
        return np.where(none, np.float32(0), filled)[:, None]


def _log_counts(spec: ResolvedInput, parts: Parts) -> np.ndarray:
    """log1p of the items' counts, float64 [n]; an absent one is 0. Raises InputError for one below
    0."""
    counts = stored_numbers(spec.columns["count"], parts)
    if (below := counts < 0).any():
        row = int(np.argmax(below))
        raise InputError(
            f"{described(spec)}: row {row} has the count {counts[row]:g}; expected how many events"
            " the item had before the row, at least 0"
        )
    return np.log1p(np.where(np.isnan(counts), 0, counts))


def codebook_size(spec: ResolvedInput, parts: Parts) -> int:
    """K as declared, or that of the timeline."""
    assert isinstance(spec.kind, SemanticId)
    if spec.kind.codebook_size:
        return spec.kind.codebook_size
    if parts.timeline is None:
        raise InputError(
            f"{described(spec)}: the codebook's size is not known; give the timeline of codes, or"
            " declare semantic_id(codebook_size=K)"
        )
    return parts.timeline.codebook_size
