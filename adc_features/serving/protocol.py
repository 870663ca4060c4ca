"""What a request to the service may be, and how it is refused. Reads: bodies, settings. Writes:
requests, error answers.

Bounds come first: a body is parsed once, its fields and the lengths of its lists are looked at, and
only then its elements. The first fault ends it, so that no body costs more than a few milliseconds,
however many faults it has.
"""

import hmac
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
)
from pydantic_core import from_json, to_json
from starlette.requests import Request
from starlette.responses import Response

from adc_features.errors import AdcError, GenerationMismatch, InputError, RequestError

QUOTED = 200
"""Characters of what was sent that an error text repeats at most."""
SMALL_BODY = 1 << 16
"""Bytes of a body that are always taken in; larger ones share a budget."""


@dataclass(frozen=True)
class ServiceSettings:
    """Bounds of the service.

    Parameters
    ----------
    max_items : int
        Ids in one request.
    max_body : int
        Bytes of one body.
    timeout : float
        Seconds that a request may take, its body included.
    max_waiting : int
        Requests that may wait for the scoring thread.
    poll : float
        Seconds between looks at the promotion file; ten times as many after a refused one.
    registry_poll : float
        Seconds between looks at the registry of a declared ranker's repository.
    token : str or None
        What `Authorization: Bearer` must carry, at least 16 ASCII characters; None for none.
    max_values : int
        Items times features in one lookup.
    max_head : int
        Bytes of a request around its body.
    patience : float
        Seconds for a request line and headers, and for a client to take its answer.
    keep_alive : float
        Seconds between two requests of one connection.
    max_connections, max_per_peer : int
        Connections open at once in each process, and of them from one address. Over these, the
        oldest connection without a whole request is closed for a new one.

    Raises
    ------
    InputError
        A bound that is not more than 0, or a weak token.

    Examples
    --------
    >>> ServiceSettings(max_items=100).timeout
    2.0
    """

    max_items: int = 2_000
    max_body: int = 1 << 20
    timeout: float = 2.0
    max_waiting: int = 64
    poll: float = 0.5
    registry_poll: float = 30.0
    token: str | None = None
    max_values: int = 50_000
    max_head: int = 1 << 16
    patience: float = 5.0
    keep_alive: float = 30.0
    max_connections: int = 512
    max_per_peer: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "token" and value <= 0:
                raise InputError(f"{name} is {value}; expected more than 0")
        if self.token is not None and not (self.token.isascii() and len(self.token) >= 16):
            raise InputError(
                "the token is shorter than 16 characters or not ASCII; generate one, for example"
                " with `openssl rand -hex 24`"
            )


Id = StrictStr | StrictInt
Keys = Annotated[dict[StrictStr, Id], Field(max_length=16)]
"""Join keys by name, where one id does not say it."""


class RankRequest(BaseModel):
    """POST /rank. user, items: ids, or objects of join keys. request: fields of the request that
    the ranker reads, by name. k: how many of the best to answer, default all. now: as of when
    features age, default the service's clock. explain: say why the best scored as it did.
    request_id: under which a log keeps the request; default one that is made up.
    """

    model_config = ConfigDict(extra="forbid")
    user: Id | Keys
    items: Annotated[list[Id | Keys], FailFast()]
    request: Annotated[dict[StrictStr, Any], Field(max_length=256)] = {}
    k: Annotated[StrictInt, Field(ge=1)] | None = None
    now: AwareDatetime | None = None
    explain: StrictBool = False
    request_id: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None


class LookupRequest(BaseModel):
    """POST /lookup. features: names of item features to answer beside the codes."""

    model_config = ConfigDict(extra="forbid")
    items: Annotated[list[Id], FailFast()]
    features: Annotated[list[StrictStr], FailFast()] = []


