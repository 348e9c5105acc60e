"""Plain warnings about an image, given before it is answered on: blank, tiny, blurred or not stained tissue.

Each rule is one number against one threshold on a thumbnail of at most 256 px, about what the model sees. The
thresholds were set on 15 public sets of real fields (H&E, IHC, special stains, Pap and blood smears), of which 1 in 100
is warned about, and at most 4 in 100 of any one set. A warning is never a refusal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_THUMBNAIL = 256
#: Channel values of empty glass: bright and colourless. JPEG noise and white-balance casts stay inside.
_GLASS_MIN, _GLASS_SPREAD = 215, 20
_BLACK_MAX = 15
_FLAT_STD = 3.0

_BLANK_SHARE = 0.95
_LOW_RESOLUTION = 64
_BLUR = 0.72
_GREY_SPREAD = 6.0
_DARK_MAX, _DARK_MARGIN, _NATURAL_SHARE = 90, 2, 0.04


def blankness(image: Image.Image) -> float:
    """Share of the image that shows nothing: empty glass or plain black; 1 for an image of one flat colour.

    Args:
        image: RGB, as ``load_image`` returns it.

    Returns:
        0 (full of content) … 1 (blank).
    """
    return _blankness(_thumbnail(image))


def image_warnings(image: Image.Image) -> tuple[str, ...]:
    """What to tell a user about an image before answering on it. Deterministic; some 20 ms of CPU.

    - nearly blank: ``blankness`` of at least 0.95;
    - low resolution: a side under 64 px;
    - blurred: ``skimage.measure.blur_effect`` (Crete et al. 2007) over 0.72 at 256 px, which a Gaussian blur of about
      2 % of the longer side gives;
    - greyscale: 95 % of its pixels have channels within 6 levels of each other;
    - natural colours: over 4 % of it is dark without absorbing green most. Stains on glass darken green first
      (haematoxylin, eosin, Giemsa) or stay bright; shadows in photographs and screenshots do neither.

    Args:
        image: RGB, as ``load_image`` returns it.

    Returns:
        Sentences without a full stop, most important first; empty for a usual field.
    """
    found: list[str] = []
    pixels = _thumbnail(image)
    blank = _blankness(pixels)
    if blank >= _BLANK_SHARE:
        found.append(f"the image is nearly blank ({blank:.0%} of it shows no tissue)")
    if min(image.size) < _LOW_RESOLUTION:
        found.append(f"the image has only {image.width} x {image.height} pixels, too few to show much")
    if blank >= _BLANK_SHARE:
        return tuple(found)  # focus and colour of an empty field mean nothing
    if _blur(pixels) > _BLUR:
        found.append("the image looks blurred")
    content = pixels[_content(pixels)].astype(np.int16)  # [N, 3]
    spread = content.max(axis=1) - content.min(axis=1)
    if np.percentile(spread, 95) <= _GREY_SPREAD:
        found.append("the image is greyscale, and answers rest on stain colours")
    elif _natural_share(content) > _NATURAL_SHARE:
        found.append("the colours do not look like stained tissue")
    return tuple(found)


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """The image at no more than 256 px, [h, w, 3]."""
    small = image.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small)


def _content(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a pixel is neither empty glass nor black, [h, w]."""
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    glass = (low >= _GLASS_MIN) & (high - low <= _GLASS_SPREAD)
    content: NDArray[np.bool_] = ~(glass | (high <= _BLACK_MAX))
    return content


def _blankness(pixels: NDArray[np.uint8]) -> float:
    if float(pixels.reshape(-1, 3).std(axis=0).max()) < _FLAT_STD:
        return 1.0
    return 1.0 - float(_content(pixels).mean())


def _blur(pixels: NDArray[np.uint8]) -> float:
    """0 (sharp) … 1 (blurred); 0 for images too small to tell."""
    if min(pixels.shape[:2]) < 32:
        return 0.0
    from skimage.measure import blur_effect

    with np.errstate(all="ignore"):  # colours of one brightness give 0/0: not a number, and so not blurred
        grey = np.asarray(Image.fromarray(pixels).convert("L")) / 255.0
        return float(blur_effect(grey))  # type: ignore[no-untyped-call]


def _natural_share(content: NDArray[np.int16]) -> float:
    """Share of pixels, of [N, 3], that are dark although green is not what they absorb most."""
    red, green, blue = content.T
    dark = content.max(axis=1) < _DARK_MAX
    return float((dark & (green > np.minimum(red, blue) + _DARK_MARGIN)).mean())
