"""Requests as they were served. Reads: a served log. Writes: nothing."""

from pathlib import Path
from typing import Any

from adc_features.errors import InputError, RequestError
from adc_features.serving.in_words import keys_in_words


def logged_request(served_log: Path | None, request_id: str) -> dict[str, Any]:
    """A request as it was served. Raises InputError without a log, RequestError for no such id."""
    import pyarrow.compute as pc

    from adc_features.served.record import ITEM, REQUEST, USER
    from adc_features.served.segments import sealed_segments

    if served_log is None:
        raise InputError("no served log was given; start `adc explore` with --log DIR")
    for segment in reversed(sealed_segments(served_log)):
        places = pc.equal(segment.request_rows(["request_id"])["request_id"], request_id)
        if not pc.any(places).as_py():
            continue
        (one,) = segment.request_rows().filter(places).to_pylist()[:1]
        rows = segment.candidate_rows()
        rows = rows.filter(pc.equal(rows["request_id"], request_id)).to_pylist()
        about = segment.about
        carried = {name: one.get(REQUEST + name) for name, _ in about.request}
        fields = {name: value for name, value in carried.items() if value is not None}
        return {
            "asked": {
                "user": {key: one[USER + key] for key in about.user},
                "items": [{key: row[ITEM + key] for key in about.item} for row in rows],
                "request": fields,
            },
            "request_id": request_id,
            "received": one["received"],
            "now": one["now"],
            "pair": one["pair"],
            "generation": one["generation"],
            "scores": {
                keys_in_words({key: row[ITEM + key] for key in about.item}): row["score"]
                for row in rows
            },
        }
    raise RequestError(
        f"no request {request_id[:100]!r} is in the log {served_log.name}; what was served within"
        " the last seconds is there once its segment is sealed"
    )