class HttpError(AdcError):
    """An answer that is not 200: its status, a code for programs and a sentence for people."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


Asked = TypeVar("Asked", RankRequest, LookupRequest)

_OBJECTS, _LISTS = 3, 2 + 256
"""In a request: itself, its user and its fields, beside one object an item; its items and features,
beside one list a field.
"""
_TEXT = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
"""One JSON string, or what an unfinished one left; possessive, so that no body makes it look at a
byte twice.
"""


def _refuse_shape(body: bytes, settings: ServiceSettings) -> None:
    """Refuse what no request looks like before it is parsed: a parser makes an object of every
    `{}`, tens of milliseconds of them in 1 MiB.
    """
    most = settings.max_items + settings.max_values + len(RankRequest.model_fields)
    objects = settings.max_items + _OBJECTS
    many = body.count(b'"') - body.count(b'\\"') > 2 * most
    marks = b"" if many else _TEXT.sub(b"", body)
    if (
        many
        or marks.count(b"{") > objects
        or marks.count(b"[") > _LISTS
        or marks.count(b",") > most
    ):
        raise _invalid(
            f"the body holds more than {objects} objects, {_LISTS} lists or {most} values; a"
            " request is one object of a user, items, and the fields that the ranker reads"
        )


def parsed(model: type[Asked], body: bytes, settings: ServiceSettings) -> Asked:
    """A request within its bounds.

    Raises HttpError that names the first fault and repeats little of what was sent.
    """
    if len(body) > SMALL_BODY:
        _refuse_shape(body, settings)
    try:
        sent = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        told = f"the body is not JSON in UTF-8 ({brief(str(error))})"
        raise HttpError(400, "not_json", told) from error
    fields = model.model_fields
    wanted = ", ".join(
        name if field.is_required() else f"{name} (optional)" for name, field in fields.items()
    )
    if not isinstance(sent, dict):
        raise _invalid(f"the body: Input should be an object; a request has {wanted}")
    if unknown := next((name for name in sent if name not in fields), None):
        raise _invalid(
            f"{brief(unknown, 40)}: Extra inputs are not permitted; a request has {wanted}"
        )
    _check_lengths(sent, settings)
    try:
        asked = model.model_validate(sent)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part)[:40] for part in first["loc"]) or "the body"
        raise _invalid(f"{place}: {brief(first['msg'])}; a request has {wanted}") from error
    if isinstance(asked, RankRequest) and asked.now is not None:
        try:
            asked.now = asked.now.astimezone(UTC)
        except OverflowError:
            asked.now = datetime.min  # refused with the ends of time: no row is of then
        if not MINYEAR < asked.now.year < MAXYEAR:
            raise _invalid("now lies outside of the years 2 to 9998 in UTC; give another time")
    return asked


def _check_lengths(sent: Mapping[str, Any], settings: ServiceSettings) -> None:
    """Raise HttpError for lists that are empty or too long, before their elements are looked at."""
    items, features = sent.get("items"), sent.get("features")
    if isinstance(items, list) and not items:
        raise HttpError(422, "no_items", f"items is empty; give 1 to {settings.max_items} ids")
    if isinstance(items, list) and len(items) > settings.max_items:
        raise HttpError(
            422,
            "too_many_items",
            f"{len(items)} items, at most {settings.max_items} are taken at once; ask in several"
            " requests",
        )
    if isinstance(features, list) and len(features) > settings.max_values:
        told = f"{len(features)} features; give each name that you need once"
        raise HttpError(422, "too_many_features", told)


def _invalid(message: str) -> HttpError:
    return HttpError(422, "invalid", message)


def check_features(asked: LookupRequest, known: list[str], settings: ServiceSettings) -> None:
    """Raise HttpError unless the features are known, named once each, and not too many for so many
    items.
    """
    features = asked.features
    if len(features) > len(known):
        raise HttpError(
            422,
            "too_many_features",
            f"{len(features)} features, there are {len(known)}; give each name that you need once",
        )
    if unknown := next((name for name in features if name not in known), None):
        raise HttpError(
            422,
            "unknown_feature",
            f"there is no feature {brief(unknown, 80)!r}; there are {brief(', '.join(known), 500)}",
        )
    if len(set(features)) < len(features):
        twice = next(name for name in features if features.count(name) > 1)
        raise HttpError(
            422,
            "repeated_feature",
            f"features names {twice!r} more than once; give each name that you need once",
        )
    if len(asked.items) * len(features) > settings.max_values:
        raise HttpError(
            422,
            "too_many_values",
            f"{len(asked.items)} items with {len(features)} features are more than"
            f" {settings.max_values} values; ask in several requests",
        )


def authorised(request: Request, token: str | None) -> None:
    """Raise HttpError unless the request carries the token; the scheme may be written in any
    case.
    """
    if token is None:
        return
    scheme, _, given = request.headers.get("authorization", "").encode("latin-1").partition(b" ")
    if not hmac.compare_digest(given.strip(b" "), token.encode()) or scheme.lower() != b"bearer":
        raise HttpError(
            401,
            "unauthorized",
            "send the header `Authorization: Bearer TOKEN` with the service's token",
        )


class Budget:
    """Memory for the bodies that are being read: each may have SMALL_BODY bytes, what is larger
    shares `size` bytes.
    """

    def __init__(self, size: int) -> None:
        self.left = size

    async def body(self, request: Request, limit: int) -> bytes:
        """The body, never more of it in memory than the limit. Raises HttpError when it is larger,
        or when others hold the budget.
        """
        too_large = HttpError(
            413, "too_large", f"the body is larger than {limit} bytes; ask in several requests"
        )
        declared = request.headers.get("content-length", "0")
        is_number = declared.isascii() and declared.isdigit() and len(declared) < 20
        if not is_number or int(declared) > limit:
            raise too_large
        parts, size, held = [], 0, 0
        try:
            async for part in request.stream():
                size += len(part)
                if size > limit:
                    raise too_large
                more = max(0, size - SMALL_BODY) - held
                if more > self.left:
                    raise HttpError(
                        503,
                        "busy",
                        "other large bodies are being read; try again later or ask in smaller"
                        " requests",
                    )
                held, self.left = held + more, self.left - more
                parts.append(part)
            return b"".join(parts)
        finally:
            self.left += held


def http_error_of(error: Exception) -> HttpError:
    """How an error is answered: the client's faults as 4xx; ours as 503 under the error's name, a
    program's fault as 500.

    Ours are told without the message, which names files of this machine; the log has it.
    """
    if isinstance(error, HttpError):
        return error
    if isinstance(error, RequestError):
        return HttpError(422, "refused", brief(without_paths(str(error))))
    if isinstance(error, GenerationMismatch):
        return HttpError(
            503,
            "GenerationMismatch",
            "the repository holds other codes than the ranker that serves was trained on; the"
            " service's log names both",
        )
    if isinstance(error, AdcError):
        return HttpError(
            503,
            type(error).__name__,
            "something that the service reads is missing, damaged or not what it was; the service's"
            " log names it",
        )
    if isinstance(error, OSError | MemoryError | EOFError) or _of_the_store(error):
        return HttpError(
            503,
            "ArtifactError",
            "something that the service reads is damaged or cannot be read; the service's log"
            " names it",
        )
    return HttpError(500, "internal", "the service failed; its log says how")


def _of_the_store(error: Exception) -> bool:
    """Raised below the store, from a request that was checked: what it read is not what was
    written.
    """
    return any(
        frame.f_globals.get("__name__", "").startswith("adc_features.store")
        for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def brief(text: str, most: int = QUOTED) -> str:
    """The text, its middle left out where it is longer than `most` characters."""
    return text if len(text) <= most else f"{text[: most // 2 - 3]} ... {text[-(most // 2 - 2) :]}"


def without_paths(text: str) -> str:
    """The text with every absolute path cut to its last name: where files lie is nothing that a
    client should learn.
    """
    return re.sub(r"(?<![\w.:/~-])/(?:[^\s'\"/]+/)+([^\s'\"/]*)", r"\1", text)


def error_answer(error: HttpError) -> Response:
    """The error as an HTTP response."""
    headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "1"}}.get(error.status)
    return json_answer(error_body(error), status=error.status, headers=headers)


def error_body(error: HttpError) -> dict[str, Any]:
    """What every answer that is not 200 looks like."""
    return {"error": {"code": error.code, "message": error.message}}


def json_answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer in JSON."""
    return Response(
        to_json(value), status_code=status, media_type="application/json", headers=headers
    )
