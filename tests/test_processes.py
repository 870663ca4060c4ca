"""Two processes that fit together, over gloo: the same parameters as one process on the same
batches. Each test starts two interpreters, which import torch: slow.
"""

import os
import subprocess
import sys
import tempfile
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
    vectors,
)
from fit_processes import in_processes

from adc_features.encoders import sasrec
from adc_features.errors import InputError
from adc_features.processes import gathered, mean, together, total
from adc_features.ranks import Ranks

TOLERANCE = 1e-4
"""The largest difference of a parameter. Sums are added up in another order, a last bit of a
float32, and some dozens of steps multiply that; parameters are of the order of 0.1 to 1."""
ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


# ---- sums


def sums(ranks: Ranks, *, rows: torch.Tensor) -> dict[str, Any]:
    """Sum, mean and rows of all, and the gradient of a function of them by the rows here."""
    mine = rows[ranks.share(len(rows))].clone().requires_grad_()
    every, first = gathered(mine, ranks)
    (total(mine.square().sum(), ranks) + (mine @ every.T).sum()).backward()
    assert mine.grad is not None
    return {
        "total": total(mine.detach().sum(0), ranks),
        "mean": mean(mine.detach()[:, 0], ranks),
        "every": every.detach(),
        "first": first,
        "flags": gathered(mine.detach() > 0, ranks)[0].sum(1),
        "gradient": gathered(mine.grad, ranks)[0],
    }


def asked_sums(rows: torch.Tensor) -> dict[str, Any]:
    return together(sums, {"rows": rows})


def test_sums_and_their_gradients_are_those_of_all_rows() -> None:
    """Three processes with shares of unequal size find the sums, the rows and the gradient of all
    rows.
    """
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))
    found, *words = in_processes(asked_sums, rows, size=3)
    assert words == [""] * 3
    alone = asked_sums(rows)
    for name, value in alone.items():
        torch.testing.assert_close(found[name], value, msg=name)


def failing(ranks: Ranks, *, rank: int) -> None:
    if ranks.rank == rank:
        raise InputError("a bad row in process 1; drop it")
    total(torch.ones(1), ranks)


def asked_to_fail(rank: int) -> None:
    together(failing, {"rank": rank})


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_fails_stops_all_with_its_error(rank: int) -> None:
    """Whichever of two processes raises, both end: that one with its error, the other with words
    that hold it.
    """
    _, *words = in_processes(asked_to_fail, rank)
    assert words[rank] == "InputError: a bad row in process 1; drop it"
    assert words[1 - rank].startswith("DeviceError")
    assert f"process {rank} failed: InputError: a bad row" in words[1 - rank]


# ---- fits


def in_float32() -> None:
    """Products in float32, so that only the order of sums differs."""
    sasrec.matrix_dtype = lambda: torch.float32


def every_fit() -> dict[str, dict[str, np.ndarray]]:
    """Parameters, or vectors, by name of each fit."""
    made: dict[str, dict[str, np.ndarray]] = {
        f"sasrec {name}": dict(zip("ab", vectors(settings, "cpu"), strict=True))
        for name, settings in ENCODERS.items()
    }
    for name, settings in TOKENIZERS.items():
        made[f"tokenizer {name}"] = dict(fitted_tokenizer(settings, "cpu").tensors)
    for kind in ("plain", "listwise", "level"):
        found, curve = fitted_network(kind, "cpu")
        made[f"ranker {kind}"] = found | {"losses": np.array([p.train for p in curve])}
    with tempfile.TemporaryDirectory() as folder:
        found, curve = fitted_network("plain", "cpu", files=Path(folder), piece=60, buffer=200)
    made["ranker from files"] = found | {"losses": np.array([p.train for p in curve])}
    for name, changes in GENERATORS.items():
        model, losses = fitted_generator(changes, "cpu")
        learned = {of: value.numpy() for of, value in model.state_dict().items()}
        for of in [of for of in learned if of.endswith("query_key_value.bias")]:
            # a bias of keys shifts all logits of a query alike, which changes nothing: its gradient
            # is a rounding error, which Adam scales up to a step
            query, _, value = np.split(learned.pop(of), 3)
            learned |= {f"{of} of queries": query, f"{of} of values": value}
        made[f"generator {name}"] = learned | {"losses": np.array(losses)}
    return made


def test_two_processes_learn_what_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """SASRec (every loss, dropout, last batches of one row, a continued training), ADC-SID (revived
    codes, threshold, level, normaliser), a ranker (dropout, unknown rows, requests that stay
    together, user biases, the level, rows in files) and a generator (both losses): every parameter
    within TOLERANCE.
    """
    monkeypatch.setattr(sasrec, "matrix_dtype", lambda: torch.float32)
    found, *words = in_processes(every_fit, before=in_float32)
    assert words == ["", ""]
    for fit_name, alone in every_fit().items():
        for name, value in alone.items():
            where = f"{fit_name}: {name}"
            np.testing.assert_allclose(found[fit_name][name], value, atol=TOLERANCE, err_msg=where)


# ---- the command


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [sys.executable, *torchrun, "-m", "--", "adc_features.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )


def test_a_command_runs_once_under_torchrun() -> None:
    """The leader prints, the follower prints nothing, and a refusal is the leader's exit code."""
    told = command("--version")
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("adc-features ") == 1
    refused = command("fit", "--run", "no/such/run")
    assert refused.returncode != 0
    assert refused.stderr.count("holds no run.json") == 1
