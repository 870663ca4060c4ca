"""The processes of a service. Reads: nothing. Writes: nothing.

uvicorn's own supervisor (`supervisors/multiprocess.py`, 0.54) restarts a worker that died, but the
workers of a supervisor that is killed (SIGKILL) go on and keep the port. So ours stays: a worker
ends with the process that started it, however that ends.
"""

import gc
import logging
import multiprocessing
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from prometheus_client.multiprocess import mark_process_dead

from adc_features.store.feast_import import import_feast_unchecked

log = logging.getLogger(__name__)


@contextmanager
def beside(
    processes: int,
    target: Callable[..., None],
    *arguments: Any,
    metrics: str | None,
    nice: int = 0,
) -> Iterator[None]:
    """Supervise further processes of target(*arguments) for as long as the block lasts: one that
    ends is started again.

    target: importable; ends on SIGTERM, and by itself when this process is gone
    (`end_with_parent`). metrics: as Service has it, of processes that answer. nice: what is added
    to their nice value, before they import anything.
    """
    spawn, stop = multiprocessing.get_context("spawn"), threading.Event()

    def started() -> Any:
        asked = f"{target.__module__}:{target.__qualname__}", nice, arguments
        process = spawn.Process(target=_run, args=asked, daemon=True)
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
    signal.signal(signal.SIGTERM, _end)
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


_ending = threading.Event()


def _end(*_: object) -> None:
    """End this process. Python ignores what is raised in the callback of a weak reference, and a
    signal may come there: `settle` looks again.
    """
    _ending.set()
    sys.exit(0)


def _run(target: str, nice: int, arguments: tuple[Any, ...]) -> None:
    """What a further process runs. target: `module:function`, imported here."""
    os.nice(nice)
    import_feast_unchecked()
    pkgutil.resolve_name(target)(*arguments)


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


def settle() -> None:
    """Let what stands now (Feast, a model) stay: walking it at each full collection would stall
    what comes. Raises SystemExit where the process was asked to end meanwhile.
    """
    gc.collect()
    gc.freeze()
    if _ending.is_set():
        sys.exit(0)
