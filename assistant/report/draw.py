"""Pictures with their rectangles drawn on, for formats that cannot draw over an image."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import ImageDraw, ImageFont

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.report.model import Picture

_INK, _HALO, _PLATE = (15, 106, 114), (255, 255, 255), (15, 106, 114)


def drawn(picture: Picture) -> Image:
    """The picture with numbered rectangles; their labels belong into a list beside it."""
    image = picture.image()
    if not picture.marks:
        return image
    across, down = image.width / max(1, picture.width), image.height / max(1, picture.height)
    line = max(2, round(max(image.size) / 300))
    font = ImageFont.load_default(max(12, round(max(image.size) / 36)))
    pen = ImageDraw.Draw(image)
    for number, mark in enumerate(picture.marks, 1):
        left, top, right, bottom = mark.xyxy
        corners = [left * across, top * down, right * across, bottom * down]
        box = (min(corners[0::2]), min(corners[1::2]), max(corners[0::2]), max(corners[1::2]))
        pen.rectangle(box, outline=_HALO, width=line + 2)
        pen.rectangle(box, outline=_INK, width=line)
        spot = pen.textbbox((box[0] + 2, box[1] + 2), str(number), font=font)
        pen.rectangle((spot[0] - 3, spot[1] - 3, spot[2] + 3, spot[3] + 3), fill=_PLATE)
        pen.text((box[0] + 2, box[1] + 2), str(number), fill=_HALO, font=font)
    return image


def jpeg(image: Image) -> bytes:
    """The image as JPEG, without metadata."""
    buffer = io.BytesIO()
    plain = image.convert("RGB")
    plain.info = {}
    plain.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
