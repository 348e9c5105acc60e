"""A region of an image as the prompt: the region with some surroundings, and where it lies, in words.

The crop comes first: a small model sees only a few tokens of an image, so what it is asked about has to fill it. A
region is a box, or what a brush has painted; of the latter the model is shown the box around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image as Pil
from PIL import ImageDraw
from PIL.Image import Image

from assistant.errors import BadInput

MIN_SIDE = 8
MAX_POINTS = 4_000
_FORM = "write x0,y0,x1,y1 in pixels from the top left corner, for example 40,60,200,180"
_BRUSH_FORM = "write the brush's radius and points in pixels, for example brush 12: 40,60 120,80; 8: 200,40"
_NUMBER = r"\d{1,6}(?:\.\d{1,3})?"
_STROKE = re.compile(rf"\s*({_NUMBER})\s*:\s*({_NUMBER},{_NUMBER}(?:\s+{_NUMBER},{_NUMBER})*)\s*")
_MASK_SIDE = 2048  # larger images are painted in small: a disc at each of many points costs its area


@dataclass(frozen=True)
class Stroke:
    """One stroke of a brush: its radius and the points it went through, in pixels of the image."""

    radius: float
    points: tuple[tuple[float, float], ...]


def is_brush(text: str) -> bool:
    """Whether a region is written as strokes of a brush rather than as four numbers."""
    return text.strip().casefold().startswith("brush")


def parse_brush(text: str) -> tuple[Stroke, ...]:
    """``"brush R: x,y x,y; R: x,y"`` as strokes.

    Raises:
        BadInput: Anything else, a radius of 0, more than ``MAX_POINTS`` points.
    """
    strokes = []
    for part in text.strip()[len("brush") :].strip().strip(";").split(";") if is_brush(text) else [text]:
        found = _STROKE.fullmatch(part)
        if found is None or float(found[1]) == 0:
            raise BadInput(f"the stroke {part.strip()[:40]!r} cannot be read; {_BRUSH_FORM}")
        numbers = [tuple(map(float, point.split(","))) for point in found[2].split()]
        strokes.append(Stroke(float(found[1]), tuple((x, y) for x, y in numbers)))
    count = sum(len(stroke.points) for stroke in strokes)
    if count > MAX_POINTS:
        raise BadInput(f"the brush went through {count:,} points; at most {MAX_POINTS:,} are allowed, so paint less")
    return tuple(strokes)


def painted(size: tuple[int, int], strokes: Sequence[Stroke]) -> Image:
    """What strokes cover, as a mask of an image of that size (width, height), 255 where it is painted, mode ``"L"``.

    Raises:
        BadInput: A radius over a quarter of the image's longer side.
    """
    largest = max(size) / 4
    scale = min(1.0, _MASK_SIDE / max(size))
    mask = Pil.new("L", (max(1, round(size[0] * scale)), max(1, round(size[1] * scale))))
    pen = ImageDraw.Draw(mask)
    for stroke in strokes:
        if stroke.radius > largest:
            raise BadInput(
                f"the brush's radius is {stroke.radius:g} pixels; at most {largest:g}, a quarter of the longer side, "
                "is allowed here: mark a box instead"
            )
        radius, points = stroke.radius * scale, [(x * scale, y * scale) for x, y in stroke.points]
        pen.line(points, fill=255, width=max(1, round(2 * radius)))
        for x, y in points:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return mask if mask.size == size else mask.resize(size, Pil.Resampling.NEAREST)


@dataclass(frozen=True)
class Region:
    """A region in whole pixels of its image; ``mask`` is what of the image was painted, None for a box."""

    box: tuple[int, int, int, int]
    mask: Image | None = None

    @property
    def covered(self) -> float:
        """Share of the box that is painted, 0…1; 1 for a box."""
        if self.mask is None:
            return 1.0
        left, top, right, bottom = self.box
        return self.mask.crop(self.box).histogram()[-1] / ((right - left) * (bottom - top))


def read_region(size: tuple[int, int], text: str) -> Region:
    """A box or strokes of a brush, as written, on an image of that size (width, height).

    Raises:
        BadInput: It cannot be read, lies outside the image or is too small.
    """
    if not is_brush(text):
        return Region(check_region(size, parse_region(text)))
    mask = painted(size, parse_brush(text))
    box = mask.getbbox()
    if box is None:
        raise BadInput(f"nothing is painted inside the image of {size[0]} x {size[1]} pixels; paint on the picture")
    return Region(check_region(size, box), mask)


def parse_region(text: str) -> tuple[float, float, float, float]:
    """``"x0,y0,x1,y1"`` as numbers; commas, semicolons or blanks between them.

    Raises:
        BadInput: Anything else.
    """
    parts = text.replace(",", " ").replace(";", " ").split()
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise BadInput(f"the region {text[:60]!r} is not four numbers; {_FORM}")
    return (numbers[0], numbers[1], numbers[2], numbers[3])


def check_region(size: tuple[int, int], xyxy: Sequence[float]) -> tuple[int, int, int, int]:
    """A region in whole pixels inside an image of that size (width, height), corners in order.

    Raises:
        BadInput: Outside the image, or a side below ``MIN_SIDE`` pixels.
    """
    if len(xyxy) != 4 or not all(math.isfinite(value) for value in xyxy):
        raise BadInput(f"a region is four numbers, not {list(xyxy)!r:.60}; {_FORM}")
    width, height = size
    left, right = sorted((xyxy[0], xyxy[2]))
    top, bottom = sorted((xyxy[1], xyxy[3]))
    box = (
        max(0, math.floor(left)), max(0, math.floor(top)), min(width, math.ceil(right)), min(height, math.ceil(bottom))
    )  # fmt: skip
    if box[2] - box[0] < MIN_SIDE or box[3] - box[1] < MIN_SIDE:
        shown = ",".join(f"{value:g}" for value in xyxy)
        raise BadInput(
            f"the region {shown} covers less than {MIN_SIDE} x {MIN_SIDE} pixels of the image of {width} x {height}; "
            "mark a larger part that lies inside it"
        )
    return box


def region_prompt(image: Image, xyxy: Sequence[float], context: float = 0.5) -> tuple[Image, str]:
    """What to show and to say for a question about a region.

    Args:
        image: The whole image.
        xyxy: The region in its pixels, origin top left; corners in any order, clipped to the image.
        context: Surroundings to keep, as a share of the region's longer side, half of it on either side; 0 for none.

    Returns:
        The region with its surroundings, in full resolution, and one sentence with its place.

    Raises:
        BadInput: The region lies outside the image or is too small, or ``context`` is not 0…4.
    """
    if not 0 <= context <= 4:
        raise BadInput(f"context is {context!r}; allowed: 0 to 4")
    left, top, right, bottom = check_region(image.size, xyxy)
    width, height = image.size
    margin = round(context * max(right - left, bottom - top) / 2)
    crop = image.crop(
        (max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin))
    )
    sentence = (
        f"This is the {place(image.size, (left, top, right, bottom))} of an image of {width} x {height} pixels, "
        f"from ({left}, {top}) to ({right}, {bottom})."
    )
    return crop, sentence


def place(size: tuple[int, int], xyxy: Sequence[float]) -> str:
    """Where the centre of a region lies, by thirds: "upper left part", "centre", "right part"."""
    across = min(2, int(3 * (xyxy[0] + xyxy[2]) / 2 / size[0]))
    down = min(2, int(3 * (xyxy[1] + xyxy[3]) / 2 / size[1]))
    words = " ".join(word for word in (("upper", "", "lower")[down], ("left", "", "right")[across]) if word)
    return f"{words} part" if words else "centre"
