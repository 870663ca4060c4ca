"""Bring each task's probabilities to its observed rate. Reads: probabilities of a validation
window. Writes: Calibration.

Legend: T tasks, n rows.
"""

import numpy as np

from adc_features.errors import InputError
from adc_features.ranking.multitask.score import Calibration, logit, sigmoid
from training.ranker.splits import LabelWindow

PRIOR = 1.0
"""Weight of the prior (slope - 1)^2 / 2: that of about one row. It keeps the slope finite where
classes separate, and at 1 where all probabilities are equal."""
STEPS = 100


def fit_calibrations(
    probabilities: np.ndarray, window: LabelWindow, *, weights: np.ndarray | None = None
) -> tuple[Calibration, ...]:
    """One calibration for each task, on the ripe rows of the validation window.

    probabilities: [T, n] of the window's rows; weights: [n]. Raises InputError for the test window,
    on which nothing is chosen, and for a training window, whose rows the model has seen.
    """
    if window.name != "validation":
        raise InputError(
            f"the window is {window.name!r}; calibrate on the validation window: training rows were"
            " seen by the model, and test rows are for the report alone"
        )
    own = np.ones(len(window)) if weights is None else weights
    return tuple(
        fit_calibration(p[mask], labels[mask], weights=own[mask])
        for p, labels, mask in zip(probabilities, window.labels, window.mask, strict=True)
    )


def fit_calibration(
    probabilities: np.ndarray, labels: np.ndarray, *, weights: np.ndarray | None = None
) -> Calibration:
    """Slope and intercept of a logistic regression of the labels on the logit of one task.

    probabilities: [n]; labels: [n] of 0 and 1. Where the slope would not be positive, as for a
    model that is worse than chance, it stays 1 and only the intercept is fitted: a calibration
    never turns an order. Raises InputError when the labels have one class.
    """
    x, y = logit(probabilities), labels.astype(np.float64)
    w = np.ones(len(x)) if weights is None else weights.astype(np.float64)
    positives = float((w * y).sum())
    if not 0 < positives < w.sum():
        raise InputError(
            f"{len(y)} labels with {int(y.sum())} positives cannot calibrate; both classes are"
            " needed, widen the validation window"
        )
    slope, intercept = _newton(x, y, w, fixed=False)
    if slope <= 0:
        slope, intercept = _newton(x, y, w, fixed=True)
    return Calibration(slope, intercept)


def _newton(x: np.ndarray, y: np.ndarray, w: np.ndarray, *, fixed: bool) -> tuple[float, float]:
    """The most probable slope and intercept; with `fixed` the slope is 1."""
    centre = float(np.average(x, weights=w))
    x = x - centre
    beta = np.array([1.0, centre])
    loss = _loss(beta, x, y, w)
    for _ in range(STEPS):
        p = sigmoid(beta[0] * x + beta[1])
        off, spread = w * (p - y), w * p * (1 - p)
        gradient = np.array([off @ x + PRIOR * (beta[0] - 1), off.sum()])
        cross = float(spread @ x)
        hessian = np.array([[spread @ (x * x) + PRIOR, cross], [cross, spread.sum() + 1e-12]])
        if fixed:
            step = np.array([0.0, gradient[1] / hessian[1, 1]])
        else:
            step = np.linalg.solve(hessian, gradient)
        while (ahead := _loss(beta - step, x, y, w)) > loss and np.abs(step).max() > 1e-12:
            step = step / 2
        beta, before, loss = beta - step, loss, ahead
        if before - loss <= 1e-12 * (1 + abs(loss)):
            break
    return float(beta[0]), float(beta[1] - beta[0] * centre)


def _loss(beta: np.ndarray, x: np.ndarray, y: np.ndarray, w: np.ndarray) -> float:
    z = beta[0] * x + beta[1]
    return float(w @ (np.logaddexp(0, z) - y * z) + PRIOR / 2 * (beta[0] - 1) ** 2)
