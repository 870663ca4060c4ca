"""Where the rankers of a Feast repository lie. Reads, writes: directories below it.

<repo>/rankers/<name>/<version>/       one trained ranker; the version is its time, UTC
<repo>/rankers/<name>/promotion.json   the one that serves
<repo>/rankers/evaluation.json         what was last trained or judged, together
<repo>/rankers/report.html             the same as a page
"""

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from adc_features.artifact import MANIFEST
from adc_features.clock import utc
from adc_features.errors import InputError
from adc_features.serving.promotion import PROMOTION

RANKERS = "rankers"
EVALUATION = "evaluation.json"
REPORT = "report.html"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_VERSION = "%Y%m%dT%H%M%S%fZ"


@dataclass(frozen=True)
class Workspace:
    """The trained versions of one ranker.

    Parameters
    ----------
    repo : Path
        The Feast repository.
    name : str
        Of the ranker: letters, digits, `_`, `.` and `-`.

    Raises
    ------
    InputError
        The name is none of a directory.
    """

    repo: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"ranker {self.name!r} cannot name a directory; use letters, digits, '_', '.' and"
                " '-', at most 100, the first a letter or digit"
            )

    @property
    def directory(self) -> Path:
        """Of all versions."""
        return Path(self.repo) / RANKERS / self.name

    @property
    def promotion(self) -> Path:
        """The promotion file."""
        return self.directory / PROMOTION

    def version(self, at: datetime) -> Path:
        """The directory of a version that is trained at this time (aware)."""
        return self.directory / format(utc(at, name="at"), _VERSION)

    def versions(self) -> list[Path]:
        """Complete versions, oldest first."""
        return sorted(
            p.parent for p in self.directory.glob(f"*/{MANIFEST}") if p.parent.name[0] != "."
        )

    def newest(self) -> Path:
        """The newest complete version. Raises InputError when there is none."""
        if not (found := self.versions()):
            raise InputError(
                f"ranker {self.name!r} of {self.repo} was never trained; run `adc train --repo"
                f" {self.repo} --ranker {self.name} --labels FILE` first"
            )
        return found[-1]


def trained_names(repo: Path) -> list[str]:
    """The rankers of which a repository has a trained version, sorted."""
    return sorted(
        {
            p.parts[-3]
            for p in (Path(repo) / RANKERS).glob(f"*/*/{MANIFEST}")
            if p.parts[-2][0] != "."
        }
    )


def promoted_names(repo: Path) -> list[str]:
    """The rankers of a repository that have a promotion, sorted."""
    return sorted(p.parent.name for p in (Path(repo) / RANKERS).glob(f"*/{PROMOTION}"))


def evaluation_path(repo: Path) -> Path:
    """What was last trained or judged, together."""
    return Path(repo) / RANKERS / EVALUATION


def report_path(repo: Path) -> Path:
    """The page of what was last trained or judged."""
    return Path(repo) / RANKERS / REPORT
