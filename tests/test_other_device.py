"""Every fit on a device that is not the CPU: each of its tensors is made there, and what it learns
comes back. The device is one of tests: it computes on the CPU, so the result is the CPU's.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fit_cases import (
    ENCODERS,
    GENERATORS,
    TOKENIZERS,
    fitted_generator,
    fitted_network,
    fitted_tokenizer,
    tables,
    vectors,
)
from other_device import OTHER, other_device

from adc_features.encoders import sasrec_training
from adc_features.tokenizer import training as tokenizer_training
from training.ranker import epochs, fit_network
from training.retrieval import generator_training

FIT, ENCODE = (importlib.import_module(f"adc_features.tokenizer.{n}") for n in ("fit", "encode"))


def there(patch: pytest.MonkeyPatch, work: Callable[[str], Any], *modules: Any) -> Any:
    with other_device(patch, *modules):
        return work("cuda")


def test_tensors_of_two_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of tests refuses what a GPU would, or the tests below would say nothing."""
    with other_device(monkeypatch):
        with pytest.raises(RuntimeError, match="two devices"):
            torch.ones(2, device=OTHER) + torch.ones(2)
        assert (torch.ones(2, device=OTHER) + torch.ones(2).to(OTHER)).cpu().tolist() == [2, 2]


@pytest.mark.parametrize("name", ENCODERS)
def test_sasrec_is_trained_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every loss, and with content."""
    here = vectors(ENCODERS[name], "cpu")
    found = there(monkeypatch, lambda d: vectors(ENCODERS[name], d), sasrec_training)
    for one, two in zip(here, found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_tokenizer_is_trained_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ADC-SID with every term of its loss, revived codes and its quality report."""
    monkeypatch.setattr(ENCODE, "GPU_BLOCK", 128)
    here = fitted_tokenizer(TOKENIZERS[name], "cpu")
    modules = FIT, tokenizer_training, ENCODE
    found = there(monkeypatch, lambda d: fitted_tokenizer(TOKENIZERS[name], d), *modules)
    for parameter, value in here.tensors.items():
        np.testing.assert_allclose(found.tensors[parameter], value, atol=1e-6, err_msg=parameter)
    assert found.quality == here.quality


def test_codes_are_made_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of another size, held codes included, give the codes and weights of the CPU."""
    monkeypatch.setattr(ENCODE, "GPU_BLOCK", 128)
    generation, (older, newest) = fitted_tokenizer({}, "cpu"), tables()
    before = ENCODE.encode(older, generation)

    def made(device: str) -> Any:
        return ENCODE.encode(newest, generation, previous=before, device=device)

    here, found = made("cpu"), there(monkeypatch, made, ENCODE)
    np.testing.assert_array_equal(found.sid, here.sid)
    np.testing.assert_allclose(found.sid_weight, here.sid_weight, atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "listwise", "level"])
def test_a_ranker_is_trained_there(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every kind of input, requests, user biases and the level."""
    here, _ = fitted_network(kind, "cpu")
    found, _ = there(monkeypatch, lambda d: fitted_network(kind, d), fit_network, epochs)
    for name, value in here.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


def test_rows_in_files_are_learned_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer of learned rows, and of held-out ones, at a time."""
    here, _ = fitted_network("plain", "cpu")

    def learned(device: str) -> Any:
        return fitted_network("plain", device, files=tmp_path)

    found, _ = there(monkeypatch, learned, fit_network, epochs)
    for name, value in here.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generator_is_trained_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By positions, and on the catalogue with rows of items."""
    _, here = fitted_generator(GENERATORS[name], "cpu")
    _, found = there(
        monkeypatch, lambda d: fitted_generator(GENERATORS[name], d), generator_training
    )
    assert found == pytest.approx(here, abs=1e-5)
