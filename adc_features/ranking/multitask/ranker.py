"""One trained model of several tasks on disk. Reads: directories. Writes: files of a directory.

network.json, network.safetensors          a network: its shape, its parameters
boosted.json, boosted.safetensors          trees: tasks, settings, columns; counts of the columns
trees_0.ubj, trees_1.ubj, ...              one booster for each task

Completeness and hashes are those of the directory around it, which has a manifest.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from adc_features.errors import AdcError, ArtifactError
from adc_features.extras import extra_modules
from adc_features.inputs.encoded import Layout
from adc_features.inputs.encoders.base import State
from adc_features.ranking.boosted_settings import BoostedSettings
from adc_features.ranking.multitask.boosted import BoostedScorer
from adc_features.ranking.multitask.boosted_matrix import BoostedColumns
from adc_features.ranking.multitask.scorer import NetworkScorer
from adc_features.ranking.multitask.shape import NetworkShape, input_layout

NETWORK, BOOSTED = "network", "boosted"
AnyScorer = NetworkScorer | BoostedScorer


def save_model(model: AnyScorer, directory: Path) -> None:
    """Write a model into an existing directory.

    Parameters
    ----------
    model : NetworkScorer or BoostedScorer
        What training returned.
    directory : Path
        Where its files go; the caller seals it.
    """
    if isinstance(model, NetworkScorer):
        _write(directory, NETWORK, {"shape": model.shape.to_json()}, model.tensors)
        return
    state = model.columns.state()
    facts = {
        "tasks": list(model.tasks),
        "settings": asdict(model.settings),
        "inputs": {name: asdict(layout) for name, layout in model.columns.inputs.items()},
        "columns": state.facts,
    }
    for n, booster in enumerate(model.boosters):
        booster.save_model(directory / f"trees_{n}.ubj")
    _write(directory, BOOSTED, facts, state.arrays)


def load_model(directory: Path) -> AnyScorer:
    """Read what `save_model` wrote.

    Parameters
    ----------
    directory : Path
        Of one model.

    Returns
    -------
    NetworkScorer or BoostedScorer
        Torch is not needed for either; XGBoost is for the latter.

    Raises
    ------
    ArtifactError
        No model is there, or its files do not fit each other.
    """
    kind = next((k for k in (NETWORK, BOOSTED) if (directory / f"{k}.json").is_file()), None)
    if kind is None:
        raise ArtifactError(
            f"{directory} holds neither {NETWORK}.json nor {BOOSTED}.json; give the directory of"
            " one seed of a trained ranker, or train it again"
        )
    try:
        facts, arrays = _read(directory, kind)
        return _network(facts, arrays) if kind == NETWORK else _boosted(directory, facts, arrays)
    except (ArtifactError, ImportError):
        raise
    except (KeyError, TypeError, ValueError, OSError, AdcError) as error:
        raise ArtifactError(
            f"{directory} holds no {kind} model that this version reads"
            f" ({type(error).__name__}: {error}); it was altered, or another version wrote it:"
            " restore it or train it again"
        ) from error


def _network(facts: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> NetworkScorer:
    shape = NetworkShape.of_json(facts["shape"])
    for n in range(shape.settings.networks):
        for name, expected in (
            ("embeddings.table", (shape.rows, shape.settings.embedding)),
            (
                "towers.first",
                (shape.general_width, len(shape.tasks) * shape.settings.hidden[0]),
            ),
        ):
            if (found := tensors[f"networks.{n}.{name}"].shape) != expected:
                raise ValueError(f"{name} of network {n} has the shape {found}, not {expected}")
    return NetworkScorer(shape, tensors)


def _boosted(
    directory: Path, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> BoostedScorer:
    with extra_modules():
        import xgboost as xgb

    layout = Layout({name: input_layout(said) for name, said in facts["inputs"].items()}, {})
    return BoostedScorer(
        facts["tasks"],
        settings=BoostedSettings(**facts["settings"]),
        columns=BoostedColumns.restore(layout, State(facts["columns"], dict(arrays))),
        boosters=[
            xgb.Booster(model_file=directory / f"trees_{n}.ubj") for n in range(len(facts["tasks"]))
        ],
    )


def _write(
    directory: Path, name: str, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    from safetensors.numpy import save_file

    save_file(
        {key: np.ascontiguousarray(value) for key, value in arrays.items()},
        directory / f"{name}.safetensors",
    )
    (directory / f"{name}.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")


def _read(directory: Path, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    facts = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))
    try:
        return facts, load_file(directory / f"{name}.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{name}.safetensors: {error}") from error
