"""The commands that keep a ranker of a feature service up to date. Each is one call into
`training.deployment.declared`; `retrain`, `monitor`, `audit`, `versions` and `rollback` come here
when they are given --repo.
"""

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adc_features.errors import InputError
from training.cli.rankers import label_source

if TYPE_CHECKING:
    from adc_features.inputs.changes import Accept

ServedOption = Annotated[
    str | None,
    typer.Option(
        "--ranker",
        metavar="NAME",
        help="With --repo: the ranker; not needed where only one serves.",
    ),
]
AcceptOption = Annotated[
    bool,
    typer.Option(
        "--accept-inputs",
        help=(
            "With --repo: inputs that the registry has with another type, other keys or tags start"
            " anew."
        ),
    ),
]

RenewOption = Annotated[
    bool,
    typer.Option(
        "--renew-codes",
        help="With --repo: first renew the codes that the ranker reads, and take them online.",
    ),
]

ShareOption = Annotated[
    float | None,
    typer.Option(
        "--share",
        min=0.0,
        max=1.0,
        help="With --repo and --as: serve this share of the users, the same ones by a stable hash.",
    ),
]
ShadowOption = Annotated[
    bool,
    typer.Option(
        "--shadow",
        help="With --repo and --as: score requests after they are answered; metrics alone see it.",
    ),
]
SampleOption = Annotated[
    float | None,
    typer.Option(
        "--sample", min=0.0, max=1.0, help="With --shadow: share of the requests; default 0.1."
    ),
]
AsOption = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="What answers and metrics call the variant."),
]
EndOption = Annotated[
    str | None,
    typer.Option("--end", metavar="NAME", help="With --repo: end this variant."),
]
WholeOption = Annotated[
    str | None,
    typer.Option("--whole", metavar="NAME", help="With --repo: let this variant serve all users."),
]
BesideOption = Annotated[
    str | None,
    typer.Option(
        "--beside",
        metavar="NAME",
        help="With a variant: the ranker that serves; not needed where only one does.",
    ),
]


@dataclass(frozen=True)
class VariantAsked:
    """What `adc promote` was asked to do with a variant."""

    name: str | None
    share: float | None
    shadow: bool
    sample: float | None
    end: str | None
    whole: str | None
    beside: str | None

    def any(self) -> bool:
        """Whether it was asked anything of the kind."""
        return any(v is not None and v is not False for v in astuple(self))

    def check(self, ranker: str | None) -> None:
        """Raise BadParameter for options that do not go together."""
        if [self.end, self.whole, self.name].count(None) != 2:
            raise typer.BadParameter("give one of --as NAME, --end NAME and --whole NAME")
        if self.name is None:
            if (self.share, self.shadow, self.sample, ranker) != (None, False, None, None):
                raise typer.BadParameter(
                    "--end and --whole name a variant; they go with --beside alone"
                )
        elif (self.share is None) == (not self.shadow):
            raise typer.BadParameter("with --as give --share P or --shadow")
        elif self.sample is not None and not self.shadow:
            raise typer.BadParameter("--sample goes with --shadow")


def promote_variant(
    repo: Path | None, ranker: str | None, asked: VariantAsked, *, at: datetime
) -> dict[str, Any]:
    """Start, end or complete a variant; what the command prints."""
    from adc_features.serving.variants import SAMPLED
    from training.ranker.variants import (
        end_ranker_variant,
        make_variant_whole,
        start_ranker_variant,
    )

    asked.check(ranker)
    if repo is None:
        raise typer.BadParameter("variants are of a repository's rankers; give --repo")
    beside = served_ranker(repo, asked.beside)
    if asked.end is not None:
        return end_ranker_variant(repo, beside, asked.end)
    if asked.whole is not None:
        return make_variant_whole(repo, beside, asked.whole, at=at)
    assert asked.name is not None
    sampled = 0.0
    if asked.shadow:
        sampled = SAMPLED if asked.sample is None else asked.sample
    return start_ranker_variant(
        repo,
        beside,
        ranker,
        name=asked.name,
        share=asked.share or 0.0,
        sampled=sampled,
        at=at,
    )


def served_ranker(repo: Path, name: str | None) -> str:
    """The ranker that is named, or the only one that serves. Raises InputError."""
    from adc_features.serving.workspace import promoted_names

    if name is not None:
        return name
    names = promoted_names(repo)
    if len(names) == 1:
        return names[0]
    raise InputError(
        f"{len(names)} rankers of {repo} serve; name one of them, --ranker"
        f" {'|'.join(names) or 'NAME'}"
        if names
        else f"no ranker of {repo} serves yet; run `adc promote --repo {repo}` first"
    )


