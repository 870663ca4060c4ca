"""Encoded rows a piece at a time. Reads: Encoded. Writes: Encoded."""

from collections.abc import Iterator
from dataclasses import replace

from adc_features.inputs.encoded import Block, Encoded, History, Lookup, Projected, Slot

BLOCK = 512
"""Rows that are scored at once: what is made of them stays in the processor's cache."""


def length(slot: Slot) -> int:
    """Rows of a slot; of a history, those of the user's side."""
    if isinstance(slot, Lookup):
        return len(slot.rows)
    return len(slot.values) if isinstance(slot, Projected) else len(slot.offsets) - 1


def pieces(encoded: Encoded, size: int = BLOCK) -> Iterator[tuple[int, Encoded]]:
    """Consecutive rows, `size` at a time, with the number of the first; blocks of one row stay."""
    count = len(encoded)
    if 0 < count <= size:
        yield 0, encoded
        return
    for start in range(0, count, size):
        rows = slice(start, min(start + size, count))
        blocks = {name: _piece(block, rows, count) for name, block in encoded.blocks.items()}
        yield start, Encoded(blocks, rows.stop - start)


def _piece(block: Block, rows: slice, count: int) -> Block:
    dense = block.dense if len(block.dense) == 1 != count else block.dense[rows]
    return Block(dense, tuple(_slot_piece(slot, rows, count) for slot in block.slots))


def _slot_piece(slot: Slot, rows: slice, count: int) -> Slot:
    if isinstance(slot, History):
        query, weights = slot.query[rows], slot.query_weights[rows]
        slot = History(slot.rows, slot.weights, slot.offsets, query, weights)
    if length(slot) == 1 != count:
        return slot
    if isinstance(slot, Lookup):
        return Lookup(slot.rows[rows], None if slot.weights is None else slot.weights[rows])
    if isinstance(slot, Projected):
        return Projected(slot.values[rows])
    offsets = slot.offsets[rows.start : rows.stop + 1]
    within = slice(offsets[0], offsets[-1])
    return replace(
        slot, rows=slot.rows[within], weights=slot.weights[within], offsets=offsets - offsets[0]
    )
