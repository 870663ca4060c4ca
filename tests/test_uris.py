"""Addresses are opened in one way, and what an object store refuses is said in words."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import environment, refusing_service

from adc_features.artifact import seal
from adc_features.errors import ArtifactError, InputError, StorageError
from adc_features.loader import ParquetGroups
from adc_features.pulled import CACHE, pulled_directory
from adc_features.uris import below, is_remote, local_path, open_uri, scheme_of, storage_error


def put(uri: str, directory: Path) -> None:
    """Copy a directory to an address."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    fs.copy_files(
        str(directory),
        path,
        source_filesystem=fs.LocalFileSystem(),
        destination_filesystem=filesystem,
    )


def test_local_addresses_are_paths(tmp_path):
    """A path, its text and its file:// address are one file."""
    (tmp_path / "rows").write_bytes(b"12")
    for given in (tmp_path / "rows", str(tmp_path / "rows"), f"file://{tmp_path}/rows"):
        filesystem, path = open_uri(given)
        assert filesystem.get_file_info(path).size == 2
        assert local_path(given) == tmp_path / "rows"
        assert not is_remote(given)
    assert below("s3://b/x/", "y") == "s3://b/x/y"
    assert below(tmp_path, "y") == tmp_path / "y"
    assert scheme_of("S3://b") == "s3"
    with pytest.raises(InputError, match="not on this machine"):
        local_path("s3://b/x")


@pytest.mark.parametrize(
    ("uri", "error", "message"),
    [
        ("ftp://somewhere/rows", InputError, "scheme 'ftp'"),
        ("s3://", InputError, "no bucket"),
        ("az://container/rows", StorageError, "AZURE_STORAGE_ACCOUNT"),
    ],
)
def test_addresses_that_cannot_be_opened_are_refused(monkeypatch, uri, error, message):
    """Another scheme, no bucket, no account: each is said by name."""
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(error, match=message):
        open_uri(uri)


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "ExpiredToken"])
def test_refused_credentials_are_said(monkeypatch, tmp_path, code):
    """A join, a directory, a row group: the error names the address and the credentials."""
    from adc_features.store.parquet.opening import open_source

    with refusing_service(code) as endpoint:
        for name, value in {**environment(endpoint), CACHE: str(tmp_path)}.items():
            monkeypatch.setenv(name, value)
        filesystem, path = open_uri("s3://shop/rows.parquet")
        for use in (
            lambda: open_source(path, filesystem=filesystem),
            lambda: pulled_directory("s3://shop/g1"),
            lambda: ParquetGroups("s3://shop/rows.parquet"),
        ):
            with pytest.raises(StorageError, match=r"shop/.*refuses the credentials"):
                use()


def test_a_store_that_does_not_answer_is_said(monkeypatch, tmp_path):
    """It is told apart from a file that is missing or damaged."""
    with refusing_service("x") as gone:
        pass
    for name, value in {**environment(gone), CACHE: str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageError, match="was not reached"):
        pulled_directory("s3://shop/g1")


def test_errors_of_files_here_are_not_of_an_object_store():
    """A local message may hold the same words."""
    assert storage_error(OSError("connection timed out"), "/data/rows.parquet") is None
    assert storage_error(OSError("page is corrupt"), "s3://shop/rows.parquet") is None


def sealed(folder: Path, text: str) -> Path:
    made = folder / "g1"
    (made / "inside").mkdir(parents=True, exist_ok=True)
    (made / "inside" / "codes").write_text(text)
    seal(made, {})
    return made


def test_a_sealed_directory_is_copied_once_and_verified(bucket, tmp_path):
    """Each content has its copy; what is altered or incomplete is refused, and leaves no copy."""
    uri = f"{bucket}/copied/g1"
    put(uri, sealed(tmp_path, "one"))
    first = pulled_directory(uri)
    assert (first / "inside" / "codes").read_text() == "one"
    assert pulled_directory(uri) == first
    put(uri, sealed(tmp_path, "two"))
    second = pulled_directory(uri)
    assert (second / "inside" / "codes").read_text() == "two"
    assert (first / "inside" / "codes").read_text() == "one"
    made = sealed(tmp_path, "three")
    (made / "inside" / "codes").write_text("other")
    put(uri, made)
    copies = sorted((tmp_path / "cache").iterdir())
    with pytest.raises(ArtifactError, match="altered, or replaced while it was copied"):
        pulled_directory(uri)
    assert [p for p in (tmp_path / "cache").glob("*/g1") if p.parent not in copies] == []
    filesystem, path = open_uri(uri)
    filesystem.delete_file(f"{path}/inside/codes")
    with pytest.raises(ArtifactError, match="lacks codes"):
        pulled_directory(uri)
    with pytest.raises(ArtifactError, match=r"has no manifest\.json"):
        pulled_directory(f"{bucket}/nothing")
    assert pulled_directory(tmp_path / "g1") == tmp_path / "g1"


@pytest.mark.parametrize("scheme", ["s3", "memory"])
def test_row_groups_are_read_by_their_address(bucket, tmp_path, scheme):
    """As from this machine's files, in a process that the reader was sent to as well."""
    import pickle

    pq.write_table(pa.table({"x": [1, 2, 3]}), tmp_path / "rows.parquet", row_group_size=2)
    root = f"{bucket}/groups" if scheme == "s3" else "memory://groups"
    filesystem, path = open_uri(root)
    filesystem.create_dir(path)
    with filesystem.open_output_stream(f"{path}/rows.parquet") as file:
        file.write((tmp_path / "rows.parquet").read_bytes())
    groups = ParquetGroups([f"{root}/rows.parquet"])
    assert groups.rows.tolist() == [2, 1]
    assert groups.read(0)["x"].to_pylist() == [1, 2]
    assert pickle.loads(pickle.dumps(groups)).read(1)["x"].to_pylist() == [3]
    with pytest.raises(ArtifactError, match="cannot be read as Parquet"):
        ParquetGroups(f"{root}/none.parquet")
