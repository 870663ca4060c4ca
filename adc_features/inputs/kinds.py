"""What becomes of a feature, said for one value: the options that all kinds share, and the kinds of
single values. Reads, writes: values. `list_kinds` has the kinds of lists.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Input:
    """What a ranker does with one feature; every kind takes these options.

    Kinds are made by their lower-case names (`number`, `category`, ...). A declaration checks its
    options against the service when a command opens it, not when the file is imported.

    Parameters
    ----------
    source : str, optional
        The column that is read: a feature's key `<view>__<feature>`, a join key, or a request
        field. By default the name under which the input is declared.
    request : bool
        The value comes with the request: a column of the label log offline, a field of the request
        online.
    optional : bool
        Of a request field: it may be missing, and is then absent. A required one that is missing is
        an error.
    train_only : bool
        The model sees the real value in training only (a position); every validation, test and
        served score sees `default`.
    default : object
        The stated value of a train-only input.
    level : bool or "settled"
        Read by the small level networks beside the gated towers, and not by the towers: who a user
        is (how often and how well they rate) shifts all of a request's scores alike. "settled":
        what was known of the user some time ago, read by the settled one of the two; see
        `ranking.multitask.shape`. The networks read its numbers, not its embeddings.
    gate_only : bool
        Read by gates alone and not by towers: `Ranker.gates` must name it.

    Examples
    --------
    >>> from adc_features.inputs import Input, category
    >>> device = category(request=True, optional=True)
    >>> isinstance(device, Input), device.request, device.train_only
    (True, True, False)
    """

    source: str | None = None
    request: bool = False
    optional: bool = False
    train_only: bool = False
    default: Any = None
    level: bool | Literal["settled"] = False
    gate_only: bool = False


@dataclass(frozen=True, kw_only=True)
class VocabularyOptions:
    """How values become rows of an embedding table; kinds of categories and ids take these options.

    Row 0 is "absent" and row 1 "unknown". `buckets` hash rows follow, then a row for each known
    value, in the order in which the values were admitted: a vocabulary only grows.

    Parameters
    ----------
    min_count : int
        Training rows that a value needs for a row of its own, at least 1.
    max_size : int, optional
        The most values that have a row of their own: the most frequent ones. By default no limit.
    buckets : int
        Rows that all other values share by their hash; 0 makes all of them "unknown".
    dropout : float
        Share of training rows, in [0, 1), that see the unknown (or hash) row in the place of their
        own, so that it is trained.
    share : str, optional
        Name of a table that several inputs share. By default the input has a table of its own.

    Examples
    --------
    >>> from adc_features.inputs import VocabularyOptions, category
    >>> city = category(min_count=100, buckets=1000)
    >>> isinstance(city, VocabularyOptions), city.min_count, city.buckets
    (True, 100, 1000)
    """

    min_count: int = 30
    max_size: int | None = None
    buckets: int = 0
    dropout: float = 0.05
    share: str | None = None


@dataclass(frozen=True, kw_only=True)
class Number(Input):
    """A number, standardised by the mean and deviation of the training rows, with an indicator.

    It is clipped, then sign(x) * log1p(abs(x)) with `log`, then standardised, and kept within +-5.
    The indicator is 1 where the value is absent, and the number is then 0.

    Parameters
    ----------
    log : bool
        Take the logarithm, for prices and counts.
    clip : tuple of float, optional
        Lower and upper bound.
    standardise : bool
        Subtract the mean and divide by the deviation of the training rows.
    bins : int
        Quantile bins of the training values, embedded beside the number; 0 for none.

    Examples
    --------
    >>> from adc_features.inputs import number
    >>> price = number(log=True, bins=32, clip=(0.0, 1000.0))
    >>> price.log, price.bins, price.standardise
    (True, 32, True)

    Source
    ------
    Bins with an embedding: RawFeature with `boundaries` of TorchEasyRec, Bucketize of NVTabular.
    """

    log: bool = False
    clip: tuple[float, float] | None = None
    standardise: bool = True
    bins: int = 0


@dataclass(frozen=True, kw_only=True)
class Category(Input, VocabularyOptions):
    """One value of a vocabulary, embedded.

    It reads texts, ids and integers. An absent value has row 0 of the table; a value outside of the
    vocabulary has row 1, or its hash row.

    Examples
    --------
    >>> from adc_features.inputs import category
    >>> position = category(request=True, train_only=True, default=0, min_count=1)
    >>> position.default, position.min_count
    (0, 1)

    Source
    ------
    IdFeature of TorchEasyRec, Categorify of NVTabular.
    """


@dataclass(frozen=True, kw_only=True)
class Flag(Input):
    """True or false, with an indicator.

    True is +1 and false -1. An absent value is 0, and its indicator 1. Integers are read as flags
    where they are declared so; they must then be 0 or 1.

    Examples
    --------
    >>> from adc_features.inputs import flag
    >>> flag(source="profile__is_member").source
    'profile__is_member'
    """


@dataclass(frozen=True, kw_only=True)
class Time(Input):
    """A moment, read as its age at the time of the row or of the request, with an indicator.

    The age is log1p of days, standardised. It reads timestamps, and integers that are microseconds
    since 1970 UTC where they are declared so.

    Parameters
    ----------
    zone : str, optional
        An IANA time zone. It adds the hour and the weekday there, each as sine and cosine.

    Examples
    --------
    >>> from adc_features.inputs import time
    >>> time(zone="Europe/Amsterdam").zone
    'Europe/Amsterdam'
    """

    zone: str | None = None


@dataclass(frozen=True, kw_only=True)
class Vector(Input):
    """Numbers of one fixed length, projected to the width of an embedding, with an indicator.

    The projection has no bias, so that an absent vector adds nothing.

    Parameters
    ----------
    length : int, optional
        The length that is expected. By default that of the training rows.
    normalise : bool
        Scale each vector to unit length before it is projected.

    Examples
    --------
    >>> from adc_features.inputs import vector
    >>> vector(length=384, normalise=True).length
    384

    Source
    ------
    RawFeature with `value_dim` of TorchEasyRec.
    """

    length: int | None = None
    normalise: bool = False


@dataclass(frozen=True, kw_only=True)
class SemanticId(Input):
    """The candidate's codes, a table for each position, with their weights and reliability.

    Its `source` is the projected name of the view of codes.

    Parameters
    ----------
    weights : bool
        Multiply each code's embedding by its weight. False counts every code as 1.
    codebook_size : int, optional
        K, by default that of the codes that training reads.
    id_input : str, optional
        The category of the item's id, with whose embedding those of the codes share one gate: the
        id's is multiplied by g and theirs by 2 - g, where g = 2 sigmoid(a + b * log1p(count),
        standardised). a and b are learned and begin at 0, where nothing is gated.
    id_count : str, optional
        Of `id_input`: the column that holds the number of the item's events before the row's time;
        absent counts as 0.
    combinations : int
        The most pairs of positions, and the most frequent combinations of codes, that have an
        embedding of their own beside single codes; the ranker attends to all that an item has, and
        reads one more embedding. 0 for none.
    expected : bool
        Embed each position by the mean of its two likeliest codes' embeddings, weighted by their
        probabilities, in the place of one code times its weight; of generations that tell second
        codes. Not together with `id_input` or `pretrain`, which are about one code a position.
    pretrain : int
        Epochs in which the embeddings learn to predict the codes of the user's next item, on the
        training rows, before the ranker is fitted. 0 for none.

    Examples
    --------
    >>> from adc_features.inputs import semantic_id
    >>> sid = semantic_id(source="item_sid_g1", weights=False)
    >>> sid.source, sid.weights
    ('item_sid_g1', False)

    Source
    ------
    ADC-SID, arXiv 2510.25622: codes as features of a ranker, and their weights. The gate by an
    item's count and the mean of two codes are ours.
    """

    weights: bool = True
    codebook_size: int | None = None
    id_input: str | None = None
    id_count: str | None = None
    combinations: int = 0
    pretrain: int = 0
    expected: bool = False


@dataclass(frozen=True, kw_only=True)
class Cross(Input, VocabularyOptions):
    """A pair of categories as one category.

    The pair is absent where either part is. The inputs of both columns stay as they are.

    Parameters
    ----------
    of : tuple of str
        The two columns.

    Examples
    --------
    >>> from adc_features.inputs import cross
    >>> cross(of=("profile__segment", "item_stats__brand"), min_count=10).of
    ('profile__segment', 'item_stats__brand')

    Source
    ------
    ComboFeature of TorchEasyRec, HashedCross of NVTabular.
    """

    of: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Skip:
    """The feature is not read.

    `infer` then passes over it, whatever its type and tags say.

    Examples
    --------
    >>> from adc_features.inputs import infer, skip
    >>> (infer() | {"profile__email": skip()}).declared
    {'profile__email': Skip()}
    """
