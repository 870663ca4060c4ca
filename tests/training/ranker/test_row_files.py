"""Rows in files: the fit of rows in memory, a buffer at a time, from where it was stopped."""

import os
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from encoded_rows import LAYOUT, MIXED, RANKER, rows_of
from encoder_cases import CASES, ROWS, TIMES, Case, spec
from fit_cases import fitted_network

from adc_features.errors import ArtifactError, DeviceError, InputError
from adc_features.inputs.declaration import Ranker, Task, number
from adc_features.inputs.encoded import Encoded
from adc_features.inputs.encoder import InputEncoder
from adc_features.inputs.rows import Parts
from adc_features.loader import TableGroups
from adc_features.ranking.multitask.shape import NetworkShape
from adc_features.ranks import ALONE
from training.ranker import checkpoints
from training.ranker.batches import RowTensors
from training.ranker.epochs import Epochs, FitSettings
from training.ranker.fit_network import fit_network
from training.ranker.labelled import Labelled
from training.ranker.row_files import RowFiles, encoded_groups

KINDS = ("plain", "listwise", "level")
FEED = Ranker("feed", [Task("click")], gates=["segment"])
SHAPE = NetworkShape.of(LAYOUT, RANKER)
WORLDS = Path(__file__).parents[2] / "worlds"


def pieces_of(rows: Encoded, size: int) -> list[Encoded]:
    return [
        rows.take(np.arange(start, min(start + size, len(rows))))
        for start in range(0, len(rows), size)
    ]


def written(directory: Path, count: int = 23, size: int = 5, **options: Any) -> RowFiles:
    return RowFiles.write(directory, pieces_of(rows_of(LAYOUT, count), size), SHAPE, **options)


def assert_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize("layout", [LAYOUT, MIXED])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_pieces_make_the_batches_of_the_whole(layout: Any, size: int, tmp_path: Path) -> None:
    """Rows that were written in pieces, of one row even, give every batch as rows in memory do."""
    shape = SHAPE if layout is LAYOUT else NetworkShape.of(layout, FEED)
    rows = rows_of(layout, 23)
    files = RowFiles.write(tmp_path / "rows", pieces_of(rows, size), shape)
    found, whole = files.read(range(len(files.sizes))), RowTensors.of(rows, shape)
    picked = torch.tensor([22, 0, 7, 7, 13])
    for one, two in zip(found.batch(picked), whole.batch(picked), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_one_buffer_give_the_parameters_of_memory(kind: str, tmp_path: Path) -> None:
    """Bit for bit, with the losses of learned and of held-out rows."""
    here, curve = fitted_network(kind, "cpu")
    found, told = fitted_network(kind, "cpu", files=tmp_path)
    assert_equal(found, here)
    assert [point.train for point in told] == [point.train for point in curve]
    assert [point.holdout for point in told] == pytest.approx([p.holdout for p in curve], abs=1e-6)


def test_an_epoch_of_buffers_holds_every_learnable_row_once(tmp_path: Path) -> None:
    """Pieces come in an order of chance, a buffer holds no more than its rows, and what is masked
    is not learned from.
    """
    files = written(tmp_path / "rows", buffer_rows=11)
    learnable = torch.tensor([0, 1, 4, 5, 9, 12, 20, 22])
    plans = [files.plan(torch.Generator().manual_seed(seed)) for seed in range(4)]
    assert len({str(plan) for plan in plans}) > 1
    whole = RowTensors.of(rows_of(LAYOUT, 23), SHAPE)
    for plan in plans:
        assert max(sum(files.sizes[piece] for piece in pieces) for pieces in plan) <= 11
        buffers = [files.buffer(pieces, learnable) for pieces in plan]
        assert torch.cat([b.places for b in buffers]).sort().values.tolist() == list(range(8))
        for buffer in buffers:
            there = buffer.tensors.dense[buffer.rows]
            assert torch.equal(there, whole.dense[learnable[buffer.places]])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("size", [1, 7])
def test_groups_are_encoded_as_all_rows_at_once(case: Case, size: int) -> None:
    """Every kind of input, and one that carries its default in some training rows, gives a group
    of rows what it gives them among all.
    """
    inputs = (*case.inputs, spec("shelf", number(train_only=True, default=3)))
    table = pa.table({**case.columns, "shelf": np.arange(float(ROWS))})
    whole = Parts.joined(table, TIMES, timeline=case.timeline)
    encoder = InputEncoder.fit(inputs, whole)
    expected = encoder.encode(whole, training=True, seed=4)
    table = table.append_column("event_timestamp", pa.array(TIMES, pa.timestamp("us", "UTC")))
    source = TableGroups(table, group_rows=size)
    start = 0
    for piece in encoded_groups(source, encoder, seed=4, timeline=case.timeline):
        own = expected.take(np.arange(start, start + len(piece)))
        for name, block in own.blocks.items():
            np.testing.assert_array_equal(piece.blocks[name].dense, block.dense, err_msg=name)
            for found, slot in zip(piece.blocks[name].slots, block.slots, strict=True):
                for field in fields(slot):
                    one, two = getattr(found, field.name), getattr(slot, field.name)
                    np.testing.assert_array_equal(one, two, err_msg=f"{name} {field.name}")
        start += len(piece)
    assert start == ROWS


class StoppedError(Exception):
    """What a test stops a fit with."""


SMALL: dict[str, Any] = {"piece": 60, "buffer": 200}
"""Seven pieces in three buffers, whose batches are seven too."""


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: Exception) -> list[int]:
    """Let a step fail, and every second one leave a checkpoint; the steps that were begun."""
    monkeypatch.setattr(checkpoints, "EVERY", 2)
    step, begun = Epochs._step, list[int]()

    def counted(self: Epochs, *arguments: Any) -> torch.Tensor:
        begun.append(len(begun) + 1)
        if len(begun) == number:
            raise error
        return step(self, *arguments)

    monkeypatch.setattr(Epochs, "_step", counted)
    return begun


