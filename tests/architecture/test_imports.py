"""Imports point down the flow, and stay light. Reads: the source tree, pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import lint_imports

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch",
    "feast",
    "xgboost",
    "pandas",
    "sklearn",
    "scipy",
    "sqlalchemy",
    "sentence_transformers",
    "altair",
)


def test_imports_flow_one_way(capsys):
    """The contracts of pyproject.toml hold; a new module must be given its place in them."""
    broken = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)
    assert not broken, capsys.readouterr().out


@pytest.mark.parametrize(
    "module",
    [
        "adc_features",
        "adc_features.cli.commands",
        "adc_features.pipeline.stages",
        "adc_features.store",
        "adc_features.cli.main",
        "training.cli.main",
    ],
)
def test_importing_is_light(module):
    """Importing the package, a command or the stages pulls in none of the heavy libraries; they are
    imported where they are used.
    """
    code = f"import sys, {module}; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.split() == []


def test_the_package_itself_imports_nothing():
    """`import adc_features` needs neither numpy nor pyarrow."""
    code = "import sys, adc_features; print(*[m for m in ('numpy', 'pyarrow') if m in sys.modules])"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT
        ).stdout.split()
        == []
    )
