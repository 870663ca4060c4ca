"""What a view's values mean, as hashes. Reads: Feast views. Writes: nothing.

Tags, owner and description are left out: they change nothing that is served. Functions are compared
by their text; none is unpickled for it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adc_features.aggregates.finalise import READ_AT

_UNREAD = ("name", "description", "tags", "owner", "meta")
"""Fields of a source's message that say nothing of its values."""


def definition_parts(
    view: Any, *, repo: Path, sources: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """Part of the definition -> sha256 of it.

    Parameters
    ----------
    view : BaseFeatureView
        As the registry holds it.
    repo : Path
        The repository: a file inside it keeps its definition when the repository moves.
    sources : sequence of mapping
        Of an on-demand view: projected name, features and definition of each view that it reads.
    """
    parts: dict[str, Any] = {}
    if (source := getattr(view, "batch_source", None)) is not None:
        parts["source"] = _source(source, repo)
    elif (source := getattr(view, "source", None)) is not None:
        parts["source"] = _source(getattr(source, "batch_source", None) or source, repo)
    keys = sorted((f.name, str(f.dtype)) for f in getattr(view, "entity_columns", ()))
    parts["entity keys"] = [list(key) for key in keys]
    if (text := _function_text(view)) is not None:
        parts["function"] = text
        parts["mode"] = _mode(view)
    if aggregations := getattr(view, "aggregations", None):
        parts["aggregations"] = [str(a.to_proto()) for a in aggregations]
    if hasattr(view, "source_request_sources"):
        parts["sources"] = list(sources)
        parts["request fields"] = request_fields(view)
        parts["singleton"] = bool(view.singleton)
        parts["write_to_online_store"] = bool(view.write_to_online_store)
    return {name: hashed(part) for name, part in parts.items()}


def request_fields(view: Any) -> dict[str, str]:
    """What an on-demand view reads of the request: name -> Feast type; {} of other views. The time
    of the reading is no field: each request and each row has it.
    """
    fields = _request_fields(view)
    return {name: kind for name, kind in fields.items() if name != READ_AT}


def reads_time(view: Any) -> bool:
    """Whether a view is computed as of the time of the request, or of the row."""
    return READ_AT in _request_fields(view)


def _request_fields(view: Any) -> dict[str, str]:
    if not hasattr(view, "source_request_sources"):
        return {}
    sources = [*view.source_request_sources.values()]
    return {f.name: str(f.dtype) for source in sources for f in source.schema}


def hashed(value: Any) -> str:
    """sha256 (hex) of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _source(source: Any, repo: Path) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    facts = MessageToDict(source.to_proto(), preserving_proto_field_name=True)
    facts = {k: v for k, v in facts.items() if k not in _UNREAD}
    if "batch_source" in facts:  # of a push source: a nested message
        facts["batch_source"] = {k: v for k, v in facts["batch_source"].items() if k not in _UNREAD}
    options = facts.get("file_options", {})
    if "uri" in options:
        options["uri"] = _inside(options["uri"], repo)
    configuration = getattr(source.to_proto().custom_options, "configuration", b"")
    if configuration:  # PostgreSQL and others: JSON with the source's own name
        facts["custom_options"] = _configuration(configuration)
    return facts


def _inside(path: str, repo: Path) -> str:
    """A path relative to the repository, where it lies inside it."""
    if "://" in path:
        return path
    whole = (repo / path).resolve()
    return str(whole.relative_to(repo)) if whole.is_relative_to(repo) else str(whole)


def _configuration(configuration: bytes) -> Any:
    try:
        facts = json.loads(configuration)
    except ValueError:  # also of UnicodeDecodeError: a class may write any bytes
        return configuration.hex()
    if isinstance(facts, dict):
        return {k: v for k, v in facts.items() if k not in _UNREAD}
    return facts


def _function_text(view: Any) -> str | None:
    transformation = getattr(view, "feature_transformation", None)
    text = getattr(transformation, "udf_string", None) or getattr(view, "udf_string", None)
    if not text and transformation is not None:  # SQL, Substrait: the transformation is its text
        text = getattr(transformation, "sql", None) or str(transformation.to_proto())
    return None if not text else "\n".join(str(text).splitlines())


def _mode(view: Any) -> str:
    mode = getattr(view, "mode", "")
    return str(getattr(mode, "value", mode))
