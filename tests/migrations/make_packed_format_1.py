"""How the files of `packed_format_1/` were made: packed snapshots of the format before the one that
is written now, by the last commit that wrote it (51254cd~1).

    git worktree add ../before 51254cd~1
    PYTHONPATH=../before python tests/migrations/make_packed_format_1.py tests/migrations

The tables are those of `packed_world.py`, which the test builds again.
"""

import sys
from pathlib import Path

from packed_world import COMPUTED_AT, SERVABLE_AT, TABLES

from adc_features.sids import SidTable  # where it was then
from adc_features.store.snapshot import write_snapshot

if __name__ == "__main__":
    place = Path(sys.argv[1]) / "packed_format_1"
    place.mkdir(exist_ok=True)
    for name, table in TABLES.items():
        columns = dict(table)
        sid_as_of = columns.pop("sid_as_of")
        write_snapshot(
            place / f"{name}.sids",
            SidTable(**columns),
            sid_as_of=sid_as_of,
            servable_at=SERVABLE_AT,
            computed_at=COMPUTED_AT,
            codebook_hash="c" * 64,
            weight_dtype="float32",
        )
