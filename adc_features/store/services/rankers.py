"""Rankers that a repository's Python files declare. Reads: those files, as Feast does when it
applies them. Writes: nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from adc_features.errors import AdcError, InputError
from adc_features.inputs.declaration import Ranker
from adc_features.store.repository import CODE_FILES, read_config

T = TypeVar("T")


def declared_rankers(repo: Path) -> dict[str, Ranker]:
    """The `Ranker` objects in the Python files of a repository, without applying it.

    Files are found and imported as `feast apply` does (`.feastignore` is obeyed, the working
    directory is the repository meanwhile), so their side effects are the user's.

    Parameters
    ----------
    repo : Path
        A Feast repository.

    Returns
    -------
    dict of str to Ranker
        By name, or by service where a ranker has none; in the order of the files.

    Raises
    ------
    InputError
        A file cannot be imported, or two rankers have one name.
    ArtifactError
        There is no feature_store.yaml.

    Notes
    -----
    Changes the working directory and the module search path of the process while it imports: for
    commands, not for a serving process.
    """
    return declared_objects(repo, Ranker, name=lambda ranker: ranker.name or ranker.service)


def declared_objects(repo: Path, kind: type[T], *, name: Callable[[T], str]) -> dict[str, T]:
    """The objects of a type in the Python files of a repository, by name, as `declared_rankers`
    finds them; raises as it does.
    """
    from adc_features.store import _compat as feast

    repo = Path(repo).resolve()
    read_config(repo)
    files = feast.get_repo_files(repo)
    found: dict[str, tuple[T, str]] = {}
    with _imported_from(repo, files):
        for file in files:
            module = _module(repo, file)
            for one in vars(module).values():
                if not isinstance(one, kind):
                    continue
                place = str(file.relative_to(repo))
                before = found.setdefault(name(one), (one, place))
                if before[0] is not one:
                    what = kind.__name__
                    raise InputError(
                        f"two objects of type {what} are named {name(one)!r}, in {before[1]} and"
                        f" {place}; give each a name of its own: {what}(name=...)"
                    )
    return {name: one for name, (one, _) in found.items()}


def declared_service(repo: Path, name: str) -> tuple[str, str] | None:
    """Where the Python files of a repository declare a feature service: (module, variable).

    None where they do not. Files are imported as `declared_rankers` does, and raise as there; those
    that we write are left out, since they import services of others.
    """
    from adc_features.store import _compat as feast

    repo = Path(repo).resolve()
    read_config(repo)
    files = feast.get_repo_files(repo)
    with _imported_from(repo, files):
        for file in files:
            if file.name in CODE_FILES:
                continue
            for variable, found in vars(_module(repo, file)).items():
                if isinstance(found, feast.FeatureService) and found.name == name:
                    return _dotted(repo, file), variable
    return None


def _module(repo: Path, file: Path) -> object:
    try:
        return importlib.import_module(_dotted(repo, file))
    except AdcError:
        raise
    except Exception as error:  # the file is the user's: whatever it raises is told with its name
        raise InputError(
            f"{file.relative_to(repo)} cannot be imported: {type(error).__name__}: {error};"
            " `feast apply` imports it too, so mend it or name it in .feastignore"
        ) from error


def _dotted(repo: Path, file: Path) -> str:
    return ".".join(file.relative_to(repo).with_suffix("").parts)


@contextlib.contextmanager
def _imported_from(repo: Path, files: Sequence[Path]) -> Iterator[None]:
    """Import from the repository first, and forget its modules afterwards: another repository may
    have files of the same names."""
    names = {_dotted(repo, file) for file in files}
    names |= {name.rpartition(".")[0] for name in names if "." in name}
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    before, path = set(sys.modules), list(sys.path)
    folder = os.getcwd()
    sys.path.insert(0, str(repo))
    importlib.invalidate_caches()
    os.chdir(repo)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.path[:] = path
        sys.dont_write_bytecode = bytecode
        for name in set(sys.modules) - before:
            origin = getattr(sys.modules[name], "__file__", None)
            if name in names or (origin and Path(origin).is_relative_to(repo)):
                del sys.modules[name]
        sys.modules.update(hidden)
