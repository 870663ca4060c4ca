"""Feast, imported by a process that declares nothing. Reads, writes: nothing."""

from importlib import import_module
from typing import Any


def import_feast_unchecked() -> None:
    """Import Feast without the checks of argument types in the classes of its declarations.

    Typeguard compiles them anew into each method as Feast is imported, which takes most of that
    time. What a process reads of a registry was checked when it was applied. Where Feast is
    imported already, nothing changes.
    """
    typeguard: Any = import_module("typeguard")
    checked = typeguard.typechecked
    typeguard.typechecked = lambda declared: declared
    try:
        import adc_features.store._compat  # noqa: F401
    finally:
        typeguard.typechecked = checked
