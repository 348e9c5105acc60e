"""Zero-shot classes: a label is the mean of several prompts; probabilities have a fitted scale; "none of these"."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from assistant.chat.calibration import softmax
from assistant.errors import BadInput, NotAvailable
from assistant.model.encoders.base import Encoder
from assistant.model.preset import WEIGHTS_FOLDER

NONE = "none of these"
TEMPLATES = (
    "{}",
    "a histology image of {}.",
    "an H&E image of {}.",
    "a micrograph of {}.",
    "a pathology image showing {}.",
    "{} is present.",
    "microscopy of tissue with {}.",
)
MAX_LABELS, MAX_LABEL_CHARS = 1000, 200
_SCALES = np.geomspace(1, 500, 200)  # tried when a scale is fitted


@dataclass(frozen=True)
class ClassCalibration:
    """How cosines become probabilities; fitted on ``val``, kept as ``calibration.json`` beside the weights.

    Attributes:
        scale: Factor on cosines before the softmax (one over the temperature); None takes the encoder's own.
        threshold: A best cosine below it means that none of the labels fits; None never says so.
    """

    scale: float | None = None
    threshold: float | None = None

    @classmethod
    def read(cls, name: str) -> ClassCalibration:
        """Of an encoder, by name; without a file nothing is fitted.

        Raises:
            NotAvailable: The file is damaged.
        """
        path = WEIGHTS_FOLDER / name / "calibration.json"
        if not path.is_file():
            return cls()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            found = {key: values.get(key) for key in ("scale", "threshold")}
            return cls(**{key: None if value is None else float(value) for key, value in found.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise NotAvailable(f"{path} cannot be read ({error}); restore it, or remove it to go without") from error

    def as_dict(self) -> dict[str, float | None]:
        """For ``calibration.json``."""
        return asdict(self)


@dataclass(frozen=True)
class Classified:
    """One image's class.

    Attributes:
        label: The best label, or :data:`NONE`.
        probabilities: Of each label, given that one of them fits; sums to 1.
        cosine: Of the best label's prompts with the image.
    """

    label: str
    probabilities: dict[str, float]
    cosine: float


def parse_labels(text: str) -> list[str]:
    """``"a, b, c"`` as a list.

    Raises:
        BadInput: As :func:`check_labels`.
    """
    return check_labels([label.strip() for label in text.split(",")])


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels, if they are usable.

    Raises:
        BadInput: Fewer than two, an empty one, one twice, too many or too long ones.
    """
    if any(not label.strip() for label in labels):
        raise BadInput(f"label {[bool(x.strip()) for x in labels].index(False) + 1} is empty; write --labels 'a, b, c'")
    folded = [label.casefold() for label in labels]
    twice = next((label for label in labels if folded.count(label.casefold()) > 1), None)
    if twice is not None:
        raise BadInput(f"the label {twice[:80]!r} stands there twice; name each once")
    if not 2 <= len(labels) <= MAX_LABELS:
        raise BadInput(f"{len(labels)} label(s) given; between 2 and {MAX_LABELS} are wanted, as in --labels 'a, b, c'")
    longest = max(labels, key=len)
    if len(longest) > MAX_LABEL_CHARS:
        raise BadInput(
            f"the label {longest[:40]!r}… has {len(longest):,} letters; at most {MAX_LABEL_CHARS} are allowed"
        )
    return list(labels)


def label_vectors(encoder: Encoder, labels: Sequence[str], templates: Sequence[str] = TEMPLATES) -> NDArray[np.float32]:
    """One vector a label: the mean over prompts, of length 1, [K, D].

    Raises:
        BadInput: An encoder without a text tower.
    """
    if not encoder.info.has_text:
        raise BadInput(f"the encoder {encoder.info.name} has no texts to classify with; use --encoder pathclip-small")
    prompts = [template.format(label) for label in labels for template in templates]
    vectors = encoder.embed_texts(prompts).reshape(len(labels), len(templates), -1).mean(axis=1)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def classify(
    encoder: Encoder,
    vectors: NDArray[np.float32],
    labels: Sequence[str],
    *,
    templates: Sequence[str] = TEMPLATES,
    calibration: ClassCalibration | None = None,
) -> list[Classified]:
    """Classes of images by their vectors [N, D].

    Args:
        encoder: Made the vectors.
        vectors: From the encoder's image tower.
        labels: Two or more.
        templates: Prompts with one ``{}``.
        calibration: Default: what stands beside the encoder's weights.

    Raises:
        BadInput: Labels that cannot be used, or an encoder without a text tower.
    """
    labels = check_labels(labels)
    fitted = ClassCalibration.read(encoder.info.name) if calibration is None else calibration
    scale = fitted.scale if fitted.scale is not None else encoder.logit_scale or 1.0
    cosines = vectors @ label_vectors(encoder, labels, templates).T  # [N, K]
    results = []
    for row, shares in zip(cosines, softmax(scale * cosines.astype(np.float64)), strict=True):
        best = int(row.argmax())
        fits = fitted.threshold is None or row[best] >= fitted.threshold
        probabilities = {label: float(share) for label, share in zip(labels, shares, strict=True)}
        results.append(Classified(labels[best] if fits else NONE, probabilities, float(row[best])))
    return results


def fit_calibration(tasks: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> ClassCalibration:
    """Scale and threshold from tasks of ``val``.

    The scale has the lowest negative log-likelihood, each task weighing the same. The threshold has the highest
    balanced accuracy in telling images that show one of the labels from those that show none; without such images it
    is None.

    Args:
        tasks: Cosines [N, K] and the right label's index [N], -1 where none of the labels fits.

    Raises:
        BadInput: No image with a right label.
    """
    known = [(cosines[right >= 0].astype(np.float64), right[right >= 0]) for cosines, right in tasks]
    known = [pair for pair in known if len(pair[1])]
    if not known:
        raise BadInput("no image has a right label; give tasks of val with indices of 0 and more")

    def loss(scale: float) -> float:
        shares = [softmax(scale * cosines)[np.arange(len(right)), right] for cosines, right in known]
        return float(np.mean([-np.log(np.maximum(share, 1e-12)).mean() for share in shares]))

    best = np.concatenate([cosines.max(axis=1) for cosines, _ in tasks])
    shown = np.concatenate([right >= 0 for _, right in tasks])
    threshold = None
    if not shown.all():
        edges = np.unique(best)
        middles = (edges[1:] + edges[:-1]) / 2
        scores = [(best[shown] >= t).mean() + (best[~shown] < t).mean() for t in middles]
        threshold = float(middles[int(np.argmax(scores))]) if len(middles) else None
    return ClassCalibration(scale=float(min(_SCALES, key=loss)), threshold=threshold)
