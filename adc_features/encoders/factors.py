"""Weighted matrix factorisation with a content prior. Reads: Evidence. Writes: Learned.

Legend: U users, K items known at a cut-off, E events, B rows, F events of a row at most, D dims,
C axes of content.
"""

import logging

import numpy as np
from scipy.sparse import csr_matrix

from adc_features.encoders.behavior_settings import FactorSettings
from adc_features.encoders.content_axes import content_axes
from adc_features.encoders.evidence import Evidence, Learned, Progress, Start

logger = logging.getLogger(__name__)

PART = 512
"""Rows that are solved at once, which bounds what a step holds."""


def factorise(
    evidence: Evidence,
    start: Start | None,
    *,
    settings: FactorSettings,
    seed: tuple[int, int],
    label: str,
    progress: Progress | None,
    device: str = "cpu",
) -> Learned:
    """Item factors that minimise, over users' factors x, items' y and the map M of content c,

    sum_ui w_ui (p_ui - x_u . y_i)^2 + user_penalty |x_u|^2 + item_penalty |y_i - c_i M|^2
    + item_penalty ridge |M|^2, p_ui = 1 and w_ui = 1 + confidence where u met i, else 0 and 1,

    by exact steps in each: the penalty holds an item at what its content says until its events
    weigh more than it. numpy computes it on the CPU, whatever the device.

    Source
    ------
    Hu, Koren and Volinsky 2008, doi 10.1109/ICDM.2008.22; the prior as in collaborative topic
    regression (Wang and Blei 2011, doi 10.1145/2020408.2020480), with a map that is fitted too.
    """
    s = settings
    axes = content_axes(evidence.content, width=s.content_width, earlier=start and start.parameters)
    content_KC = axes.of(evidence.content).astype(np.float64)
    users = np.unique(evidence.events.users, return_inverse=True)[1]
    items = np.searchsorted(evidence.known, evidence.events.items)
    met_UK = csr_matrix(
        (np.ones(len(users)), (users, items)), shape=(users.max() + 1, len(evidence.known))
    )
    met_UK.data[:] = 1  # met again is met
    met_KU = met_UK.T.tocsr()
    square = content_KC.T @ content_KC + s.ridge * np.eye(content_KC.shape[1])
    if start is None:
        # a map that says nothing yet: items would hardly leave what a drawn one said
        map_CD: np.ndarray = np.zeros((content_KC.shape[1], s.dim))
        items_KD = np.random.default_rng(seed).normal(0, 0.1, (len(content_KC), s.dim))
    else:
        map_CD = start.parameters["map"].astype(np.float64)
        items_KD = np.where(start.known[:, None], start.parameters["table"], content_KC @ map_CD)
    rounds = s.rounds if start is None else s.continued_rounds
    for number in range(rounds):
        nothing = np.zeros((met_UK.shape[0], s.dim))
        users_UD = _solved(met_UK, items_KD, nothing, s.confidence, s.user_penalty)
        items_KD = _solved(met_KU, users_UD, content_KC @ map_CD, s.confidence, s.item_penalty)
        map_CD = np.linalg.solve(square, content_KC.T @ items_KD)
        if progress is not None:
            progress(label, number + 1, rounds)
    table = items_KD.astype(np.float32)
    parameters = {"table": table, "map": map_CD.astype(np.float32)} | axes.arrays()
    return Learned(table, parameters)


def _solved(
    met: csr_matrix, other: np.ndarray, prior: np.ndarray, confidence: float, penalty: float
) -> np.ndarray:
    """The factors of the rows of `met`, the other side's as they are, float64 [rows, D]."""
    dim = other.shape[1]
    base_DD = other.T @ other + penalty * np.eye(dim)
    right_BD = (1 + confidence) * (met @ other) + penalty * prior
    out, counts = np.empty_like(right_BD), np.diff(met.indptr)
    # rows of about as many events together, so that little is padded
    order = np.argsort(counts, kind="stable")
    for rows in np.array_split(order, max(1, len(order) // PART)):
        places = np.arange(counts[rows].max())
        filled_BF = places < counts[rows, None]
        at = np.minimum(met.indptr[rows, None] + places, len(met.indices) - 1)
        seen_BFD = other[met.indices[at]] * filled_BF[:, :, None]
        left_BDD = base_DD + confidence * np.matmul(seen_BFD.transpose(0, 2, 1), seen_BFD)
        out[rows] = np.linalg.solve(left_BDD, right_BD[rows][:, :, None])[:, :, 0]
    return out
