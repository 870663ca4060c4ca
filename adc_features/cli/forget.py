"""`adc forget`. One call of `adc_features.forget`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, facts_text, report
from adc_features.errors import InputError


def forget(
    repo: Annotated[Path, typer.Option("--repo", metavar="DIR", help="The Feast repository.")],
    user: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Whom to forget; may be repeated.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Whom to forget, an id on each line.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The join key that the ids are of; default the users'."),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="A served log to look into; may be repeated."),
    ] = None,
    older_than: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=DURATION",
            help="Delete what is older: dead_letters, history, online or served_log.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Delete what is known of users, or what is too old, and list what holds them still.

    Stopped at any point, the same command does the rest.
    """
    from datetime import UTC, datetime

    from adc_features.forget.command import forget as forget_ids
    from adc_features.forget.command import live_of, subject_of
    from adc_features.forget.retention import expire, parse_ages

    ids, ages = [*(user or []), *_lines(users)], parse_ages(older_than or [])
    if bool(ids) == bool(ages):
        raise typer.BadParameter("give either users, --user or --users, or --older-than")
    subject = subject_of(repo, ids, key) if ids else None
    live, now, logs = live_of(repo), datetime.now(UTC), log or []
    if subject is None:
        deleted = expire(repo, ages, now=now, live=live, logs=logs, dry_run=dry_run)
        report({"dry_run": dry_run, "deleted": deleted}, json)
        return
    result = forget_ids(repo, subject, now=now, live=live, logs=logs, dry_run=dry_run)
    report(result, json, text=_text)


def _lines(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        found = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read ({error}); give a text file of ids") from error
    ids = [line.removesuffix("\r") for line in found if line.strip()]
    if not ids:
        raise InputError(f"{file} holds no id; write one on each line")
    return ids


def _text(result: Mapping[str, Any]) -> str:
    if not result["found"]:
        end = "" if result["dry_run"] else "; events of theirs from before now are refused from now"
        return f"found nowhere{end}"
    return facts_text(result)


def add_to(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(forget)