def retrain_on_service(
    repo: Path,
    ranker: str | None,
    labels: tuple[str | None, str | None],
    *,
    settings: Any,
    as_of: datetime | None,
    accept_inputs: bool,
    renew: bool = False,
    force: bool,
) -> dict[str, Any]:
    """Retrain; what the command prints. labels: --labels and --labels-query."""
    from adc_features.cli.console import progress
    from training.deployment.declared.retrain import retrain_ranker

    accept: list[Accept] = ["inputs"] if accept_inputs else []
    name, source = served_ranker(repo, ranker), label_source(*labels)
    if renew:
        renew_codes_of(repo, name, source, at=datetime.now(UTC))
    with progress() as told:
        return retrain_ranker(
            repo,
            name,
            source,
            as_of=as_of,
            settings=settings,
            accept=accept,
            force=force,
            at=datetime.now(UTC),
            progress=told,
        )


def renew_codes_of(repo: Path, ranker: str, labels: Any, *, at: datetime) -> dict[str, Any]:
    """Renew the codes that a promoted ranker reads, and take them online; what was done.

    labels: the label log, for codes that behaviour is part of. Raises InputError for a ranker
    without codes.
    """
    from adc_features.cli.console import progress
    from adc_features.serving.promotion import read_promotion
    from adc_features.serving.workspace import Workspace
    from adc_features.store.services.code_view import take_codes_online
    from training.tokenizing.renewal import reads_label_log, renew_codes

    generation = read_promotion(Workspace(repo, ranker).promotion).generation
    if generation is None:
        raise InputError(f"ranker {ranker!r} reads no codes; leave --renew-codes out")
    with progress() as told:
        (renewed,) = renew_codes(
            repo,
            [generation],
            as_of=at,
            computed_at=at,
            labels=labels if reads_label_log(repo, generation) else None,
            progress=told,
        )
    take_codes_online(repo, generation, until=at)
    return renewed


def monitor_on_service(
    repo: Path,
    ranker: str | None,
    labels: tuple[str | None, str | None],
    *,
    as_of: datetime | None,
    days: int,
    thresholds: Any,
) -> dict[str, Any]:
    """Compare; what the command prints."""
    from adc_features.cli.console import progress
    from training.deployment.declared.monitor import monitor_ranker

    with progress() as told:
        return monitor_ranker(
            repo,
            served_ranker(repo, ranker),
            label_source(*labels),
            as_of=as_of,
            days=days,
            thresholds=thresholds,
            progress=told,
        )


def audit_on_service(
    repo: Path,
    ranker: str | None,
    labels: tuple[str | None, str | None],
    *,
    close: float,
    online: bool,
    json: Any,
) -> None:
    """Audit, print, and fail for what is from the future or otherwise elsewhere."""
    from adc_features.cli.console import progress, report
    from training.deployment.declared.audit import audit_ranker, require_clean

    with progress() as told:
        found = audit_ranker(
            repo,
            served_ranker(repo, ranker),
            label_source(*labels),
            at=datetime.now(UTC),
            close=timedelta(seconds=close),
            online=online,
            progress=told,
        )
    report(found, json)
    require_clean(found)


def drift_text(result: Mapping[str, Any]) -> str:
    """Inputs whose share of absent or unknown values moved, and the scores of each task."""
    from adc_features.cli.console import table

    lines = [
        f"ranker {result['ranker']}, version {result['version']}: {result['rows']} rows from"
        f" {result['from']} to {result['to']}",
        "",
        table(
            [
                {
                    "": "!" if facts["beyond"] else "",
                    "input": name,
                    "absent": f"{facts['absent']:+.4f}",
                    "unknown": f"{facts['unknown']:+.4f}",
                    "limit": facts["limit"],
                }
                for name, facts in result["inputs"].items()
            ]
        ),
    ]
    if result["scores"]:
        moved = [
            {
                "": "!" if facts["beyond"] else "",
                "scores of": name,
                "distance": f"{facts['value']:.4f}",
                "limit": facts["limit"],
                "mean": f"{facts['mean']:.4f}",
                "mean then": f"{facts['mean_then']:.4f}",
            }
            for name, facts in result["scores"].items()
        ]
        lines += ["", table(moved)]
    beyond = ", ".join(result["beyond"])
    return "\n".join([*lines, "", f"beyond: {beyond}" if beyond else "as it was trained"])


def versions_text(result: Mapping[str, Any]) -> str:
    """The versions and promotions of each ranker."""
    from adc_features.cli.console import table

    parts = []
    for name, found in result["rankers"].items():
        versions = [
            {
                "": "*" if v["serving"] else "",
                "version": v["version"],
                "hash": v["hash"][:12],
                "rows": v["rows"],
                "trained through": str(v["trained_through"])[:10],
                "GAUC": "-" if v["judged"] is None else f"{v['judged']:.4f}",
                "start": "warm" if v["warm_start"] else "anew",
            }
            for v in found["versions"]
        ]
        promoted = [
            {
                "promotion": p["number"],
                "version": p["version"],
                "at": f"{p['promoted_at']:%Y-%m-%d %H:%M}",
                "why": p["why"],
            }
            for p in found["promotions"]
        ]
        parts += [f"ranker {name}", *(table(rows) for rows in (versions, promoted) if rows)]
    return "\n\n".join([*parts, "* serves"])
