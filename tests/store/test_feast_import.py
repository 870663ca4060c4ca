"""Feast is imported without its checks of argument types where nothing is declared."""

import subprocess
import sys

PROGRAM = """
import pytest
import typeguard

from adc_features.store.feast_import import import_feast_unchecked

import_feast_unchecked()
from feast import Entity

assert Entity.from_proto(Entity(name="shop", description="d").to_proto()).name == "shop"
Entity(name="shop", description=1)  # refused where Feast checks


@typeguard.typechecked
def own(number: int):
    pass


with pytest.raises(typeguard.TypeCheckError):
    own("one")
"""


def test_only_feast_is_imported_without_checks(tmp_path):
    """Its declarations take any argument, and whatever else asks for checks has them."""
    program = tmp_path / "program.py"  # typeguard reads the source of what it checks
    program.write_text(PROGRAM, encoding="utf-8")
    subprocess.run([sys.executable, str(program)], check=True)
