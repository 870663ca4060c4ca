"""A frozen tokenizer on disk: one vocabulary. Reads and writes: generation directories.

<generation>/weights.safetensors   parameters and input statistics
<generation>/quality.json          the quality report of the fit
<generation>/manifest.json         written last: spec, settings, hashes, trained_through
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from adc_features import __version__
from adc_features.artifact import fresh_directory, read_manifest, seal, write_json
from adc_features.clock import utc
from adc_features.codes.spec import SidSpec
from adc_features.errors import ArtifactError, InputError
from adc_features.formats import FORMATS
from adc_features.pulled import pulled_directory

FORMAT = FORMATS["generation"]
GENERATIONS = "generations"
"""The directory of a run that holds the generations after its first, each under its id."""


@dataclass(frozen=True)
class Generation:
    """One frozen tokenizer: the vocabulary that codes are written in.

    Parameters
    ----------
    id : str
        Lower-case letters, digits and underscores; part of the Feast view's name.
    tokenizer : str
        Which implementation reads `tensors`.
    spec : SidSpec
        Positions and codes of its semantic IDs.
    settings : mapping
        The tokenizer's JSON settings, its reliability scale included.
    tensors : mapping of str to ndarray
        Weights by name.
    quality : mapping
        The fit's report.
    trained_through : datetime
        The as_of (exclusive, UTC) of the newest vectors that it was fitted on.
    codebook_hash : str
        sha256 (hex) of the weights file: two generations with one hash have the same codes.

    Examples
    --------
    >>> generation = Generation(
    ...     id="g1",
    ...     tokenizer="adc",
    ...     spec=SidSpec(content={"title": 1}),
    ...     settings={},
    ...     tensors={},
    ...     quality={},
    ...     trained_through=datetime.fromisoformat("2024-05-01T00:00+00:00"),
    ...     codebook_hash="00" * 32,
    ... )
    >>> generation.spec.length
    5

    Source
    ------
    ADC-SID, arXiv 2510.25622, Eq. 5 and 7-9: the codebooks.
    """

    id: str
    tokenizer: str
    spec: SidSpec
    settings: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]
    quality: Mapping[str, Any]
    trained_through: datetime
    codebook_hash: str


def check_generation_id(generation_id: str) -> str:
    """The id itself; raises InputError when it could not be part of a Feast view's name."""
    if not isinstance(generation_id, str) or not re.fullmatch(
        r"[a-z][a-z0-9_]{0,30}", generation_id
    ):
        raise InputError(
            f"generation id is {generation_id!r}; expected a lower-case letter, then letters,"
            " digits or '_', for example 'g3'"
        )
    return generation_id


def generation_place(generation_id: str) -> str:
    """Where a generation after the first lies, relative to its run. Raises InputError for an id
    that is none.
    """
    return f"{GENERATIONS}/{check_generation_id(generation_id)}"


def write_generation(
    directory: Path,
    *,
    generation_id: str,
    tokenizer: str,
    spec: SidSpec,
    settings: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    quality: Mapping[str, Any],
    trained_through: datetime,
) -> Generation:
    """Write a complete generation directory and open it. A failure leaves nothing visible."""
    from safetensors.numpy import save_file

    check_generation_id(generation_id)
    with fresh_directory(directory) as aside:
        save_file(
            {name: np.asarray(array, order="C") for name, array in tensors.items()},
            aside / "weights.safetensors",
        )
        write_json(aside / "quality.json", quality)
        facts: dict[str, Any] = {
            "kind": "generation",
            "id": generation_id,
            "tokenizer": tokenizer,
            "spec": spec.to_dict(),
            "settings": settings,
        }
        facts |= {"trained_through": utc(trained_through), "library_version": __version__}
        seal(aside, facts)
    return open_generation(directory)


def open_generation(directory: Path | str) -> Generation:
    """Open a generation, after checking the hash of each file.

    Parameters
    ----------
    directory : Path or str
        What `fit` wrote, or `adc run` under `generation`; or its address on an object store, of
        which a verified copy is kept on this machine.

    Returns
    -------
    Generation

    Raises
    ------
    ArtifactError
        A file is missing, altered or of a newer format; the message names it.
    StorageError
        An object store refuses the credentials, or does not answer.

    Examples
    --------
    >>> open_generation(fitted).spec.codebook_size
    8

    Source
    ------
    The directory's files: docs/reference/file_formats.md.
    """
    from safetensors.numpy import load_file

    directory = pulled_directory(directory)
    manifest = read_manifest(directory, requires=("weights.safetensors", "quality.json"))
    if manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{directory} has no generation format (got {manifest.get('format')!r}, this library"
            f" reads {FORMAT}): it is no generation, or it was altered; fit the generation again"
        )
    try:
        check_generation_id(manifest["id"])
    except InputError as error:
        raise ArtifactError(
            f"{directory}: {error}; its manifest was altered, fit the generation again"
        ) from error
    return Generation(
        id=manifest["id"],
        tokenizer=manifest["tokenizer"],
        spec=SidSpec.from_dict(manifest["spec"]),
        settings=manifest["settings"],
        tensors=load_file(directory / "weights.safetensors"),
        quality=json.loads((directory / "quality.json").read_text(encoding="utf-8")),
        trained_through=datetime.fromisoformat(manifest["trained_through"]),
        codebook_hash=manifest["files"]["weights.safetensors"],
    )


def adc_widths(generation: Generation) -> dict[str, int]:
    """Modality -> width of the vectors that a generation of ADC-SID was fitted on, told without
    torch.
    """
    prefix, suffix = "standard.", ".center"
    return {
        name[len(prefix) : -len(suffix)]: array.shape[1]
        for name, array in generation.tensors.items()
        if name.startswith(prefix) and name.endswith(suffix)
    }
