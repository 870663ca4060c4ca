"""Rows of items that came or went between two snapshots. Reads: an overlay, SidTables. Writes: rows
of a generation's view, snapshots that heed them.
"""

from dataclasses import replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from adc_features.clock import instant
from adc_features.codes.rows import sid_rows
from adc_features.codes.sid_pieces import SidPieces
from adc_features.codes.sids import SidTable, find_rows
from adc_features.store.packed.overlay import Overlay
from adc_features.store.repository import LiveGeneration

SEGMENTS = "[0-9]*-[0-9]*.parquet"
"""Files beside those of the snapshots, which hold these rows."""


def code_rows(
    live: LiveGeneration, codes: SidTable, *, servable_at: datetime, computed_at: datetime
) -> pa.Table:
    """Codes as the rows of a generation's view, under the join key of its repository."""
    rows = sid_rows(codes, servable_at=servable_at, computed_at=computed_at)
    rows = rows.rename_columns([live.join_key, *rows.column_names[1:]])
    if live.key is not None and live.key.type == "Int32":
        rows = rows.set_column(0, live.join_key, rows[live.join_key].cast(pa.int32()))
    return rows


def heeding(overlay: Overlay, snapshot: SidPieces, servable_at: datetime) -> SidPieces:
    """A snapshot that heeds what became of its items since its data was read.

    An item that was removed stays removed until it is added again, whatever the data lists; one
    that was described anew after the data ended keeps the codes of that.
    """
    servable, as_of = (int(instant(at).astype(np.int64)) for at in (servable_at, snapshot.as_of))
    found = overlay.found
    newest = {
        item: row
        for item, since, row in overlay.newest(servable)
        if since > as_of or not found[row]
    }
    if not newest:
        return snapshot
    items, rows = np.array(list(newest)), np.array(list(newest.values()))

    def heeded(piece: SidTable) -> SidTable:
        places, there = find_rows(piece.item_ids, items)
        if not there.any():
            return piece
        columns: dict[str, Any] = {}
        for name, column in overlay.columns(rows[there]).items():
            columns[name] = np.array(getattr(piece, name))
            columns[name][places[there]] = column
        return replace(piece, **columns)

    return snapshot.through(heeded)
