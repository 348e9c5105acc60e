"""Grounding on a whole slide: coarse to fine, with a stated number of fields that are looked at.

The overview is cut into fields; those with tissue are ranked by how well the phrase fits their look at low resolution
(pathclip-small's image and text vectors) and the best are read at working resolution and grounded one by one. Boxes are
pixels of the full resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from assistant.answer import Box
from assistant.errors import BadInput
from assistant.grounding.ground import check_phrase
from assistant.images.quality import blankness

if TYPE_CHECKING:
    from assistant.grounding.chat_boxes import Grounds
    from assistant.model.encoders.base import Encoder

Window = tuple[int, int, int, int]

#: Side of a field in pixels of the working resolution, and micrometres a pixel of that where the slide states its own.
FIELD, MPP = 1024, 0.5
_BLANK = 0.9
_CLOSELY = 500  # fields at most of which quarters are looked at
_MOST = 2000  # fields of the grid; a larger slide is cut more coarsely
_SAME = 0.5


class SlideLike(Protocol):
    """What is needed of ``assistant.slides.Slide``."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def mpp(self) -> float | None: ...

    def read(self, x: int, y: int, w: int, h: int, out: tuple[int, int] | None = None) -> Image.Image: ...

    def thumbnail(self, max_side: int) -> Image.Image: ...


def ground_slide(
    grounder: Grounds,
    slide: SlideLike,
    phrase: str,
    *,
    budget: int = 16,
    threshold: float | None = None,
    encoder: Encoder | None = None,
) -> tuple[list[Box], int]:
    """Boxes on a slide in full-resolution pixels, best first, and how many fields were looked at.

    Args:
        budget: Fields read at working resolution, 1 or more.
        encoder: Ranks fields by the phrase; default pathclip-small.

    Raises:
        BadInput: An empty or overlong phrase, a budget under 1.
    """
    phrase = check_phrase(phrase)
    if budget < 1:
        raise BadInput(f"budget is {budget}; at least one field has to be looked at")
    grid = fields_of(slide)
    chosen = grid if len(grid) <= budget else ranked(slide, grid, phrase, encoder)[:budget]
    boxes = [box for window in chosen for box in ground_field(grounder, slide, window, phrase, threshold)]
    return apart(boxes), len(chosen)


def ground_field(
    grounder: Grounds, slide: SlideLike, window: Window, phrase: str, threshold: float | None = None
) -> list[Box]:
    """Boxes in one field of a slide, in full-resolution pixels."""
    x, y, w, h = window
    scale = min(1.0, FIELD / max(w, h))
    out = max(1, round(w * scale)), max(1, round(h * scale))
    field = slide.read(x, y, w, h, out=out)
    across, down = w / out[0], h / out[1]
    found = []
    for box in grounder.ground(field, phrase, threshold=threshold):
        x0, y0, x1, y1 = box.xyxy
        whole = (x + x0 * across, y + y0 * down, x + x1 * across, y + y1 * down)
        found.append(
            Box(phrase, (round(whole[0], 1), round(whole[1], 1), round(whole[2], 1), round(whole[3], 1)), box.score)
        )
    return found


def side_of(slide: SlideLike) -> int:
    """Side of a field in full-resolution pixels."""
    width, height = slide.size
    side = FIELD if slide.mpp is None else max(FIELD, round(FIELD * MPP / slide.mpp))
    while (-(-width // side)) * (-(-height // side)) > _MOST:
        side *= 2
    return side


def fields_of(slide: SlideLike) -> list[Window]:
    """x, y, width, height in full-resolution pixels of the fields that hold tissue."""
    (width, height), side = slide.size, side_of(slide)
    overview = slide.thumbnail(1024)
    factor = overview.width / width
    found = []
    for y in range(0, height, side):
        for x in range(0, width, side):
            w, h = min(side, width - x), min(side, height - y)
            low = [int(v * factor) for v in (x, y)]
            high = [max(a + 1, round(v * factor)) for a, v in zip(low, (x + w, y + h), strict=True)]
            if min(w, h) >= 32 and blankness(overview.crop((low[0], low[1], high[0], high[1]))) < _BLANK:
                found.append((x, y, w, h))
    return found


def ranked(slide: SlideLike, grid: list[Window], phrase: str, encoder: Encoder | None = None) -> list[Window]:
    """The fields, those first of which a quarter, looked at in low resolution, fits the phrase best.

    What is named seldom fills a field: quarters find more than fields (``eval/results/grounding-slides.md``).
    """
    if encoder is None:
        from assistant.model.encoders import load_encoder

        encoder = load_encoder("pathclip-small")
    parts = [quarters(window) if len(grid) <= _CLOSELY else [window] for window in grid]
    looks = [slide.read(*p, out=(224, max(1, round(224 * p[3] / p[2])))) for each in parts for p in each]
    scores = (encoder.embed_images(looks) @ encoder.embed_texts([phrase])[0]).reshape(len(grid), -1).max(axis=1)
    return [grid[int(i)] for i in np.argsort(-scores, kind="stable")]


def quarters(window: Window) -> list[Window]:
    """The four quarters of a field."""
    x, y, w, h = window
    left, top = max(1, w // 2), max(1, h // 2)
    rows = ((y, top), (y + top, max(1, h - top)))
    return [(a, b, c, d) for b, d in rows for a, c in ((x, left), (x + left, max(1, w - left)))]


def apart(boxes: list[Box]) -> list[Box]:
    """Best first; of two that overlap much, from neighbouring fields, the better one."""
    import torch
    from torchvision.ops import nms

    if not boxes:
        return []
    kept = nms(torch.tensor([b.xyxy for b in boxes]), torch.tensor([b.score for b in boxes]), _SAME)
    return [boxes[int(i)] for i in kept]
