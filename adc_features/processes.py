"""Processes that fit together. Reads: what torchrun says of them. Writes: sums over all of them.

The process of rank 0 leads: it runs the program as if it were alone, and it alone reads and writes
files. The others follow: where the leader comes to a fit that can be shared, it sends them the
fit's inputs, and all run it, each on its share of the rows of every batch. What a fit adds up over
rows is added up over processes, so that all of them hold the same parameters after each step, and
those of one process but for the order of sums.

Gradients are added up once, by `add_gradients`: what `total` returns is the sum of all processes,
and its gradient is that of the own part alone.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from adc_features.errors import DeviceError
from adc_features.extras import extra_modules
from adc_features.ranks import ALONE, Ranks

with extra_modules():
    import torch
    import torch.distributed as dist
    from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(days=1)
"""How long followers wait for the next fit: the leader may join and encode for hours between two.
One that died is noticed at once, by its closed connection."""
FAILED = "failed"
"""Where the store of the processes holds what went wrong in one of them."""


# ---- sums over processes


class _Total(torch.autograd.Function):
    """The sum over processes; backward, the gradient of the own part."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Gathered(torch.autograd.Function):
    """The rows of all processes; backward, what all of them ask of the own rows."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.start, ctx.stop = sum(sizes[:rank]), sum(sizes[: rank + 1])
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        whole = gradients[0].contiguous().clone()
        dist.all_reduce(whole)
        return whole[ctx.start : ctx.stop], None, None


def total(part: Tensor, ranks: Ranks) -> Tensor:
    """The sum of all processes' parts, of any shape; alone the part itself."""
    if ranks.alone:
        return part
    return _Total.apply(part.long() if part.dtype == torch.bool else part)


def mean(values_B: Tensor, ranks: Ranks) -> Tensor:
    """The mean over the rows of all processes, a scalar."""
    if ranks.alone:
        return values_B.mean()
    count = torch.tensor(len(values_B), device=values_B.device)
    return total(values_B.sum(), ranks) / total(count, ranks).clamp_min(1)


def gathered(rows: Tensor, ranks: Ranks) -> tuple[Tensor, int]:
    """The rows of all processes, in the order of ranks, and where this one's begin."""
    if ranks.alone:
        return rows, 0
    sizes = torch.zeros(ranks.size, dtype=torch.int64, device=rows.device)
    sizes[ranks.rank] = len(rows)
    dist.all_reduce(sizes)
    counts = sizes.tolist()
    flags = rows.dtype == torch.bool
    found = _Gathered.apply(rows.byte() if flags else rows, counts, ranks.rank)
    return found.bool() if flags else found, sum(counts[: ranks.rank])


def add_gradients(parameters: Iterable[Tensor], ranks: Ranks) -> None:
    """Let every parameter's gradient be the sum of all processes' own, in one message. One that no
    process has a gradient of keeps none.
    """
    if ranks.alone:
        return
    wanted = list(parameters)
    own = [p.grad for p in wanted]
    there = torch.tensor([float(g is not None) for g in own], device=wanted[0].device)
    parts = [
        (torch.zeros_like(p) if g is None else g).flatten()
        for p, g in zip(wanted, own, strict=True)
    ]
    whole = torch.cat([there, *parts])
    dist.all_reduce(whole)
    some, *summed = whole.split([len(wanted), *(p.numel() for p in wanted)])
    for parameter, found, values in zip(wanted, some.tolist(), summed, strict=True):
        parameter.grad = values.view_as(parameter).clone() if found else None


# ---- one leads, the others follow


@dataclass
class _Group:
    """The processes of a program. store: what they tell each other of failures. working: in a fit
    now; broken: one of them failed, so no further fit can be shared.
    """

    ranks: Ranks
    store: dist.Store
    working: bool = False
    broken: bool = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around a shared fit: what goes wrong here is told to the others, and what went wrong
        there is raised here.
        """
        self.working = True
        try:
            yield
        except BaseException as error:
            self.broken = True
            if _of_connection(error):
                raise DeviceError(self.told()) from error
            with suppress(RuntimeError):  # the store went with its process
                words = f"process {self.ranks.rank} failed: {type(error).__name__}: {error}"
                self.store.set(FAILED, words)
            raise
        finally:
            self.working = False

    def told(self) -> str:
        """What went wrong elsewhere."""
        words = "another process stopped, and its output says why"
        with suppress(RuntimeError):
            if self.store.check([FAILED]):
                words = self.store.get(FAILED).decode()
        return (
            f"{words}; all {self.ranks.size} processes of the fit stopped, and nothing was written."
            " Mend that and run the same command again"
        )


class _Now:
    """The processes of the program that runs, None where it is alone."""

    group: _Group | None = None


def _of_connection(error: BaseException) -> bool:
    """Did a message to another process fail, and not the work of this one?"""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def together(
    work: Callable[..., T],
    shared: Mapping[str, Any],
    own: Mapping[str, Any] = MappingProxyType({}),
) -> T:
    """`work(ranks, **shared, **own)`, here and in every process that follows.

    Parameters
    ----------
    work : callable
        A function of a module. Every process must call the same sums in the same order.
    shared : mapping of str to object
        What is sent to the followers: anything that pickles.
    own : mapping of str to object
        What only the leader has: progress, files. Followers leave it out.

    Returns
    -------
    object
        What `work` returned here.

    Raises
    ------
    DeviceError
        Another process failed; its error is in the message.
    """
    group = _Now.group
    if group is None or group.working:
        return work(ALONE, **shared, **own)
    if group.broken:
        raise DeviceError(group.told())
    with group.at_work():
        dist.broadcast_object_list([(work, dict(shared))])
        return work(group.ranks, **shared, **own)


def lead(program: Callable[[], T], *, store: dist.Store | None = None) -> T | None:
    """Run a program in the process of rank 0, while the others take part in its fits.

    Parameters
    ----------
    program : callable
        Called in the process of rank 0 alone.
    store : torch.distributed.Store, optional
        Where the processes meet, with RANK and WORLD_SIZE in the environment. Default: what
        torchrun says.

    Returns
    -------
    object or None
        What the program returned; None in the others.

    Raises
    ------
    DeviceError
        Another process failed; its error is in the message.
    """
    if store is None:
        meeting, rank, size = next(dist.rendezvous("env://"))
    else:
        meeting, rank, size = store, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend,
        store=dist.PrefixStore("fits", meeting),
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    os.environ.pop("TORCHELASTIC_RUN_ID", None)  # a command that this one starts is alone
    group = _Now.group = _Group(Ranks(rank, size), dist.PrefixStore("words", meeting))
    try:
        if rank == 0:
            return _leading(group, program)
        _following(group)
        return None
    finally:
        _Now.group = None
        dist.destroy_process_group()


def _leading(group: _Group, program: Callable[[], T]) -> T:
    try:
        return program()
    finally:
        if not group.broken:
            with suppress(RuntimeError):  # who died since has said so itself
                dist.broadcast_object_list([None])


def _following(group: _Group) -> None:
    """Take part in fits until the leader says that there are no more."""
    while True:
        with group.at_work():
            told: list[Any] = [None]
            dist.broadcast_object_list(told)
            if told[0] is None:
                return
            work, shared = told[0]
            work(group.ranks, **shared)
