"""On which side of a request a view stands. Reads: join keys. Writes: sides.

Sides follow from entity sets alone, never from names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from adc_features.inputs.rows import Side
from adc_features.inputs.schema import ServiceSchema, ViewSchema


@dataclass(frozen=True)
class Keys:
    """Join keys that are constant within a request, and those of the candidate."""

    user: tuple[str, ...]
    item: tuple[str, ...]

    def side(self, view: ViewSchema) -> Side:
        """The side of a view: pair for keys of both, request for none but request fields."""
        sides: set[Side] = {"user"} if set(view.join_keys) & set(self.user) else set()
        sides |= {"item"} if set(view.join_keys) & set(self.item) else set()
        sides |= {"request"} if view.request_fields else set()
        return joint(sides)

    def key_side(self, key: str) -> Side:
        """The side of a join key by itself."""
        return "item" if key in self.item else "user"


def joint(sides: Iterable[Side]) -> Side:
    """The side of what reads several: as many rows as its widest part."""
    sides = set(sides)
    if "pair" in sides or {"user", "item"} <= sides:
        return "pair"
    order: tuple[Side, ...] = ("item", "user", "request")
    return next((side for side in order if side in sides), "global")


def named_keys(
    schema: ServiceSchema, user: Sequence[str], item: Sequence[str]
) -> tuple[Keys, list[str]]:
    """The keys of both sides, and what is wrong with them.

    Where a declaration names none, tags `adc.side` of views with one side's keys do.
    """
    if not user and not item:
        tagged: dict[str, list[str]] = {"user": [], "item": []}
        for f in schema.features:
            if (side := f.tags.get("adc.side")) in tagged:
                tagged[side].extend(schema.view(f.view).join_keys)
        user, item = (list(dict.fromkeys(tagged[s])) for s in ("user", "item"))
    keys = Keys(tuple(user), tuple(item))
    known = list(schema.join_keys)
    problems = []
    for name in dict.fromkeys((*user, *item)):
        if name not in known:
            problems.append(
                f"{name!r} is named as a join key, but the keys of service {schema.service!r} are"
                f" {known}; a column that no view is looked up by is a request field"
            )
    if both := sorted(set(user) & set(item)):
        problems.append(f"join keys {both} are named in user and in item; leave each in one")
    if lost := [k for k in known if k not in user and k not in item]:
        problems.append(
            f"on which side are the join keys {lost} of service {schema.service!r}? Name those that"
            " are constant within a request, and those of the candidate:"
            f" Ranker(user=[...], item=[...]) with {known}, or --user and --item"
        )
    return keys, problems
