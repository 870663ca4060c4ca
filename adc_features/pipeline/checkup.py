"""What `adc doctor` finds in a directory, whatever it is. Reads: data, run, generation, Feast
repository directories. Writes: findings.
"""

from collections.abc import Mapping
from pathlib import Path

from adc_features.artifact import MANIFEST, read_manifest
from adc_features.data.beauty import REVIEWS, beauty, is_beauty
from adc_features.data.dataset import dataset_from_tables, read_dataset, read_table, table_in
from adc_features.data.table_checks import Finding, examine_interactions, examine_items
from adc_features.data.window_checks import examine_windows
from adc_features.errors import AdcError, InputError
from adc_features.pipeline.freshness_check import freshness_findings
from adc_features.pipeline.migrations import plan


def checkup(directory: Path) -> list[Finding]:
    """Findings on a directory. Raises InputError when it is none of the kinds that we know."""
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(
            f"{directory} is not a directory; give a data, run, generation or Feast repository"
            " directory"
        )
    if (directory / "run.json").is_file():
        return [*_run(directory), *_migrations(directory)]
    if (directory / "feature_store.yaml").is_file():
        return [
            *_repository(directory),
            *freshness_findings(directory),
            *_migrations(directory),
        ]
    if (
        (directory / "items.parquet").exists()
        or (directory / "items.csv").exists()
        or (directory / REVIEWS).exists()
    ):
        return _data(directory)
    if (directory / MANIFEST).is_file():
        return _artifact(directory)
    raise InputError(
        f"{directory} holds no run.json, feature_store.yaml, {MANIFEST} or items.parquet; give one"
        " of those directories"
    )


def _data(directory: Path) -> list[Finding]:
    text_views: Mapping[str, tuple[str, ...]] = {}
    dataset = None
    try:
        if (directory / MANIFEST).is_file() or is_beauty(directory):
            dataset = (
                read_dataset(directory) if (directory / MANIFEST).is_file() else beauty(directory)
            )
            items, interactions, text_views = (
                dataset.items,
                dataset.interactions,
                dataset.text_views,
            )
        else:
            items, interactions = (
                read_table(table_in(directory, name)) for name in ("items", "interactions")
            )
    except AdcError as error:
        return [Finding("error", str(directory), str(error))]
    findings = [
        *examine_items(items, text_views=text_views),
        *examine_interactions(interactions, items),
    ]
    if any(f.level == "error" for f in findings):
        return findings
    try:
        return findings + examine_windows(
            dataset or dataset_from_tables(directory.name, items, interactions)
        )
    except AdcError as error:
        return [*findings, Finding("error", str(directory), str(error))]


def _artifact(directory: Path) -> list[Finding]:
    try:
        read_manifest(directory)
    except AdcError as error:
        return [Finding("error", str(directory), str(error))]
    return [Finding("fact", str(directory), "complete; every file is as its manifest says")]


def _migrations(directory: Path) -> list[Finding]:
    """What `adc migrate` would bring up to date; the registry is examined by `_repository`."""
    try:
        steps = plan(directory, registry=False)
    except AdcError as error:
        return [Finding("error", str(directory), str(error))]
    do = f"it is read as it is; `adc migrate {directory}` brings it up to date"
    return [Finding("warning", str(step.path), step.words, do) for step in steps]


def _run(directory: Path) -> list[Finding]:
    findings = [
        f
        for stage in sorted(p.parent for p in directory.glob(f"*/{MANIFEST}"))
        for f in _artifact(stage)
    ]
    if (directory / "feature_repo" / "feature_store.yaml").is_file():
        findings += _repository(directory / "feature_repo")
        models = sorted(directory.glob(f"ranker_*/model/{MANIFEST}"))
        findings += freshness_findings(
            directory / "feature_repo", [manifest.parent for manifest in models]
        )
    return findings or [
        Finding("warning", str(directory), "no stage is complete yet", "run `adc run`")
    ]


def _repository(directory: Path) -> list[Finding]:
    from adc_features.store import check_repository, online_problems, registry_problems
    from adc_features.store.repository import is_created

    where, problems = str(directory), check_repository(directory)
    if not problems and is_created(directory):  # of one of a team's own we know no registry
        problems = [*registry_problems(directory), *online_problems(directory)]
    return [Finding("error", where, p) for p in problems] or [
        Finding("fact", where, "the Feast repository is sound")
    ]
