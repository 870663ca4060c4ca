"""Encoded rows of every kind of slot, made by hand or at random, for tests of what reads them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from adc_features.inputs.declaration import Ranker, Task
from adc_features.inputs.encoded import (
    Bag,
    Block,
    Encoded,
    History,
    InputLayout,
    Layout,
    Lookup,
    Projected,
    SlotLayout,
)

LAYOUT = Layout(
    {
        "age": InputLayout(("age", "absent"), {0: 1}),
        "segment": InputLayout(slots=(SlotLayout("lookup", ("segment",)),)),
        "tags": InputLayout(("size",), slots=(SlotLayout("bag", ("tags",)),)),
        "recent": InputLayout(("size",), slots=(SlotLayout("history", ("sid/0", "sid/1")),)),
        "price": InputLayout(("price", "absent"), {0: 1}),
        "brand": InputLayout(slots=(SlotLayout("lookup", ("brand",), dropout=0.2),)),
        "sid": InputLayout(
            ("w0", "w1"),
            slots=(
                SlotLayout("lookup", ("sid/0",)),
                SlotLayout("lookup", ("sid/1",)),
                SlotLayout("gate", width=1, beside="brand"),
            ),
        ),
        "image": InputLayout(("absent",), slots=(SlotLayout("projected", width=3),)),
        "topics": InputLayout(("size",), slots=(SlotLayout("bag", ("topics",)),)),
        "position": InputLayout(("position",)),
        "alike": InputLayout(slots=(SlotLayout("similarity", ("sid/0", "sid/1"), own=1),) * 2),
    },
    {"segment": 5, "tags": 7, "sid/0": 5, "sid/1": 6, "brand": 9, "topics": 6},
)
"""Inputs of a user (age, segment, tags, recent, alike) and of a candidate."""
USER = ("age", "segment", "tags", "recent", "alike")
MIXED = Layout(
    {
        "segment": LAYOUT.inputs["segment"],
        "sid": InputLayout(
            ("w0",),
            slots=(
                SlotLayout("lookup", ("sid/0",)),
                SlotLayout("mixture", ("combined",), own=1),
            ),
        ),
        "price": LAYOUT.inputs["price"],
        "ours": InputLayout(slots=(SlotLayout("mixture", ("sid/0",), own=1),)),
    },
    {"segment": 5, "sid/0": 5, "combined": 9},
)
"""Codes with what they hold together."""
RANKER = Ranker("feed", [Task("click"), Task("buy", weight=0.5)], gates=["segment", "sid", "price"])


def rows_of(layout: Layout, count: int, *, seed: int = 0, alone: Sequence[str] = ()) -> Encoded:
    """Random rows; the inputs `alone` have one row that stands for all."""
    rng = np.random.default_rng(seed)
    return Encoded(
        {
            name: Block(
                rng.normal(size=(1 if name in alone else count, len(of.dense))).astype(np.float32),
                tuple(
                    _slot(s, layout, 1 if name in alone else count, count, rng) for s in of.slots
                ),
            )
            for name, of in layout.inputs.items()
        },
        count,
    )


def _slot(slot: SlotLayout, layout: Layout, count: int, queries: int, rng: np.random.Generator):
    sizes = [layout.tables[table] for table in slot.tables]
    if slot.kind == "lookup":
        weights = rng.random(count).astype(np.float32) if "sid" in slot.tables[0] else None
        return Lookup(rng.integers(0, sizes[0], count), weights)
    if slot.kind in ("projected", "gate"):
        return Projected(rng.normal(size=(count, slot.width)).astype(np.float32))
    offsets = np.concatenate([[0], rng.integers(0, 5, count).cumsum()])
    total = offsets[-1]
    if slot.kind in ("bag", "mixture"):
        weights = rng.random(total).astype(np.float32)
        return Bag(rng.integers(0, sizes[0], total), offsets, weights)
    return History(
        rng.integers(0, sizes, (total, len(sizes))),
        rng.random((total, len(sizes))).astype(np.float32),
        offsets,
        rng.integers(0, sizes, (queries, len(sizes))),
        rng.random((queries, len(sizes))).astype(np.float32),
    )


def spread(encoded: Encoded) -> Encoded:
    """The same rows, blocks of one row repeated for each."""
    every = np.zeros(len(encoded), np.int64)
    blocks = {}
    for name, block in encoded.blocks.items():
        if len(block.dense) == len(encoded):
            blocks[name] = block
            continue
        slots = []
        for slot in block.slots:
            if isinstance(slot, History):
                fitting = replace(slot, query=slot.query[:1], query_weights=slot.query_weights[:1])
                many = Encoded({"": Block(np.zeros((1, 0)), (fitting,))}, 1).take(every)
                slots.append(
                    replace(
                        many.blocks[""].slots[0],
                        query=slot.query,
                        query_weights=slot.query_weights,
                    )
                )
            else:
                one = Encoded({"": Block(np.zeros((1, 0)), (slot,))}, 1)
                slots.append(one.take(every).blocks[""].slots[0])
        blocks[name] = Block(block.dense[every], tuple(slots))
    return Encoded(blocks, len(encoded))
