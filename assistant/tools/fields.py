"""What the tools share: stain of a field, working size, tiles of a large one, outlines as GeoJSON, overlays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput
from assistant.images.quality import blankness
from assistant.tools.colour import stain_chances, stained_density

StainGuess = Literal["H&E-like", "DAB immunostain", "other or uncertain"]

#: Larger fields are cut into tiles, of which at most MAX_TILES are worked on: memory and time have a cap.
TILE, MARGIN, MAX_TILES = 1024, 64, 16
MIN_SIDE, BLANK = 32, 0.95
_OVERLAY_PIXELS = 16_000_000


@dataclass(frozen=True)
class Tile:
    """A part of a field: pixels [H, W, 3] with margin, where they begin, and the core that this tile answers for."""

    pixels: NDArray[np.uint8]
    x: int
    y: int
    core: tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the field


def require_field(image: Image.Image) -> None:
    """Refuse what no tool can measure.

    Raises:
        BadInput: A side under 32 px, or a blank field.
    """
    if min(image.size) < MIN_SIDE:
        raise BadInput(f"the image is {image.width} x {image.height} pixels; at least {MIN_SIDE} a side are needed")
    blank = blankness(image)
    if blank >= BLANK:
        raise BadInput(f"the field is blank ({blank:.0%} of it shows no tissue); give a field with tissue")


def guess_stain(image: Image.Image) -> tuple[StainGuess, dict[str, float]]:
    """Kind of stain from colour alone, by :mod:`assistant.tools.colour`, and what a reader can check it against.

    The shares are of all stained pixels of a 512 px thumbnail: *pink* ones absorb green clearly more than red and blue
    (eosin, also PAS), *brown* ones blue at least as much as green (DAB, silver, pigment), *blue* ones red at least as
    much as green (haematoxylin beside DAB, Giemsa). A field left open is a DAB immunostain after all where the shares
    say so and the head does not rule it out, or most of it is brown and nothing pink.
    """
    density = stained_density(image)
    chances = stain_chances(density)
    if chances is None:
        return "other or uncertain", {"pink": 0.0, "brown": 0.0, "blue": 0.0}
    red, green, blue = density.T
    shares = {
        "pink": float(((red < 0.75 * green) & (blue < green)).mean()),
        "brown": float(((blue >= green) & (green > red)).mean()),
        "blue": float((red >= 0.9 * green).mean()),
    }
    best = max(chances, key=lambda name: chances[name])
    possible = chances["DAB immunostain"] > _POSSIBLE or (shares["brown"] >= _BROWN and shares["pink"] < _NO_PINK)
    if best == "other or uncertain" and possible and _blue_and_brown(shares):
        best = "DAB immunostain"
    return cast(StainGuess, best), shares


def _blue_and_brown(shares: dict[str, float]) -> bool:
    """Next to no pink, and brown or blue instead, but not blue alone."""
    rest = shares["blue"] + shares["brown"]
    return shares["pink"] < PINK and rest > 0.5 and COUNTER < shares["blue"] < GIEMSA


#: ``_POSSIBLE`` was chosen on ``val``, where it finds another six immunostains of 42 and costs nothing else.
_POSSIBLE = 0.02
#: Holds for no smear, Pap-stained cell or special stain among 254 train fields.
_BROWN, _NO_PINK = 0.5, 0.1
PINK, COUNTER, GIEMSA = 0.35, 0.02, 0.9


def working_copy(image: Image.Image, max_pixels: int) -> tuple[Image.Image, float]:
    """The image at no more than ``max_pixels``, and pixels of the image for one of the copy."""
    factor = (image.width * image.height / max_pixels) ** 0.5
    if factor <= 1:
        return image, 1.0
    size = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return image.resize(size, Image.Resampling.BOX), image.width / size[0]


def tiles(image: Image.Image, side: int = TILE) -> tuple[list[tuple[int, int]], int]:
    """Corners of the tiles of ``side`` pixels to work on, and how many there are in all.

    All of them where there are at most ``MAX_TILES``; else that many of those that hold tissue, evenly spread.
    """
    corners = [(x, y) for y in range(0, image.height, side) for x in range(0, image.width, side)]
    if len(corners) <= MAX_TILES:
        return corners, len(corners)
    boxes = [(x, y, min(x + side, image.width), min(y + side, image.height)) for x, y in corners]
    with_tissue = [(box[0], box[1]) for box in boxes if blankness(image.resize((64, 64), box=box)) < BLANK]
    step = max(1.0, len(with_tissue) / MAX_TILES)
    return [with_tissue[int(i * step)] for i in range(min(MAX_TILES, len(with_tissue)))], len(with_tissue)


def cut(
    image: Image.Image, corners: Sequence[tuple[int, int]], side: int = TILE, margin: int = MARGIN
) -> Iterator[Tile]:
    """The tiles at ``corners``, one at a time."""
    for x, y in corners:
        core = (x, y, min(x + side, image.width), min(y + side, image.height))
        left, top = max(0, x - margin), max(0, y - margin)
        box = (left, top, min(core[2] + margin, image.width), min(core[3] + margin, image.height))
        yield Tile(np.asarray(image.crop(box).convert("RGB")), left, top, core)


def outline(mask: NDArray[np.bool_], x: int, y: int) -> list[list[float]]:
    """Closed ring around the largest part of a mask whose top left pixel is (x, y), in pixels of the image."""
    from skimage.measure import approximate_polygon, find_contours

    contours = find_contours(np.pad(mask, 1).astype(float), 0.5)  # type: ignore[no-untyped-call]
    ring = max(contours, key=len)
    simple = approximate_polygon(ring, 0.5)  # type: ignore[no-untyped-call]
    if len(simple) < 4:
        simple = ring
    return [[round(float(c) - 0.5 + x, 1), round(float(r) - 0.5 + y, 1)] for r, c in simple]


def feature(ring: list[list[float]], **properties: Any) -> dict[str, Any]:
    """One GeoJSON polygon."""
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {key: value for key, value in properties.items() if value is not None},
    }


def collection(features: list[dict[str, Any]]) -> dict[str, Any]:
    """A FeatureCollection; QuPath opens it as it is."""
    return {"type": "FeatureCollection", "features": features}


def draw_outlines(image: Image.Image, features: list[dict[str, Any]], colours: dict[str, str]) -> Image.Image:
    """The field with its outlines, coloured by the property ``class``; smaller where it is over 16 million pixels."""
    from PIL import ImageDraw

    canvas, factor = working_copy(image, _OVERLAY_PIXELS)
    canvas = canvas.convert("RGB").copy()
    pen = ImageDraw.Draw(canvas)
    for one in features:
        ring = [(px / factor, py / factor) for px, py in one["geometry"]["coordinates"][0]]
        pen.line(ring, fill=colours.get(str(one["properties"].get("class")), "#ffd400"), width=2)
    return canvas
