"""Names under which features leave. Reads: names and whose they are. Writes: nothing; no feast here."""

from collections.abc import Iterable

from adc_features.errors import InputError


def refuse_shared(columns: Iterable[tuple[str, str]], *, advice: str) -> None:
    """Raise InputError when two columns of one answer have one name: a reader would see one of them only.

    columns: (name, whose it is, for the message).
    """
    owners: dict[str, str] = {}
    for name, owner in columns:
        if name in owners:
            raise InputError(f"{owners[name]} and {owner} would share the column {name!r}, and one would be lost; {advice}")
        owners[name] = owner
