"""The scheduling examples call commands and options that exist, and nothing else of ours."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import types
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import ClassVar

import pytest
import typer

from adc_features.cli.main import application
from training.cli import retraining

EXAMPLES = Path(__file__).parents[2] / "docs" / "orchestration"


def texts(path: Path) -> list[str]:
    """Every string of the file that is not a docstring,
    f-strings put together without their values.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documented = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.FunctionDef)]
    docstrings = {
        id(n.body[0].value) for n in documented if n.body and isinstance(n.body[0], ast.Expr)
    }
    found = [
        n.value
        for n in ast.walk(tree)
        if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docstrings
    ]
    return found


@pytest.mark.parametrize("name", ["dagster_job.py", "airflow_dag.py"])
def test_an_example_calls_what_there_is(name):
    """It parses, imports neither of our packages,
    and each `adc` command and option in it exists.
    """
    path = EXAMPLES / name
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names} | {
        n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)
    }
    assert not {m for m in modules if m.split(".")[0] in ("adc_features", "training")}
    commands = typer.main.get_command(application()).commands
    if name == "airflow_dag.py":
        called = set(re.findall(r"adc ([a-z]+)", " ".join(texts(path))))
    else:
        calls = [
            n
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "adc"
        ]
        called = {n.args[1].value for n in calls}
    assert called == {"monitor", "retrain", "gc"}
    options = {o for c in called for p in commands[c].params for o in p.opts}
    assert set(re.findall(r"--[a-z][a-z-]*", " ".join(texts(path)))) <= options


def test_only_drift_is_passed_over_in_the_monitor_s_exit_codes():
    """The examples go on after drift and after a kept champion,
    and stop at the code that a refusal has.
    """
    airflow, dagster = (
        (EXAMPLES / name).read_text(encoding="utf-8")
        for name in ("airflow_dag.py", "dagster_job.py")
    )
    passed = {
        command: int(code) for command, code in re.findall(r"adc (\w+) .*?\$\? -eq (\d+)", airflow)
    }
    assert passed == {"monitor": retraining.DRIFT, "retrain": retraining.KEPT}
    names = {
        n.targets[0].elts[i].id: v.value
        for n in ast.parse(dagster).body
        if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Tuple)
        for i, v in enumerate(n.value.elts)
    }
    assert names == {"PROMOTED": 0, "KEPT": retraining.KEPT, "DRIFT": retraining.DRIFT}
    assert set(re.findall(r"fine=\(([^)]*)\)", dagster)) == {"PROMOTED, KEPT", "0, DRIFT"}
    assert 1 not in names.values()


# ---- run, with small stand-ins for the schedulers and for the `adc` command


class Operator:
    """Airflow's BashOperator, as far as the example uses it."""

    made: ClassVar[list["Operator"]] = []

    def __init__(self, *, task_id, bash_command):
        self.name, self.command, self.after = task_id, bash_command, []
        self.made.append(self)

    def __rshift__(self, later):
        later.after.append(self.name)
        return later


def stand_in(monkeypatch, name, **members):
    """A module of that name with these members, for as long as the test runs."""
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def loaded(name):
    """The example as a module; it is executed anew."""
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def adc_exits(tmp_path, monkeypatch):
    """An `adc` on the path that writes down its words and ends with the code that it is told."""
    command = tmp_path / "bin" / "adc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\nexit $ADC_CODE\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")

    def exits(code):
        monkeypatch.setenv("ADC_CODE", str(code))
        return tmp_path / "called"

    return exits


def test_the_airflow_tasks_run_in_order_and_stop_at_a_refusal(monkeypatch, adc_exits):
    """Monitor, then retrain, then clean-up; exit code 10 passes for the first two, 1 for none."""
    monkeypatch.setattr(Operator, "made", [])
    stand_in(monkeypatch, "airflow", DAG=lambda *a, **k: nullcontext())
    stand_in(monkeypatch, "airflow.operators")
    stand_in(monkeypatch, "airflow.operators.bash", BashOperator=Operator)
    loaded("airflow_dag.py")
    assert {o.name: o.after for o in Operator.made} == {
        "monitor": [],
        "retrain": ["monitor"],
        "clean_up": ["retrain"],
    }
    passed = {}
    for code in (0, 10, 1):
        called = adc_exits(code)
        passed[code] = [
            o.name for o in Operator.made if subprocess.call(["sh", "-c", o.command]) == 0
        ]
    assert passed == {0: ["monitor", "retrain", "clean_up"], 10: ["monitor", "retrain"], 1: []}
    assert [line.split()[0] for line in called.read_text().splitlines()][:3] == [
        "monitor",
        "retrain",
        "gc",
    ]


class Failure(Exception):
    """Dagster's own, by which a step fails."""


def plain(*args, **options):
    """Dagster's `op` and `job`, with and without options: the function itself."""
    return args[0] if args else lambda function: function


def test_the_dagster_steps_stop_at_a_refusal(monkeypatch, adc_exits):
    """Drift and a kept champion are no failure, and every other exit code but 0 is."""
    values = {n: lambda *a, **k: k for n in ("Definitions", "In", "ScheduleDefinition")}
    stand_in(
        monkeypatch,
        "dagster",
        **values,
        Failure=Failure,
        Nothing=None,
        OpExecutionContext=object,
        op=plain,
        # the graph is built by calling steps without a context, which only Dagster can
        job=lambda function: function,
    )
    example = loaded("dagster_job.py")
    assert example.definitions["jobs"] == [example.monthly]
    monkeypatch.setenv("ADC_RUN", "runs/now")
    monkeypatch.setenv("ADC_DATA", "data/new")
    context = types.SimpleNamespace(log=types.SimpleNamespace(info=lambda text: None))
    steps = (example.monitor, example.retrain, example.clean_up)
    passed = {}
    for code in (0, 10, 1):
        called = adc_exits(code)
        passed[code] = []
        for step in steps:
            with suppress(Failure):
                step(context)
                passed[code].append(step.__name__)
    assert passed == {0: ["monitor", "retrain", "clean_up"], 10: ["monitor", "retrain"], 1: []}
    assert called.read_text().splitlines()[:3] == [
        "monitor --page runs/now/monitor.html --run runs/now",
        "retrain --data data/new --run runs/now",
        "gc --run runs/now",
    ]
