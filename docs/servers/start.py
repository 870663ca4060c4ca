"""Start a private PostgreSQL and Redis on free loopback ports, until interrupted. Reads: installed
binaries. Writes: a fresh directory.

    python docs/servers/start.py

It prints the variables that the .yaml files beside it expect; Ctrl-C stops the servers and removes
everything. For trying out and for tests: there is no password, and nothing survives. PostgreSQL
refuses to run as root; it is then run as the user `postgres`.
"""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

USER, DATABASE = "adc", "postgres"
_PATIENCE = 60.0
"""Seconds until a server must answer."""


def postgres_binaries() -> Path | None:
    """The directory of the newest installed PostgreSQL server; None without one."""
    installed = sorted(
        glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(Path(path).parts[-3])
    )
    found = installed[-1] if installed else shutil.which("initdb")
    return Path(found).parent if found else None


@contextlib.contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """The variables of a running PostgreSQL server."""
    binaries, port = postgres_binaries(), _free_port()
    if binaries is None:
        raise FileNotFoundError(
            "no PostgreSQL server is installed; install postgresql (apt-get install postgresql)"
        )
    as_user = (
        ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
        if os.getuid() == 0
        else []
    )
    with tempfile.TemporaryDirectory(
        prefix="adc-postgres-", ignore_cleanup_errors=True
    ) as directory:
        if as_user:
            shutil.chown(directory, "postgres", "postgres")
        data = f"{directory}/data"
        subprocess.run(
            [
                *as_user,
                binaries / "initdb",
                "-D",
                data,
                "-U",
                USER,
                "--auth=trust",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C",
            ],
            check=True,
            capture_output=True,
            cwd=directory,
        )
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", directory, "-c", "fsync=off"]
        with _running(
            [*as_user, str(binaries / "postgres"), "-D", data, *options],
            port,
            stop=signal.SIGINT,
            directory=directory,
        ):
            ready = [
                binaries / "pg_isready",
                "-q",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
                "-t",
                str(int(_PATIENCE)),
            ]
            # it listens before it takes connections
            while subprocess.run(ready, check=False).returncode == 1:
                time.sleep(0.1)
            settings = {
                "HOST": "127.0.0.1",
                "PORT": str(port),
                "DATABASE": DATABASE,
                "USER": USER,
                "PASSWORD": "none",
            }
            yield {f"ADC_POSTGRES_{name}": value for name, value in settings.items()}


@contextlib.contextmanager
def redis() -> Iterator[dict[str, str]]:
    """The variables of a running Redis server."""
    binary, port = shutil.which("redis-server"), _free_port()
    if binary is None:
        raise FileNotFoundError(
            "no Redis server is installed; install redis-server (apt-get install redis-server)"
        )
    with (
        tempfile.TemporaryDirectory(prefix="adc-redis-") as directory,
        _running(
            [binary, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", directory],
            port,
            stop=signal.SIGTERM,
            directory=directory,
        ),
    ):
        yield {"ADC_REDIS_HOST": "127.0.0.1", "ADC_REDIS_PORT": str(port)}


@contextlib.contextmanager
def _running(
    command: list[str], port: int, *, stop: signal.Signals, directory: str
) -> Iterator[None]:
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory
    )
    try:
        until = time.monotonic() + _PATIENCE
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(
                    f"{command[-1]} did not answer on port {port}: exit code {process.poll()}"
                )
            time.sleep(0.05)
        yield
    finally:
        process.send_signal(stop)
        process.wait(_PATIENCE)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    try:
        with postgres() as first, redis() as second:
            for name, value in (first | second).items():
                print(f"export {name}={value}", flush=True)
            print("# running; Ctrl-C stops both", flush=True)
            signal.pause()
    except FileNotFoundError as missing:
        sys.exit(str(missing))
    except KeyboardInterrupt:
        pass
