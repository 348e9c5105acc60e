"""From likelihoods to a probability that can be trusted, and the decision to abstain."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Calibration:
    """How scores become a confidence; fitted on ``val`` by ``eval.calibrate``.

    Attributes:
        prior_weight: Share of an option's score on an empty image that is taken off (contextual calibration, Zhao et
            al. 2021), so that names the model likes without looking do not win.
        encoder_weight: Weight of the cosine between the image and an option (``assistant.chat.second_look``) beside the
            option's score.
        temperature: Divides option scores before the softmax (Guo et al. 2017).
        top_slope: The likeliest option's log-odds are stretched by this and shifted by ``top_offset`` (Platt 1999); the
            other options keep their order. 1 and 0 change nothing.
        top_offset: See ``top_slope``.
        open_slope: Confidence of an open answer is ``sigmoid(open_slope * mean token log-probability + open_offset)``.
        open_offset: See ``open_slope``.
        threshold: Below this confidence the answer is "not enough evidence".
    """

    prior_weight: float = 0.0
    encoder_weight: float = 0.0
    temperature: float = 1.0
    top_slope: float = 1.0
    top_offset: float = 0.0
    open_slope: float = 1.0
    open_offset: float = 2.0
    threshold: float = 0.5

    @classmethod
    def read(cls, path: Path) -> Calibration:
        """From ``calibration.json``; without the file these are the uncalibrated defaults."""
        if not path.is_file():
            return cls()
        values = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{k: float(v) for k, v in values.items() if k in cls().as_dict()})

    def as_dict(self) -> dict[str, float]:
        """For ``calibration.json``."""
        return {k: round(v, 4) for k, v in asdict(self).items()}

    def options(
        self,
        scores: Sequence[float],
        prior: Sequence[float] | None = None,
        cosines: Sequence[float] | None = None,
    ) -> NDArray[np.float64]:
        """Probability of each option.

        Args:
            scores: Mean token log-probability of each option given the image, [K].
            prior: The same without evidence (an empty image), [K].
            cosines: Of the image with each option by an image-text encoder, [K].
        """
        adjusted = np.asarray(scores, dtype=np.float64)
        if prior is not None:
            adjusted = adjusted - self.prior_weight * np.asarray(prior, dtype=np.float64)
        if cosines is not None:
            adjusted = adjusted + self.encoder_weight * np.asarray(cosines, dtype=np.float64)
        adjusted = adjusted / self.temperature
        chances = softmax(adjusted)
        if (self.top_slope, self.top_offset) == (1.0, 0.0):
            return chances
        return sharpened(adjusted, self.top(float(chances.max())))

    def top(self, chance: float) -> float:
        """Calibrated probability of the likeliest option from its softmax probability."""
        chance = min(max(chance, 1e-6), 1 - 1e-6)
        odds = self.top_slope * math.log(chance / (1 - chance)) + self.top_offset
        return 1 / (1 + math.exp(-odds))

    def open_answer(self, mean_logprob: float) -> float:
        """Confidence of a generated answer from the mean log-probability of its tokens."""
        return 1 / (1 + math.exp(-(self.open_slope * mean_logprob + self.open_offset)))


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax over the last axis."""
    shifted = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def sharpened(scores: NDArray[np.float64], top: float) -> NDArray[np.float64]:
    """The softmax of ``scores`` at the temperature that gives the best one probability ``top``.

    ``top`` is held between the uniform probability and 0.9999; equal best scores cannot be told apart and share it.
    """
    wanted = min(max(top, 1 / len(scores)), 0.9999)
    low, high = 1e-4, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if softmax(scores / middle).max() > wanted else (low, middle)
    return softmax(scores / high)
