"""Calibration fitted on made-up items whose truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from assistant.chat.calibration import Calibration
from eval.fit import cross_fitted_confidence, fit_open, fit_options
from eval.stats import calibration_error


def items(n: int, sharpness: float, seed: int = 0) -> pd.DataFrame:
    """Scores whose softmax at temperature ``sharpness`` is the true chance of each option; the prior is noise."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, (n, 4))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    answer = [int(generator.choice(4, p=row)) for row in chances]
    scores = logits * sharpness
    return pd.DataFrame({
        "scores": list(scores), "prior": list(generator.normal(0, 1e-9, (n, 4))), "answer": answer,
        "group": [f"g{i // 4}" for i in range(n)],
    })  # fmt: skip


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_and_confidence_is_honest(sharpness: float) -> None:
    frame = items(3000, sharpness)
    fitted = fit_options(frame, Calibration(threshold=0.4))
    assert fitted.temperature == pytest.approx(sharpness, rel=0.1)
    assert fitted.threshold == 0.4
    assert fitted.top_slope == pytest.approx(1, abs=0.15)
    confidence, hit = cross_fitted_confidence(frame, Calibration())
    assert calibration_error(confidence, hit) < 0.05


def test_overconfident_scores_are_brought_down() -> None:
    """A third of the answers is replaced by chance, which no temperature alone can mend."""
    frame = items(3000, 1.0)
    generator = np.random.default_rng(1)
    wrong = generator.random(len(frame)) < 0.33
    frame.loc[wrong, "answer"] = generator.integers(0, 4, int(wrong.sum()))
    confidence, hit = cross_fitted_confidence(frame, Calibration())
    assert calibration_error(confidence, hit) < 0.05


def test_a_prior_that_misleads_is_taken_off() -> None:
    frame = items(800, 1.0)
    bias = np.array([4.0, 0.0, 0.0, 0.0])
    frame["scores"] = [s + bias for s in frame["scores"]]
    frame["prior"] = [bias for _ in range(len(frame))]
    assert fit_options(frame, Calibration()).prior_weight > 0.7


def test_an_encoder_that_knows_more_is_listened_to_and_noise_is_not() -> None:
    frame = items(1200, 0.3)
    generator = np.random.default_rng(2)
    noise = generator.normal(0, 0.1, (len(frame), 4))
    deaf = fit_options(frame.assign(cosines=list(noise)), Calibration())
    told = noise + 0.5 * np.eye(4)[frame["answer"]]
    heard = fit_options(frame.assign(cosines=list(told)), Calibration())
    assert deaf.encoder_weight <= 1 < heard.encoder_weight
    hits = [
        heard.options(s, None, c).argmax() == a for s, c, a in zip(frame["scores"], told, frame["answer"], strict=True)
    ]
    alone = [heard.options(s).argmax() == a for s, a in zip(frame["scores"], frame["answer"], strict=True)]
    assert np.mean(hits) > np.mean(alone) + 0.1
    confidence, hit = cross_fitted_confidence(frame.assign(cosines=list(told)), Calibration())
    assert np.mean(hit) == pytest.approx(np.mean(hits), abs=0.03)
    assert calibration_error(confidence, hit) < 0.05


def test_open_answers_follow_their_likelihood() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(-1, 1, 4000)
    correct = generator.random(4000) < 1 / (1 + np.exp(-(2 * x + 1)))
    fitted = fit_open(x, correct, Calibration())
    assert fitted.open_slope == pytest.approx(2, abs=0.25)
    assert fitted.open_offset == pytest.approx(1, abs=0.25)
