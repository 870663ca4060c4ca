"""What the stream keeps of the keys of a view. Reads: views. Writes: plans: layouts, ledgers."""

from collections.abc import Iterable
from dataclasses import replace

from adc_features.aggregates.batch import row_schema
from adc_features.aggregates.declaration import AggregateView, Residual
from adc_features.aggregates.finalise import recipes
from adc_features.aggregates.folds import ListPlan, Slots
from adc_features.aggregates.ledgers import ledger_plans
from adc_features.aggregates.parts import (
    Of,
    Part,
    all_parts,
    capacity_of,
    counted,
    prior_parts,
    residuals,
    without_window,
)
from adc_features.aggregates.states import Layout, Section

LAST, COUNT = Part("last"), Part("count")


class ViewPlan:
    """What is kept of the keys of a view, and the ledgers that it reads."""

    def __init__(self, view: AggregateView) -> None:
        self.view, stream = view, view.stream
        self.recipes, self.schema = recipes(view), row_schema(view)
        parts = all_parts(view)
        own = [p for p in parts if p.by is None]
        plain = [p for p in own if p.window is None and p.kind not in ("list", "distinct")]
        self.slots = Slots.of([LAST, COUNT, *plain])
        self.tiles = self._tiles([p for p in own if p.window is not None])
        groups = [p for p in parts if p.by is not None]
        columns = dict.fromkeys(c for p in groups for c in p.by or ())
        self.lists = self._lists([p for p in own if p.kind == "list"], list(columns))
        self.different = {
            of: ListPlan.of(view, n, [of], different=True)
            for of, n in _longest(p for p in own if p.kind == "distinct").items()
        }
        given = [
            replace(p, by=r.against)
            for r in residuals(view)
            for p in (Part("sum", r.of), Part("count", counted(stream, r.of)))
        ]
        given += [p for r in residuals(view) for p in prior_parts(view, r, r.initial)]
        # everybody's sums stand in one ledger, but for those of residuals, which are known later
        early = [p for p in groups if p.by == () and not isinstance(p.of, Residual)]
        given += early
        self.groups = ledger_plans(view, [p for p in groups if p not in early], "+")
        self.early = bool(early)
        self.given = ledger_plans(view, given, "@")
        sections = [Section(1 + len(slots.parts)) for _, slots in self.tiles.values()]
        sections += [plan.section for plan in (*self.lists.values(), *self.different.values())]
        meaning = (self.slots, self.tiles, self.lists, self.different, view.key)
        self.layout = Layout(f"{view.name}: {meaning}", self.slots.empty, tuple(sections))
        sums = {p.of for p in own if p.kind == "sum"}
        self.capacity = min((capacity_of(stream, of) for of in sums), default=2**63 - 1)

    def _tiles(self, parts: list[Part]) -> dict[int, tuple[int, Slots]]:
        """hop -> (the longest window, what is kept of each tile)."""
        parts = [p for p in parts if p.kind not in ("list", "distinct")]
        found = {}
        for hop in dict.fromkeys(p.hop for p in parts):
            mine = [p for p in parts if p.hop == hop]
            slots = Slots.of([COUNT, *(without_window(p) for p in mine)])
            found[hop or 0] = max(p.window or 0 for p in mine), slots
        return found

    def _lists(self, parts: list[Part], group: list[str]) -> dict[str | None, ListPlan]:
        """What an event needs -> the list of such events; all events' list holds their groups."""
        stream, found = self.view.stream, {}
        for needs in dict.fromkeys(
            [*([None] if group else []), *(counted(stream, p.of) for p in parts)]
        ):
            mine = [p for p in parts if counted(stream, p.of) == needs]
            columns: list[Of] = [*(p.of for p in mine), *(group if needs is None else [])]
            n = max([p.n or 1 for p in mine], default=1)
            found[needs] = ListPlan.of(self.view, n, columns, needs=needs)
        return found


def columns_of_states(view: AggregateView) -> dict[str, tuple[str, ...]]:
    """Under which names states are kept for a view, and the key columns of each."""
    plan = ViewPlan(view)
    ledgers = {one.name: one.columns for one in (*plan.given, *plan.groups)}
    return {view.name: view.key, **ledgers}


def _longest(parts: Iterable[Part]) -> dict[Of, int]:
    found: dict[Of, int] = {}
    for part in parts:
        found[part.of] = max(found.get(part.of, 1), part.n or 1)
    return found
