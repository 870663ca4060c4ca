"""Which kind fits which Feast type, and which kind a type has by default. Reads, writes: values.

Types are Feast's as text: "Float32", "Array(String)", "Set(Int64)".
"""

from collections.abc import Collection

from adc_features.inputs import declaration as d
from adc_features.inputs.declaration import Input
from adc_features.inputs.resolved import ResolvedInput

NUMBERS = ("Float32", "Float64", "Decimal", "Int32", "Int64")
INTEGERS = ("Int32", "Int64")
TEXTS = ("String", "Uuid", "TimeUuid")
TIMES = ("UnixTimestamp", "ZonedTimestamp")
VALUES = (*TEXTS, *INTEGERS)
"""What a vocabulary holds."""


def _lists(containers: tuple[str, ...], elements: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{c}({e})" for c in containers for e in elements)


FITS: dict[type[Input], tuple[str, ...]] = {
    d.Number: NUMBERS,
    d.Category: VALUES,
    d.Flag: ("Bool", *INTEGERS),
    d.Time: (*TIMES, "Int64"),
    d.Vector: _lists(("Array",), ("Float32", "Float64")),
    d.CategorySet: _lists(("Array", "Set"), VALUES),
    d.CategorySequence: _lists(("Array",), VALUES),
    d.ItemHistory: _lists(("Array",), VALUES),
    d.Cross: VALUES,
    d.Match: _lists(("Array", "Set"), VALUES),
    d.Remainder: NUMBERS,
}
"""Kind -> types of the column that it reads."""

LIST_TIMES = _lists(("Array",), ("UnixTimestamp", "Int64"))
LIST_NUMBERS = _lists(("Array",), ("Float32", "Float64", *INTEGERS))


def default_kind(dtype: str) -> Input | None:
    """The kind of a type by itself, None for a type that is left out."""
    if dtype in NUMBERS:
        return d.Number()
    if dtype in TEXTS:
        return d.Category()
    if dtype == "Bool":
        return d.Flag()
    if dtype in TIMES:
        return d.Time()
    if dtype in FITS[d.Vector]:
        return d.Vector()
    return d.CategorySet() if dtype in FITS[d.CategorySet] else None


def why_left_out(dtype: str) -> str:
    """Why no kind reads a type, and what to do."""
    outer, _, inner = dtype.partition("(")
    if outer in ("Map", "ScalarMap", "Json", "Struct") or inner.startswith(
        ("Map", "Json", "Struct")
    ):
        return "holds named values; give those that matter as features of their own"
    if "Bytes" in dtype:
        return "holds bytes; give a vector of them instead"
    if inner.startswith(("Array", "Set")):
        return "a list of lists; give one list for each"
    if inner.startswith(TIMES) or inner.startswith("Bool"):
        return "a list that means something only beside others: the times or labels of a history"
    return "no kind reads this type; cast it to a number, a text or a list of them"


def element(dtype: str) -> str:
    """The element type of a list, the type itself of a scalar."""
    return dtype.partition("(")[2].removesuffix(")") or dtype


def same_values(left: str, right: str) -> bool:
    """Can values of these types be equal? 12 and "12" are not."""
    left, right = element(left), element(right)
    return left == right or (left in INTEGERS and right in INTEGERS)


def text_alike(left: str, right: str) -> bool:
    """Are values of both types text, or of none? "12" is nowhere read as 12."""
    return (element(left) in TEXTS) == (element(right) in TEXTS)


def width(spec: ResolvedInput) -> str:
    """The width of an input's block in words: E for each embedding, L for the positions of codes,
    and the number of dense columns."""
    match kind := spec.kind:
        case d.Number():
            text = "2 + E" if kind.bins else "2"
        case d.Flag() | d.Match() | d.Remainder():
            text = "2"
        case d.Time():
            text = "2 + 4" if kind.zone else "2"
        case d.Vector():
            text = "E + 1"
        case d.CategorySet() | d.CategorySequence():
            text = "E + 3"
        case d.ItemHistory():
            text = _history_width(kind, spec.columns)
        case d.SemanticId():
            embedded = "L*E + E" if kind.combinations else "L*E"
            text = f"{embedded} + L + {2 if 'reliability' in spec.columns else 1}"
        case _:
            text = "E"
    return text


def _history_width(kind: d.ItemHistory, read: Collection[str]) -> str:
    """Size and absence; age and its absence with times; matches of ids, or of each position."""
    dense = 4 if "times" in read else 2
    matches = 0 if not kind.match else 2 if "labels" in read else 1
    if not kind.codes:
        dense, matches = dense + matches, 0
    similar = 0 if not kind.similarity else 2 if "labels" in read else 1
    positions = "".join({0: "", 1: "L + ", 2: "2L + "}[each] for each in (matches, similar))
    return f"{'2E + ' if kind.embedded else ''}{positions}{dense}"


def transform(kind: Input) -> str:
    """What happens to a value, in a few words."""
    match kind:
        case d.Number():
            words = [f"clip {kind.clip[0]:g}..{kind.clip[1]:g}"] if kind.clip else []
            words += ["log1p"] if kind.log else []
            words += ["standardise"] if kind.standardise else []
            words += [f"{kind.bins} bins"] if kind.bins else []
            text = ", ".join(words) or "as it is"
        case d.Flag():
            text = "-1 / +1"
        case d.Time():
            text = "log1p(age in days)" + (
                f", hour and weekday in {kind.zone}" if kind.zone else ""
            )
        case d.Vector():
            text = "unit length, projection" if kind.normalise else "projection"
        case d.CategorySequence() | d.ItemHistory():
            text = f"newest {kind.last} of {kind.order}"
            if isinstance(kind, d.ItemHistory):
                text += ", as codes" if kind.codes else ", as ids"
                text += ", how like they are" if kind.similarity else ""
        case d.SemanticId():
            text = "codes with weights" if kind.weights else "codes"
            text += f", gated with {kind.id_input}" if kind.id_input else ""
            text += ", of two codes the expected one" if kind.expected else ""
            text += f", {kind.combinations} combinations" if kind.combinations else ""
        case d.Match():
            text = "sum over equal elements"
        case d.Remainder():
            text = f"of events older than {kind.days:g} days" + (", log1p" if kind.log else "")
        case _:
            text = "vocabulary"
    if isinstance(kind, d.VocabularyOptions) and not (
        isinstance(kind, d.ItemHistory) and kind.codes
    ):
        text += f", min_count {kind.min_count}"
        text += f", {kind.buckets} buckets" if kind.buckets else ""
        text += f", at most {kind.max_size}" if kind.max_size else ""
    return text + (f"; train only, then {kind.default!r}" if kind.train_only else "")
