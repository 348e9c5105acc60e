"""``check_quality``: is this field fit to be read?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.images.quality import blankness, image_warnings
from assistant.tools import fields
from assistant.tools.base import Card, ToolResult, tool

_SIDE = 512
_INK, _FOLD = 0.01, 0.01
#: Median nuclear width in pixels at 40x is about 28 (7 µm at 0.25 µm per pixel); limits between neighbours.
_SCALES = ((40, 19.8), (20, 9.9), (10, 5.0))


@tool(
    Card(
        task="Say whether a field is sharp, holds tissue, pen ink or folds, how it is stained and at which scale.",
        training_data="none; limits were set by hand after a look at colours of train and val fields of 13 sets",
        licence="Apache-2.0",
        limits=(
            "folds, pen and magnification are rough guesses: no labelled set was at hand; half of the fields that are "
            "neither H&E nor DAB are called one of them"
        ),
    ),
    timeout=30,
)
def check_quality(image: Image.Image) -> ToolResult:
    """Check a field's quality: blur, share of tissue, pen ink, folds, kind of stain, and likely magnification.

    Args:
        image: Field to check.
    """
    warnings = image_warnings(image)
    blank = blankness(image)
    numbers: dict[str, Any] = {"width": image.width, "height": image.height, "tissue_fraction": round(1 - blank, 3)}
    numbers["blank"] = blank >= fields.BLANK
    if numbers["blank"] or min(image.size) < fields.MIN_SIDE:
        why = "blank" if numbers["blank"] else f"only {image.width} x {image.height} pixels"
        return ToolResult(f"Not usable: the field is {why}.", numbers | {"usable": False}, warnings=warnings)
    small = image.convert("RGB")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small)
    ink, fold = pen_mask(pixels), fold_mask(pixels)
    stain, shares = fields.guess_stain(image)
    numbers |= {
        "blur": round(blur(image), 3),
        "blurred": "the image looks blurred" in warnings,
        "pen_fraction": round(float(ink.mean()), 4),
        "pen": bool(ink.mean() > _INK),
        "fold_fraction": round(float(fold.mean()), 4),
        "fold": bool(fold.mean() > _FOLD),
        "stain": stain,
        "stain_shares": {key: round(value, 3) for key, value in shares.items()},
        "magnification": magnification(image) if stain == "H&E-like" else None,
    }
    faults = [name for name, bad in (
        ("blurred", numbers["blurred"]), ("pen ink", numbers["pen"]), ("a fold", numbers["fold"])
    ) if bad]  # fmt: skip
    numbers["usable"] = not numbers["blurred"] and not numbers["pen"]
    scale = f", likely {numbers['magnification']}x" if numbers["magnification"] else ""
    text = f"{1 - blank:.0%} tissue, {stain}{scale}; " + (
        "faults: " + ", ".join(faults) if faults else "no faults seen"
    )
    shown = pixels.copy()
    shown[ink], shown[fold & ~ink] = (0, 200, 255), (255, 220, 0)
    overlays = {"faults": Image.fromarray(shown).resize(fields.working_copy(image, 16_000_000)[0].size)}
    return ToolResult(text + ".", numbers, overlays if faults else {}, warnings=warnings)


def blur(image: Image.Image) -> float:
    """Crete's perceptual blur of the central 1024 px, 0 (sharp) … 1."""
    from skimage.measure import blur_effect

    left, top = max(0, image.width - 1024) // 2, max(0, image.height - 1024) // 2
    part = image.crop((left, top, min(left + 1024, image.width), min(top + 1024, image.height))).convert("L")
    with np.errstate(all="ignore"):
        value = float(blur_effect(np.asarray(part) / 255.0))  # type: ignore[no-untyped-call]
    return value if np.isfinite(value) else 1.0


def pen_mask(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Saturated even areas in colours that no common stain has (red, green, blue and black pens), [H, W]."""
    from skimage.morphology import disk, opening

    high, low = pixels.max(axis=2).astype(int), pixels.min(axis=2).astype(int)
    red, green, blue = (pixels[..., channel].astype(int) for channel in range(3))
    saturation = (high - low) / np.maximum(high, 1)
    red_pen = (saturation > 0.6) & (high > 140) & (blue <= green + 25) & (red > green + 80)
    green_pen = (saturation > 0.3) & (green > red + 25) & (green >= blue - 5)
    blue_pen = (saturation > 0.6) & (blue > red + 70) & (green > red + 15)
    black = (high < 40) & (high - low < 15)
    mask: NDArray[np.bool_] = opening(red_pen | green_pen | blue_pen | black, disk(3))  # type: ignore[no-untyped-call]
    return mask


def fold_mask(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Wide bands twice as dense as the tissue around them and as saturated, [H, W]: two layers on top of each other."""
    from scipy.ndimage import gaussian_filter
    from skimage.morphology import remove_small_objects

    density = -np.log10((pixels.astype(float).mean(axis=2) + 1) / 240)
    smooth = gaussian_filter(density, 6.0)
    tissue = smooth > 0.08
    if tissue.mean() < 0.05:
        return np.zeros(tissue.shape, bool)
    usual, spread = float(np.median(smooth[tissue])), float(np.std(smooth[tissue]))
    dense = smooth > max(2.0 * usual, usual + 3.0 * spread, 0.35)
    mask: NDArray[np.bool_] = remove_small_objects(dense, max_size=400)
    return mask


def magnification(image: Image.Image) -> int | None:
    """10, 20 or 40 from the usual width of nuclei; None where fewer than 20 are seen."""
    from skimage.measure import regionprops

    from assistant.images.stain import separate_stains
    from assistant.tools.nuclei import watershed_nuclei

    left, top = max(0, image.width - 768) // 2, max(0, image.height - 768) // 2
    part = image.crop((left, top, min(left + 768, image.width), min(top + 768, image.height)))
    regions = regionprops(watershed_nuclei(separate_stains(part)["hematoxylin"], 0.5))  # type: ignore[no-untyped-call]
    widths = [region.equivalent_diameter_area for region in regions if region.solidity > 0.85]
    if len(widths) < 20:
        return None
    width = float(np.median(widths))
    return next((power for power, limit in _SCALES if width >= limit), None)
