"""The commands of a deployment: what there is, what serves, how to change that. Each is one call
into `training.deployment`.
"""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, RunOption, report, table
from adc_features.cli.runs import OptionalRunOption, RepoOption, one_of
from adc_features.cli.serving import PromotionOption
from training.cli.ranker_deployment import (
    AsOption,
    BesideOption,
    EndOption,
    SampleOption,
    ServedOption,
    ShadowOption,
    ShareOption,
    VariantAsked,
    WholeOption,
    promote_variant,
    served_ranker,
    versions_text,
)

CatalogOption = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="URL",
        help="SQLAlchemy URL of the catalogue; default $ADC_CATALOG, else catalog.db in the run.",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    for command in (promote, rollback, versions, show, gc, doctor):
        app.command()(command)


# as long as its options
def promote(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Which of the run's rankers; default the best on the validation window."),
    ] = None,
    ranker: Annotated[
        str | None,
        typer.Option(
            metavar="HASH|NAME",
            help=(
                "With --run: a ranker on record instead, by the start of its hash; see `adc"
                " versions`. With --repo: the ranker; default the best on the validation window."
            ),
        ),
    ] = None,
    generation: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Serve it with this generation: its own, or a later one that keeps its codes.",
        ),
    ] = None,
    to: PromotionOption = None,
    named: AsOption = None,
    share: ShareOption = None,
    shadow: ShadowOption = False,
    sample: SampleOption = None,
    end: EndOption = None,
    whole: WholeOption = None,
    beside: BesideOption = None,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Let a ranker serve, on the codes it was trained on; a running service takes it over. Replaces
    a damaged promotion file. With --as a variant serves a share of the users, or scores in shadow.
    """
    one_of(run, repo)
    variant = VariantAsked(named, share, shadow, sample, end, whole, beside)
    if variant.any():
        report(promote_variant(repo, ranker, variant, at=datetime.now(UTC)), json)
        return
    if repo is not None:
        from training.ranker.workflow import promote_ranker

        report(promote_ranker(repo, ranker, at=datetime.now(UTC)), json)
        return
    assert run is not None
    report(_promoted(run, recipe, ranker, generation, to, catalog), json)


def _promoted(
    run: Path,
    recipe: str | None,
    ranker: str | None,
    generation: str | None,
    to: Path | None,
    catalog: str | None,
) -> dict[str, Any]:
    """Promote a ranker of a run; what the command prints."""
    from adc_features.pipeline import pairs
    from adc_features.serving import promotion
    from training.deployment.choice import best_recipe
    from training.deployment.promotions import candidate, deploy
    from training.deployment.record import catalog_of, sync

    opened, at = open_deployed(run), datetime.now(UTC)
    taken = None
    if recipe is None and ranker is None:
        taken = best_recipe(opened, coded=generation is not None)
    recipe = recipe if taken is None else taken.name
    why = {"why": "named"} if taken is None else {"recipe": taken.name, "why": taken.why}
    if ranker is None and generation is None:
        assert recipe is not None
        pair = pairs.promotion_of(opened, recipe=recipe, promoted_at=at)
    else:
        record = catalog_of(opened, catalog)
        sync(opened, record, at=at, replacing=True)
        named = ranker
        if named is None:
            assert recipe is not None
            named = pairs.promotion_of(opened, recipe=recipe, promoted_at=at).ranker_hash
        pair = candidate(opened, record, named, generation=generation, at=at)
    if to is not None:
        promotion.promote(to, pair)
        return {"promotion": str(to), **why, "pair": pair.name, **asdict(pair)}
    number = deploy(opened, catalog_of(opened, catalog), pair, at=at)
    return {
        "promotion": str(run / promotion.PROMOTION),
        "number": number,
        **why,
        "pair": pair.name,
        **asdict(pair),
    }


def rollback(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    to: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", help="Serve this promotion again; default the one before."),
    ] = None,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Serve an earlier promotion again: a pointer, in seconds."""
    one_of(run, repo)
    at = datetime.now(UTC)
    if repo is not None:
        from training.deployment.declared.promotions import rollback_ranker

        report(rollback_ranker(repo, served_ranker(repo, ranker), at=at, to=to), json)
        return
    from training.deployment import promotions
    from training.deployment.record import catalog_of

    assert run is not None
    opened = open_deployed(run)
    report(promotions.rollback(opened, catalog_of(opened, catalog), at=at, to=to), json)


