"""What `adc doctor` finds in a directory, whatever it is. Reads: data, run, generation, Feast repository directories. Writes: findings."""

import json
from pathlib import Path

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.doctor import Finding, examine_interactions, examine_items
from adc_features.errors import AdcError, InputError


def checkup(directory: Path) -> list[Finding]:
    """Findings on a directory. Raises InputError when it is none of the kinds that we know."""
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; give a data, run, generation or Feast repository directory")
    if (directory / "run.json").is_file():
        return _run(directory)
    if (directory / "feature_store.yaml").is_file():
        return _repository(directory)
    if (directory / MANIFEST).is_file() and "items.parquet" not in json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]:
        return _artifact(directory)
    if (directory / "items.parquet").exists() or (directory / "reviews_Beauty_5.json.gz").exists():
        return _data(directory)
    raise InputError(f"{directory} holds no run.json, feature_store.yaml, {MANIFEST} or items.parquet; give one of those directories")


def _data(directory: Path) -> list[Finding]:
    from adc_features.beauty import beauty, is_beauty
    from adc_features.dataset import read_table

    try:
        if is_beauty(directory):
            dataset = beauty(directory)
            return [*examine_items(dataset.items, text_views=dataset.text_views), *examine_interactions(dataset.interactions, dataset.items)]
        items, interactions = read_table(str(directory / "items.parquet")), read_table(str(directory / "interactions.parquet"))
    except AdcError as error:
        return [Finding("error", str(directory), str(error))]
    return [*examine_items(items, text_views={}), *examine_interactions(interactions, items)]


def _artifact(directory: Path) -> list[Finding]:
    try:
        read_manifest(directory)
    except AdcError as error:
        return [Finding("error", str(directory), str(error))]
    return [Finding("fact", str(directory), "complete; every file is as its manifest says")]


def _run(directory: Path) -> list[Finding]:
    findings = [f for stage in sorted(p.parent for p in directory.glob(f"*/{MANIFEST}")) for f in _artifact(stage)]
    if (directory / "feature_repo" / "feature_store.yaml").is_file():
        findings += _repository(directory / "feature_repo")
    return findings or [Finding("warning", str(directory), "no stage is complete yet", "run `adc run`")]


def _repository(directory: Path) -> list[Finding]:
    from adc_features.store.repository import check_repository

    return check_repository(directory) or [Finding("fact", str(directory), "the Feast repository is sound")]
