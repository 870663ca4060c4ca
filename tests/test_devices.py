"""Names of devices, and what a person is told where one is absent or too small."""

import pytest
import torch

from adc_features.devices import memory_of, resolve_device
from adc_features.errors import DeviceError, InputError
from adc_features.ranks import Ranks, started_by_torchrun


def with_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_auto_is_the_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` takes the CPU of a machine without a GPU, and the GPU of one that has it; `cpu` stays
    the CPU.
    """
    with_gpus(monkeypatch, 0)
    assert resolve_device("auto") == torch.device("cpu")
    with_gpus(monkeypatch, 2)
    assert resolve_device("auto") == torch.device("cuda", 0)
    assert resolve_device("cpu") == torch.device("cpu")


def test_each_process_of_a_machine_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of local rank 1 computes on the second GPU; one without a GPU is refused."""
    with_gpus(monkeypatch, 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="process 2 of its machine, which has 2 CUDA devices"):
        resolve_device("cuda")


def test_an_absent_or_unknown_device_is_refused_with_what_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message names the devices of this machine and what to give."""
    with_gpus(monkeypatch, 0)
    with pytest.raises(InputError, match=r"finds no CUDA device. Here are: cpu; give device='cpu'"):
        resolve_device("cuda")
    with_gpus(monkeypatch, 1)
    with pytest.raises(InputError, match=r"'tpu'; expected one of .* Here are: cpu, cuda:0"):
        resolve_device("tpu")


def test_a_full_memory_names_the_setting_to_lower() -> None:
    """torch's error becomes ours, with the rows of the step; other errors pass."""

    def step(error: Exception) -> None:
        with memory_of(torch.device("cuda", 0), rows=512):
            raise error

    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    with pytest.raises(DeviceError, match=r"512 rows \(CUDA out of memory\).*setting 'batch'"):
        step(full)
    with pytest.raises(RuntimeError, match="another"):
        step(RuntimeError("another"))


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 64])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_make_the_batch(rows: int, size: int) -> None:
    """Every row of a batch is in one share, in order, and no share is two rows longer than
    another.
    """
    shares = [range(rows)[Ranks(rank, size).share(rows)] for rank in range(size)]
    assert [row for share in shares for row in share] == list(range(rows))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_one_process_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun with one process, and a variable that another launcher sets, start no group."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not started_by_torchrun()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert started_by_torchrun()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not started_by_torchrun()
