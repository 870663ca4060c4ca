"""The scheduling examples call commands and options that exist, and nothing else of ours."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import typer

from adc_features.cli.main import application
from training.cli import retraining

EXAMPLES = Path(__file__).parents[2] / "docs" / "orchestration"


def texts(path: Path) -> list[str]:
    """Every string of the file that is not a docstring, f-strings put together without their
    values.
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
    """It parses, imports neither of our packages, and each `adc` command and option in it
    exists.
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
    """The examples go on after drift and after a kept champion, and stop at the code that a refusal
    has.
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


@pytest.mark.parametrize(
    ("name", "package"), [("dagster_job.py", "dagster"), ("airflow_dag.py", "airflow")]
)
def test_an_example_loads_where_its_scheduler_is_installed(name, package):
    """The scheduler accepts the definitions."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which is not a dependency")
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
