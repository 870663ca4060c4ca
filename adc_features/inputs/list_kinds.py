"""What becomes of a list, and of what a list and the candidate have in common. Reads, writes:
values.
"""

from dataclasses import dataclass
from typing import Literal

from adc_features.inputs.kinds import Input, VocabularyOptions


@dataclass(frozen=True, kw_only=True)
class CategorySet(Input, VocabularyOptions):
    """Distinct values of a list, embedded and averaged.

    Beside the average stand three numbers: log1p of how many values there are, the share of them
    that is unknown, and an indicator that is 1 where the list is absent. An empty list is not
    absent.

    Examples
    --------
    >>> from adc_features.inputs import category_set
    >>> genres = category_set(min_count=10, share="genre")
    >>> genres.share
    'genre'

    Source
    ------
    IdFeature with `value_dim: 0` of TorchEasyRec.
    """


@dataclass(frozen=True, kw_only=True)
class CategorySequence(Input, VocabularyOptions):
    """The newest values of an ordered list, embedded and averaged with weights by recency.

    Repeats count. What lies beyond the newest `last` values is neither read nor part of the
    vocabulary. The numbers beside the average are those of `category_set`.

    Parameters
    ----------
    order : "newest_last" or "newest_first"
        Which end of the list is the newest.
    last : int
        The most values that are read, at least 1.
    half_life : float
        Places after which the weight of a value has halved, above 0.

    Examples
    --------
    >>> from adc_features.inputs import category_sequence
    >>> searches = category_sequence(order="newest_first", last=10)
    >>> searches.last, searches.half_life
    (10, 10.0)

    Source
    ------
    SequenceFeature of TorchEasyRec.
    """

    order: Literal["newest_last", "newest_first"] = "newest_last"
    last: int = 20
    half_life: float = 10.0


@dataclass(frozen=True, kw_only=True)
class ItemHistory(Input, VocabularyOptions):
    """A user's recent items: pooled, and attended to from the candidate.

    Its `source` is the list of item ids. An event that is later than its row is refused as a leak.

    Parameters
    ----------
    times : str, optional
        A list of the same length: when each event happened, as timestamps or as integers in
        microseconds since 1970 UTC.
    labels : str, optional
        A list of the same length: how each item was liked, as numbers.
    codes : bool
        Items are read as their semantic IDs as of the row's time, with the tables of the
        `semantic_id` input; otherwise as ids, with the vocabulary of `candidate`.
    candidate : str, optional
        The join key of the candidate item. By default the item side's only key.
    order : "newest_last" or "newest_first"
        Which end of the list is the newest.
    last : int
        The most items that are read, at least 1.
    match : bool
        Also the share of the recent items that agree with the candidate, by code position (or id),
        plain and weighted by `label - mean label`; the user's mean is smoothed by two labels of
        the training rows' mean.
    mean : str, optional
        A stored mean label of the user, for `match` in the place of that of the listed items: it
        knows the older ones too. Where it is null the listed items tell.
    embedded : bool
        Pooled and attended to; False leaves the numbers alone: size, age and match.
    similarity : bool
        Also how like the candidate's codes are to those of the recent items, by position: the
        cosine of their embeddings, pooled over the items by the codes' weights and by recency,
        plain and, with `labels`, weighted by `label - mean label`. It is what `match` counts, for
        codes that are alike and not only for equal ones. It needs `codes`.
    half_life : float
        Of `similarity`: items after which the weight of one has halved, above 0.

    Examples
    --------
    >>> from adc_features.inputs import item_history
    >>> recent = item_history(times="recent__times", labels="recent__stars", codes=True)
    >>> recent.last, recent.match
    (20, True)

    Source
    ------
    Attention from the candidate: Zhou et al., Deep Interest Network for Click-Through Rate
    Prediction, KDD 2018. Similarity to the history in the place of attention: Pi et al., SIM,
    arXiv 2006.05639, whose soft search scores items so.
    """

    times: str | None = None
    labels: str | None = None
    codes: bool = False
    candidate: str | None = None
    order: Literal["newest_last", "newest_first"] = "newest_last"
    last: int = 20
    match: bool = True
    mean: str | None = None
    embedded: bool = True
    similarity: bool = False
    half_life: float = 10.0


@dataclass(frozen=True, kw_only=True)
class Match(Input):
    """How often, or how much, a user's recent values equal the candidate's: one number.

    It is sum / (matches + smoothing), where the sum is over the elements of the list `source` that
    equal the candidate's value. An empty text equals nothing: two items without a brand have none
    in common. An indicator is 1 where the list or the candidate's value is absent.

    Parameters
    ----------
    candidate : str
        The column of the candidate.
    values : str, optional
        A list beside `source`: what each element counts. By default each counts 1.
    smoothing : float
        Added to the number of matches, at least 0.
    centred : bool
        Each of the values counts beside the user's own mean: sum / (elements + smoothing).
    standardise : bool
        As a number is: by its mean and deviation in the training rows, and within +-5.

    Examples
    --------
    >>> from adc_features.inputs import match
    >>> brand = match(source="recent__brands", candidate="item_stats__brand")
    >>> brand.candidate, brand.smoothing
    ('item_stats__brand', 2.0)

    Source
    ------
    LookupFeature of TorchEasyRec, whose map is stored here as two lists, its keys and its values.
    """

    candidate: str = ""
    values: str | None = None
    smoothing: float = 2.0
    centred: bool = False
    standardise: bool = False


@dataclass(frozen=True, kw_only=True)
class Remainder(Input):
    """What a stored total says of the events that are older than some days.

    It is the total less the recent events that are younger. An event just before a row says much
    about the row itself; the state of some time ago does not. Its `source` is the number of events;
    or, with `count`, the mean of `values` over them, smoothed by `smoothing` events of 0. Events
    that the list no longer holds count as older than `days`.

    Parameters
    ----------
    times : str
        The list of the recent events' times.
    values : str, optional
        Of a mean: the list of what each recent event counted, beside `times`.
    count : str, optional
        Of a mean: the number of all events. The input is absent where no event is older.
    days : float
        Events younger than this are subtracted, above 0.
    smoothing : float
        Events of value 0 that the stored mean is smoothed by, at least 0.
    log : bool
        log1p of a number of events.

    Examples
    --------
    >>> from adc_features.inputs import remainder
    >>> earlier = remainder(source="activity__ratings", times="recent__times", days=60, log=True)
    >>> earlier.days, earlier.count is None
    (60, True)
    """

    times: str = ""
    values: str | None = None
    count: str | None = None
    days: float = 60.0
    smoothing: float = 0.0
    log: bool = False
