"""Which ranker serves, and on which codes: one small file. Reads: runs, ranker directories,
repositories. Writes: the promotion file, last.

Format 2 may name variants beside the pair, see `variants`; format 1 names the pair alone.

The file is replaced by one rename, so a service that follows it sees the old pair or the new one.
It pins both sides by hash: the ranker's manifest, and the codebook of the generation that the
ranker was trained on; a directory that was rewritten since is refused.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from adc_features.artifact import MANIFEST, checked, file_hash, read_manifest, write_document
from adc_features.clock import parse_utc, utc
from adc_features.codes.generation import check_generation_id
from adc_features.errors import ArtifactError, GenerationMismatch, InputError
from adc_features.formats import unnumbered
from adc_features.ranking.recipes import RECIPES

PROMOTION = "promotion.json"
VARIANTS = "variants"
_PLACES = ("ranker", "repository")
DEFAULT_RECIPE = "codes_weights"


@dataclass(frozen=True)
class Promotion:
    """A ranker and the generation that it is served with.

    Parameters
    ----------
    ranker : Path
        Its directory.
    ranker_hash : str
        sha256 (hex) of the ranker's manifest, which names the hash of every other file.
    repository : Path
        A Feast repository.
    generation : str or None
        Id of a generation that is live there; None for a ranker without codes.
    codebook_hash : str or None
        sha256 (hex) of that generation's codebook.
    promoted_at : datetime
        Aware, UTC.
    known_as : str or None
        The generation that the ranker was trained on, where the served one is a later one of its
        line.

    Raises
    ------
    InputError
        A hash that is not text, an id that no generation may have, or a naive time.

    Examples
    --------
    >>> from datetime import UTC, datetime
    >>> pair = Promotion(Path("ranker"), "ab" * 32, Path("repo"), None, None,
    ...                  datetime(2026, 1, 1, tzinfo=UTC))
    >>> pair.name
    'no_sid-abababababab'
    """

    ranker: Path
    ranker_hash: str
    repository: Path
    generation: str | None
    codebook_hash: str | None
    promoted_at: datetime
    known_as: str | None = None

    def __post_init__(self) -> None:
        for name, kinds in (("ranker_hash", str), ("codebook_hash", str | None)):
            if not isinstance(value := getattr(self, name), kinds):
                raise InputError(f"{name} is {value!r}; expected text")
        for generation in (self.generation, self.known_as):
            if generation is not None:
                check_generation_id(generation)
        object.__setattr__(self, "ranker", Path(self.ranker).resolve())
        object.__setattr__(self, "repository", Path(self.repository).resolve())
        object.__setattr__(self, "promoted_at", utc(self.promoted_at, name="promoted_at"))

    @property
    def name(self) -> str:
        """What every answer is signed with: the generation and the start of the ranker's hash."""
        return f"{self.generation or 'no_sid'}-{self.ranker_hash[:12]}"


def trained_pair(repository: Path, ranker: Path, *, at: datetime) -> Promotion:
    """The pair of a trained ranker's directory and the codes that it was trained on, as published
    in a repository; at: when it would be promoted.

    Raises ArtifactError when the ranker is not whole, InputError when its codes are not live there.
    """
    from adc_features.store.repository import live_generation

    generation = read_manifest(ranker)["generation"]
    live = live_generation(repository, generation) if generation else None
    return Promotion(
        ranker=ranker,
        ranker_hash=file_hash(ranker / MANIFEST),
        repository=repository,
        generation=generation,
        codebook_hash=live.codebook_hash if live else None,
        promoted_at=at,
    )


def served_recipes() -> list[str]:
    """The recipes that can be served: all but controls, and those whose inputs are not online."""
    return [name for name, r in RECIPES.items() if r.permuted == "no" and not r.vectors]


def check_served(recipe: str) -> None:
    """Raise InputError for a recipe that is not served: its inputs are not online, or it is a
    control.
    """
    if recipe not in (served := served_recipes()):
        raise InputError(
            f"recipe {recipe!r} is not served (its inputs are not online, or it is a control);"
            f" choose from {', '.join(served)}"
        )


def check_promotion(promotion: Promotion) -> None:
    """Check that the pair is whole and belongs together, as far as files tell; loads no model.

    Raises
    ------
    ArtifactError
        The ranker is missing or was altered.
    InputError
        The generation is not live in the repository.
    GenerationMismatch
        The ranker was trained on another generation, or the repository's codes come from another
        codebook.
    """
    from adc_features.store.repository import live_generation

    manifest = read_manifest(promotion.ranker)
    if (got := file_hash(promotion.ranker / MANIFEST)) != promotion.ranker_hash:
        raise ArtifactError(
            f"{promotion.ranker} has a manifest of sha256 {got[:12]}..., promoted was"
            f" {promotion.ranker_hash[:12]}...: it was trained again since; promote it again"
        )
    if manifest["generation"] != (promotion.known_as or promotion.generation):
        raise GenerationMismatch(
            f"{promotion.ranker} was trained on generation {manifest['generation']!r}, promoted"
            f" with {promotion.generation!r}; promote it with the one it knows"
        )
    if promotion.generation is not None:
        live = live_generation(promotion.repository, promotion.generation)
        if live.codebook_hash != promotion.codebook_hash:
            raise GenerationMismatch(
                f"generation {live.id!r} of {promotion.repository} has codebook"
                f" {live.codebook_hash[:12]}..., the ranker knows"
                f" {(promotion.codebook_hash or '')[:12]}...: the codes were fitted again under one"
                " id; train the ranker on them, or publish them as a new generation"
            )


