"""Names in a declaration -> the columns that they mean. Reads: schemas. Writes: columns.

A feature is named by its key `<view>__<feature>`, or by its own name where only one view of the
service has it; join keys and request fields by their names.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from adc_features.inputs.resolved import SourceColumn
from adc_features.inputs.schema import FeatureSchema, ServiceSchema
from adc_features.inputs.sides import Keys


class UnknownName(Exception):
    """A name that means no column; the message says what is near."""


@dataclass(frozen=True)
class Columns:
    """Everything that an input may read.

    Parameters
    ----------
    schema : ServiceSchema
        The service.
    keys : Keys
        Which keys are the user's, and which the candidate's.
    log : mapping of str to str
        Columns of the label log that may be request fields: name -> Feast type.
    """

    schema: ServiceSchema
    keys: Keys
    log: Mapping[str, str]

    def features(self) -> list[FeatureSchema]:
        """All but labels, which are known only after their row."""
        views = {v.projected: v.kind for v in self.schema.views}
        return [f for f in self.schema.features if views[f.view] != "label"]

    def of_feature(self, feature: FeatureSchema) -> SourceColumn:
        """The column of a feature."""
        side = self.keys.side(self.schema.view(feature.view))
        return SourceColumn(feature.key, feature.dtype, side, feature.vector_length)

    def of_key(self, key: str) -> SourceColumn:
        """The column of a join key."""
        return SourceColumn(key, self.schema.join_keys[key], self.keys.key_side(key))

    def of_request(self, name: str) -> SourceColumn | None:
        """A request field: of an on-demand view, or else a column of the label log."""
        dtype = self.schema.request_fields.get(name) or self.log.get(name)
        return SourceColumn(name, dtype, "request") if dtype else None

    def find(self, name: str, *, request: bool = False, view: str | None = None) -> SourceColumn:
        """The column of this name. Raises UnknownName.

        request: only request fields. view: whose features come first under their own names.
        """
        if request:
            if (found := self.of_request(name)) is not None:
                return found
            raise UnknownName(self._no_request_field(name))
        if (feature := self.schema.feature(name)) in (known := self.features()) and feature:
            return self.of_feature(feature)
        if feature is not None:
            raise UnknownName(f"{name!r} is a label, known only after its row; declare it a task")
        if name in self.schema.join_keys:
            return self.of_key(name)
        if name in self.schema.request_fields and (found := self.of_request(name)):
            return found
        named = [f for f in known if f.name == name]
        named = [f for f in named if f.view == view] or named
        if len(named) == 1:
            return self.of_feature(named[0])
        if named:
            raise UnknownName(f"{name!r} may be any of {[f.key for f in named]}; name it in full")
        if name in self.log:
            raise UnknownName(
                f"{name!r} is a column of the label log and no feature; if it comes with each"
                " request, declare it with request=True"
            )
        raise UnknownName(
            f"{name!r} is no feature, join key or request field of service"
            f" {self.schema.service!r}{near(name, self.names())}"
        )

    def names(self) -> list[str]:
        """What `find` knows: keys of features and their own names, join keys, request fields."""
        features = self.features()
        names = [f.key for f in features] + [f.name for f in features]
        return [*dict.fromkeys([*names, *self.schema.join_keys, *self.schema.request_fields])]

    def _no_request_field(self, name: str) -> str:
        known = [*dict.fromkeys([*self.schema.request_fields, *self.log])]
        if not self.log:
            return (
                f"{name!r} comes with the request, and its type is not known without a label log:"
                f" name one (--labels). Request fields of the service are {known or 'none'}"
            )
        return (
            f"{name!r} comes with the request, but neither the label log nor an on-demand view has"
            f" it{near(name, known)}"
        )


def near(name: str, known: Iterable[str]) -> str:
    """Words about the known names that are like this one, or about all of a few."""
    known = list(known)
    likely = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    own = {k: k.rpartition("__")[2] for k in known}  # a feature may have moved to another view
    close = difflib.get_close_matches(name.rpartition("__")[2], own.values(), n=3, cutoff=0.6)
    likely += [k for k in known if own[k] in close and k not in likely]
    if likely:
        return f"; nearest are {likely}"
    return f"; there are {known[:20]}" + (" and more" if len(known) > 20 else "")
