"""The processes of a service. Reads: nothing. Writes: nothing.

uvicorn's own supervisor (`supervisors/multiprocess.py`, 0.54) restarts a worker that died, but the
workers of a supervisor that is killed (SIGKILL) go on and keep the port. So ours stays: a worker
ends with the process that started it, however that ends.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from prometheus_client.multiprocess import mark_process_dead

log = logging.getLogger(__name__)


@contextmanager
def beside(
    processes: int, target: Callable[..., None], *arguments: Any, metrics: str | None
) -> Iterator[None]:
    """Supervise further processes of target(*arguments) for as long as the block lasts: one that
    ends is started again.

    target: importable; ends on SIGTERM, and by itself when this process is gone
    (`end_with_parent`). metrics: as Service has it, of processes that answer.
    """
    spawn, stop = multiprocessing.get_context("spawn"), threading.Event()

    def started() -> Any:
        process = spawn.Process(target=target, args=arguments, daemon=True)
        process.start()
        return process

    def watch() -> None:
        while not stop.wait(1):
            for place, process in enumerate(running):
                if process.exitcode is None:
                    continue
                log.error(
                    "stage=serve process=%d ended=%d: another takes its place",
                    process.pid,
                    process.exitcode,
                )
                try:
                    # the directory of metrics is gone or read-only: their page says so
                    with suppress(OSError):
                        if metrics is not None:
                            mark_process_dead(process.pid, path=metrics)
                    running[place] = started()
                except Exception:  # no memory, no process left: tried again in a second
                    log.exception("stage=serve process=%d was not replaced", process.pid)

    # uvicorn raises it again once it has stopped; by default nothing would run after that
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    running = [started() for _ in range(processes)]
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        for process in running:
            process.terminate()
        for process in running:
            process.join()


def end_with_parent() -> None:
    """End this process, as SIGTERM does, when the one that started it is gone, however it went."""

    def wait() -> None:
        cast(Any, multiprocessing.parent_process()).join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def one_thread() -> None:
    """Compute matrix products on one thread from now on.

    Requests are scored one at a time, and for products this small a second thread costs more than
    it brings. Without threadpoolctl the environment decides (`OPENBLAS_NUM_THREADS=1`).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for processes that are started from here
    with suppress(ImportError):
        from threadpoolctl import threadpool_limits

        threadpool_limits(1, user_api="blas")
