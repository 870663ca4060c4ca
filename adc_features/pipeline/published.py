"""A published generation is never fitted again in place. Reads: a run and its repository.

Whoever reads codes of an id, online, in a joined table or in a trained ranker, would take new codes
of that id for the old ones. So a build that would do it is refused, and a new id proposed.
"""

from collections.abc import Sequence
from itertools import count

from adc_features.artifact import MANIFEST
from adc_features.errors import InputError
from adc_features.pipeline.context import repository_of
from adc_features.pipeline.run import Run


def is_published(run: Run) -> bool:
    """Does the run's repository hold a generation of the id that the run would fit?"""
    return run.settings.generation in _published(run)


def refuse_other_data(run: Run) -> None:
    """Raise InputError before vectors are made of other data than those of the run's published
    generation: hours later its fit would be refused.
    """
    if (run.directory / "generation" / MANIFEST).is_file() and is_published(run):
        made_of = run.facts("generation")["made_of"]
        if run.identity("data") not in (None, made_of["reads"]["data"]):
            raise refit_error(run, ["the data"])


def refit_error(run: Run, changed: Sequence[str]) -> InputError:
    """What to say when these changes would fit a published generation again."""
    generation = run.settings.generation
    return InputError(
        f"generation {generation!r} is published in {repository_of(run)}, and"
        f" {', '.join(changed)} changed since it was fitted: fitting it again under the same id"
        " would give its codes another meaning. Fit a new one beside it with --generation"
        f" {_next_id(generation, _published(run))}, or give a new run directory"
    )


def _published(run: Run) -> set[str]:
    from adc_features.store import live_generations

    repo = repository_of(run)
    return {g.id for g in live_generations(repo)} if repo.is_dir() else set()


def _next_id(generation: str, taken: set[str]) -> str:
    """The first free id that counts on: g1 -> g2, weekly -> weekly2."""
    stem = generation.rstrip("0123456789")
    first = int(generation[len(stem) :] or 1) + 1
    return next(i for n in count(first) if (i := f"{stem}{n}") not in taken)
