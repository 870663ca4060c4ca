"""Statistics of users and items as declared aggregates, for streams. Reads: nothing. Writes: views.

`user_activity` and `item_profile` of `adc_features.data.statistics`, column by column. Over a
history, with known="resolution", counts, means of values on the grid, lists and times equal those
functions' bit for bit. Residual means may differ in their last bit: a residual is rounded to a
multiple of 2^-30 here, so that its sums do not depend on the order of events.
"""

from datetime import timedelta

from adc_features.aggregates.declaration import (
    DAY,
    Aggregate,
    AggregateView,
    EventStream,
    Grid,
    KeyType,
    Known,
    Residual,
    count,
    last,
    last_time,
    newest,
    residual_mean,
    smoothed_mean,
    total,
)
from adc_features.data.attributes import ATTRIBUTES
from adc_features.data.statistics import RECENT_DAYS, SMOOTHING


def interaction_stream(
    *,
    resolution: timedelta,
    user_id: KeyType = "string",
    item_id: KeyType = "string",
    label: float = 1.0,
    rating: float | None = None,
    lateness: timedelta = timedelta(minutes=10),
) -> EventStream:
    """Interactions with the attributes of their items.

    label, rating : the bounds of the values. rating None: the data has none, and the label counts
    as rating.
    """
    values = {"label": Grid(bits=20, bound=label)}
    if rating is not None:
        values["rating"] = Grid(bits=20, bound=rating)
    return EventStream(
        "interactions",
        keys={"user_id": user_id, "item_id": item_id},
        values=values,
        attributes=tuple(ATTRIBUTES),
        lateness=lateness,
        resolution=resolution,
    )


def user_activity_view(
    stream: EventStream, *, recent: int = 20, known: Known = "sealed"
) -> AggregateView:
    """What is known of a user: the columns of `USER_ACTIVITY_SCHEMA`."""
    residual = Residual(_rating(stream), ("item_id",), SMOOTHING, _initial(known))
    lists: dict[str, str | Residual] = {
        "items": "item_id",
        "brands": "brand",
        "paths": "path",
        "labels": "label",
        "residuals": residual,
        "times": "time",
    }
    features = {
        **_summary("user", stream, against="item_id", known=known),
        **{f"user_recent_{name}": last(recent, of) for name, of in lists.items()},
    }
    return AggregateView("user_activity", stream, ("user_id",), features, known)


def item_profile_view(stream: EventStream, *, known: Known = "sealed") -> AggregateView:
    """What is known of an item and its groups: the columns of `ITEM_PROFILE_SCHEMA`.

    Sealed, the windows of 30 and 120 days begin at midnight, so that they hold up to a day more on
    data stamped finer than by day.

    The groups' columns are as known at the item's newest event; an event of another item of the
    brand does not write this item's row again.
    """
    initial, rating = _initial(known), _rating(stream)
    features = _summary("item", stream, against="user_id", known=known)
    fine = known == "resolution" and not DAY % stream.resolution
    hop = stream.resolution if fine else DAY  # a stream keeps tiles of a day
    for days in RECENT_DAYS:
        features[f"item_event_count_{days}d"] = count(window=days * DAY, hop=hop)
        features[f"item_label_mean_{days}d"] = smoothed_mean(
            "label", smoothing=SMOOTHING, initial=initial, window=days * DAY, hop=hop
        )
    features |= {f"item_{name}": newest(name) for name in ("brand", "category", "path")}
    for name in ATTRIBUTES:
        features |= {
            f"{name}_event_count": count(by=name),
            f"{name}_label_mean": smoothed_mean(
                "label", smoothing=SMOOTHING, initial=initial, by=name
            ),
            f"{name}_residual_mean": residual_mean(
                rating, against="user_id", smoothing=SMOOTHING, initial=initial, by=name
            ),
        }
    return AggregateView("item_profile", stream, ("item_id",), features, known)


def _summary(name: str, stream: EventStream, *, against: str, known: Known) -> dict[str, Aggregate]:
    initial, rating = _initial(known), _rating(stream)
    return {
        f"{name}_event_count": count(),
        f"{name}_label_sum": total("label"),
        f"{name}_label_mean": smoothed_mean("label", smoothing=SMOOTHING, initial=initial),
        f"{name}_rating_mean": smoothed_mean(rating, smoothing=SMOOTHING, initial=initial),
        f"{name}_residual_mean": residual_mean(
            rating, against=against, smoothing=SMOOTHING, initial=initial
        ),
        f"{name}_last_time": last_time(),
    }


def _rating(stream: EventStream) -> str:
    return "rating" if "rating" in stream.values else "label"


def _initial(known: Known) -> float | None:
    """Before any event: 0 where a late event must not change it, else the stream's first event."""
    return None if known == "resolution" else 0.0
