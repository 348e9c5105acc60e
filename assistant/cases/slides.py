"""Whole slides as cases: tissue found on an overview, tiles of a stated size at a stated resolution.

Slides are read through :mod:`assistant.slides`, which never touches label and macro images, file names and other
properties that may name patients.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from assistant.slides import SUFFIXES as SLIDE_SUFFIXES
from assistant.slides import Slide, is_slide_name
from assistant.slides import open_slide as open_any
from retrieval.records import Case, Region

#: What a folder is searched for: a ``.dzi`` brings thousands of tiles as files, so it is only taken by its own name.
SUFFIXES = SLIDE_SUFFIXES - {".dzi"}

_OVERVIEW = 1024  # longest side in pixels on which tissue is looked for
_MIN_SATURATION = 18  # of 255; paper-white glass has less, whatever Otsu says
_MIN_TISSUE = 0.4


@dataclass(frozen=True)
class Tiling:
    """How a slide is cut.

    Attributes:
        pixels: Side of a tile in pixels.
        mpp: Micrometres per pixel of a tile; None takes the slide's full resolution, whatever that is.
    """

    pixels: int = 256
    mpp: float | None = None

    def __post_init__(self) -> None:
        if not 32 <= self.pixels <= 4096:
            raise BadInput(f"a tile of {self.pixels} pixels; allowed: 32 to 4096")
        if self.mpp is not None and not 0.05 <= self.mpp <= 100:
            raise BadInput(f"{self.mpp:g} µm per pixel; allowed: 0.05 to 100")


def is_slide(path: Path) -> bool:
    """By its name, or for a TIFF by its pyramid."""
    if is_slide_name(path):
        return True
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    try:
        with open_slide(path) as slide:
            return len(slide.levels) > 1
    except (BadInput, NotAvailable):
        return False


def open_slide(path: Path) -> Slide:
    """A slide, not a plain picture; use it in a ``with`` block.

    Raises:
        NotAvailable: OpenSlide is not installed.
        BadInput: Not a slide that can be read.
    """
    return open_any(path, plain=False)


def tiles(path: Path, tiling: Tiling) -> list[Case]:
    """Cases without pixels for the tiles with tissue, row by row; all have the slide as their group.

    Raises:
        BadInput: Not a slide, no µm per pixel where ``tiling`` asks for it, or no tissue.
        NotAvailable: OpenSlide is not installed.
    """
    with open_slide(path) as slide:
        side = _side(slide, path, tiling)
        mask = tissue_mask(slide.thumbnail(_OVERVIEW))
        width, height = slide.size
        group = _slide_hash(slide, path)
        facts = {"kind": "tile", "tile_pixels": str(tiling.pixels)}
        if tiling.mpp is not None:
            facts["mpp"] = f"{tiling.mpp:g}"
        found = [
            Case("", image=str(path.resolve()), region=region, title="field of a slide", group=group, facts=facts)
            for y in range(0, max(1, height - side + 1), side)
            for x in range(0, max(1, width - side + 1), side)
            if _tissue_share(mask, region := (x, y, min(side, width), min(side, height)), (width, height))
            >= _MIN_TISSUE
        ]
    if not found:
        raise BadInput(f"no tissue was found on {path.name!r} for tiles of {side} full-resolution pixels")
    return found


def read_tile(path: Path, region: Region, pixels: int) -> Image.Image:
    """A region of a slide, scaled to ``pixels`` [longest side], RGB.

    Raises:
        BadInput: The slide cannot be read there.
        NotAvailable: OpenSlide is not installed.
    """
    with open_slide(path) as slide:
        return _read(slide, region, pixels)


def overview(path: Path) -> Image.Image:
    """The whole slide in at most 1,024 pixels, RGB, made of the scan itself.

    Raises:
        BadInput, NotAvailable: As ``tiles``.
    """
    with open_slide(path) as slide:
        return slide.thumbnail(_OVERVIEW)


def tissue_mask(overview: Image.Image) -> NDArray[np.bool_]:
    """Where an RGB overview shows tissue, [H, W]: more saturated than Otsu's threshold (1979)."""
    from skimage import filters

    otsu: Any = filters.threshold_otsu  # untyped
    saturation = np.asarray(overview.convert("HSV"))[..., 1]
    if saturation.min() == saturation.max():
        return np.full(saturation.shape, bool(saturation.max() >= _MIN_SATURATION))
    # Where tissue fills the field Otsu would split the tissue itself: glass is below the floor, so half of it will do.
    threshold = float(otsu(saturation))
    return np.asarray(saturation >= max(_MIN_SATURATION, 0.5 * threshold))


def _read(slide: Slide, region: Region, pixels: int) -> Image.Image:
    x, y, width, height = region
    scale = min(1.0, pixels / max(width, height))
    return slide.read(x, y, width, height, out=(max(1, round(width * scale)), max(1, round(height * scale))))


def _side(slide: Slide, path: Path, tiling: Tiling) -> int:
    """Side of a tile in pixels of the full resolution."""
    if tiling.mpp is None:
        return tiling.pixels
    if slide.mpp is None:
        raise BadInput(
            f"{path.name!r} does not say its µm per pixel; leave --mpp out to cut it in full-resolution pixels"
        )
    if tiling.mpp < 0.9 * slide.mpp:
        raise BadInput(f"{path.name!r} has {slide.mpp:g} µm per pixel; --mpp {tiling.mpp:g} is finer than that")
    return max(1, round(tiling.pixels * tiling.mpp / slide.mpp))


def _slide_hash(slide: Slide, path: Path) -> str:
    """A name for the slide that says nothing of its file name."""
    return (slide.fingerprint or hashlib.sha256(str(path).encode()).hexdigest())[:16]


def _tissue_share(mask: NDArray[np.bool_], region: Region, size: tuple[int, int]) -> float:
    x, y, width, height = region
    across, down = mask.shape[1] / size[0], mask.shape[0] / size[1]
    left, top = int(x * across), int(y * down)
    part = mask[top : max(top + 1, round((y + height) * down)), left : max(left + 1, round((x + width) * across))]
    return float(part.mean())
