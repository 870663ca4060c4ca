"""Where a repository's registry is. Reads, writes: nothing; no feast, which `_compat`
teaches this.
"""

import re
from pathlib import Path


def registry_beside(location: str, repo: Path) -> str:
    """Where a registry is: a relative SQLite file lies in the repository, whichever folder a
    process runs in.

    location: as feature_store.yaml has it; URLs of other databases, of absolute files and of memory
    stay as they are.
    """
    found = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/?:][^?]*)(\?.*)?", location)
    if found is None:
        return location
    return f"{found[1]}{Path(repo).resolve() / found[2]}{found[3] or ''}"
