"""Fit the calibration on ``val``: weights, temperature and top of options, the curve of open answers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize

from assistant.chat.calibration import Calibration, softmax
from assistant.errors import BadInput
from assistant.model.preset import load_preset
from eval.stats import group_folds

PRIOR_WEIGHTS = np.linspace(0, 1, 21)
ENCODER_WEIGHTS = np.linspace(0, 8, 17)


def _stack(frame: pd.DataFrame, column: str) -> NDArray[np.float64]:
    return np.stack([np.asarray(v, dtype=np.float64) for v in frame[column]])


def _best_weights(
    scores: NDArray[np.float64], prior: NDArray[np.float64], near: NDArray[np.float64] | None, answer: NDArray[Any]
) -> tuple[float, float]:
    """Weights of prior and cosines with which ``scores - w * prior + v * near`` [N, K] is right most often; of those
    that are right alike the smallest, that of the prior before the other: 0 spares a look at an empty field."""
    pairs = [(float(w), float(v)) for w in PRIOR_WEIGHTS for v in (ENCODER_WEIGHTS if near is not None else (0.0,))]
    seen = near if near is not None else np.zeros_like(scores)
    right = [int(((scores - w * prior + v * seen).argmax(1) == answer).sum()) for w, v in pairs]
    return pairs[int(np.argmax(right))]


def fit_options(frame: pd.DataFrame, start: Calibration) -> Calibration:
    """Weights of most right answers, temperature of least negative log-likelihood, then the top's two numbers.

    Args:
        frame: Columns ``scores``, ``prior``, perhaps ``cosines`` (K numbers each, the same K throughout), ``answer``.
        start: Its other fields are kept.
    """
    scores, prior, answer = _stack(frame, "scores"), _stack(frame, "prior"), frame["answer"].to_numpy()
    rows = np.arange(len(answer))
    near = _stack(frame, "cosines") if "cosines" in frame.columns else None
    weight, encoder_weight = _best_weights(scores, prior, near, answer)
    adjusted = scores - weight * prior + (encoder_weight * near if near is not None else 0.0)

    def loss(log_temperature: NDArray[np.float64]) -> float:
        chances = softmax(adjusted / np.exp(log_temperature[0]))
        return float(-np.log(chances[rows, answer] + 1e-12).mean())

    temperature = float(np.exp(minimize(loss, x0=np.array([0.0]), method="Nelder-Mead").x[0]))
    chances = softmax(adjusted / temperature)
    top, hit = chances.max(1).clip(1e-6, 1 - 1e-6), chances.argmax(1) == answer
    slope, offset = _logistic(np.log(top / (1 - top)), hit)
    return replace(
        start, prior_weight=weight, encoder_weight=encoder_weight, temperature=temperature, top_slope=slope,
        top_offset=offset,
    )  # fmt: skip


def _logistic(x: ArrayLike, correct: ArrayLike) -> tuple[float, float]:
    """Slope and offset of least negative log-likelihood, with a little shrinkage of the slope."""
    a, y = np.asarray(x, dtype=np.float64), np.asarray(correct, dtype=np.float64)

    def loss(parameters: NDArray[np.float64]) -> float:
        z = parameters[0] * a + parameters[1]
        return float(np.mean(np.logaddexp(0, z) - y * z) + 1e-3 * parameters[0] ** 2)

    found = minimize(loss, x0=np.array([1.0, 0.0]), method="Nelder-Mead")
    return float(found.x[0]), float(found.x[1])


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
            chances = fitted.options(row["scores"], row["prior"], row.get("cosines"))
            confidence[i], hit[i] = chances.max(), chances.argmax() == row["answer"]
    return confidence, hit


def fit_open(mean_logprobs: ArrayLike, correct: ArrayLike, start: Calibration) -> Calibration:
    """Logistic curve from mean token log-probability to the chance that an open answer is right."""
    slope, offset = _logistic(mean_logprobs, correct)
    return replace(start, open_slope=slope, open_offset=offset)


def weights_of(model: str, *, fit: bool = False) -> Path | None:
    """The folder that holds a preset's ``calibration.json``; None for a preset without shipped weights.

    Raises:
        BadInput: ``fit`` for such a preset.
    """
    folder = load_preset(model).weights_folder
    if fit and folder is None:
        raise BadInput(f"the preset {model} ships no weights, so there is no calibration to fit; leave --fit out")
    return folder
