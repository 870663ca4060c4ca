"""Codes that people load into their store themselves. Reads: a Python file of the repository.
Writes: nothing.
"""

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adc_features.errors import InputError
from adc_features.store.code_tables.tables import CodeFile


class OwnSource:
    """Codes stay Parquet files; a function of the repository names the source they are loaded into.

    Parameters
    ----------
    repo : Path
        The repository.
    function : str
        `module:function` of a file beside feature_store.yaml. It is given the view's name and
        returns a Feast source with that name, whose rows have the columns of the files.
    """

    def __init__(self, repo: Path, function: str) -> None:
        self._repo, self._function = Path(repo), function

    def check(self) -> None:
        """Raise InputError where there is no such function."""
        self._imported()

    def source(self, view: str, table: str, *, tags: dict[str, str]) -> Any:
        """What the function returns."""
        from adc_features.store import _compat as feast

        source = self._imported()(view)
        if not isinstance(source, feast.DataSource) or source.name != view:
            raise InputError(
                f"adc_features.code_source: {self._function}({view!r}) returned {source!r};"
                f" expected a Feast source with name={view!r}"
            )
        return source

    def write(self, table: str, join_key: str, files: Sequence[CodeFile]) -> int:
        """Nothing: people load the files."""
        return 0

    def drop(self, table: str) -> None:
        """Nothing."""

    def _imported(self) -> Callable[[str], Any]:
        module, _, name = self._function.partition(":")
        path = self._repo / f"{module}.py"
        if not re.fullmatch(r"\w+", module) or not path.is_file():
            raise InputError(
                f"adc_features.code_source is {self._function!r}; expected module:function of a"
                f" Python file in {self._repo}"
            )
        # from its file: another repository in this process may have a module of the same name
        spec = importlib.util.spec_from_file_location(module, path)
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(found)
        except Exception as error:  # the file is the user's: whatever it raises is told by name
            raise InputError(
                f"{path}, which adc_features.code_source names, cannot be imported:"
                f" {type(error).__name__}: {error}; correct the file"
            ) from error
        function = getattr(found, name, None)
        if not callable(function):
            raise InputError(
                f"adc_features.code_source is {self._function!r}, and {path} has no function"
                f" {name!r}; write it, or correct the name"
            )
        return function
