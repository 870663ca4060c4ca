"""Passwords of database URLs through the command line: in no output, no error and no file."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from adc_features.cli.console import run_app
from adc_features.cli.main import application

SECRET = "Zq7wordZq"
URLS = [
    f"postgresql+psycopg://ann:{SECRET}@localhost:1/shop",
    f"postgresql+psycopg://localhost:1/shop?user=ann&password={SECRET}",
]
URLS += [f"mysql://ann:{SECRET}@localhost:1/shop", f"sqlite:////dev/null/shop.db?key={SECRET}"]
COMMANDS = [
    ("run", "--data", "URL", "--run", "RUN"),
    ("run", "--data", "URL"),
    ("run", "--run", "HELD", "--data", "URL"),
    ("embed", "text", "--data", "URL", "--run", "RUN"),
    ("embed", "behavior", "--data", "URL#items", "--run", "RUN"),
    ("data", "tables", "--items", "URL", "--interactions", "URL", "--out", "OUT"),
    (
        "data",
        "tables",
        "--items",
        "URL#items",
        "--interactions",
        "URL#interactions",
        "--out",
        "OUT",
    ),
    ("data", "tables", "--items", "URL#a.items", "--interactions", "x.parquet", "--out", "OUT"),
    ("data", "beauty", "--source", "URL", "--out", "OUT"),
    *(
        (command, *rest, "--run", "HELD", "--catalog", "URL")
        for command, *rest in (["versions"], ["show", "g1"], ["gc"], ["rollback"], ["retrain"])
    ),
    ("promote", "--run", "HELD", "--catalog", "URL"),
    ("promote", "--run", "HELD", "--ranker", "ab", "--catalog", "URL"),
    ("retrain", "--run", "HELD", "--data", "URL"),
    ("snapshot", "--run", "HELD", "--as-of", "2024-01-01", "--data", "URL"),
    ("monitor", "--run", "HELD", "--traffic", "URL"),
    ("monitor", "--run", "HELD", "--traffic", "URL#shown"),
    ("doctor", "HELD", "--catalog", "URL"),
    ("doctor", "URL"),
    ("versions", "--run", "URL"),
    ("rank", "u", "i", "--run", "URL"),
]


@pytest.mark.filterwarnings("ignore:Query string argument:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("url", URLS)
def test_no_command_prints_or_stores_the_password_of_a_url(url, tmp_path, monkeypatch, capsys):
    """Every command that takes a URL, by every option that does, and those given one by mistake:
    refused, the password hidden.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "run.json").write_text('{"source": "synthetic"}')
    for words in COMMANDS:
        places = {
            "URL": url,
            "RUN": str(tmp_path / "new"),
            "HELD": str(tmp_path / "held"),
            "OUT": str(tmp_path / "out"),
        }
        asked = [
            next(
                (w.replace(name, place) for name, place in places.items() if w.startswith(name)), w
            )
            for w in words
        ]
        result = CliRunner().invoke(application(), asked)
        assert result.exit_code != 0, words
        assert SECRET not in result.output + str(result.exception) + repr(result.exception), words
        monkeypatch.setattr("sys.argv", ["adc", *asked])
        with pytest.raises(SystemExit):
            run_app(application())
        shown = capsys.readouterr()
        assert SECRET not in shown.out + shown.err, words
        assert "Traceback" not in shown.err
    for path in Path(tmp_path).rglob("*"):
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_run_says_where_its_password_would_come_from(tmp_path):
    """A run reads directories; what reads a database takes its password from the command line or
    the environment, each time.
    """
    said = str(
        CliRunner()
        .invoke(application(), ["run", "--data", URLS[0], "--run", str(tmp_path / "run")])
        .exception
    )
    assert "adc data tables" in said
    assert not (tmp_path / "run").exists()
    said = str(
        CliRunner()
        .invoke(
            application(),
            [
                "data",
                "tables",
                "--items",
                f"{URLS[0]}#items",
                "--interactions",
                "x",
                "--out",
                str(tmp_path / "out"),
            ],
        )
        .exception
    )
    assert "PGPASSWORD" in said
