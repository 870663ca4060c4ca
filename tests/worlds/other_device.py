"""A device that is not the CPU, for machines that have none. Reads: calls of torch. Writes: their
results.

It is called "meta". Its tensors keep their values on the CPU, and an operation that reads tensors
of both is refused, as a GPU would: a tensor that a fit makes in the wrong place fails a test.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

OTHER = torch.device("meta")
_COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}
_generator = torch.Generator


class Elsewhere(Tensor):
    """A tensor of the other device; held: its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=OTHER,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class OtherGenerator:
    """A source of chance on the other device."""

    device = OTHER

    def __init__(self) -> None:
        self.inner = _generator()

    def manual_seed(self, seed: int) -> "OtherGenerator":
        self.inner.manual_seed(seed)
        return self

    def get_state(self) -> Tensor:
        return self.inner.get_state()

    def set_state(self, state: Tensor) -> None:
        self.inner.set_state(state)


class _AnyGenerator:
    """Makes one of them, by device."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return OtherGenerator() if torch.device(device) == OTHER else _generator(device)


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch does before it comes to an operation."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu") == OTHER:
            return Elsewhere(func(*args, **kwargs | {"device": "cpu"}))
        if func is Tensor.tolist and isinstance(args[0], Elsewhere):
            return args[0].held.tolist()
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], Elsewhere):
            key = args[1] if isinstance(args[1], tuple) else (args[1],)
            # lists become tensors out of our sight, of which a real device has the values
            key = tuple(
                Elsewhere(torch.tensor(k, dtype=torch.int64)) if isinstance(k, list) else k
                for k in key
            )
            args = (args[0], key, *args[2:])
        return func(*args, **kwargs)


def _called(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the values, its result where its inputs are, or where it is asked to be."""
    flat = tree_flatten((args, kwargs))[0]
    others = [t for t in flat if isinstance(t, Elsewhere)]
    plain = [t for t in flat if isinstance(t, Tensor) and not isinstance(t, Elsewhere)]
    assert not any(t.device == OTHER for t in plain), f"{func} reads a tensor without values"
    if others and any(t.dim() for t in plain) and func not in _COPIES:
        raise RuntimeError(f"{func} reads tensors of two devices")
    there, asked = bool(others), kwargs.get("device")
    if asked is not None:
        there = torch.device(asked) == OTHER
        kwargs = {**kwargs, "device": torch.device("cpu")}
    elif func is torch.ops.aten.copy_.default:
        there = isinstance(args[0], Elsewhere)
    wrappers = {id(t.held): t for t in others}
    args, kwargs = tree_map(lambda t: t.held if isinstance(t, Elsewhere) else t, (args, kwargs))
    found = func(*args, **kwargs)
    if not there:
        return found
    return tree_map(
        lambda t: (
            (wrappers[id(t)] if id(t) in wrappers else Elsewhere(t))
            if isinstance(t, Tensor) and not isinstance(t, Elsewhere)
            else t
        ),
        found,
    )


def _drawing(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, also with chance of the other device."""

    def drawn(*args: Any, generator: Any = None, device: Any = "cpu") -> Tensor:
        if not isinstance(generator, OtherGenerator):
            return draw(*args, generator=generator, device=device)
        assert torch.device(device) == OTHER, "chance of the other device, for a tensor here"
        return Elsewhere(draw(*args, generator=generator.inner))

    return drawn


@contextmanager
def other_device(patch: pytest.MonkeyPatch, *modules: Any) -> Iterator[None]:
    """Within it `resolve_device` of these modules gives the other device for "cuda"."""

    def resolved(device: str) -> torch.device:
        return torch.device("cpu") if device == "cpu" else OTHER

    for name in ("rand", "randperm"):
        patch.setattr(torch, name, _drawing(getattr(torch, name)))
    for module in modules:
        patch.setattr(module, "resolve_device", resolved, raising=False)
        patch.setattr(module, "seeded", lambda _: [], raising=False)
    patch.setattr(torch, "Generator", _AnyGenerator)
    patch.setattr(torch, "inference_mode", torch.no_grad)  # which wrapped tensors do not know
    optimizers = importlib.import_module("torch.optim.optimizer")
    patch.setattr(optimizers, "_get_fused_kernels_supported_devices", lambda: ["cpu", "meta"])
    with _Functions(), _Operations():
        yield
