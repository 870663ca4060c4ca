"""What a network of several tasks is made of. Reads: Layout, Ranker. Writes: NetworkShape.

What a tower reads of a row is one vector, "general": the embeddings of all lookups, then of bags,
of projected vectors, of mixtures, what is pooled from each history, what is attended to in it, the
similarities of codes, then the dense numbers. Its columns are named here, so that training (torch)
and serving (numpy) agree on them.

With level inputs the score is slope * (order + level) + intercept. Who a user is explains most of
AUC, yet a running mean leaves the row itself out: within one user an earlier bad label precedes
more good ones, and GAUC falls. So the towers learn the order of items beside a free bias for each
user, which explains the user's level away and is dropped afterwards, and two small networks tell
what is left: "settled" reads the inputs of level="settled", "fresh" those of level=True and all
numbers of the towers. The level is their mean, weighted by `fresh_share`.

Legend: E embedding width, T tasks, H width of a hidden layer, G of the gates' hidden layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Self

import numpy as np

from adc_features.errors import InputError
from adc_features.inputs.declaration import Input, Inputs, Ranker
from adc_features.inputs.encoded import InputLayout, Layout, SlotLayout
from adc_features.inputs.resolved import ResolvedInput

KINDS = ("lookup", "bag", "projected", "mixture", "history", "similarity", "gate")


@dataclass(frozen=True)
class NetworkSettings:
    """How a network is built.

    Parameters
    ----------
    embedding : int
        E, the width of every embedding.
    hidden : tuple of int
        Widths of the hidden layers of each task's tower.
    gate : int
        G, the width of the hidden layer that all gates share.
    networks : int
        Networks whose logits are averaged, each with embeddings of its own and trained on the rows
        in its own order; training and scoring cost as many times more.
    epnet : str
        What the gate of a domain reads: "full", the domain and all embeddings (PEPNet), or
        "domain", the domain alone, which leaves a request's user to be computed once.
    level_hidden, fresh_hidden : int
        Widths of the small networks of settled and of fresh level inputs.
    fresh_share : float
        Weight of the fresh level where there are both: a higher one raises AUC, a lower one GAUC.
    """

    embedding: int = 16
    hidden: tuple[int, ...] = (64, 32)
    gate: int = 16
    networks: int = 1
    epnet: Literal["full", "domain"] = "full"
    level_hidden: int = 32
    fresh_hidden: int = 128
    fresh_share: float = 0.6

    def __post_init__(self) -> None:
        widths = [self.embedding, self.gate, self.networks, *self.hidden]
        widths += [self.level_hidden, self.fresh_hidden]
        if not self.hidden or min(widths) < 1:
            raise InputError(
                f"a network of {asdict(self)}; every width must be at least 1, and there must be at"
                " least one hidden layer"
            )
        if self.epnet not in ("full", "domain"):
            raise InputError(f"epnet={self.epnet!r}; expected 'full' or 'domain'")
        if not 0 <= self.fresh_share <= 1:
            raise InputError(f"fresh_share={self.fresh_share}; expected a share in [0, 1]")


class Place(NamedTuple):
    """A slot of an input: `Encoded.blocks[input].slots[at]`, and its layout."""

    input: str
    at: int
    layout: SlotLayout


@dataclass(frozen=True)
class NetworkShape:
    """The inputs, tasks and widths of a network.

    Parameters
    ----------
    inputs : mapping of str to InputLayout
        In the order of the encoder's layout.
    tables : mapping of str to int
        Table -> rows; they stand one below the other in one matrix.
    tasks : tuple of str
        In the order of the outputs.
    task_weights : tuple of float
        Weight of each task in the loss.
    listwise : float
        Weight of the softmax cross entropy over each request's rows.
    gates : tuple of str
        Inputs that the gates of every layer see, without stopping gradients.
    domain : str, optional
        The input whose embedding gates all embeddings.
    level, settled : tuple of str
        Inputs whose numbers are read by the small level networks and, unless they are among the
        gates, by nothing else; those of them that the settled one reads.
    gate_only : tuple of str
        Inputs that gates read and towers do not.
    settings : NetworkSettings
        Widths.
    """

    inputs: Mapping[str, InputLayout]
    tables: Mapping[str, int]
    tasks: tuple[str, ...]
    task_weights: tuple[float, ...]
    listwise: float = 0.0
    gates: tuple[str, ...] = ()
    domain: str | None = None
    level: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    gate_only: tuple[str, ...] = ()
    settings: NetworkSettings = field(default_factory=NetworkSettings)

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def of(
        cls,
        layout: Layout,
        ranker: Ranker,
        *,
        settings: NetworkSettings | None = None,
        specs: Sequence[ResolvedInput] = (),
    ) -> Self:
        """The shape that reads a layout as a ranker declares it.

        specs: the resolved inputs, which know the options that tags chose. Raises InputError where
        gates or domain name no input, or one that only training sees.
        """
        kinds = _kinds(ranker, specs)
        read = {name: kinds[name] for name in layout.inputs if name in kinds}
        hidden = sorted(
            name
            for name in {*ranker.gates, *([ranker.domain] if ranker.domain else [])}
            if name in kinds and kinds[name].train_only
        )
        if hidden:
            raise InputError(
                f"gates or domain of the ranker name {', '.join(hidden)}, which only training sees;"
                " a gate reads what serving has: take it out"
            )
        return cls(
            inputs=dict(layout.inputs),
            tables=dict(layout.tables),
            tasks=tuple(task.name for task in ranker.tasks),
            task_weights=tuple(float(task.weight) for task in ranker.tasks),
            listwise=ranker.listwise,
            gates=tuple(ranker.gates),
            domain=ranker.domain,
            level=tuple(name for name in read if read[name].level),
            settled=tuple(name for name in read if read[name].level == "settled"),
            gate_only=tuple(name for name in read if read[name].gate_only),
            settings=settings or network_settings(ranker.settings),
        )

    @cached_property
    def slots(self) -> dict[str, list[Place]]:
        """Slots by kind, in the order of the inputs; level inputs have none."""
        places: dict[str, list[Place]] = {kind: [] for kind in KINDS}
        for name, layout in self.inputs.items():
            for index, slot in enumerate(layout.slots if name not in self.level else ()):
                places[slot.kind].append(Place(name, index, slot))
        return places

    @cached_property
    def embedded(self) -> list[tuple[Place, Literal["", "pooled", "attended"]]]:
        """What the columns of the general vector hold, in order; see `spans`."""
        slots = self.slots
        return [
            *((place, "") for kind in KINDS[:4] for place in slots[kind]),
            *((place, "pooled") for place in slots["history"]),
            *((place, "attended") for place in slots["history"]),
            *((place, "") for place in slots["similarity"]),
        ]

    @cached_property
    def gated(self) -> list[tuple[list[int], list[int]]]:
        """Of each gate: the places, among all lookups, of its codes and of the id."""
        of = [place.input for place in self.slots["lookup"]]
        return [
            (
                [n for n, name in enumerate(of) if name == gate.input],
                [n for n, name in enumerate(of) if name == gate.layout.beside],
            )
            for gate in self.slots["gate"]
        ]

    @cached_property
    def spans(self) -> list[range]:
        """The columns of each of `embedded`: E of them, or one for each position of a
        similarity."""
        widths = [
            len(place.layout.tables)
            if place.layout.kind == "similarity"
            else self.settings.embedding
            for place, _ in self.embedded
        ]
        ends = np.cumsum([0, *widths]).tolist()
        return [range(start, end) for start, end in pairwise(ends)]

    @cached_property
    def order(self) -> list[tuple[str, int, str]]:
        """The same as (kind, place within `slots[kind]`, part)."""
        places = {(p.input, p.at): n for of in self.slots.values() for n, p in enumerate(of)}
        return [
            (place.layout.kind, places[place.input, place.at], part)
            for place, part in self.embedded
        ]

    @cached_property
    def starts(self) -> dict[str, int]:
        """Table -> its first row in the one matrix of all tables."""
        sizes = list(self.tables.values())
        return dict(zip(self.tables, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))

    @cached_property
    def placed(self) -> dict[str, list[tuple[str, int, list[int]]]]:
        """`slots`, each as its input, its place there and the first row of each of its tables."""
        return {
            kind: [(p.input, p.at, [self.starts[t] for t in p.layout.tables]) for p in places]
            for kind, places in self.slots.items()
        }

    @cached_property
    def with_dense(self) -> tuple[str, ...]:
        """The inputs that have dense numbers, level inputs included."""
        return tuple(name for name, layout in self.inputs.items() if layout.dense)

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(self.tables.values())

    @cached_property
    def dense(self) -> list[str]:
        """The input of each dense number, level inputs included."""
        return [name for name, layout in self.inputs.items() for _ in layout.dense]

    @cached_property
    def tower_dense(self) -> list[int]:
        """Dense numbers that towers read."""
        apart = {*self.level, *self.gate_only}
        return [n for n, name in enumerate(self.dense) if name not in apart]

    @cached_property
    def tower_columns(self) -> list[int]:
        """Columns of the embeddings that towers read."""
        return [
            column
            for (place, _), span in zip(self.embedded, self.spans, strict=True)
            if place.input not in self.gate_only
            for column in span
        ]

    @cached_property
    def level_dense(self) -> dict[Literal["settled", "fresh"], list[int]]:
        """Level network -> the dense numbers that it reads; without those that read none."""
        settled = [n for n, name in enumerate(self.dense) if name in self.settled]
        fresh = [n for n, name in enumerate(self.dense) if name in self.level]
        fresh = [n for n in fresh if n not in settled]
        found: dict[Literal["settled", "fresh"], list[int]] = {}
        if settled:
            found["settled"] = settled
        if fresh:
            found["fresh"] = fresh + self.tower_dense
        return found

    @property
    def level_shares(self) -> dict[Literal["settled", "fresh"], float]:
        """Level network -> its weight in the level."""
        if len(self.level_dense) < 2:
            return dict.fromkeys(self.level_dense, 1.0)
        share = self.settings.fresh_share
        return {"settled": 1 - share, "fresh": share}

    def level_width(self, name: Literal["settled", "fresh"]) -> int:
        """Width of the hidden layer of a level network."""
        return self.settings.level_hidden if name == "settled" else self.settings.fresh_hidden

    @property
    def embedding_width(self) -> int:
        """Columns of all embeddings."""
        return self.spans[-1].stop if self.spans else 0

    @property
    def general_width(self) -> int:
        """Columns that towers read: embeddings, then dense numbers."""
        return len(self.tower_columns) + len(self.tower_dense)

    def prior(self, names: Sequence[str]) -> tuple[list[int], list[int]]:
        """Columns of the embeddings, and dense numbers, that gates read of these inputs.

        A history gives what is pooled; attention has no part in a gate.
        """
        columns = [
            column
            for (place, part), span in zip(self.embedded, self.spans, strict=True)
            if place.input in names and part != "attended"
            for column in span
        ]
        return columns, [n for n, name in enumerate(self.dense) if name in names]

    def to_json(self) -> dict[str, Any]:
        """JSON values that `of_json` reads."""
        return asdict(self)

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Self:
        """From `to_json`, also after a round through text."""
        settings = {**facts["settings"], "hidden": tuple(facts["settings"]["hidden"])}
        lists = ("tasks", "task_weights", "gates", "level", "settled", "gate_only")
        return cls(
            **{
                **facts,
                **{name: tuple(facts[name]) for name in lists},
                "inputs": {name: input_layout(said) for name, said in facts["inputs"].items()},
                "settings": NetworkSettings(**settings),
            }
        )


def network_settings(said: Mapping[str, Any] | None) -> NetworkSettings:
    """Those of a ranker's `settings` that build its network; others are of its training."""
    said = said or {}
    chosen = {f.name: said[f.name] for f in fields(NetworkSettings) if f.name in said}
    if "hidden" in chosen:
        chosen["hidden"] = tuple(chosen["hidden"])
    return NetworkSettings(**chosen)


