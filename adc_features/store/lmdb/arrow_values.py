"""Tables as values of LMDB. Reads, writes: bytes.

LMDB knows of no flipped bit, and Arrow reads what it is given: texts that are no UTF-8, lists that
end before they begin. A table is checked when it is read, so that a damaged one is told as such and
fails nobody who reads its values later.
"""

from typing import Any

import pyarrow as pa

from adc_features.errors import ArtifactError


def table_bytes(table: pa.Table) -> bytes:
    """A table as bytes, its schema included."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def table_of(value: Any) -> pa.Table:
    """The table of `table_bytes`, in the memory of `value`, a buffer.

    Raises ArtifactError where it is damaged.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(value)) as stream:
            table = stream.read_all()
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(
            f"rows in the live directory are damaged ({error}); put the directory back from a copy"
        ) from error
    return table
