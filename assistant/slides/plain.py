"""A picture without a pyramid as a slide of one level, within the caps of ordinary images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from assistant.slides.base import Level, Slide


class PlainSlide(Slide):
    """PNG, JPEG, WebP or TIFF, decoded once; smaller copies are made of it by halving.

    Raises:
        BadInput, TooLarge: As :func:`assistant.images.intake.load_image`.
    """

    def __init__(self, path: Path, name: str) -> None:
        from assistant.images.intake import load_image

        copies = [load_image(path, overview=False)]
        while max(copies[-1].size) > 512 and min(copies[-1].size) > 1:
            copies.append(copies[-1].reduce(2))
        full = copies[0].size
        super().__init__(name, "picture", tuple(Level(*copy.size, full[0] / copy.width) for copy in copies))
        self._copies = copies

    def _pixels(self, x: int, y: int, level: int, size: tuple[int, int]) -> Image.Image:
        downsample = self.levels[level].downsample
        left, top = round(x / downsample), round(y / downsample)
        copy = self._copies[level]
        left, top = min(left, max(0, copy.width - size[0])), min(top, max(0, copy.height - size[1]))
        return copy.crop((left, top, left + size[0], top + size[1]))

    def _close(self) -> None:
        self._copies = []