@pytest.mark.parametrize(
    ("kind", "number"),
    [("plain", 4), ("listwise", 7), pytest.param("level", 12, marks=pytest.mark.slow)],
)
def test_a_stopped_fit_goes_on_to_the_same_parameters(
    kind: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped at a step in the middle of a buffer, at its end or in the second round, it goes on
    from the last checkpoint and ends with the bits of a fit that was never stopped; then no
    checkpoint is left.
    """
    expected, curve = fitted_network(kind, "cpu", files=tmp_path / "whole", **SMALL)
    begun = fail_at(monkeypatch, number, StoppedError())
    with pytest.raises(StoppedError):
        fitted_network(kind, "cpu", files=tmp_path / "stopped", **SMALL)
    assert list((tmp_path / "stopped" / "learned").glob("fit-*.pt"))
    found, told = fitted_network(kind, "cpu", files=tmp_path / "stopped", **SMALL)
    assert_equal(found, expected)
    assert told == curve
    steps = 2 * 7 * (2 if kind == "level" else 1)
    assert number < len(begun) < number + steps  # fewer than a fit from the beginning
    assert not list(tmp_path.rglob("fit-*.pt"))


def test_a_full_device_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the memory of a device does not hold a step, the message names the setting to lower,
    and the fit goes on from its checkpoint once there is room.
    """
    expected, _ = fitted_network("plain", "cpu", files=tmp_path / "whole", **SMALL)
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")
    begun = fail_at(monkeypatch, 6, full)
    with pytest.raises(DeviceError, match=r"a step of \d+ rows .* Lower the setting 'batch'"):
        fitted_network("plain", "cpu", files=tmp_path / "full", **SMALL)
    found, _ = fitted_network("plain", "cpu", files=tmp_path / "full", **SMALL)
    assert_equal(found, expected)
    assert len(begun) == 6 + 2 * 7 - 4


KILLED = """
import os, signal, sys
from pathlib import Path
from fit_cases import fitted_network
from training.ranker import checkpoints
from training.ranker.epochs import Epochs, FitSettings
from training.ranker.fit_network import fit_network

checkpoints.EVERY = 2
step, begun = Epochs._step, []

def counted(self, *arguments):
    begun.append(1)
    if len(begun) == 11:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

Epochs._step = counted
fitted_network("plain", "cpu", files=Path(sys.argv[1]), piece=60, buffer=200)
"""


@pytest.mark.slow
def test_a_killed_process_loses_no_checkpoint(tmp_path: Path) -> None:
    """A process that is killed in a step leaves files from which the next one makes the same
    parameters.
    """
    expected, _ = fitted_network("plain", "cpu", files=tmp_path / "whole", **SMALL)
    path = os.pathsep.join([str(WORLDS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    [kept] = (tmp_path / "killed" / "learned").glob("fit-*.pt")
    assert torch.load(kept, weights_only=True)["epochs"]["place"]["batch"]
    found, _ = fitted_network("plain", "cpu", files=tmp_path / "killed", **SMALL)
    assert_equal(found, expected)


def test_pieces_of_which_every_row_is_masked_are_left_out(tmp_path: Path) -> None:
    """A fit whose buffers hold a piece each, some of them without a row to learn from, learns."""
    mask = np.ones((2, 20), bool)
    mask[:, 5:15] = False
    labels = np.random.default_rng(0).integers(0, 2, (2, 20)).astype(np.float32)
    options: dict[str, Any] = {"shape": replace(SHAPE, listwise=0.5), "seed": 0}
    options |= {"settings": FitSettings(batch=50, max_epochs=1, dropout=0.0)}
    options |= {"groups": np.arange(20) // 5, "holdout": None}
    rows = rows_of(LAYOUT, 20)
    whole = RowFiles.write(tmp_path / "whole", pieces_of(rows, 5), SHAPE)
    cut = RowFiles.write(tmp_path / "cut", pieces_of(rows, 5), SHAPE, buffer_rows=5)
    expected, curve = fit_network(whole, labels, mask, np.ones(20), **options)
    found, told = fit_network(cut, labels, mask, np.ones(20), **options)
    assert found.keys() == expected.keys()
    assert 0 < told[0].train < curve[0].train  # two batches of half the rows, and their mean


def labelled_ones(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, mask and weights."""
    return np.ones((2, count), np.float32), np.ones((2, count), bool), np.ones(count, np.float32)


def test_another_fit_has_a_checkpoint_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one fit left is not gone on from by one with other labels."""
    rows = written(tmp_path / "rows")

    def fitted(labels: np.ndarray) -> dict[str, np.ndarray]:
        every = np.ones(labels.shape, bool)
        settings = FitSettings(batch=4, max_epochs=1)
        return fit_network(
            rows, labels, every, np.ones(23), shape=SHAPE, settings=settings, seed=0
        )[0]

    ones = labelled_ones(23)[0]
    zeros = ones * 0
    expected = fitted(ones)
    fail_at(monkeypatch, 5, StoppedError())
    with pytest.raises(StoppedError):
        fitted(zeros)
    assert_equal(fitted(ones), expected)
    assert len(list(rows.directory.glob("fit-*.pt"))) == 1


def test_incomplete_or_damaged_rows_are_refused_by_name(tmp_path: Path) -> None:
    """A directory without its list of pieces, a cut piece and a cut checkpoint are named; a source
    without rows, a buffer of none, and files where rows in memory are needed, are refused.
    """
    rows = written(tmp_path / "rows")
    with pytest.raises(InputError, match="from which networks alone are trained"):
        _ = Labelled(rows, *labelled_ones(23)).in_memory
    piece = tmp_path / "rows" / "1.pt"
    piece.write_bytes(piece.read_bytes()[:-500])
    with pytest.raises(ArtifactError, match=r"1\.pt cannot be read .*write the rows again"):
        rows.read([1])
    (tmp_path / "rows" / "rows.json").unlink()
    with pytest.raises(ArtifactError, match="holds no complete rows"):
        RowFiles.open(tmp_path / "rows")
    cut = tmp_path / "fit-1.pt"
    cut.write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"fit-1\.pt cannot be read .*delete it"):
        checkpoints.Checkpoint(cut, ALONE).read()
    with pytest.raises(InputError, match="there are no rows"):
        RowFiles.write(tmp_path / "none", [], SHAPE)
    with pytest.raises(InputError, match="buffer_rows is 0"):
        written(tmp_path / "rows", buffer_rows=0)
