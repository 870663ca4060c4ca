"""One publisher at a time in a repository. Reads, writes: nothing but a lock."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adc_features.errors import ArtifactError
from adc_features.file_lock import file_lock
from adc_features.store.repository import live_generations_path


@contextmanager
def only_publisher(repo: Path) -> Iterator[None]:
    """Let one publisher at a time into a repository; a second one waits.

    The system releases the lock of one that was killed. Raises ArtifactError when the repository
    cannot be written.
    """
    data = live_generations_path(repo).parent
    data.mkdir(parents=True, exist_ok=True)
    if not os.access(data, os.W_OK):
        raise ArtifactError(
            f"{data} is read-only here; give the publisher the right to write it, or publish from"
            " where it can be written"
        )
    with file_lock(data, wait=None):
        yield
