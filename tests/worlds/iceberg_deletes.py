"""Rows of an Iceberg table deleted by a delete file, as Spark and Flink do: pyiceberg reads such
files, where it can, and writes none.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.typedef import Record

_CODEC = "deflate"
_PATH = pa.field("file_path", pa.string(), False, {"PARQUET:field_id": "2147483546"})
_ROW = pa.field("pos", pa.int64(), False, {"PARQUET:field_id": "2147483545"})


class _Deletes(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


def with_deleted(table: Any, folder: Path, *rows: int, equality: bool = False) -> str:
    """The address of metadata by which these rows of the table's only file are deleted: by their
    positions, or by their ids (equality).
    """
    snapshot = table.current_snapshot()
    (task,) = table.scan().plan_files()
    of = task.file.file_path
    file = folder / "deletes.parquet"
    if equality:
        number = table.schema().find_field("id").field_id
        kind = pa.field("id", pa.int64(), True, {"PARQUET:field_id": str(number)})
        pq.write_table(pa.table({"id": list(rows)}, pa.schema([kind])), file)
        content, more = DataFileContent.EQUALITY_DELETES, {"equality_ids": [number]}
    else:
        schema = pa.schema([_PATH, _ROW])
        pq.write_table(pa.table({"file_path": [of] * len(rows), "pos": list(rows)}, schema), file)
        content, more = DataFileContent.POSITION_DELETES, {}
    new, sequence = snapshot.snapshot_id + 1, snapshot.sequence_number + 1
    output = table.io.new_output(f"file://{folder}/deletes.avro")
    with _Deletes(table.spec(), table.schema(), output, new, _CODEC) as writer:
        deleted = DataFile.from_args(
            content=content,
            file_path=f"file://{file}",
            file_format=FileFormat.PARQUET,
            partition=Record(),
            record_count=len(rows),
            file_size_in_bytes=file.stat().st_size,
            spec_id=0,
            **more,
        )
        writer.add_entry(
            ManifestEntry.from_args(
                status=ManifestEntryStatus.ADDED, snapshot_id=new, data_file=deleted
            )
        )
    manifests = [*snapshot.manifests(table.io), writer.to_manifest_file()]
    listed = f"file://{folder}/snapshot.avro"
    output = table.io.new_output(listed)
    with write_manifest_list(2, output, new, snapshot.snapshot_id, sequence, _CODEC) as writer:
        writer.add_manifests(manifests)
    text = Path(table.metadata_location.removeprefix("file://")).read_text()
    metadata = json.loads(text)
    added = {
        **metadata["snapshots"][-1],
        "snapshot-id": new,
        "parent-snapshot-id": snapshot.snapshot_id,
        "sequence-number": sequence,
        "manifest-list": listed,
    }
    metadata["snapshots"].append(added)
    metadata |= {"current-snapshot-id": new, "last-sequence-number": sequence}
    metadata["refs"] = {"main": {"snapshot-id": new, "type": "branch"}}
    place = folder / "v9.metadata.json"
    place.write_text(json.dumps(metadata))
    return str(place)