def versions(
    run: OptionalRunOption = None,
    repo: RepoOption = None,
    ranker: ServedOption = None,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """List generations, rankers and promotions, and what serves; with --repo the versions of its
    rankers.
    """
    one_of(run, repo)
    if repo is not None:
        from training.deployment.declared.promotions import ranker_versions

        report(ranker_versions(repo, ranker), json, text=versions_text)
        return
    assert run is not None
    from adc_features.catalog import catalog_to_read
    from training.deployment import inventory
    from training.deployment.record import catalog_url

    opened = open_deployed(run)
    with catalog_to_read(catalog_url(opened, catalog)) as record:
        report(inventory.versions(opened, record, at=datetime.now(UTC)), json, text=_table)


def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="A generation, the start of a ranker's hash, or a promotion's number.",
        ),
    ],
    run: RunOption,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Show one generation, ranker or promotion, and what happened to it."""
    from adc_features.catalog import catalog_to_read
    from training.deployment import inventory
    from training.deployment.record import catalog_url

    opened = open_deployed(run)
    with catalog_to_read(catalog_url(opened, catalog)) as record:
        report(inventory.show(opened, record, name, at=datetime.now(UTC)), json)


def gc(
    run: RunOption,
    keep: Annotated[
        int, typer.Option(min=0, help="Promotions before the serving one to keep, for rollback.")
    ] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")
    ] = False,
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Delete rankers and generations that nothing promoted needs any more."""
    from training.deployment.cleanup import collect
    from training.deployment.record import catalog_of

    opened, at = open_deployed(run), datetime.now(UTC)
    record = catalog_of(opened, catalog)
    report(collect(opened, record, at=at, keep=keep, dry_run=dry_run), json)


def doctor(
    directory: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="Data, run, generation or Feast repository directory."),
    ],
    catalog: CatalogOption = None,
    json: JsonOption = None,
) -> None:
    """Say in plain words what is wrong with a directory; exit code 1 when something must be
    repaired.
    """
    from adc_features.catalog import DATABASE, catalog_to_read
    from adc_features.data.table_checks import Finding
    from adc_features.pipeline.checkup import checkup
    from training.deployment.inventory import problems
    from training.deployment.record import catalog_url

    findings = checkup(directory)
    if (directory / "run.json").is_file():
        opened = open_deployed(directory)
        if catalog or (directory / DATABASE).is_file():
            with catalog_to_read(catalog_url(opened, catalog)) as record:
                findings += [
                    Finding("error", str(directory), problem)
                    for problem in problems(opened, record)
                ]
    errors = [f for f in findings if f.level == "error"]
    result = {
        "directory": str(directory),
        "errors": len(errors),
        "findings": [f._asdict() for f in findings],
    }
    report(
        result,
        json,
        text=lambda r: "\n".join(f"{f.level:8}{f}" for f in findings) or "nothing to say",
    )
    if errors:
        raise typer.Exit(1)


def open_deployed(directory: Path) -> Any:
    """The run of a deployment."""
    from adc_features.pipeline.run import Run

    return Run.open(directory)


def _table(result: Mapping[str, Any]) -> str:
    serving: Mapping[str, Any] = next(
        (p for p in result["promotions"] if p["state"] == "serving"), {}
    )
    generations = [
        {
            "": _mark(g["id"] == serving.get("generation")),
            "generation": g["id"],
            "state": g["state"],
            "snapshots": g["snapshots"],
            "newest": _day(g["newest"]),
            "trained through": _day(g["trained_through"]),
        }
        for g in result["generations"]
    ]
    rankers = [
        {
            "": _mark(r["hash"] == serving.get("ranker")),
            "ranker": r["hash"][:12],
            "state": r["state"],
            "recipe": r["recipe"],
            "generation": r["generation"] or "-",
            "trained through": _day(r["trained_through"]),
            "directory": r["directory"],
        }
        for r in result["rankers"]
    ]
    promotions = [
        {
            "": _mark(p is serving),
            "promotion": p["number"],
            "state": p["state"],
            "ranker": p["ranker"][:12],
            "generation": p["generation"] or "no codes",
            "at": f"{p['promoted_at']:%Y-%m-%d %H:%M}",
        }
        for p in result["promotions"]
    ]
    tables = [table(rows) for rows in (generations, rankers, promotions) if rows]
    return "\n\n".join([*tables, "* serves"])


def _mark(serves: bool) -> str:
    return "*" if serves else ""


def _day(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d}" if at else "none"
