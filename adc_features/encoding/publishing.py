"""Publish the codes of a catalogue that was encoded from files. Reads: the output of an encode, a
repository. Writes: a publication, packed file included.
"""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from adc_features.encoding.output import EncodedItems
from adc_features.store import publish_changes


def publish_encoded(
    repo: Path, encoded: EncodedItems, *, lag: timedelta, computed_at: datetime
) -> dict[str, Any]:
    """Publish encoded items as one more snapshot of a live generation; what was done.

    What differs from the snapshot before becomes rows of the generation's view, and the whole
    catalogue a packed file. Memory holds one part at a time, and some bytes an item; a publishing
    that was stopped leaves what was published as it was, and begins anew.

    Parameters
    ----------
    repo : Path
        A repository in which the generation is published.
    encoded : EncodedItems
        From `open_encoded`.
    lag : timedelta
        From the cut-off until the codes could be served.
    computed_at : datetime
        Now, aware.

    Returns
    -------
    dict
        generation, as_of, servable_at, items and published_rows.

    Raises
    ------
    InputError
        The generation is not published there, or times or ids contradict what is.
    GenerationMismatch
        What is published under this id comes from another codebook.
    """
    generation, servable_at = encoded.generation, encoded.as_of + lag
    rows = publish_changes(
        repo, generation, encoded.codes(), servable_at=servable_at, computed_at=computed_at
    )
    return {
        "generation": generation.id,
        "as_of": encoded.as_of,
        "servable_at": servable_at,
        "items": len(encoded),
        "published_rows": rows,
    }
