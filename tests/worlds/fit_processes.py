"""Several processes on this machine that fit together, over gloo. Reads: a function of a module.
Writes: what it returned in the process that leads.
"""

import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 600
"""After that long the processes are stopped: a fit of a test takes a few."""


def in_processes(
    work: Callable[..., Any],
    *inputs: Any,
    size: int = 2,
    before: Callable[[], None] | None = None,
) -> list[Any]:
    """What `work(*inputs)` returned in the process of rank 0, and how each process ended: the text
    of its error, or "". before: called in every process, which `work` is not.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        started = [
            context.Process(target=_run, args=(Path(folder), rank, size, work, inputs, before))
            for rank in range(size)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(SECONDS)
        late = [process for process in started if process.is_alive()]
        for process in late:
            process.kill()
        assert not late, "a process of the fit did not end"
        return [_read(Path(folder) / name) for name in ("answer", *map(str, range(size)))]


def _run(
    folder: Path,
    rank: int,
    size: int,
    work: Callable[..., Any],
    inputs: tuple[Any, ...],
    before: Callable[[], None] | None,
) -> None:
    import torch
    import torch.distributed as dist

    from adc_features.processes import lead

    torch.set_num_threads(1)
    if before is not None:
        before()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    store = dist.FileStore(str(folder / "meeting"), size)
    words = ""
    try:
        answer = lead(lambda: work(*inputs), store=store)
        if rank == 0:
            (folder / "answer").write_bytes(pickle.dumps(answer))
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
    (folder / str(rank)).write_bytes(pickle.dumps(words))


def _read(path: Path) -> Any:
    return pickle.loads(path.read_bytes()) if path.is_file() else None
