"""Deep Zoom as files: ``NAME.dzi`` and ``NAME_files/LEVEL/COLUMN_ROW.FORMAT`` beside it.

The descriptor is input from outside: it is small XML without entities, and only numbers and one of four formats are
taken from it, so it cannot name a file elsewhere. Links that lead out of the folder are not followed.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from assistant.errors import BadInput, PathAssistError
from assistant.images.intake import Limits, load_image
from assistant.slides.base import Level, Slide

_MAX_XML = 64 * 1024
_MAX_SIDE = 4_000_000
_FORMATS = ("jpg", "jpeg", "png", "webp")
_TILE_LIMITS = Limits(max_bytes=16 * 1024 * 1024, max_pixels=4200 * 4200, min_side=1, max_aspect=100_000)
_KEEP = 32  # decoded tiles: neighbours of a region are asked for again at once


class DziSlide(Slide):
    """A slide from its Deep Zoom tiles. A tile that is missing is white: writers leave blank ones out.

    Raises:
        BadInput: The descriptor is malformed, or the folder of tiles is missing.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._tile, self._overlap, self._format, width, height = _descriptor(path, name)
        self._folder = path.with_name(path.stem + "_files").resolve()
        top = math.ceil(math.log2(max(width, height)))
        numbers = [n for n in range(top, -1, -1) if (self._folder / str(n)).is_dir()]
        if not numbers or numbers[0] != top:
            raise BadInput(f"{name!r} needs its tiles in the folder {path.stem + '_files'!r} beside it; copy that too")
        sizes = [(n, math.ceil(width / 2 ** (top - n)), math.ceil(height / 2 ** (top - n))) for n in numbers]
        super().__init__(name, "deepzoom", tuple(Level(w, h, 2.0 ** (top - n)) for n, w, h in sizes))
        self._numbers = numbers
        self._kept: OrderedDict[tuple[int, int, int], Image.Image] = OrderedDict()
        self._lock = threading.Lock()

    def _pixels(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        own = self.levels[level]
        left, top = round(x / own.downsample), round(y / own.downsample)
        right, bottom = min(left + size[0], own.width), min(top + size[1], own.height)
        picture = Image.new("RGB", size, "white")
        for row in range(top // self._tile, math.ceil(bottom / self._tile)):
            for column in range(left // self._tile, math.ceil(right / self._tile)):
                tile = self._load(level, column, row)
                if tile is not None:
                    # A tile begins an overlap early, except at the left and upper edge.
                    at_x = column * self._tile - (self._overlap if column else 0)
                    at_y = row * self._tile - (self._overlap if row else 0)
                    picture.paste(tile, (at_x - left, at_y - top))
        return picture

    def _load(self, level: int, column: int, row: int) -> Image.Image | None:
        key = (level, column, row)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        path = self._folder / str(self._numbers[level]) / f"{column}_{row}.{self._format}"
        try:
            real = path.resolve(strict=True)
        except OSError:
            return None
        where = f"{self.name!r}, tile {column}_{row} of level {self._numbers[level]}"
        if not real.is_relative_to(self._folder):
            raise BadInput(f"{where} is a link that leads out of its folder; copy the tile itself")
        try:
            tile = load_image(real, limits=_TILE_LIMITS, overview=False)
        except PathAssistError as error:
            raise BadInput(f"{where} cannot be read: {error}") from error
        allowed = self._tile + 2 * self._overlap
        if max(tile.size) > allowed:
            raise BadInput(f"{where} has {tile.width} x {tile.height} pixels; its descriptor allows {allowed}")
        with self._lock:
            self._kept[key] = tile
            while len(self._kept) > _KEEP:
                self._kept.popitem(last=False)
        return tile

    def _close(self) -> None:
        with self._lock:
            self._kept.clear()


def _descriptor(path: Path, name: str) -> tuple[int, int, str, int, int]:
    """Tile size, overlap, format, width, height."""
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_XML + 1)
        if len(text) > _MAX_XML or b"<!" in text.replace(b"<!--", b""):
            raise ValueError("it is too long or declares entities")
        root = ElementTree.fromstring(text)  # noqa: S314 - declarations were refused above
        size = next((child for child in root if child.tag.rpartition("}")[2] == "Size"), None)
        if root.tag.rpartition("}")[2] != "Image" or size is None:
            raise ValueError("it has no Image with a Size")
        tile, overlap = int(root.attrib["TileSize"]), int(root.attrib["Overlap"])
        kind = root.attrib["Format"].lower()
        width, height = int(size.attrib["Width"]), int(size.attrib["Height"])
    except (OSError, ValueError, KeyError, ElementTree.ParseError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise BadInput(f"{name!r} is not a Deep Zoom descriptor: {reason}; export it again") from error
    if not (16 <= tile <= 4096 and 0 <= overlap <= 16 and kind in _FORMATS):
        raise BadInput(
            f"{name!r} has tiles of {tile} pixels, overlap {overlap}, format {kind[:20]!r}; allowed: 16 to 4096, "
            f"0 to 16, {', '.join(_FORMATS)}"
        )
    if not (1 <= width <= _MAX_SIDE and 1 <= height <= _MAX_SIDE):
        raise BadInput(f"{name!r} says it has {width} x {height} pixels; allowed: 1 to {_MAX_SIDE:,} a side")
    return tile, overlap, kind, width, height
