"""OpenSlide and tiffslide behind one interface."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from PIL import Image

from assistant.errors import BadInput
from assistant.slides.base import Level, Slide, Window, on_white

_MICROMETRES = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}
_MAX_UNTILED = 100_000_000  # pixels of a TIFF in one piece, which cannot be read in part


class OpenSlideReader(Slide):
    """Whatever OpenSlide opens.

    Raises:
        BadInput: It does not know the file, or the file is damaged.
    """

    def __init__(self, path: Path, name: str) -> None:
        import openslide

        try:
            slide = openslide.OpenSlide(path)
        except (openslide.OpenSlideError, OSError) as error:
            raise BadInput(f"{name!r} cannot be read as a slide: {_why(error)}; export it again") from error
        try:
            properties = slide.properties
            super().__init__(
                name,
                f"openslide: {properties.get('openslide.vendor', 'unknown')}",
                _levels(slide),
                mpp=_mean(properties.get("openslide.mpp-x"), properties.get("openslide.mpp-y")),
                objective=_number(properties.get("openslide.objective-power")),
                bounds=_bounds(properties, slide.dimensions),
                fingerprint=properties.get("openslide.quickhash-1"),
            )
        except BaseException:
            slide.close()
            raise
        self._slide = slide

    def _pixels(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        import openslide

        try:
            return on_white(self._slide.read_region((x, y), level, size))
        except (openslide.OpenSlideError, MemoryError) as error:
            place = f"({x}, {y}) at level {level}"
            raise BadInput(f"{self.name!r} is damaged at {place}: {_why(error)}; export it again") from error

    def _close(self) -> None:
        self._slide.close()


class TiffSlideReader(Slide):
    """OME-TIFF and other pyramids that tifffile reads: 8 bits, RGB or grey.

    Raises:
        BadInput: It cannot, or the file is of another kind.
    """

    def __init__(self, path: Path, name: str) -> None:
        try:
            from tiffslide import TiffSlide
        except ModuleNotFoundError as error:
            raise BadInput(
                f"{name!r} cannot be read as a slide: OpenSlide does not know it and tiffslide is not installed; "
                "install it with: pip install 'pathassist[wsi]'"
            ) from error
        slide = None
        try:
            slide = TiffSlide(path)
            properties = slide.properties
            levels = _levels(slide)
            ome_mpp, ome_objective = _of_ome(slide.ts_tifffile.ome_metadata)
            _check_kind(slide)
            super().__init__(
                name,
                f"tiffslide: {properties.get('tiffslide.vendor') or 'tiff'}",
                levels,
                mpp=_mean(properties.get("tiffslide.mpp-x"), properties.get("tiffslide.mpp-y")) or ome_mpp,
                objective=_number(properties.get("tiffslide.objective-power")) or ome_objective,
            )
        except Exception as error:  # tifffile and zarr raise nearly anything on hostile bytes
            if slide is not None:
                slide.close()
            raise BadInput(f"{name!r} cannot be read as a slide: {_why(error)}; export it again") from error
        self._slide = slide
        self._lock = threading.Lock()  # one file handle for all threads

    def _pixels(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        # tiffslide pads neither side: what lies over the edge by rounding is asked for no more.
        own = self.levels[level]
        left, top = int(x / own.downsample), int(y / own.downsample)
        fitting = max(1, min(size[0], own.width - left)), max(1, min(size[1], own.height - top))
        try:
            with self._lock:
                picture = self._slide.read_region((x, y), level, fitting)
        except Exception as error:
            place = f"({x}, {y}) at level {level}"
            raise BadInput(f"{self.name!r} is damaged at {place}: {_why(error)}; export it again") from error
        if fitting == size:
            return on_white(picture)
        whole = Image.new("RGB", size, "white")
        whole.paste(on_white(picture), (0, 0))
        return whole

    def _close(self) -> None:
        self._slide.close()


def _levels(slide: Any) -> tuple[Level, ...]:
    """The levels whose sides are above 0, with growing downsample."""
    levels = [
        Level(int(width), int(height), float(downsample))
        for (width, height), downsample in zip(slide.level_dimensions, slide.level_downsamples, strict=True)
    ]
    if not levels or min(levels[0][:2]) < 1:
        raise BadInput("it holds no pixels")
    return tuple(levels)


def _check_kind(slide: Any) -> None:
    page = slide.ts_tifffile.pages[0]
    if page.dtype is None or page.dtype.itemsize != 1:
        raise BadInput(f"its pixels are {page.dtype}, 8 bits per channel are needed")
    if page.samplesperpixel not in (1, 3, 4):
        raise BadInput(f"it has {page.samplesperpixel} channels; RGB or grey is needed")
    if not page.is_tiled and page.imagewidth * page.imagelength > _MAX_UNTILED:
        raise BadInput(
            f"its {page.imagewidth} x {page.imagelength} pixels are not in tiles; save it as a tiled pyramid"
        )


def _of_ome(text: str | None) -> tuple[float | None, float | None]:
    """µm per pixel of the first image and magnification, from OME-XML; tiffslide reads neither."""
    pixels = re.search(r"<(?:\w+:)?Pixels\s[^>]*>", text or "")
    if not pixels:
        return None, None
    found: dict[str, str] = dict(re.findall(r'(\w+)="([^"]*)"', pixels[0]))
    factor = _MICROMETRES.get(found.get("PhysicalSizeXUnit", "µm"))
    mpp = _mean(found.get("PhysicalSizeX"), found.get("PhysicalSizeY", found.get("PhysicalSizeX")))
    objective = re.search(r'\sNominalMagnification="([^"]*)"', text or "")
    return mpp * factor if mpp and factor else None, _number(objective[1]) if objective else None


def _bounds(properties: Any, size: tuple[int, int]) -> Window | None:
    """Where OpenSlide says that the scan lies (MRXS and others), kept within the slide."""
    try:
        x, y, width, height = (int(properties[f"openslide.bounds-{key}"]) for key in ("x", "y", "width", "height"))
    except (KeyError, ValueError):
        return None
    if x < 0 or y < 0 or width < 1 or height < 1 or x + width > size[0] or y + height > size[1]:
        return None
    return Window(x, y, width, height)


def _mean(first: Any, second: Any) -> float | None:
    try:
        return (float(first) + float(second)) / 2
    except (TypeError, ValueError):
        return None


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160].rstrip(".") if lines else "unknown format"


def _number(value: Any) -> float | None:
    return _mean(value, value)
