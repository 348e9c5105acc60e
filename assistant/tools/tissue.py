"""``segment_tissue``: how much of a field is tumour, stroma or normal tissue, by the region network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.regions.model import MPP
from assistant.regions.network import TISSUES
from assistant.tools import fields, trunk
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.trunk import Mpp

_MAX_PIXELS = 9_000_000  # of what the network sees, so that time and memory have a cap
_STRETCH = 1.33  # how far from its resolution the network saw fields in training
_LEAST = 0.004  # smallest outlined region as a share of the field
_COLOURS = {"tumour": "#ff4d4d", "stroma": "#3d9bff", "normal": "#2fd05a"}
_KINDS = len(TISSUES) - 1


def classes_of(chances: NDArray[np.float32], image: Image.Image) -> NDArray[np.uint8]:
    """Index into ``TISSUES`` of each cell of the map [4, h, w]; empty glass of the field is background."""
    height, width = chances.shape[1:]
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    glass = (small.min(axis=2) >= 215) & (np.ptp(small, axis=2) <= 20)
    kinds: NDArray[np.uint8] = np.where(glass, _KINDS, chances.argmax(axis=0)).astype(np.uint8)
    return kinds


def rescaled(image: Image.Image, factor: float) -> Image.Image:
    """The image at ``factor`` of its size, at least 32 pixels a side."""
    size = max(fields.MIN_SIDE, round(image.width * factor)), max(fields.MIN_SIDE, round(image.height * factor))
    how = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    return image if size == image.size else image.resize(size, how)


def statistics(kinds: NDArray[np.uint8], area_px: float, mpp: float | None) -> dict[str, Any]:
    """Shares in percent of the tissue, tissue in percent of the field; mm² where the pixel size is known."""
    counts = np.bincount(kinds.ravel(), minlength=len(TISSUES)).astype(float)
    tissue = counts[:_KINDS].sum()
    numbers: dict[str, Any] = {"tissue_percent": round(float(tissue) / kinds.size * 100, 1)}
    for name, count in zip(TISSUES[:_KINDS], counts.tolist(), strict=False):
        numbers[f"{name}_percent"] = round(count / max(float(tissue), 1) * 100, 1)
        if mpp is not None:
            numbers[f"{name}_mm2"] = round(count / kinds.size * area_px * mpp**2 / 1e6, 4)
    return numbers


def outlines(kinds: NDArray[np.uint8], factor: tuple[float, float]) -> list[dict[str, Any]]:
    """Regions of one kind that hold at least a share of 0.004 of the field, as GeoJSON, largest first.

    Args:
        kinds: [h, w] of ``TISSUES``.
        factor: Pixels of the field for one cell of the map, across and down.
    """
    from skimage.measure import label, regionprops

    found = []
    for number, name in enumerate(TISSUES[:_KINDS]):
        for part in regionprops(label(kinds == number, connectivity=1)):  # type: ignore[no-untyped-call]
            if part.area < _LEAST * kinds.size:
                continue
            ring = fields.outline(part.image, part.bbox[1], part.bbox[0])
            scaled = [[round((x + 0.5) * factor[0] - 0.5, 1), round((y + 0.5) * factor[1] - 0.5, 1)] for x, y in ring]
            share = round(float(part.area) / kinds.size * 100, 2)
            one = fields.feature(scaled, objectType="annotation", field_percent=share, **{"class": name})
            found.append((part.area, one))
    return [one for _, one in sorted(found, key=lambda pair: -pair[0])]


@tool(
    Card(
        task="Outline tumour, stroma and normal tissue of an H&E field and give their shares.",
        training_data=f"{trunk.TRAINING}; tissue from WSSS4LUAD (lung adenocarcinoma)",
        licence=trunk.LICENCE,
        stains=("H&E",),
        magnifications="10x (1 µm per pixel); state the pixel size of anything else",
        research_only=True,
        limits="learned on lung adenocarcinoma alone; 'normal' there is lung, so other organs are often misread",
    ),
    timeout=120,
)
def segment_tissue(image: Image.Image, mpp: Mpp | None = None, context: Context = trunk.DEFAULT) -> ToolResult:
    """Measure how much of an H&E field is tumour, stroma and normal tissue, and outline each.

    Args:
        image: Field to divide.
        mpp: Micrometres per pixel where known; areas are then also in mm². Without it 1.0 (10x) is assumed.
    """
    warnings = [*trunk.require_he(image)]
    regions = trunk.network(context)
    wanted = (mpp or MPP["tissue"]) / MPP["tissue"]
    factor = min(wanted, (_MAX_PIXELS / (image.width * image.height)) ** 0.5)
    seen = rescaled(image.convert("RGB"), factor)
    chances = regions.tissue(np.asarray(seen))
    kinds = classes_of(chances, seen)
    numbers = statistics(kinds, image.width * image.height, mpp)
    numbers["certainty"] = round(float(chances.max(axis=0).mean()), 3)
    if wanted / factor > _STRETCH:
        warnings.append(f"the field was looked at {wanted / factor:.1f} times too small to fit in memory; send a part")
    if mpp is None:
        warnings.append("no pixel size was given: 1.0 µm per pixel (10x) was assumed")
    warnings.append("learned on lung adenocarcinoma; elsewhere take the shares as a hint")
    features = outlines(kinds, (image.width / kinds.shape[1], image.height / kinds.shape[0]))
    shares = ", ".join(f"{name} {numbers[f'{name}_percent']:g} %" for name in TISSUES[:_KINDS])
    return ToolResult(
        f"Of the tissue: {shares}; tissue fills {numbers['tissue_percent']:g} % of the field.",
        numbers,
        {"tissue": fields.draw_outlines(image, features, _COLOURS)},
        fields.collection(features),
        tuple(warnings),
    )
