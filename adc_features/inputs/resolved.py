"""An input after resolution: which columns it reads, of which types, on which side.

Reads: declarations and schemas. Writes: ResolvedInput, JSON for manifests.
"""

from dataclasses import dataclass

from adc_features.inputs.declaration import NAMES, Input
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

    @property
    def kind_name(self) -> str:
        """What the kind is called in tags and manifests."""
        return NAMES[type(self.kind)]
