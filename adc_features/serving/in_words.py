"""A request that a person wrote: texts of a command line or a form. Reads: texts. Writes: requests
in the types of the service.
"""

import json
from collections.abc import Mapping
from typing import Any

from adc_features.errors import InputError


def keyed_request(bundle: Any, user: str, items: list[str], fields: list[str]) -> dict[str, Any]:
    """The request that texts of the command line mean, in the types of the service."""
    types, keys = bundle.key_types, bundle.trained.ranker
    request = {}
    for given in fields:
        name, equals, value = given.partition("=")
        if not equals:
            raise InputError(f"--field {given!r} is not NAME=VALUE")
        request[name] = value_asked(value)
    return {
        "user": keys_asked(user, keys.user, types),
        "items": [keys_asked(item, keys.item, types) for item in items],
        "request": request,
    }


def keys_asked(text: str, names: Any, types: Any) -> dict[str, Any]:
    """Join keys as `KEY=VALUE,KEY=VALUE`, or the value of the only one."""
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    if len(names) == 1 and pairs[0][0] != names[0]:
        pairs = [(names[0], text)]
    if unknown := sorted({name for name, _ in pairs} - set(names)):
        raise InputError(
            f"{text!r} has {unknown}; expected {', '.join(f'{n}=VALUE' for n in names)}"
        )
    return {name: id_asked(value) if "Int" in types[name] else value for name, value in pairs}


def keys_in_words(values: Mapping[str, Any]) -> str:
    """Join keys as `keys_asked` takes them."""
    if len(values) == 1:
        return str(next(iter(values.values())))
    return ",".join(f"{key}={value}" for key, value in values.items())


def value_asked(text: str) -> Any:
    """JSON where it is JSON, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def id_asked(ids: str | list[str]) -> int | list[int]:
    """Ids of a catalogue whose ids are integers."""
    try:
        return int(ids) if isinstance(ids, str) else [int(i) for i in ids]
    except ValueError as error:
        raise InputError(
            f"ids are {ids}; this catalogue's ids are integers, give integers"
        ) from error
