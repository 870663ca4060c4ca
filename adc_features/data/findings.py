"""What a check says about a table, and the checks that every table gets. Reads: Arrow tables.
Writes: findings.
"""

from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc


class Finding(NamedTuple):
    """One sentence about the data and one about what to do."""

    level: Literal["error", "warning", "fact"]
    where: str
    what: str
    do: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.do}" if self.do else "")


def unusable_columns(table: pa.Table, wanted: set[str], where: str) -> Finding | None:
    """Why the table cannot be used as it is: columns that it lacks, or no rows."""
    if missing := sorted(wanted - set(table.column_names)):
        return Finding(
            "error",
            where,
            f"columns {missing} are missing; got {table.column_names}",
            "rename or add them",
        )
    if len(table) == 0:
        return Finding("error", where, "the table is empty", "give at least one row")
    return None


def unusable_ids(column: pa.ChunkedArray, where: str) -> list[Finding]:
    """Why ids cannot be used as they are: their type, their range, or nulls."""
    if not (
        pa.types.is_integer(column.type)
        or pa.types.is_string(column.type)
        or pa.types.is_large_string(column.type)
    ):
        return [
            Finding("error", where, f"ids are of type {column.type}", "use integers or strings")
        ]
    if pa.types.is_uint64(column.type) and (pc.max(column).as_py() or 0) >= 2**63:
        return [Finding("error", where, "ids exceed the range of int64", "store them as strings")]
    return (
        [Finding("error", where, f"{column.null_count} ids are null", "drop these rows")]
        if column.null_count
        else []
    )
