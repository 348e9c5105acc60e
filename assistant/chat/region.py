"""A region of an image as the prompt: the region with some surroundings, and where it lies, in words.

The crop comes first: a small model sees only a few tokens of an image, so what it is asked about has to fill it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL.Image import Image

from assistant.errors import BadInput

MIN_SIDE = 8
_FORM = "write x0,y0,x1,y1 in pixels from the top left corner, for example 40,60,200,180"


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
