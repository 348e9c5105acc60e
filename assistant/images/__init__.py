"""Images in: safe decoding, and warnings about unusual fields."""

from __future__ import annotations

from assistant.images.intake import (
    DEFAULT_LIMITS,
    ImageSource,
    Limits,
    decode_data_uri,
    image_warnings,
    load_image,
    load_images,
)
from assistant.images.quality import blankness

__all__ = [
    "DEFAULT_LIMITS",
    "ImageSource",
    "Limits",
    "blankness",
    "decode_data_uri",
    "image_warnings",
    "load_image",
    "load_images",
]
