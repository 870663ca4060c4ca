"""The format number of everything that is written and read again later. Reads: documents. Writes:
documents with their number.

A number rises when a version could misread what another one wrote. This version reads the number
below and the one before it; what is newer is refused, in words. A document without a number is
older than the numbers: format 0. `docs/migrations.md` lists what each number means.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from adc_features.errors import ArtifactError, NewerFormatError

KEY = "format"
FORMATS: Mapping[str, int] = {
    "run": 1,
    "dataset": 1,
    "stage": 1,
    "generation": 1,
    "publication": 1,
    "statistics": 1,
    "live_generations": 1,
    "online_record": 1,
    "refresh_log": 1,
    "ranker": 2,
    "service_ranker": 1,
    "inputs": 1,
    "promotion": 2,
    "served_log": 1,
    "live": 1,
    "embedded_items": 1,
    "encoded_items": 1,
    "stored_versions": 1,
}
"""Kind of document -> the format that this version writes. The packed files, the rows of the online
store and the catalogue count their own: see their modules.
"""
NAMES: Mapping[str, str] = {
    "run.json": "run",
    "live_generations.json": "live_generations",
    "online.json": "online_record",
    "promotion.json": "promotion",
}
"""File name -> kind, of the documents that stand for themselves."""
MANIFEST = "manifest.json"
"""The file that seals a directory, and says of which kind it is."""


def numbered(kind: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the format that this version writes, first."""
    return {KEY: FORMATS[kind], **document}


def refuse_newer(found: Any, *, reads: int, of: object) -> int:
    """The format number of `of`, at most `reads`; 0 for None, which a document without one has.

    Raises NewerFormatError when a newer version wrote it, ArtifactError when the number is none.
    """
    if found is None:
        return 0
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ArtifactError(
            f"{of} has format {str(found)[:40]!r}; expected a whole number: it was altered, restore"
            " it, or write it again with the command that made it"
        )
    if found > reads:
        raise NewerFormatError(
            f"{of} has format {found}, this version reads up to {reads}: it was made by a newer"
            " version of this library; upgrade with `pip install --upgrade adc-features`"
        )
    return found


def format_of(kind: str, document: Mapping[str, Any], *, of: object) -> int:
    """The format number of a document of this kind, checked by `refuse_newer`."""
    return refuse_newer(document.get(KEY), reads=FORMATS[kind], of=of)


def unnumbered(kind: str, document: Mapping[str, Any], *, of: object) -> dict[str, Any]:
    """The document's content without its number, which is checked. Raises ArtifactError."""
    format_of(kind, document, of=of)
    return {name: value for name, value in document.items() if name != KEY}


def kind_of(manifest: Mapping[str, Any]) -> str:
    """The kind of directory that a manifest says it is of; older ones say none."""
    kind = manifest.get("kind")
    return kind if isinstance(kind, str) and kind in FORMATS else "stage"


def refuse_newer_document(path: Path, kind: str | None = None) -> None:
    """Raise NewerFormatError when a newer version wrote this JSON document, which may then not be
    replaced. One that is absent or damaged may be. kind: default by its name.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        kind = kind or NAMES.get(path.name) or kind_of(document)
        refuse_newer(document.get(KEY), reads=FORMATS[kind], of=path)
    except NewerFormatError:
        raise
    except (OSError, ValueError, AttributeError, RecursionError, ArtifactError):
        return


def refuse_newer_inside(directory: Path) -> None:
    """Raise NewerFormatError when a newer version wrote a manifest or document in a directory."""
    for path in sorted(directory.rglob("*.json")):
        if path.name == MANIFEST or path.name in NAMES:
            refuse_newer_document(path)
