"""What is wrong with the options of an input or of a ranker. Reads: declarations. Writes: problems,
a sentence each.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Input, Ranker
from adc_features.inputs.kind_rules import (
    FITS,
    INTEGERS,
    LIST_NUMBERS,
    LIST_TIMES,
    NUMBERS,
    element,
    same_values,
    why_left_out,
)
from adc_features.inputs.resolved import ResolvedInput, SourceColumn


def type_problems(kind: Input, columns: Mapping[str, SourceColumn]) -> Iterator[str]:
    """Columns whose types the kind does not read."""
    roles = ("left", "right") if isinstance(kind, d.Cross) else ("source",)
    fits = FITS.get(type(kind), ())
    for role in roles:
        if (column := columns.get(role)) is None or column.dtype in fits:
            continue
        others = [d.NAMES[k] for k, types in FITS.items() if column.dtype in types]
        others = [n for n in others if n not in ("cross", "match", "history", "remainder")]
        yield (
            f"a {d.NAMES[type(kind)]} cannot read {column.name}, which is {column.dtype}:"
            f" {'try ' + ' or '.join(others) if others else why_left_out(column.dtype)}"
        )
    for role, types, what in (
        ("times", LIST_TIMES, "a list of moments, or of Int64 microseconds"),
        ("labels", LIST_NUMBERS, "a list of numbers"),
        ("values", LIST_NUMBERS, "a list of numbers"),
    ):
        if (column := columns.get(role)) is not None and column.dtype not in types:
            yield f"its {role} {column.name} are {column.dtype}; expected {what}"
    for role in ("count", "mean"):
        if (column := columns.get(role)) is not None and column.dtype not in NUMBERS:
            yield f"its {role} {column.name} is {column.dtype}; expected a number"
    mean, source = columns.get("mean"), columns.get("source")
    if mean is not None and source is not None and mean.side != source.side:
        yield f"its mean {mean.name} is of the {mean.side}, its list of the {source.side}"
    if isinstance(kind, d.Remainder) and len({c.side for c in columns.values()}) > 1:
        sides = ", ".join(f"{c.name} ({c.side})" for c in columns.values())
        yield f"a remainder reads columns of one side, got {sides}"
    yield from _candidate_problems(kind, columns)


def _candidate_problems(kind: Input, columns: Mapping[str, SourceColumn]) -> Iterator[str]:
    source, candidate = columns.get("source"), columns.get("candidate")
    if not isinstance(kind, d.ItemHistory | d.Match) or source is None or candidate is None:
        return
    if candidate.dtype.startswith(("Array", "Set")) or not same_values(
        source.dtype, candidate.dtype
    ):
        yield (
            f"{source.name} holds {element(source.dtype)} and the candidate's {candidate.name} is"
            f" {candidate.dtype}: they would never be equal; give both one type"
        )


def option_problems(kind: Input, source: SourceColumn | None) -> Iterator[str]:
    """Options out of range, or that contradict each other."""
    if kind.optional and not kind.request:
        yield "optional=True is for request fields (request=True)"
    if kind.train_only and kind.default is None:
        yield "train_only=True needs the value that serving uses: default=..."
    if kind.default is not None:
        if not kind.train_only:
            yield "default=... is for train-only inputs (train_only=True)"
        elif source is not None and not _is_a(kind.default, source.dtype):
            yield f"default={kind.default!r} is not a {source.dtype} as {source.name} is"
    if isinstance(kind, d.Number):
        yield from _number_problems(kind)
    if isinstance(kind, d.VocabularyOptions):
        yield from _vocabulary_problems(kind)
    if isinstance(kind, d.CategorySequence | d.ItemHistory):
        yield from _order_problems(kind)
    if isinstance(kind, d.Vector) and kind.length is not None:
        yield from _length_problems(kind.length, source)
    if isinstance(kind, d.Time) and kind.zone is not None and not _known_zone(kind.zone):
        yield f"zone={kind.zone!r} is no IANA time zone such as 'Europe/Paris'"
    if isinstance(kind, d.Match | d.Remainder):
        yield from _sum_problems(kind)
    if isinstance(kind, d.SemanticId):
        yield from _code_problems(kind)


def _code_problems(kind: d.SemanticId) -> Iterator[str]:
    if (kind.id_input is None) != (kind.id_count is None):
        yield (
            "a gate between id and codes needs both id_input=..., the category of the id, and"
            " id_count=..., the column of its events"
        )
    if not _whole(kind.combinations, least=0):
        yield f"combinations={kind.combinations!r}; expected a whole number, 0 for none"
    if not _whole(kind.pretrain, least=0):
        yield f"pretrain={kind.pretrain!r}; expected a whole number of epochs, 0 for none"
    if kind.expected and (kind.id_input is not None or kind.pretrain):
        yield (
            f"expected=True with id_input={kind.id_input!r} and pretrain={kind.pretrain!r}; these"
            " are for one code a position: leave out one or the other"
        )


def _sum_problems(kind: d.Match | d.Remainder) -> Iterator[str]:
    if not (_finite(kind.smoothing) and kind.smoothing >= 0):
        yield f"smoothing={kind.smoothing!r}; expected a number, at least 0"
    if isinstance(kind, d.Match):
        return
    if not (_finite(kind.days) and kind.days > 0):
        yield f"days={kind.days!r}; expected a number above 0"
    if (kind.values is None) != (kind.count is None):
        yield "a mean needs both values=... and count=..., a number of events neither"
    if kind.log and kind.count is not None:
        yield "log=True is for a number of events; a mean may be below 0"


def _order_problems(kind: d.CategorySequence | d.ItemHistory) -> Iterator[str]:
    if not _whole(kind.last, least=1):
        yield f"last={kind.last!r}; expected a whole number, at least 1"
    if kind.order not in ("newest_last", "newest_first"):
        yield f"order={kind.order!r}; expected 'newest_last' or 'newest_first'"
    if isinstance(kind, d.ItemHistory):
        yield from _history_problems(kind)
    if not (_finite(kind.half_life) and kind.half_life > 0):
        yield f"half_life={kind.half_life!r}; expected a number above 0"


def _history_problems(kind: d.ItemHistory) -> Iterator[str]:
    if kind.mean and not (kind.labels and (kind.match or kind.similarity)):
        yield (
            "mean=... is for matches by how items were liked: it needs labels=..., and match or"
            " similarity"
        )
    if kind.similarity and not kind.codes:
        yield "similarity=True compares embeddings of codes: it needs codes=True"


def _length_problems(length: int, source: SourceColumn | None) -> Iterator[str]:
    if not _whole(length, least=1):
        yield f"length={length!r}; expected a whole number, at least 1"
    elif source is not None and source.vector_length not in (0, length):
        yield (
            f"length={length}, but Feast's vector_length of {source.name} is {source.vector_length}"
        )


def _number_problems(kind: d.Number) -> Iterator[str]:
    if not _whole(kind.bins, least=0):
        yield f"bins={kind.bins!r}; expected a whole number, 0 for none"
    if kind.clip is not None:
        numbers = isinstance(kind.clip, tuple | list) and len(kind.clip) == 2
        if not (numbers and all(map(_finite, kind.clip)) and kind.clip[0] < kind.clip[1]):
            yield f"clip={kind.clip!r}; expected two finite numbers, the lower one first"


def _vocabulary_problems(kind: d.VocabularyOptions) -> Iterator[str]:
    if not _whole(kind.min_count, least=1):
        yield f"min_count={kind.min_count!r}; expected a whole number, at least 1"
    if kind.max_size is not None and not _whole(kind.max_size, least=1):
        yield f"max_size={kind.max_size!r}; expected a whole number, at least 1, or None"
    if not _whole(kind.buckets, least=0):
        yield f"buckets={kind.buckets!r}; expected a whole number, 0 for none"
    if not (_finite(kind.dropout) and 0 <= kind.dropout < 1):
        yield f"dropout={kind.dropout!r}; expected a share in [0, 1)"


def ranker_problems(ranker: Ranker) -> Iterator[str]:
    """What is wrong with tasks, score and model."""
    names = [task.name for task in ranker.tasks]
    if not names:
        yield "it has no task; name at least one: tasks=[Task('click')]"
    if doubled := sorted({n for n in names if names.count(n) > 1}):
        yield f"tasks {doubled} are named more than once"
    for task in ranker.tasks:
        if not (_finite(task.weight) and task.weight > 0):
            yield f"task {task.name!r}: weight={task.weight!r}; expected a number above 0"
        if task.given is not None and (task.given not in names or task.given == task.name):
            yield f"task {task.name!r}: given={task.given!r} is no other task of {names}"
    for name, number in (ranker.score or {}).items():
        if name not in names:
            yield f"score names {name!r}, which is no task of {names}"
        if not _finite(number):
            yield f"score gives {name!r} {number!r}; expected a finite number"
    if ranker.model not in ("ppnet", "xgboost"):
        yield f"model={ranker.model!r}; expected 'ppnet' or 'xgboost'"
    if unknown := sorted({*(ranker.settings or {})} - {*d.SETTINGS}):
        yield f"settings {unknown} are unknown; known are {', '.join(d.SETTINGS)}"
    if not (_finite(ranker.listwise) and ranker.listwise >= 0):
        yield f"listwise={ranker.listwise!r}; expected a number, at least 0"
    elif ranker.listwise and ranker.request is None:
        yield "listwise > 0 needs the column that names a row's request: request=..."


def train_only_problems(inputs: Sequence[ResolvedInput]) -> Iterator[str]:
    """Crosses and matches of what serving does not know."""
    hidden = {i.columns["source"].name: i.name for i in inputs if i.kind.train_only}
    for i in inputs:
        if isinstance(i.kind, d.Cross | d.Match | d.Remainder):
            for column in i.columns.values():
                if column.name in hidden:
                    yield (
                        f"input {i.name!r} reads {column.name}, which is train-only"
                        f" ({hidden[column.name]!r}); leave it out of crosses,"
                        " matches and remainders"
                    )


def tree_problems(model: str, inputs: Sequence[ResolvedInput]) -> Iterator[str]:
    """Ways to read an input that boosted trees do not have."""
    for i in inputs:
        if model == "xgboost" and isinstance(i.kind, d.SemanticId) and i.kind.expected:
            yield (
                f"input {i.name!r}: expected=True is about embeddings, which model='xgboost' does"
                " not have; leave it out, or choose model='ppnet'"
            )


def id_gate_problems(inputs: Sequence[ResolvedInput]) -> Iterator[str]:
    """Gates between codes and what is no id of the same side, or whose count is no number."""
    by_name = {i.name: i for i in inputs}
    for i in inputs:
        if not isinstance(i.kind, d.SemanticId) or i.kind.id_input is None:
            continue
        of, count = by_name.get(i.kind.id_input), i.columns.get("count")
        if of is None or not isinstance(of.kind, d.Category) or of.side != i.side:
            categories = [n for n, c in by_name.items() if isinstance(c.kind, d.Category)]
            yield (
                f"input {i.name!r}: id_input={i.kind.id_input!r} is no category of the {i.side};"
                f" the ranker's categories are {categories}"
            )
        elif of.kind.train_only or of.kind.level or i.kind.level:
            yield (
                f"input {i.name!r}: id_input={i.kind.id_input!r} is train-only or a level input, or"
                " the codes are; a gate is between embeddings that towers read"
            )
        if count is not None and (count.dtype not in NUMBERS or count.side != i.side):
            yield (
                f"input {i.name!r}: id_count={count.name} is {count.dtype} of the {count.side};"
                f" expected a number of the {i.side}"
            )


def _is_a(value: Any, dtype: str) -> bool:
    if dtype == "Bool":
        return isinstance(value, bool)
    if dtype in INTEGERS:
        return isinstance(value, int) and not isinstance(value, bool)
    if dtype.startswith("Float"):
        return _finite(value)
    if dtype in ("UnixTimestamp", "ZonedTimestamp"):
        return isinstance(value, datetime) and value.tzinfo is not None
    return isinstance(value, str) if dtype in ("String", "Uuid", "TimeUuid", "Decimal") else True


def _whole(value: Any, *, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _known_zone(zone: str) -> bool:
    try:
        ZoneInfo(zone)
    except (ValueError, KeyError, OSError):
        return False
    return True
