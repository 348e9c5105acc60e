"""Whole slides as cases: tissue found on an overview, tiles of a stated size at a stated resolution.

Only pixels and four numbers of a slide are used (size, pyramid, µm per pixel, a hash): label and macro images, file
names and other properties may name patients and are never read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from retrieval.records import Case, Region

SUFFIXES = {".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm"}

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
    if path.suffix.lower() in SUFFIXES:
        return True
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return False
    try:
        with open_slide(path) as slide:
            return int(slide.level_count) > 1
    except (BadInput, NotAvailable):
        return False


@contextmanager
def open_slide(path: Path) -> Iterator[Any]:
    """An ``openslide.OpenSlide``.

    Raises:
        NotAvailable: OpenSlide is not installed.
        BadInput: Not a slide it can read.
    """
    try:
        import openslide
    except ModuleNotFoundError as error:
        raise NotAvailable("slides need OpenSlide; install it with: pip install 'pathassist[wsi]'") from error
    try:
        slide = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise BadInput(
            f"{path.name!r} cannot be read as a slide: {error or 'unknown format'}; export it again"
        ) from error
    try:
        yield slide
    finally:
        slide.close()


def tiles(path: Path, tiling: Tiling) -> list[Case]:
    """Cases without pixels for the tiles with tissue, row by row; all have the slide as their group.

    Raises:
        BadInput: Not a slide, no µm per pixel where ``tiling`` asks for it, or no tissue.
        NotAvailable: OpenSlide is not installed.
    """
    with open_slide(path) as slide:
        side = _side(slide, path, tiling)
        mask = tissue_mask(_overview(slide))
        width, height = slide.dimensions
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
        return _read(slide, path, region, pixels)


def overview(path: Path) -> Image.Image:
    """The whole slide in at most 1,024 pixels, RGB, made of the scan itself.

    Raises:
        BadInput, NotAvailable: As ``tiles``.
    """
    with open_slide(path) as slide:
        return _overview(slide)


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


def _overview(slide: Any) -> Image.Image:
    width, height = slide.dimensions
    scale = min(1.0, _OVERVIEW / max(width, height))
    level = slide.get_best_level_for_downsample(1 / scale)
    image = _on_white(slide.read_region((0, 0), level, slide.level_dimensions[level]))
    return image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BOX)


def _read(slide: Any, path: Path, region: Region, pixels: int) -> Image.Image:
    import openslide

    x, y, width, height = region
    if x + width > slide.dimensions[0] or y + height > slide.dimensions[1]:
        raise BadInput(f"region {region} reaches over the edge of the slide, {' x '.join(map(str, slide.dimensions))}")
    scale = min(1.0, pixels / max(width, height))
    level = slide.get_best_level_for_downsample(1 / scale)
    downsample = slide.level_downsamples[level]
    try:
        size = max(1, round(width / downsample)), max(1, round(height / downsample))
        image = _on_white(slide.read_region((x, y), level, size))
    except (openslide.OpenSlideError, MemoryError) as error:
        raise BadInput(f"{path.name!r} is damaged at {region}: {error}; export it again") from error
    wanted = max(1, round(width * scale)), max(1, round(height * scale))
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BOX)


def _on_white(rgba: Image.Image) -> Image.Image:
    """Slides are transparent where nothing was scanned: that is glass."""
    rgb = Image.new("RGB", rgba.size, "white")
    rgb.paste(rgba, mask=rgba.getchannel("A"))
    return rgb


def _side(slide: Any, path: Path, tiling: Tiling) -> int:
    """Side of a tile in pixels of the full resolution."""
    if tiling.mpp is None:
        return tiling.pixels
    known = slide.properties.get("openslide.mpp-x")
    try:
        resolution = float(known)
    except (TypeError, ValueError):
        raise BadInput(
            f"{path.name!r} does not say its µm per pixel; leave --mpp out to cut it in full-resolution pixels"
        ) from None
    if tiling.mpp < 0.9 * resolution:
        raise BadInput(f"{path.name!r} has {resolution:g} µm per pixel; --mpp {tiling.mpp:g} is finer than that")
    return max(1, round(tiling.pixels * tiling.mpp / resolution))


def _slide_hash(slide: Any, path: Path) -> str:
    """A name for the slide that says nothing of its file name."""
    return str(slide.properties.get("openslide.quickhash-1") or hashlib.sha256(str(path).encode()).hexdigest())[:16]


def _tissue_share(mask: NDArray[np.bool_], region: Region, size: tuple[int, int]) -> float:
    x, y, width, height = region
    across, down = mask.shape[1] / size[0], mask.shape[0] / size[1]
    left, top = int(x * across), int(y * down)
    part = mask[top : max(top + 1, round((y + height) * down)), left : max(left + 1, round((x + width) * across))]
    return float(part.mean())
