"""Six ways in which a field can be worse than the one trained on, each at five strengths.

The strengths are ours (the PathMMU repository holds no robustness code): 1 is a change that a reader overlooks, 5 one
that nobody would report on. Robustness is reported as the accuracy at every strength beside the clean one.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from eval.task import one_of

STRENGTHS = (1, 2, 3, 4, 5)
_JPEG_QUALITY = (60, 40, 25, 15, 8)
#: Standard deviation as a share of the shorter side.
_BLUR = (0.006, 0.012, 0.02, 0.03, 0.045)
#: Standard deviation in grey values.
_NOISE = (8, 16, 28, 44, 64)
_BRIGHTNESS = (0.85, 0.7, 0.55, 0.42, 0.3)
_RESOLUTION = (0.75, 0.5, 0.33, 0.2, 0.12)
#: Spread of the factors on haematoxylin and eosin, and of what is added to them.
_STAIN = ((0.1, 0.005), (0.2, 0.01), (0.35, 0.02), (0.5, 0.03), (0.7, 0.045))


def _jpeg(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY[strength - 1])
    return Image.open(buffer).convert("RGB")


def _blur(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(_BLUR[strength - 1] * min(image.size)))


def _noise(image: Image.Image, strength: int, generator: np.random.Generator) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    return _image(pixels + generator.normal(0, _NOISE[strength - 1], pixels.shape))


def _brightness(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_BRIGHTNESS[strength - 1])


def _resolution(image: Image.Image, strength: int, _: np.random.Generator) -> Image.Image:
    width, height = image.size
    share = _RESOLUTION[strength - 1]
    small = image.resize((max(1, round(width * share)), max(1, round(height * share))), Image.Resampling.BOX)
    return small.resize((width, height), Image.Resampling.BILINEAR)


def _stain(image: Image.Image, strength: int, generator: np.random.Generator) -> Image.Image:
    """Stronger or weaker haematoxylin and eosin (Tellez et al. 2018), in the colour space of Ruifrok and Johnston."""
    from skimage.color import hed2rgb, rgb2hed

    factor, offset = _STAIN[strength - 1]
    signs = generator.choice((-1.0, 1.0), 3)
    hed = rgb2hed(np.asarray(image))
    hed = hed * (1 + factor * signs * (1, 1, 0.5)) + offset * signs * (1, -1, 0)
    return _image(hed2rgb(hed) * 255)


CORRUPTIONS = {
    "jpeg": _jpeg,
    "blur": _blur,
    "noise": _noise,
    "brightness": _brightness,
    "resolution": _resolution,
    "stain": _stain,
}


def corrupt(image: Image.Image, kind: str, strength: int, *, seed: int = 0) -> Image.Image:
    """A worse copy of an RGB image, of the same size. The same seed gives the same copy.

    Args:
        kind: A key of ``CORRUPTIONS``.
        strength: 1 (hardly seen) to 5.

    Raises:
        BadInput: Unknown kind or strength.
    """
    one_of(str(strength), [str(s) for s in STRENGTHS], "strength")
    apply = CORRUPTIONS[one_of(kind, list(CORRUPTIONS), "corruption")]
    return apply(image.convert("RGB"), strength, np.random.default_rng(seed))


def _image(pixels: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
