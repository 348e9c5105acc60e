"""Fit the calibration on ``val``: prior weight and temperature of options, the logistic curve of open answers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from assistant.chat.calibration import Calibration, softmax
from eval.stats import group_folds

PRIOR_WEIGHTS = np.linspace(0, 1, 21)


def _stack(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return np.stack([np.asarray(v, dtype=np.float64) for v in frame[column]])


def fit_options(frame: pd.DataFrame, start: Calibration) -> Calibration:
    """Prior weight and temperature of least negative log-likelihood.

    Args:
        frame: Columns ``scores``, ``prior`` (K numbers each, the same K throughout) and ``answer``.
        start: Its other fields are kept.
    """
    scores, prior, answer = _stack(frame, "scores"), _stack(frame, "prior"), frame["answer"].to_numpy()
    rows = np.arange(len(answer))

    def loss(weight: float, log_temperature: float) -> float:
        chances = softmax((scores - weight * prior) / np.exp(log_temperature))
        return float(-np.log(chances[rows, answer] + 1e-12).mean())

    best = (np.inf, 0.0, 0.0)
    for weight in PRIOR_WEIGHTS:
        found = minimize(lambda t, w=weight: loss(w, t[0]), x0=[0.0], method="Nelder-Mead")
        best = min(best, (float(found.fun), float(weight), float(found.x[0])))
    return replace(start, prior_weight=best[1], temperature=float(np.exp(best[2])))


def cross_fitted_confidence(frame: pd.DataFrame, start: Calibration, folds: int = 5) -> tuple[ArrayLike, ArrayLike]:
    """Confidence and hit of each item under a calibration fitted on the other folds' groups only."""
    fold = group_folds(list(frame["group"]), folds)
    confidence, hit = np.zeros(len(frame)), np.zeros(len(frame))
    for k in range(folds):
        inside = fold == k
        if not inside.any():
            continue
        fitted = fit_options(frame[~inside], start)
        for i in np.flatnonzero(inside):
            row = frame.iloc[i]
            chances = fitted.options(row["scores"], row["prior"])
            confidence[i], hit[i] = chances.max(), chances.argmax() == row["answer"]
    return confidence, hit


def fit_open(mean_logprobs: ArrayLike, correct: ArrayLike, start: Calibration) -> Calibration:
    """Logistic curve from mean token log-probability to the chance that an open answer is right."""
    x, y = np.asarray(mean_logprobs, dtype=np.float64), np.asarray(correct, dtype=np.float64)

    def loss(parameters: NDArray[np.float64]) -> float:
        z = parameters[0] * x + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - y * z) + 1e-3 * parameters[0] ** 2)

    found = minimize(loss, x0=np.array([1.0, 0.0]), method="Nelder-Mead")
    return replace(start, open_slope=float(found.x[0]), open_offset=float(found.x[1]))
