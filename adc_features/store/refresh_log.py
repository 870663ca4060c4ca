"""When views were really refreshed online. Reads, writes: `<repo>/data/refreshes.jsonl`.

One line for each materialization of a view: its cut, and when its rows were there to be read. A
line is appended at once; one that was cut short by a crash is left out.
"""

import json
from datetime import datetime
from pathlib import Path

from adc_features.artifact import append_line
from adc_features.clock import parse_utc, utc
from adc_features.errors import ArtifactError
from adc_features.formats import format_of, numbered
from adc_features.store.refresh import Refresh

KIND = "refresh_log"


def refresh_log_path(repo: Path) -> Path:
    """The log of a repository."""
    return Path(repo) / "data" / "refreshes.jsonl"


def note_refresh(repo: Path, view: str, *, cut: datetime, visible: datetime) -> None:
    """Append a materialization: `cut`, the newest event time that it takes, and when it was done.

    A time of the future is no cut that data could have: then the moment of the load counts.
    """
    cut, visible = min(utc(cut), utc(visible)), utc(visible)
    line = {"view": view, "cut": cut.isoformat(), "visible": visible.isoformat()}
    path = refresh_log_path(repo)
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, json.dumps(numbered(KIND, line)))


def real_refreshes(repo: Path) -> dict[str, tuple[Refresh, ...]]:
    """View -> its refreshes by cut, each cut once, as it was first there; empty without a log.

    Raises ArtifactError naming a line that is no refresh, and NewerFormatError.
    """
    path = refresh_log_path(repo)
    if not path.is_file():
        return {}
    found: dict[str, dict[datetime, datetime]] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            document = json.loads(line)
        except ValueError:
            continue  # cut short
        try:
            format_of(KIND, document, of=f"{path} line {number}")
            cut, visible = parse_utc(document["cut"]), parse_utc(document["visible"])
            seen = found.setdefault(str(document["view"]), {})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{path} line {number} is no refresh ({error}); remove the line, or the file: what"
                " is online stays as it is"
            ) from error
        seen[cut] = min(visible, seen.get(cut, visible))
    return {
        view: tuple(Refresh(cut, seen[cut]) for cut in sorted(seen)) for view, seen in found.items()
    }