def promote(path: Path, promotion: Promotion, *, ended: Collection[str] = ()) -> None:
    """Check a pair and point the promotion file at it.

    The file is replaced atomically: readers see the old pair or the new one. Variants that serve
    beside the pair go on.

    Parameters
    ----------
    path : Path
        The promotion file. Whatever stood in its place is replaced; a directory is moved aside.
    promotion : Promotion
        The pair. A ranker or repository below the file's directory is named relative to it, so that
        a run may be moved.
    ended : collection of str
        Names of variants that end with it.

    Raises
    ------
    ArtifactError, InputError, GenerationMismatch
        As `check_promotion`; the file is left as it was.

    Examples
    --------
    >>> promote(folder / "promotion.json", pair)
    >>> read_promotion(folder / "promotion.json").generation
    'g1'
    """
    check_promotion(promotion)
    path = Path(path)
    kept = [v for v in _variants_on_file(path) if v.get("name") not in ended]
    write_promotion(path, promotion, kept)


def write_promotion(
    path: Path, promotion: Promotion, variants: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write the file, unchecked. variants: as the file has them."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a rename cannot replace it, and what it holds is not ours to delete
    if path.is_dir() and not path.is_symlink():
        path.rename(path.with_name(f"{path.name}.damaged-{promotion.promoted_at:%Y%m%dT%H%M%S%f}"))
    facts = pair_facts(promotion, path.parent)
    write_document(path, "promotion", {**facts, VARIANTS: list(variants)}, check=True)


def pair_facts(pair: Promotion, base: Path) -> dict[str, Any]:
    """A pair as a file in the directory `base` has it."""
    places = {name: _relative(getattr(pair, name), base.resolve()) for name in _PLACES}
    return {**asdict(pair), **places}


def pair_of(facts: Mapping[str, Any], base: Path) -> Promotion:
    """The pair that `pair_facts` wrote; raises ValueError, TypeError or InputError when it is
    none.
    """
    if not all(isinstance(facts.get(n), str) for n in (*_PLACES, "promoted_at")):
        raise ValueError("it names no ranker, repository and time")
    places = {name: base / facts[name] for name in _PLACES}
    return Promotion(**{**facts, **places, "promoted_at": parse_utc(facts["promoted_at"])})


def _variants_on_file(path: Path) -> list[dict[str, Any]]:
    """Of a promotion file that is about to be replaced; none where it is damaged or missing."""
    try:
        variants = read_facts(path)[VARIANTS]
    except ArtifactError:
        return []
    return [v for v in variants if isinstance(v, dict)]


def read_promotion(path: Path) -> Promotion:
    """The pair that a promotion file names.

    Parameters
    ----------
    path : Path
        The promotion file.

    Returns
    -------
    Promotion
        Its paths are absolute; `open_bundle` checks that the pair is whole.

    Raises
    ------
    ArtifactError
        The file is missing or is not a promotion.

    Examples
    --------
    >>> promote(folder / "promotion.json", pair)
    >>> read_promotion(folder / "promotion.json") == pair
    True
    """
    path = Path(path)
    facts = read_facts(path)
    with as_promotion(path):
        return pair_of({n: v for n, v in facts.items() if n != VARIANTS}, path.parent)


def read_facts(path: Path) -> dict[str, Any]:
    """What a promotion file says, checked against its own check; `variants` is a list."""
    with as_promotion(path):
        facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError("it names no ranker, repository and time")
        try:
            facts = checked(facts, path)
        except ArtifactError as error:
            raise ValueError(str(error).partition(";")[0]) from error
        facts = unnumbered("promotion", facts, of=path)
        if not isinstance(facts.setdefault(VARIANTS, []), list):
            raise ValueError("its variants are no list")
        return facts


@contextmanager
def as_promotion(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a promotion file into an ArtifactError that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{path} does not exist; promote a ranker first, `adc promote --run DIR`"
        ) from error
    except (ValueError, TypeError, KeyError, OSError, RuntimeError, InputError) as error:
        # OSError: a directory; RuntimeError: nested too deeply
        raise ArtifactError(
            f"{path} is not a promotion ({error}); promote a ranker again, `adc promote --run DIR`"
        ) from error


def _relative(place: Path, base: Path) -> str:
    return os.path.relpath(place, base) if place.is_relative_to(base) else str(place)
