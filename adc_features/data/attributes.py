"""Brand, category and category path of items as text. Reads: item tables. Writes: string arrays,
and what is wrong with a column.

A category may be text, a list of levels (`list<string>`) or several such lists
(`list<list<string>>`), of which the first is taken. All its levels count: "Beauty > Hair Care >
Styling". Where two items hold the same values in different orders, order means nothing in this
column, and every list is sorted: ["Drama", "Crime"] and ["Crime", "Drama"] are one group.
"""

from collections.abc import Sequence

import pyarrow as pa

ATTRIBUTES = {
    "brand": ("brand",),
    "category": ("category", "category_path", "categories", "category_paths"),
    "path": ("category_path", "category_paths", "categories", "category"),
}
"""What groups items: a name and the columns of the item table that may hold it, the first one
present is read.
"""

SEPARATOR = " > "


def attribute_column(items: pa.Table, name: str) -> str | None:
    """The column that an attribute is read from; None where the table has none of its columns."""
    return next((column for column in ATTRIBUTES[name] if column in items.column_names), None)


def attribute_problem(items: pa.Table, name: str) -> tuple[str, str, str] | None:
    """(column, what is wrong, what to do) where the attribute's column is of a type that cannot be
    read; None where it can.
    """
    column = attribute_column(items, name)
    if column is None:
        return None
    kind = items.schema.field(column).type
    depth, value = _levels(kind)
    if _is_plain(value) and (depth == 0 or (depth <= 2 and name != "brand" and _is_text(value))):
        return None
    if name == "brand":
        return (
            column,
            f"type is {kind}",
            "give one brand an item, as text; drop or rename the column otherwise",
        )
    do = (
        "give text, a list of levels (list<string>) or a list of such lists (list<list<string>>);"
        " drop or rename the column otherwise"
    )
    return column, f"type is {kind}", do


def attribute_text(items: pa.Table, name: str) -> pa.Array:
    """The attribute of each item, string [I]; "" where it is null, an empty list, or where the
    table has no such column.

    The column's type must be one that `attribute_problem` accepts.
    """
    column = attribute_column(items, name)
    if column is None:
        return pa.array([""] * len(items), pa.string())
    depth, _ = _levels(items.schema.field(column).type)
    if depth == 0:
        return pa.array(items[column].cast(pa.string()).fill_null("").to_numpy(), pa.string())
    paths = [_first_path(value, depth) for value in items[column].to_pylist()]
    if order_means_nothing(paths):
        paths = [tuple(sorted(path)) for path in paths]
    return pa.array([SEPARATOR.join(path) for path in paths], pa.string())


def order_means_nothing(paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether two of these lists hold the same values in different orders."""
    first: dict[frozenset[str], tuple[str, ...]] = {}
    return any(first.setdefault(frozenset(path), path) != path for path in paths)


def _first_path(value: list | None, depth: int) -> tuple[str, ...]:
    """The levels of the first list that has any, each once, without nulls and blanks."""
    lists = [value] if depth == 1 else value or []
    kept = (
        tuple(dict.fromkeys(level.strip() for level in path or [] if level and level.strip()))
        for path in lists
    )
    return next((path for path in kept if path), ())


def _levels(kind: pa.DataType) -> tuple[int, pa.DataType]:
    """How many lists deep a type is, and what the innermost list holds."""
    depth = 0
    while (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    ):
        depth, kind = depth + 1, kind.value_type
    return depth, kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def _is_plain(kind: pa.DataType) -> bool:
    """Text, or what has one text form: numbers, booleans and dates."""
    checks = (
        pa.types.is_integer,
        pa.types.is_floating,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_date,
    )
    return _is_text(kind) or any(check(kind) for check in checks)
