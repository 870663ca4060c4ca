"""An input after resolution: which columns it reads, of which types, on which side.

Reads: declarations and schemas. Writes: ResolvedInput, JSON for manifests.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from adc_features.inputs.declaration import KINDS, Input
from adc_features.inputs.rows import Side


@dataclass(frozen=True)
class SourceColumn:
    """One column that an input reads.

    name: as in FeatureRows. dtype: Feast type as text. side: where it is read. vector_length: as
    declared in Feast, 0 for none.
    """

    name: str
    dtype: str
    side: Side
    vector_length: int = 0


@dataclass(frozen=True)
class ResolvedInput:
    """One input of a ranker, ready to be fitted.

    Parameters
    ----------
    name : str
        Unique within the ranker.
    kind : Input
        With every option filled in.
    columns : mapping of str to SourceColumn
        Role -> column: "source", and what the kind names beside it ("times", "labels",
        "candidate", "values", "left", "right", "codes", "weights", "reliability").
    side : Side
        Of the encoded block: user, request and global blocks have one row online.
    origin : str
        "declared", "tag" or "type": what chose the kind.
    """

    name: str
    kind: Input
    columns: dict[str, SourceColumn]
    side: Side
    origin: str

    def document(self) -> dict[str, Any]:
        """As JSON values, with every option of the kind."""
        kind = next(name for name, of in KINDS.items() if of is type(self.kind))
        columns = {role: asdict(column) for role, column in self.columns.items()}
        return {**asdict(self), "kind": {"kind": kind, **asdict(self.kind)}, "columns": columns}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Self:
        """From `document()`. Raises KeyError or TypeError for what it did not write."""
        options: dict[
            str, Any
        ] = {  # the options that are lists in JSON are tuples in a declaration
            name: tuple(value) if isinstance(value, list) and name != "default" else value
            for name, value in document["kind"].items()
        }
        kind = KINDS[options.pop("kind")](**options)
        columns = {role: SourceColumn(**c) for role, c in document["columns"].items()}
        return cls(**{**document, "kind": kind, "columns": columns})
