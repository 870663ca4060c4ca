"""Where a fit computes. Reads: the name of a device. Writes: the torch device of that name.

Results come back to the CPU. On the CPU one seed gives the same bits again; a GPU adds up in the
order in which its threads finish, so two fits on it agree in quality and not to the bit.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adc_features.errors import DeviceError, InputError
from adc_features.extras import extra_modules

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
"""What may be asked for; auto is cuda where there is one, else cpu."""


def resolve_device(device: str) -> "torch.device":
    """The device that a name stands for here.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        A process that torchrun started takes the GPU of its local rank.

    Returns
    -------
    torch.device

    Raises
    ------
    InputError
        Another name, or "cuda" where torch finds none.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    with extra_modules():
        import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device not in DEVICES:
        raise InputError(
            f"device is {device!r}; expected one of {', '.join(DEVICES)}. Here are: {_here(count)}"
        )
    if device == "cpu" or (device == "auto" and not count):
        return torch.device("cpu")
    if not count:
        raise InputError(
            f"device is 'cuda', and torch {torch.__version__} finds no CUDA device. Here are:"
            f" {_here(count)}; give device='cpu' or 'auto', or install a torch that is built for"
            " the GPU of this machine"
        )
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= count:
        raise InputError(
            f"this is process {local} of its machine, which has {count} CUDA devices; start as many"
            " processes as devices, or give device='cpu'"
        )
    return torch.device("cuda", local)


def _here(count: int) -> str:
    return ", ".join(["cpu", *(f"cuda:{number}" for number in range(count))])


def seeded(device: "torch.device") -> list["torch.device"]:
    """The devices beside the CPU whose random state a seed of the fit would change: for
    `torch.random.fork_rng`.
    """
    return [] if device.type == "cpu" else [device]


@contextmanager
def memory_of(device: "torch.device", *, rows: int, setting: str = "batch") -> Iterator[None]:
    """Around steps of `rows` rows: where the device's memory does not hold one, DeviceError names
    the setting to lower.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{device} ran out of memory in a step of {rows} rows"
            f" ({str(error).partition('.')[0]}); nothing was written, and what was there before is"
            f" as it was. Lower the setting {setting!r} and fit again, or give device='cpu'"
        ) from error
