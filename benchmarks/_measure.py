"""What a benchmark says about a system. Reads: functions to run.
Writes: numbers, and one JSON document.

Every system runs in a process of its own,
so that its peak memory is its own and no cache is shared.
"""

import json
import multiprocessing
import os
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def measured(work: Callable[[], int]) -> dict[str, float]:
    """CPU seconds, wall seconds, rows a second (work returns its rows) and this process's peak
    memory in bytes.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    rows = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "cpu_s": cpu,
        "wall_s": wall,
        "rows_per_s": rows / wall,
        "rows": rows,
        "peak_rss_bytes": peak_rss_bytes(),
    }


@contextmanager
def tree(every: float = 0.2) -> Iterator[dict[str, float]]:
    """CPU seconds, wall seconds and the highest memory of this process and all below it (a Java
    machine, its Python workers), filled in when the block ends.
    """
    import psutil

    me, seen, peak = psutil.Process(), dict[tuple[int, float], float](), [0]
    cost: dict[str, float] = {}

    def look() -> None:
        held = 0
        for process in (me, *me.children(recursive=True)):
            try:
                used, key = process.cpu_times(), (process.pid, process.create_time())
                seen[key] = used.user + used.system
                held += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], held)

    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(every):
            look()

    look()
    before, wall = sum(seen.values()), time.perf_counter()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield cost
    finally:
        ended.set()
        thread.join()
    look()
    cost["cpu_s"] = sum(seen.values()) - before
    cost["wall_s"] = time.perf_counter() - wall
    cost["peak_rss_bytes"] = peak[0]


def apart(function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """function(*arguments, **named) in a fresh process; all must be importable from a module."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments, named)


def peak_rss_bytes() -> int:
    """Of this process alone: on Linux `ru_maxrss` begins with what the process was forked from."""
    status = Path("/proc/self/status")
    if status.is_file():
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu_name(),
        "python": platform.python_version(),
        "load_1m": os.getloadavg()[0],
    }


def write_report(
    target: str, *, systems: Mapping[str, Any], ratios: Mapping[str, float], **facts: Any
) -> None:
    """The document that other tools read, to a file or to `-` (standard output)."""
    text = json.dumps(
        {"systems": systems, "ratios": ratios, "machine": machine(), **facts}, indent=2, default=str
    )
    if target == "-":
        print(text)
    else:
        Path(target).write_text(text + "\n", encoding="utf-8")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.is_file()
        else []
    )
    return names[0] if names else platform.processor()
