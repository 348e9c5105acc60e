"""What every slide offers, whatever file it comes from."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

from PIL import Image

from assistant.errors import BadInput, TooLarge

#: Most pixels one call of :meth:`Slide.read` decodes: about 1 GiB of work, never more than a band of it in memory.
MAX_READ_PIXELS = 256_000_000
#: Most pixels of a picture that :meth:`Slide.read` returns.
MAX_OUT_PIXELS = 50_000_000
_BAND_PIXELS = 32_000_000


class Window(NamedTuple):
    """A rectangle in pixels of the full resolution, origin top left."""

    x: int
    y: int
    width: int
    height: int


class Level(NamedTuple):
    """One resolution of a pyramid; ``downsample`` is 1 for the full one."""

    width: int
    height: int
    downsample: float


class Slide(ABC):
    """A slide that is open. Reading from several threads is safe; close it, or use it in a ``with`` block.

    Attributes:
        name: How messages call it.
        kind: Reader and format, for example ``"openslide: aperio"``.
        levels: Full resolution first.
        mpp: Micrometres per pixel of the full resolution (mean of both axes), None where the file does not say.
        objective: Magnification of the objective, for example 20.0, None where the file does not say.
        bounds: Where the scan lies within the full size; QuPath's coordinates start at its corner.
        fingerprint: A hash of the scan, None where the reader has none.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        levels: tuple[Level, ...],
        *,
        mpp: float | None = None,
        objective: float | None = None,
        bounds: Window | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.name = name
        self.kind = kind
        self.levels = levels
        self.mpp = _positive(mpp, 0.005, 1000.0)
        self.objective = _positive(objective, 0.1, 400.0)
        self.fingerprint = fingerprint
        self.bounds = bounds or Window(0, 0, *levels[0][:2])
        self._closed = False
        self._closing = threading.Lock()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the full resolution."""
        return self.levels[0].width, self.levels[0].height

    def read(
        self, x: int, y: int, width: int, height: int, out: tuple[int, int] | None = None, *, tolerance: float = 0.0
    ) -> Image.Image:
        """A region as RGB; what was not scanned is white.

        Args:
            x: Left edge in pixels of the full resolution.
            y: Top edge.
            width: Of the region, in pixels of the full resolution.
            height: Likewise.
            out: Size of the picture; default and maximum is the region's own size.
            tolerance: A level this share coarser than asked for will do; pyramids are seldom exact powers of two.

        Raises:
            BadInput: The region reaches over the edge, or the file is damaged there.
            TooLarge: More pixels than a cap allows, in the picture or in what must be decoded for it.
        """
        self._check(x, y, width, height)
        wanted = (width, height) if out is None else (min(int(out[0]), width), min(int(out[1]), height))
        if min(wanted) < 1:
            raise BadInput(f"a picture of {wanted[0]} x {wanted[1]} pixels was asked for; each side needs at least 1")
        if wanted[0] * wanted[1] > MAX_OUT_PIXELS:
            raise TooLarge(
                f"region {width} x {height} would be a picture of {wanted[0] * wanted[1] / 1e6:,.0f} million pixels; "
                f"the limit is {MAX_OUT_PIXELS / 1e6:,.0f} million: ask for a smaller region or size (--max-side)"
            )
        shrink = width / wanted[0] if width >= height else height / wanted[1]
        number = self.best_level(shrink * (1 + tolerance))
        level = self.levels[number]
        if (x, y, width, height) == (0, 0, *self.size):
            size = level.width, level.height
        else:
            size = max(1, round(width / level.downsample)), max(1, round(height / level.downsample))
        if size[0] * size[1] > MAX_READ_PIXELS:
            raise TooLarge(
                f"{self.name!r} has no smaller copy of itself: region {width} x {height} would need "
                f"{size[0] * size[1] / 1e6:,.0f} million pixels decoded, the limit is {MAX_READ_PIXELS / 1e6:,.0f} "
                "million; ask for a smaller region, or save it as a pyramid"
            )
        if size[0] * size[1] > _BAND_PIXELS and wanted[1] < size[1]:
            return self._read_in_bands(x, y, number, size, wanted)
        picture = self._pixels(x, y, number, size)
        return picture if picture.size == wanted else picture.resize(wanted, Image.Resampling.BOX)

    def thumbnail(self, max_side: int = 1024) -> Image.Image:
        """The whole slide with its longer side at most ``max_side``, RGB, made of the scan itself.

        Raises:
            BadInput, TooLarge: As :meth:`read`.
        """
        width, height = self.size
        scale = min(1.0, max_side / max(width, height))
        return self.read(0, 0, width, height, out=(max(1, round(width * scale)), max(1, round(height * scale))))

    def best_level(self, downsample: float) -> int:
        """Number of the smallest level that still has at least the resolution asked for."""
        number = 0
        for index, level in enumerate(self.levels):
            if level.downsample <= downsample:
                number = index
        return number

    def info(self) -> dict[str, Any]:
        """Size, resolution and pyramid; nothing that could name a patient."""
        return {
            "width": self.size[0],
            "height": self.size[1],
            "mpp": self.mpp,
            "objective": self.objective,
            "levels": [level._asdict() for level in self.levels],
            "bounds": self.bounds._asdict(),
            "reader": self.kind,
        }

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def _pixels(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        """``size`` pixels of a level as RGB; (x, y) are pixels of the full resolution."""

    def _close(self) -> None:  # noqa: B027 - some readers hold nothing
        """Close what the reader holds."""

    def _check(self, x: int, y: int, width: int, height: int) -> None:
        if self._closed:
            raise BadInput(f"{self.name!r} is closed; open it again")
        if width < 1 or height < 1:
            raise BadInput(f"region {width} x {height} at ({x}, {y}) is empty; width and height must be at least 1")
        if x < 0 or y < 0 or x + width > self.size[0] or y + height > self.size[1]:
            raise BadInput(
                f"region ({x}, {y}, {width}, {height}) reaches over the edge of the slide, "
                f"{' x '.join(map(str, self.size))}"
            )

    def _read_in_bands(
        self, x: int, y: int, number: int, size: tuple[int, int], wanted: tuple[int, int]
    ) -> Image.Image:
        """A region without a small copy of itself, shrunk band by band so that only one is in memory."""
        level = self.levels[number]
        picture = Image.new("RGB", wanted, "white")
        rows = max(1, math.floor(_BAND_PIXELS / size[0] * wanted[1] / size[1]))
        for top in range(0, wanted[1], rows):
            bottom = min(top + rows, wanted[1])
            first, last = round(top * size[1] / wanted[1]), round(bottom * size[1] / wanted[1])
            band = self._pixels(x, y + round(first * level.downsample), number, (size[0], max(1, last - first)))
            picture.paste(band.resize((wanted[0], bottom - top), Image.Resampling.BOX), (0, top))
        return picture


def on_white(picture: Image.Image) -> Image.Image:
    """RGB; slides are transparent where nothing was scanned: that is glass."""
    if picture.mode != "RGBA":
        return picture.convert("RGB")
    rgb = Image.new("RGB", picture.size, "white")
    rgb.paste(picture, mask=picture.getchannel("A"))
    return rgb


def nice_length(limit: float) -> float:
    """The largest of 1, 2, 5 times a power of ten up to ``limit`` (above 0): the length of a scale bar."""
    power = 10.0 ** math.floor(math.log10(limit))
    return float(max(step * power for step in (1, 2, 5) if step * power <= limit * (1 + 1e-9)))


def _positive(value: Any, low: float, high: float) -> float | None:
    """A number within reason, else None: headers hold zeros, words and other units."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if low <= number <= high else None
