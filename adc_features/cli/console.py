"""What a person sees while a command works and when it ends. Reads: values. Writes: the terminal,
JSON files.

Progress is a bar on a terminal and a log line at each tenth otherwise. Results go to stdout as
text, or as JSON with `--json`.
"""

import errno
import io
import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.errors import AdcError, ParityError
from adc_features.extras import in_words
from adc_features.redaction import RedactingFormatter, redacted

if TYPE_CHECKING:  # numpy and pyarrow would make every `adc --help` wait
    from adc_features.pipeline.run import Progress

log = logging.getLogger("adc")
DIFFERENT = 10
"""Exit code of a check that was made and found a difference."""
WIDEST = 10_000
"""Columns that a line of a table may take: a terminal wraps it, a pipe passes it on."""

JsonOption = Annotated[
    str | None,
    typer.Option(
        "--json", metavar="FILE|-", help="Write the result as JSON to FILE, or to stdout with '-'."
    ),
]
RunOption = Annotated[Path, typer.Option("--run", metavar="DIR", help="The run directory.")]


@contextmanager
def progress() -> "Iterator[Progress]":
    """A `progress(label, done, total)` for long work."""
    if sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        yield _lines()


@contextmanager
def _bars() -> "Iterator[Progress]":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        tasks: dict[str, Any] = {}

        def report(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bars.add_task(label, total=total)
            bars.update(tasks[label], completed=done, total=total)

        yield report


def _lines() -> "Progress":
    tenths: dict[str, int] = {}

    def report(label: str, done: int, total: int) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth > tenths.get(label, 0):
            tenths[label] = tenth
            log.info("step=%s done=%d total=%d", label.replace(" ", "_"), done, total)

    return report


def report(
    result: Mapping[str, Any],
    json: str | None,
    *,
    text: Callable[[Mapping[str, Any]], str] | None = None,
) -> None:
    """Print a result: as JSON where `--json` asks for it,
    and as text unless stdout is taken by the JSON.
    """
    from adc_features.artifact import json_text, write_json

    if json == "-":
        typer.echo(json_text(result))
        return
    if json:
        Path(json).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(json), result)
    typer.echo(redacted((text or facts_text)(result)))


def facts_text(result: Mapping[str, Any]) -> str:
    """A result as lines, nested values below their names."""
    return _facts(result)


def _facts(result: Mapping[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}:", _facts(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{indent}{name}:")
            lines += [f"{indent}  {line}" for line in table(value).splitlines()]
        else:
            lines.append(f"{indent}{name}: {_short(value)}")
    return "\n".join(lines)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as lines of aligned columns under their names: text to the left, numbers to the right.

    No cell is cut or wrapped, on a terminal or in a pipe, so that `grep` and `awk` find whole
    lines; a name that a row lacks leaves an empty cell.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in (names := list(dict.fromkeys(name for row in rows for name in row))):
        values = [row.get(name) for row in rows]
        numbers = all(isinstance(v, int | float | None) for v in values)
        made.add_column(Text(name), justify="right" if numbers else "left", no_wrap=True)
    for row in rows:
        made.add_row(*(Text("" if row.get(n) is None else _short(row[n])) for n in names))
    out = io.StringIO()
    Console(file=out, width=WIDEST, color_system=None).print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        f"[{', '.join(_short(v) for v in value)}]"
        if isinstance(value, list | tuple)
        else str(value)
    )


def run_app(app: Callable[[], Any]) -> None:
    """Run a typer app; refusals are one message and an exit code, never a stack trace.

    Exit codes: 0 done, 1 refused, 2 wrong usage, 3 online and offline differ, 130 stopped by the
    user. `adc retrain` and `adc monitor` add their own answers: 10 kept or drift, 20 data that
    cannot decide.
    """
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    logging.Formatter.converter = time.gmtime
    for handler in logging.getLogger().handlers:
        handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    for noisy in ("sentence_transformers", "httpx", "feast", "faiss", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app()
    except AdcError as error:
        _fail(str(error), 3 if isinstance(error, ParityError) else 1)
    except SystemExit as stop:
        if stop.code == 130:  # typer has turned ctrl-C into this code
            typer.echo("stopped; run the same command again to go on where it left off", err=True)
        raise
    except ModuleNotFoundError as error:
        if (missing := in_words(error)) is None:
            raise
        _fail(str(missing), 1)
    except Exception as error:
        if not _unwritable(error):
            raise
        _fail(
            f"{error}; nothing half-written was published. Make room or choose another directory,"
            " then run the same command again",
            1,
        )


def _unwritable(error: Exception) -> bool:
    """Is this a full or read-only disk? numpy, torch, safetensors and SQLite keep only the words of
    the system's error.
    """
    words = "No space left on device", "disk is full", "requested and", "unexpected pos"
    return getattr(error, "errno", None) in (
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.EACCES,
    ) or any(w in str(error) for w in words)


def _fail(message: str, code: int) -> None:
    typer.echo(redacted(f"error: {message}"), err=True)
    sys.exit(code)
