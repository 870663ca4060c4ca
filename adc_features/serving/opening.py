"""Open what a promotion names, of either kind. Reads: promotions. Writes: bundles."""

from adc_features.artifact import read_manifest
from adc_features.serving.promotion import Promotion
from adc_features.serving.ranked import Serving

SERVICE_RANKER = "service_ranker"
"""Kind of a ranker of the user's own feature service, in its manifest."""


def open_bundle(promotion: Promotion) -> Serving:
    """Open a promoted pair for scoring.

    It checks that the pair fits together and scores once, so that the first request is as fast as
    the rest. It opens on an online store that is not loaded yet, and refuses requests until it is.
    A PPNet needs no torch.

    Parameters
    ----------
    promotion : Promotion
        The pair.

    Returns
    -------
    Bundle
        Threads may share it.

    Raises
    ------
    ArtifactError, GenerationMismatch
        As `check_promotion`.
    InputError
        The generation is not live, or the repository lacks a feature that the ranker reads.

    Examples
    --------
    >>> bundle = open_bundle(pair)
    >>> ranking = bundle.score("u1", ["i00", "i01", "unknown"], now=now)
    >>> ranking.score.shape, ranking.known.tolist()
    ((3,), [True, True, False])
    """
    if read_manifest(promotion.ranker, verify=False).get("kind") == SERVICE_RANKER:
        from adc_features.serving.declared import open_declared

        return open_declared(promotion)
    from adc_features.serving.scoring import open_recipe

    return open_recipe(promotion)
