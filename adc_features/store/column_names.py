"""Names under which features leave.
Reads: names and whose they are. Writes: nothing; no feast here.
"""

from collections.abc import Iterable, Sequence

from adc_features.errors import InputError


def refuse_shared(columns: Iterable[tuple[str, str]], *, advice: str) -> None:
    """Raise InputError when two columns of one answer have one name.

    A reader would see only one of them. columns: (name, whose it is, for the message).
    """
    owners: dict[str, str] = {}
    for name, owner in columns:
        if name in owners:
            raise InputError(
                f"{owners[name]} and {owner} would share the column {name!r}, and one would be"
                f" lost; {advice}"
            )
        owners[name] = owner


def refuse_doubled(names: Sequence[str]) -> None:
    """Raise InputError when the entity rows have two columns of one name.

    Which one is meant cannot be told.
    """
    if doubled := sorted({name for name in names if list(names).count(name) > 1}):
        raise InputError(
            f"the entity rows have columns {doubled} more than once, among {list(names)}; select"
            " each once, or rename one"
        )


def refuse_clashes(entity: Iterable[str], features: Iterable[str]) -> None:
    """Raise InputError when a column of the entity rows has the name of a feature."""
    if clash := sorted(set(entity) & set(features)):
        raise InputError(
            f"the entity rows have columns {clash}, which are also features; rename them or ask"
            " for full feature names"
        )
