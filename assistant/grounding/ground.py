"""A phrase and an image in, boxes with calibrated scores out.

    from assistant.grounding import load_grounder
    load_grounder().ground(image, "the largest gland in the upper left")

The image is looked at once; what is asked of it then costs one pass of the matcher. Nothing that fits the phrase is an
answer too: the empty list.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from assistant.answer import Box
from assistant.errors import BadInput, NotAvailable
from assistant.grounding.detector import Detector, Proposals, load_detector
from assistant.grounding.knowledge import expand
from assistant.grounding.matcher import Matcher, geometry_of
from assistant.grounding.program import MOST, OPS
from assistant.grounding.text import padded, tokens
from assistant.model.familiar import Familiar, load_familiar, unfit
from assistant.plain import whole_characters

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "grounding"
OPEN_REGIONS = WEIGHTS.parent / "regions" / "regions-open.safetensors"
LONGEST = 400  # characters of a phrase
_REMEMBERED = 8
_SAME = 0.5  # of two boxes that overlap more, the better one stays
_SURE = 0.7  # of the operation, before other boxes are left out
_SMALL, _ENLARGED = 200, 320


@dataclass(frozen=True)
class Reading:
    """What the matcher says of every proposal.

    Attributes:
        boxes: [N, 4] corrected, pixels of the image as given.
        logits: [N] of a match, the answer's logit already in them (the smaller of both).
        grouped: One box around all that match is meant.
        most: Boxes that the phrase asks for ("the largest": one), None where it does not say.
    """

    boxes: NDArray[np.float64]
    logits: NDArray[np.float64]
    grouped: bool
    most: int | None = None


def refined(boxes: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """Boxes [..., 4] xyxy moved by shares of their size and scaled by exponentials of ``delta`` [..., 4]."""
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
    centre = (boxes[..., 2:] + boxes[..., :2]) / 2 + delta[..., :2].clamp(-1, 1) * size
    half = size * delta[..., 2:].clamp(-1, 1).exp() / 2
    return torch.cat([centre - half, centre + half], dim=-1)


class Grounder:
    """Detector and matcher; safe to call from several threads, one image or phrase at a time.

    Args:
        familiar: In an image unlike all training fields nothing is looked for; None looks in all that are not blank.
    """

    def __init__(self, detector: Detector, matcher: Matcher, familiar: Familiar | None = None) -> None:
        self.detector, self.matcher, self.familiar = detector, matcher.eval(), familiar
        self._kept: OrderedDict[str, Proposals] = OrderedDict()
        self._lock = threading.Lock()

    def ground(self, image: Image.Image, phrase: str, *, threshold: float | None = None) -> list[Box]:
        """Boxes of what a phrase means, best first; empty when there is nothing like that.

        Args:
            image: RGB.
            phrase: In English; up to 400 characters.
            threshold: Score from which a box is returned, 0…1; default as calibrated.

        Raises:
            BadInput: An empty phrase, one that is too long, a threshold outside 0…1.
        """
        phrase = check_phrase(phrase)
        limit = self.matcher.config.threshold if threshold is None else threshold
        if not 0 <= limit <= 1:
            raise BadInput(f"threshold is {threshold}; allowed: 0 to 1")
        with self._lock:
            read = self.read(self.proposals(image), phrase)
        return self.chosen(read, phrase, image.size, limit)

    def proposals(self, image: Image.Image) -> Proposals:
        """Of an image, remembered for the last few."""
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        if key not in self._kept:
            _, unusable = unfit([image], self.familiar)
            self._kept[key] = nothing(image.size) if unusable else propose(self.detector, image)
            while len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]

    @torch.inference_mode()
    def read(self, found: Proposals, phrase: str, knowledge: str | None = None) -> Reading:
        """The matcher on proposals; ``knowledge`` replaces what is known of the phrase."""
        count = len(found.boxes)
        if not count:
            return Reading(np.zeros((0, 4)), np.zeros(0), False)
        scale = np.array([*found.size, *found.size], np.float32)
        text, parts, blind = padded(tokens([phrase], [expand(phrase) if knowledge is None else knowledge]))
        boxes = torch.from_numpy(found.boxes / scale)[None]
        features = torch.from_numpy(np.concatenate([found.features, found.scores], axis=1))[None]
        said = self.matcher(
            boxes, features, torch.from_numpy(geometry_of(found))[None], torch.from_numpy(found.context)[None],
            torch.ones(1, count, dtype=torch.bool), text, parts, blind,
        )  # fmt: skip
        made = refined(boxes, said.delta)[0].numpy().clip(0, 1).astype(np.float64) * scale.astype(np.float64)
        something, grouped = (float(v) for v in said.answer[0])
        logits = np.minimum(said.match[0].numpy().astype(np.float64), something)
        chance, op = said.op[0].softmax(dim=0).max(dim=0)
        most = MOST.get(OPS[int(op)]) if float(chance) >= _SURE else None
        return Reading(made, logits, grouped > 0, most)

    def chosen(self, read: Reading, phrase: str, size: tuple[int, int], limit: float) -> list[Box]:
        """The boxes of a reading that reach ``limit``."""
        c = self.matcher.config
        scores = 1 / (1 + np.exp(-(c.scale * read.logits + c.shift)))
        kept = apart(read.boxes, scores, limit)
        if not len(kept):
            return []
        kept = kept[: read.most]
        boxes = read.boxes[kept]
        if read.grouped and len(kept) > 1:
            around = (*boxes[:, :2].min(axis=0), *boxes[:, 2:].max(axis=0))
            return [Box(phrase, _rounded(around, size), round(float(scores[kept].mean()), 4))]
        rows = zip(boxes, scores[kept], strict=True)
        return [Box(phrase, _rounded(box, size), round(float(score), 4)) for box, score in rows]


def nothing(size: tuple[int, int]) -> Proposals:
    """No proposals, for an image of ``size``."""
    none = np.zeros((0, 0), np.float32)
    return Proposals(np.zeros((0, 4), np.float32), none, none, none, np.zeros(0, np.float32), size)


def propose(detector: Detector, image: Image.Image) -> Proposals:
    """Proposals of an image; a very small one, such as a single cell, is enlarged to the size of a field first."""
    from dataclasses import replace

    image = image.convert("RGB")
    longest = max(image.size)
    if longest >= _SMALL:
        return detector.propose(image)
    factor = _ENLARGED / longest
    large = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BILINEAR)
    found = detector.propose(large)
    return replace(found, boxes=(found.boxes / factor).astype(np.float32), size=image.size)


def apart(boxes: NDArray[np.float64], scores: NDArray[np.float64], limit: float) -> NDArray[np.int64]:
    """Rows that reach ``limit``, best first, without those that overlap a better one."""
    from torchvision.ops import nms

    rows = np.flatnonzero(scores >= limit)
    kept = nms(torch.from_numpy(boxes[rows]), torch.from_numpy(scores[rows]), _SAME).numpy() if len(rows) else rows
    return rows[kept] if len(rows) else rows


def check_phrase(phrase: str) -> str:
    """The phrase without surrounding space.

    Raises:
        BadInput: It is empty or too long.
    """
    plain = " ".join(whole_characters(phrase).split())
    if not plain:
        raise BadInput("the phrase is empty; say what to point at, for example 'the largest gland'")
    if len(plain) > LONGEST:
        raise BadInput(
            f"the phrase has {len(plain):,} characters; at most {LONGEST} are allowed: name one thing at a time"
        )
    return plain


def _rounded(box: object, size: tuple[int, int]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(v) for v in box)  # type: ignore[attr-defined]
    width, height = size
    return round(max(0.0, x0), 1), round(max(0.0, y0), 1), round(min(width, x1), 1), round(min(height, y1), 1)


@lru_cache(maxsize=2)
def load_grounder(*, research: bool = True) -> Grounder:
    """The shipped grounder: trained on all sources, or with ``research=False`` on the openly licensed ones.

    Raises:
        NotAvailable: Its weights are missing; without ``research``, none were trained on openly licensed sets alone.
    """
    name = "matcher.safetensors" if research else "matcher-open.safetensors"
    if not research and not ((WEIGHTS / name).is_file() and OPEN_REGIONS.is_file()):
        raise NotAvailable(
            "grounding has weights for research only (some of its training sets have no open licence), and none "
            "trained on openly licensed sets alone; allow research parts, or ask without grounding"
        )
    return Grounder(load_detector(research=research), Matcher.read(WEIGHTS / name), load_familiar())
