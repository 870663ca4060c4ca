"""Retrainings in MLflow, through Feast's client. Reads: a decision of `retrain`, the `mlflow:`
block of feature_store.yaml. Writes: one MLflow run.

Off unless the block says `enabled: true` and MLflow is installed (the extra `mlflow`). The
catalogue is the record; this is a copy for those who look there.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from adc_features.artifact import json_text

log = logging.getLogger(__name__)


def track(repository: Path, decision: Mapping[str, Any], *, service: str) -> str | None:
    """The id of the MLflow run that now tells of this decision, or None where MLflow is off or did
    not answer: what was decided holds either way.

    Parameters: champion, challenger, window. Metrics: value of each reason and gate, scores of both
    rankers. Tags: the decision, the feature service under Feast's own tag. Artefact: decision.json.
    """
    from adc_features.store.registry import open_store

    store = open_store(repository)
    enabled = store.config.mlflow is not None and store.config.mlflow.enabled
    client = store.mlflow if enabled else None
    if client is None:
        if enabled:
            log.warning(
                "stage=track mlflow=false reason=feature_store.yaml enables MLflow, which is not"
                ' installed; pip install "adc-features[mlflow]"'
            )
        return None
    try:
        tags = {
            "adc.decision": decision["decision"],
            "feast.feature_service": service,
            "feast.retrieval_type": "historical",
        }
        with client.start_run(
            run_name=f"retrain {Path(decision['directory']).name}", tags=tags
        ) as run:
            window = {f"window_{name}": value for name, value in decision["window"].items()}
            client.mlflow.log_params(
                {"champion": decision["champion"], "challenger": decision["challenger"], **window}
            )
            client.mlflow.log_metrics(
                dict(
                    _numbers(
                        {name: decision.get(name, {}) for name in ("reasons", "gates", "scores")}
                    )
                )
            )
            client.mlflow.log_text(json_text(decision), "decision.json")
            return str(run.info.run_id)
    except Exception as error:  # a tracking server that is down must not undo a promotion
        log.warning("stage=track mlflow=false reason=%s", error)
        return None


def _numbers(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number and truth value in nested facts, named by its path."""
    for name, value in facts.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{path}.")
        elif isinstance(value, (bool, int, float)):
            yield path, float(value)
