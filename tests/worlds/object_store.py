"""An S3 service in the tests' own process, and a server that refuses everybody."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

BUCKET = "shop-bucket"


@contextmanager
def s3_service() -> Iterator[str]:
    """The endpoint of an S3 service with an empty bucket; skips where moto is not installed."""
    server = pytest.importorskip("moto.server", reason="needs moto and Flask (the extra dev)")
    service = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    service.start()
    host, port = service.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        service.stop()


def environment(endpoint: str) -> dict[str, str]:
    """The variables by which an S3 client finds it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_bucket(endpoint: str, name: str = BUCKET) -> None:
    """By a client of its own."""
    from pyarrow import fs

    owner = fs.S3FileSystem(
        endpoint_override=endpoint,
        access_key="someone",
        secret_key="something",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    owner.create_dir(name)


@contextmanager
def refusing_service(code: str, status: int = 403) -> Iterator[str]:
    """The endpoint of a service that answers every request with an error of S3."""
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()

    class Refusing(BaseHTTPRequestHandler):
        def _refuse(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = _refuse

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
