"""Every command, as a person meets it. Reads: adc_features.cli.main."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from adc_features.cli.main import application

ROOT = Path(__file__).parents[2]


def root():
    """The whole command line, as it is installed."""
    return typer.main.get_command(application())


def groups():
    """Name -> group, for every command that holds others."""
    return {name: c for name, c in root().commands.items() if hasattr(c, "commands")}


def leaves():
    """Name -> command, for every command that does something."""
    found = {name: c for name, c in root().commands.items() if name not in groups()}
    return found | {
        f"{name} {inner}": command
        for name, group in groups().items()
        for inner, command in group.commands.items()
    }


def test_help_names_every_command():
    """`adc --help` lists each command of the parser with a sentence."""
    code = (
        "import sys; from adc_features.cli.main import main; sys.argv = ['adc', '--help']; main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout
    for name, command in root().commands.items():
        line = re.search(rf"^\W*{name} +(\S.*)$", shown, re.MULTILINE)
        assert line, name
        assert line[1].startswith(command.help.split()[0]), name


def functions_of(folder, decorated):
    """Names of the functions below `folder` that are declared as commands in one of two ways."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(
                decorated in ast.unparse(d) for d in node.decorator_list
            ):
                found.add(node.name)
            # for command in (fit, quality): app.command()(command)
            if isinstance(node, ast.For) and decorated in ast.unparse(node):
                found |= {n.id for n in ast.walk(node.iter) if isinstance(n, ast.Name)}
    return found


@pytest.mark.parametrize("folder", ["adc_features/cli", "training/cli"])
def test_every_declared_command_is_installed(folder):
    """A function that is declared as a command is one that `adc` runs; no module is forgotten."""
    installed = {command.callback.__name__ for command in leaves().values()}
    declared = functions_of(folder, ".command(")
    assert len(declared) > 5
    assert declared - installed == set()


def test_there_are_few_groups_and_no_doubled_names():
    """Commands are flat but for three groups, and every name is one word in lower case."""
    assert set(groups()) == {"data", "embed", "retrieve"}
    words = {word for name in leaves() for word in name.split()}
    assert {word for word in words if not re.fullmatch(r"[a-z]+", word)} == set()


def test_every_command_explains_itself_and_writes_json():
    """Each command has a sentence of help and takes `--json FILE|-`."""
    for name, command in leaves().items():
        assert command.help, name
        assert any("--json" in option.opts for option in command.params), name


ELSEWHERE = {"--upgrade", "--version", "--help", "--short"}
"""Options of pip and git, and those that every command has."""


def texts(folder):
    """(place, text) of every string of a folder's modules, pages apart: they hold CSS variables."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "reports" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def test_an_option_that_a_message_names_exists():
    """What errors, docstrings and help call `--option` is an option of some command."""
    options = {
        option
        for command in leaves().values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [
        f"{place}: {named}"
        for folder in ("adc_features", "training")
        for place, text in texts(folder)
        for named in re.findall(r"(?<![\w(-])--[a-z][a-z-]*", text)
        if named not in ELSEWHERE
        and not any(o == named or (named[-1] == "-" and o.startswith(named)) for o in options)
    ]
    assert unknown == []
