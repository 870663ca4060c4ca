"""All inputs of a ranker: fitted together, saved together. Reads: ResolvedInput, Parts, encoder
directories. Writes: Encoded, encoder directories.

<directory>/states.safetensors       arrays that encoders learned: "<place of the input>.<array>"
<directory>/vocabulary_<n>.arrow     one for each table of ids
<directory>/manifest.json            written last: the inputs with their state, the hash's vectors
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from adc_features.artifact import MANIFEST, fresh_directory, read_manifest, seal
from adc_features.errors import ArtifactError, InputError, LeakError
from adc_features.inputs.counting import Counted
from adc_features.inputs.declaration import ItemHistory, Match
from adc_features.inputs.encoded import Block, Encoded, Layout
from adc_features.inputs.encoders.base import Encoder, Fitting, State
from adc_features.inputs.facts import input_from_facts, input_to_facts
from adc_features.inputs.hashing import check_hashes, hash_vectors
from adc_features.inputs.resolved import ResolvedInput
from adc_features.inputs.rows import Parts, Side
from adc_features.inputs.tables import (
    agreed_options,
    class_of,
    described_all,
    shared_tables,
    table_values,
)
from adc_features.inputs.train_only import served, with_some_default
from adc_features.inputs.vocabulary import Vocabulary

if TYPE_CHECKING:  # a kind is imported when it is used
    from adc_features.inputs.few import FewRows

_STATES = "states.safetensors"
_LAST = (ItemHistory, Match)
"""They read what others have fitted."""


@dataclass(frozen=True)
class InputEncoder:
    """The fitted encoders of a ranker's inputs.

    Parameters
    ----------
    encoders : mapping of str to Encoder
        Input -> encoder, in the order of the layout.
    vocabularies : mapping of str to Vocabulary
        Table of ids -> vocabulary.
    """

    encoders: Mapping[str, Encoder]
    vocabularies: Mapping[str, Vocabulary]

    @classmethod
    def fit(
        cls,
        specs: Sequence[ResolvedInput],
        parts: Parts,
        *,
        weights: np.ndarray | None = None,
        seed: int = 0,
        counted: Mapping[str, Counted] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> Self:
        """Fit all inputs on training rows.

        Parameters
        ----------
        specs : sequence of ResolvedInput
            The inputs, in the order of the layout.
        parts : Parts
            N joined training rows.
        weights : ndarray, optional
            Sample weights [N], >= 0: scales are weighted as the loss is. 1 by default.
        seed : int
            Of the rows in which a train-only input carries its default, as `encode` has it.
        counted : mapping of str to Counted, optional
            Table -> its values in all training rows, where `parts` are some of them; see
            `inputs.in_pieces`.
        progress : callable, optional
            Called with the name of each input before it is fitted.

        Raises
        ------
        InputError
            Naming every input that cannot be fitted, its column and why.
        """
        specs = tuple(specs)
        _check_names(specs)
        check_columns(specs, parts)
        fitting = Fitting(_checked_weights(weights, parts), specs=specs)
        faults = _Faults()
        seen = seen_parts(specs, parts, seed=seed)
        for table, group in shared_tables(specs).items():
            with faults.collected():
                known = None if counted is None else counted[table]
                values = table_values(group, parts, seen) if known is None else known
                options, of = agreed_options(group, table), described_all(group)
                fitting.vocabularies[table] = Vocabulary.fit(values, options, of=of)
        encoders: dict[str, Encoder] = {}
        for spec in sorted(specs, key=lambda s: isinstance(s.kind, _LAST)):
            if progress is not None:
                progress(spec.name)
            with faults.collected():
                found = class_of(spec).fit(spec, seen.get(spec.name, parts), fitting)
                encoders[spec.name], fitting.layouts[spec.name] = found, found.layout
        faults.raise_if_any()
        return cls({s.name: encoders[s.name] for s in specs}, fitting.vocabularies)

    @property
    def specs(self) -> tuple[ResolvedInput, ...]:
        """The inputs, in the order of the layout."""
        return tuple(encoder.spec for encoder in self.encoders.values())

    @cached_property
    def layout(self) -> Layout:
        """The shape of what `encode` returns."""
        tables = {name: vocabulary.size for name, vocabulary in self.vocabularies.items()}
        for encoder in self.encoders.values():
            tables.update(getattr(encoder, "tables", {}))
        return Layout({name: e.layout for name, e in self.encoders.items()}, tables)

    def encode(self, parts: Parts, *, training: bool = False, seed: int = 0) -> Encoded:
        """The arrays of these rows.

        Parameters
        ----------
        parts : Parts
            Joined rows, or the parts of a request.
        training : bool
            Whether a model will be fitted on them: train-only inputs then show their column, and
            their default in a tenth of the rows. Otherwise they show their default in one row that
            stands for all, and their column is not read.
        seed : int
            Of that tenth.

        Raises
        ------
        InputError
            A column is missing, or holds what its input refuses; every such input is named.
        """
        self._check_columns(parts, training=training)
        blocks: dict[str, Block] = {}
        faults = _Faults()
        if not training and 0 < parts.rows <= self._few.most:
            encoded = self._few.encode(parts, faults.found)
            faults.raise_if_any()
            return encoded
        for name, encoder in self.encoders.items():
            with faults.collected():
                if training and encoder.spec.kind.train_only:
                    shown = with_some_default(encoder.spec, parts, seed=seed)
                else:
                    shown = served(encoder.spec, parts)
                blocks[name] = encoder.encode(shown)
        faults.raise_if_any()
        return Encoded(blocks, parts.rows)

    def counts(self, parts: Parts, encoded: Encoded | None = None) -> dict[str, dict[str, int]]:
        """How many of each input's rows are "absent", "unknown" and "present"; without train-only
        inputs.

        encoded: of the same parts, where it is there already; most inputs are counted from it.
        """
        found = {}
        known = {} if encoded is None else self._few.counted(encoded)
        for name, encoder in self.encoders.items():
            if encoder.spec.kind.train_only:
                continue
            if name in known:
                found[name] = known[name]
                continue
            counted = getattr(encoder, "counted", None)
            if encoded is not None and counted is not None:
                found[name] = counted(encoded.blocks[name])
            else:
                found[name] = encoder.counts(parts)
        return found

    def grown(self, parts: Parts, *, seed: int = 0) -> Self:
        """The encoder for a retraining on these rows: vocabularies grow and keep every row, all
        else stays as it is."""
        check_columns(self.specs, parts)
        seen = seen_parts(self.specs, parts, seed=seed)
        grown = dict(self.vocabularies)
        for table, group in shared_tables(self.specs).items():
            of = described_all(group)
            grown[table] = self.vocabularies[table].grown(table_values(group, parts, seen), of=of)
        encoders = {
            name: type(e).restore(e.spec, e.state(), grown) for name, e in self.encoders.items()
        }
        return replace(self, encoders=encoders, vocabularies=grown)

    def save(self, directory: Path) -> None:
        """Write a complete directory, which `load` reads."""
        from safetensors.numpy import save_file

        arrays: dict[str, np.ndarray] = {}
        inputs = []
        for place, (name, encoder) in enumerate(self.encoders.items()):
            facts, learned = encoder.state()
            arrays.update({f"{place}.{k}": np.ascontiguousarray(v) for k, v in learned.items()})
            inputs.append({"name": name, "spec": input_to_facts(encoder.spec), "state": facts})
        with fresh_directory(directory) as aside:
            save_file(arrays, aside / _STATES)
            for place, vocabulary in enumerate(self.vocabularies.values()):
                vocabulary.save(aside / f"vocabulary_{place}.arrow")
            facts = {"inputs": inputs, "vocabularies": list(self.vocabularies)}
            seal(aside, {"kind": "inputs", "hashes_of": hash_vectors(), **facts})

    @classmethod
    def load(cls, directory: Path, *, verify: bool = True) -> Self:
        """The encoder of a directory; vocabularies are mapped into memory.

        verify: False where the manifest of the directory around it was verified, which names the
        same files: a hash of all bytes takes longer than all else.

        Raises
        ------
        ArtifactError
            The directory is incomplete, was altered, or ids hash otherwise here.
        """
        from safetensors.numpy import load_file

        manifest = read_manifest(directory, verify=verify, requires=[_STATES])
        path = Path(directory) / MANIFEST
        if manifest.get("kind") != "inputs":
            raise ArtifactError(
                f"{path} is of a {manifest.get('kind')!r}, expected the inputs of a ranker; give"
                " the directory `inputs` of a trained ranker"
            )
        check_hashes(manifest.get("hashes_of"), of=path)
        try:
            arrays = load_file(Path(directory) / _STATES)
            vocabularies = {
                table: Vocabulary.load(Path(directory) / f"vocabulary_{place}.arrow")
                for place, table in enumerate(manifest["vocabularies"])
            }
            encoders: dict[str, Encoder] = {}
            for place, each in enumerate(manifest["inputs"]):
                spec = _spec(each["spec"], path)
                own = f"{place}."
                learned = {k[len(own) :]: v for k, v in arrays.items() if k.startswith(own)}
                state = State(each["state"], learned)
                encoders[each["name"]] = class_of(spec).restore(spec, state, vocabularies)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(
                f"{path} does not describe inputs that this version knows ({error!r}): it was"
                " altered; restore it, or train the ranker again"
            ) from error
        return cls(encoders, vocabularies)

    @cached_property
    def _few(self) -> "FewRows":
        from adc_features.inputs.few import FewRows

        return FewRows(self.encoders)

    @cached_property
    def _needed(self) -> tuple[dict[Side, frozenset[str]], dict[Side, frozenset[str]]]:
        """Columns by side: of scores, and of training."""
        scored = [s for s in self.specs if not s.kind.train_only]
        return _columns_of(scored), _columns_of(self.specs)

    def _check_columns(self, parts: Parts, *, training: bool) -> None:
        _refuse_missing(self._needed[training], parts)


@dataclass
class _Faults:
    """What several inputs refuse, told at once."""

    found: list[InputError] = field(default_factory=list)

    @contextmanager
    def collected(self) -> Any:
        try:
            yield
        except InputError as error:
            self.found.append(error)

    def raise_if_any(self) -> None:
        messages = list(dict.fromkeys(str(error) for error in self.found))
        if not messages:
            return
        if len(messages) == 1:
            raise self.found[0]
        leak = any(isinstance(error, LeakError) for error in self.found)
        kind = LeakError if leak else InputError
        raise kind(f"{len(messages)} inputs cannot be encoded:\n- " + "\n- ".join(messages))


def seen_parts(specs: Iterable[ResolvedInput], parts: Parts, *, seed: int) -> dict[str, Parts]:
    """What train-only inputs are fitted on, by name."""
    return {s.name: with_some_default(s, parts, seed=seed) for s in specs if s.kind.train_only}


def _spec(facts: Mapping[str, Any], path: Path) -> ResolvedInput:
    """An input of a manifest. Raises ArtifactError that names the manifest."""
    try:
        return input_from_facts(facts)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} does not describe inputs that this version knows: {error}"
        ) from error


def _check_names(specs: Sequence[ResolvedInput]) -> None:
    names = [spec.name for spec in specs]
    if not names or len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        what = f"two inputs named {twice[0]!r}" if twice else "no inputs"
        raise InputError(f"the ranker has {what}; name each input once, and at least one")


def _columns_of(specs: Iterable[ResolvedInput]) -> dict[Side, frozenset[str]]:
    found: dict[Side, set[str]] = {}
    for spec in specs:
        for column in spec.columns.values():
            found.setdefault(column.side, set()).add(column.name)
    return {side: frozenset(names) for side, names in found.items()}


def check_columns(specs: Sequence[ResolvedInput], parts: Parts) -> None:
    """Raise InputError for every column that inputs read and that is not there."""
    _refuse_missing(_columns_of(specs), parts)


def _refuse_missing(needed: Mapping[Side, frozenset[str]], parts: Parts) -> None:
    """Raise InputError for every column that is not there."""
    missing = [
        f"{name} ({side})"
        for side, names in needed.items()
        for name in sorted(names - parts[side].names if side in parts.sides else names)
    ]
    if missing:
        raise InputError(
            f"{len(missing)} of the columns that inputs read are missing: {', '.join(missing[:10])}"
            f"{' and more' if len(missing) > 10 else ''}; join them, or send them with the request"
        )


def _checked_weights(weights: np.ndarray | None, parts: Parts) -> np.ndarray:
    """float64 [N]. Raises InputError."""
    if not parts.rows:
        raise InputError("there are no training rows to fit inputs on; check the time window")
    if weights is None:
        return np.ones(parts.rows)
    weights = np.asarray(weights, np.float64)
    if weights.shape != (parts.rows,) or not (
        np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0
    ):
        raise InputError(
            f"sample weights of shape {weights.shape}, from {weights.min(initial=np.inf)} to"
            f" {weights.max(initial=-np.inf)}; expected {parts.rows} finite numbers >= 0, not all 0"
        )
    return weights
