"""Every command, as a person meets it. Reads: adc_features.cli.main."""

import subprocess
import sys
from pathlib import Path

import typer

from adc_features.cli.main import application

COMMANDS = [
    "run",
    "dataset",
    "audit",
    "train",
    "evaluate",
    "fit",
    "quality",
    "publish",
    "snapshot",
    "backfill",
    "renew",
    "materialize",
    "lookup",
    "promote",
    "rollback",
    "versions",
    "show",
    "gc",
    "retrain",
    "monitor",
    "rank",
    "serve",
    "doctor",
    "data",
    "embed",
    "retrieve",
    "compare",
    "ablate",
    "sweep",
]
GROUPS = {
    "data": {"synthetic", "beauty", "tables"},
    "embed": {"text", "behavior"},
    "retrieve": {"train", "evaluate"},
}


def leaves():
    """Name -> command, for every command that does something."""
    root = typer.main.get_command(application())
    found = {name: command for name, command in root.commands.items() if name not in GROUPS}
    return found | {
        f"{group} {name}": command
        for group in GROUPS
        for name, command in root.commands[group].commands.items()
    }


def test_help_names_every_command():
    """`adc --help` lists the commands with a sentence each, and needs no heavy library to do so."""
    code = (
        "import sys; from adc_features.cli.main import main; sys.argv = ['adc', '--help']; main()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ).stdout
    for command in COMMANDS:
        assert f" {command} " in shown


def test_there_is_a_command_for_every_stage():
    """One command a stage, no more groups than data, embed and retrieve."""
    root = typer.main.get_command(application())
    assert set(root.commands) == set(COMMANDS)
    assert {group: set(root.commands[group].commands) for group in GROUPS} == GROUPS


def test_every_command_explains_itself_and_writes_json():
    """Each command has a sentence of help and takes `--json FILE|-`."""
    for name, command in leaves().items():
        assert command.help, name
        assert any("--json" in option.opts for option in command.params), name