def input_layout(facts: Mapping[str, Any]) -> InputLayout:
    """From `dataclasses.asdict`, also after a round through JSON text."""
    indicators = facts["indicators"]
    return InputLayout(
        dense=tuple(facts["dense"]),
        indicators=None if indicators is None else {int(k): v for k, v in indicators.items()},
        slots=tuple(SlotLayout(**{**s, "tables": tuple(s["tables"])}) for s in facts["slots"]),
    )


def _kinds(ranker: Ranker, specs: Sequence[ResolvedInput]) -> dict[str, Input]:
    """Input -> its kind, resolved or as far as the ranker declares it."""
    declared = ranker.inputs.declared if isinstance(ranker.inputs, Inputs) else ranker.inputs
    kinds = {name: kind for name, kind in declared.items() if isinstance(kind, Input)}
    return {**kinds, **{spec.name: spec.kind for spec in specs}}


def _check(shape: NetworkShape) -> None:
    named = [*shape.gates, *([shape.domain] if shape.domain else [])]
    if missing := sorted(set(named) - set(shape.inputs)):
        raise InputError(
            f"gates or domain of the ranker name {', '.join(missing)}, which is no input of it;"
            f" its inputs are {', '.join(shape.inputs) or 'none'}"
        )
    if ungated := [name for name in shape.gate_only if name not in shape.gates]:
        raise InputError(
            f"inputs {', '.join(ungated)} are gate_only and no gate of the ranker names them; add"
            " them to its gates, or let the towers read them"
        )
    if not shape.tasks or len(set(shape.tasks)) != len(shape.tasks):
        raise InputError(
            f"a ranker of the tasks {list(shape.tasks)}; expected at least one, each named once"
        )
    if min(shape.task_weights) <= 0 or shape.listwise < 0:
        raise InputError(
            f"task weights {list(shape.task_weights)}, listwise={shape.listwise}; weights of tasks"
            " must be above 0, that of the listwise term at least 0"
        )
    if not shape.general_width:
        raise InputError(
            "a ranker without inputs for its towers: every input is skipped, a level input or"
            " gate_only; declare at least one that is not"
        )
    if shape.domain and not any(p.input == shape.domain for p, _ in shape.embedded):
        raise InputError(
            f"the domain {shape.domain!r} has no embedding; a category, a set or a semantic ID has"
            " one: declare it as such"
        )
    unknown = {t for k in KINDS for p in shape.slots[k] for t in p.layout.tables} - {*shape.tables}
    if unknown:
        raise InputError(f"slots read the tables {sorted(unknown)}, which the layout does not hold")
