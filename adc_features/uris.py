"""Where files are: local paths, s3://, gs://, az:// and fsspec's memory://, opened in one way.
Reads: addresses, the credentials that the environment holds. Writes: nothing.

Arrow's own file systems read the object stores, so that no further package is needed. Credentials
come from where each provider's tools look for them: they are never part of an address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from adc_features.errors import InputError, StorageError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+)://")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_SCHEMES = ("file", "s3", "gs", "gcs", "az", "abfs", "abfss", "memory")
_GCS_PATIENCE = timedelta(seconds=60)
"""Arrow's own is 15 minutes, also where there are no credentials at all."""
_CREDENTIALS = re.compile(
    r"ACCESS_DENIED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|EXPIRED|SIGNATURE|UNRECOGNIZED_CLIENT"
    r"|MISSING_AUTHENTICATION|AccessDenied|InvalidAccessKey|InvalidToken|ExpiredToken|Expired"
    r"|SignatureDoesNotMatch|HTTP (?:status|response code:?) 40[013]\b|[Cc]redential"
    r"|Unauthenticated|PERMISSION_DENIED|AuthenticationFailed|AuthorizationFailure|InvalidAuth"
    r"|Unauthorized|Forbidden|Generic \w+ error:.*\b40[013]\b"
)
_UNREACHED = re.compile(
    r"NETWORK_CONNECTION|curlCode|[Cc]onnection refused|Could not ?connect|Couldn't connect"
    r"|[Tt]imed? ?out|resolve host|SERVICE_UNAVAILABLE|SLOW_DOWN|error sending request"
    r"|Max retries exceeded|HTTP (?:status|response code:?) 50\d"
)
_PROVIDER = re.compile(r"AWS|Amazon|S3|google|GCS|storage\.googleapis|Azure|blob\.core|dfs\.core")
_WHERE = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN with temporary ones), or"
    " a profile or role that the AWS tools find",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
    "az": "AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY, or what DefaultAzureCredential finds",
}


class Opened(NamedTuple):
    """A file system of Arrow, and a path in it."""

    filesystem: Any
    path: str


def scheme_of(uri: str | Path) -> str | None:
    """The scheme of an address in lower case, None of a local path."""
    found = _SCHEME.match(uri) if isinstance(uri, str) else None
    return None if found is None else found[1].lower()


def is_address(text: str | Path) -> bool:
    """Whether `open_uri` opens it, and it is no local path: a database's URL is none either."""
    return scheme_of(text) in _SCHEMES


def is_remote(uri: str | Path) -> bool:
    """Whether an address is elsewhere than on this machine's disks."""
    return scheme_of(uri) not in (None, "file")


def local_path(uri: str | Path) -> Path:
    """The path of a local address. Raises InputError for one that is elsewhere."""
    if is_remote(uri):
        raise InputError(f"{uri} is not on this machine; expected a local path or file://")
    return Path(str(uri)[len("file://") :] if scheme_of(uri) else uri)


def below(uri: str | Path, name: str) -> str | Path:
    """The address of what is called `name` in a directory."""
    return f"{str(uri).rstrip('/')}/{name}" if scheme_of(uri) else Path(uri) / name


def open_uri(uri: str | Path, *, endpoint: str | None = None) -> Opened:
    """The file system that an address names, and the path in it.

    Parameters
    ----------
    uri : str or Path
        A local path, or an address with scheme file, s3, gs, az (or abfs) or memory.
    endpoint : str, optional
        The URL of an S3 service other than AWS; by default AWS_ENDPOINT_URL_S3 or
        AWS_ENDPOINT_URL of the environment, where one is set.

    Returns
    -------
    Opened
        Nothing was read yet: a file that is missing is told by the first reading.

    Raises
    ------
    InputError
        The scheme is none of these, or the address names no bucket.
    StorageError
        Azure's account is not named.

    Examples
    --------
    >>> open_uri("memory://bucket/features").path
    '/bucket/features'
    """
    from pyarrow import fs

    scheme = scheme_of(uri)
    if scheme not in (None, *_SCHEMES):
        raise InputError(
            f"{uri} has scheme {scheme!r}; expected a local path, or one of"
            f" {', '.join(f'{name}://' for name in _SCHEMES)}"
        )
    if not is_remote(uri):
        return Opened(fs.LocalFileSystem(use_mmap=True), str(local_path(uri)))
    rest = str(uri).partition("://")[2]
    if not rest.strip("/"):
        raise InputError(f"{uri} names no bucket; expected {scheme}://bucket/path")
    with reaching(uri):
        if scheme == "memory":
            import fsspec

            memory = fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem("memory")))
            return Opened(memory, "/" + rest.strip("/"))
        if scheme == "s3" and "?" not in rest:
            options = {"endpoint_override": at} if (at := _s3_endpoint(endpoint)) else {}
            return Opened(fs.S3FileSystem(**options), rest)
        if scheme in ("gs", "gcs") and "?" not in rest:
            return Opened(fs.GcsFileSystem(retry_time_limit=_GCS_PATIENCE), rest)
        if scheme == "az":
            return Opened(_azure(uri), rest)
        return Opened(*fs.FileSystem.from_uri(str(uri)))


def s3_options(endpoint: str | None) -> dict[str, str]:
    """The endpoint of S3 as libraries of the object_store family (deltalake) take it."""
    at = _s3_endpoint(endpoint)
    if at is None:
        return {}
    return {"aws_endpoint": at, "aws_allow_http": str(at.startswith("http://")).lower()}


@contextmanager
def reaching(uri: str | Path) -> Iterator[None]:
    """Raise StorageError, naming the address, for what an object store refuses or does not
    answer.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if (refused := storage_error(error, uri)) is not None:
            raise refused from error
        raise


def storage_error(error: Exception, place: object) -> StorageError | None:
    """What an error of an object store means; None for any other.

    place: the address or path, for the message.
    """
    said = in_one_line(error)
    scheme = scheme_of(str(place))
    if scheme in (None, "file") and not _PROVIDER.search(said):
        return None
    if _UNREACHED.search(said):
        return StorageError(
            f"{place}: the object store was not reached ({said}); check the network, the region and"
            " the endpoint (AWS_ENDPOINT_URL, s3_endpoint_override), then try again"
        )
    if _CREDENTIALS.search(said):
        known = {"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme or "", scheme)
        where = _WHERE.get(known or "", "; or ".join(_WHERE.values()))
        return StorageError(
            f"{place}: the object store refuses the credentials, or there are none ({said}); they"
            f" are missing, have expired or do not allow this. Renew them: {where}"
        )
    return None


def in_one_line(error: Exception) -> str:
    """What a library says, without the colours and line breaks that it is printed with."""
    return " ".join(_COLOUR.sub("", str(error)).split()) or type(error).__name__


def _s3_endpoint(endpoint: str | None) -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
    return endpoint or next((os.environ[name] for name in names if os.environ.get(name)), None)


def _azure(uri: str | Path) -> Any:
    from pyarrow import fs

    names = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
    account = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if account is None:
        raise StorageError(
            f"{uri}: no Azure account is named; set AZURE_STORAGE_ACCOUNT, or write the address as"
            " abfss://container@account.dfs.core.windows.net/path"
        )
    key = os.environ.get("AZURE_STORAGE_KEY")
    return fs.AzureFileSystem(account_name=account, **({"account_key": key} if key else {}))
