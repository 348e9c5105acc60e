"""``segment_glands``: glands of colon by the region network, one outline each, and the pale lumen inside.

The lumen is not learned, for no set at hand labels it: it is what lets nearly all light through inside a gland's
outline, in pieces of at least a fiftieth of the gland.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.regions.model import MPP
from assistant.tools import fields, trunk
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.trunk import Mpp

#: Glands are wide: larger tiles than nuclei need, with a margin that holds half a gland.
_TILE, _MARGIN = 2048, 320
_DEFAULT_MPP = MPP["glands"] / 2
_LEAST_UM2 = 300.0
_PALE, _LUMEN = 0.09, 0.02  # optical density under which light passes; smallest lumen as a share of its gland
_COLOURS = {"gland": "#2fd05a", "lumen": "#3d9bff"}


@dataclass(frozen=True)
class Gland:
    """One gland; areas in px² of the field, roundness 4πA/P² 0–1, eccentricity and solidity 0–1."""

    ring: list[list[float]]
    area: float
    lumen: float
    roundness: float
    eccentricity: float
    solidity: float
    lumens: tuple[list[list[float]], ...] = ()


def glands_of(ids: NDArray[np.int32], tile: fields.Tile, least: float) -> list[Gland]:
    """Glands of at least ``least`` px² whose centre lies in the tile's core."""
    from skimage.measure import regionprops

    passing = _passing(tile.pixels)
    x0, y0, x1, y1 = tile.core
    found = []
    for region in regionprops(ids):  # type: ignore[no-untyped-call]
        row, column = region.centroid
        if region.area < least or not (x0 <= column + tile.x < x1 and y0 <= row + tile.y < y1):
            continue
        top, left, bottom, right = region.bbox
        corner = left + tile.x, top + tile.y
        area, perimeter = float(region.area), float(region.perimeter)
        lumens, open_area = _lumens(passing[top:bottom, left:right] & region.image_filled, area, corner)
        found.append(
            Gland(
                fields.outline(region.image, *corner), area, open_area,
                min(1.0, 4 * np.pi * area / max(perimeter, 1.0) ** 2),
                float(region.eccentricity), float(region.solidity), lumens,
            )
        )  # fmt: skip
    return found


def _passing(pixels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a tile lets nearly all green light through."""
    from scipy.ndimage import gaussian_filter

    density = -np.log10((gaussian_filter(pixels[..., 1].astype(np.float32), 1.5) + 1) / 245)
    passing: NDArray[np.bool_] = density < _PALE
    return passing


def _lumens(
    mask: NDArray[np.bool_], area: float, corner: tuple[int, int]
) -> tuple[tuple[list[list[float]], ...], float]:
    from skimage.measure import label, regionprops

    parts = [p for p in regionprops(label(mask)) if p.area >= _LUMEN * area]  # type: ignore[no-untyped-call]
    rings = tuple(fields.outline(p.image, p.bbox[1] + corner[0], p.bbox[0] + corner[1]) for p in parts)
    return rings, float(sum(p.area for p in parts))


def statistics(glands: list[Gland], area_px: float, mpp: float | None) -> dict[str, Any]:
    """Count, share of the field, size, lumen and shape; micrometres where the pixel size is known."""
    unit, suffix = (1.0, "px2") if mpp is None else (mpp**2, "um2")
    areas = np.array([one.area for one in glands], dtype=float)
    numbers: dict[str, Any] = {"count": len(glands), "measured_megapixels": round(area_px / 1e6, 4)}
    numbers["gland_percent"] = round(min(100.0, float(areas.sum()) / area_px * 100), 1)
    if mpp is not None:
        numbers["density_per_mm2"] = round(len(glands) / (area_px * mpp**2) * 1e6, 1)
    if not glands:
        return numbers
    numbers[f"area_median_{suffix}"] = round(float(np.median(areas)) * unit, 1)
    numbers[f"area_iqr_{suffix}"] = [round(float(q) * unit, 1) for q in np.percentile(areas, (25, 75))]
    numbers["area_variation"] = round(float(areas.std() / areas.mean()), 3)
    numbers["lumen_percent_of_glands"] = round(sum(one.lumen for one in glands) / float(areas.sum()) * 100, 1)
    numbers["glands_with_lumen"] = sum(bool(one.lumens) for one in glands)
    for name in ("roundness", "eccentricity", "solidity"):
        numbers[f"{name}_median"] = round(float(np.median([getattr(one, name) for one in glands])), 3)
    return numbers


@tool(
    Card(
        task="Outline the glands of an H&E field of colon, count them, and describe size, lumen and shape.",
        training_data=f"{trunk.TRAINING}; glands from GlaS. The lumen is a fixed limit of optical density",
        licence=trunk.LICENCE,
        stains=("H&E",),
        magnifications="10x to 20x (0.5 to 1.2 µm per pixel); state the pixel size of anything else",
        research_only=True,
        limits="learned on colon alone; the lumen is not measured against labels; retracted stroma may count as one",
    ),
    timeout=120,
)
def segment_glands(image: Image.Image, mpp: Mpp | None = None, context: Context = trunk.DEFAULT) -> ToolResult:
    """Find, outline and count the glands or crypts of an H&E field: area, share of the field, lumen and shape.

    Args:
        image: Field of glandular tissue.
        mpp: Micrometres per pixel where known; sizes are then in µm². Without it 0.62 (20x) is assumed for the method
            and everything is given in pixels.
    """
    warnings = [*trunk.require_he(image)]
    regions = trunk.network(context)
    scale = mpp or _DEFAULT_MPP
    corners, total = fields.tiles(image, _TILE)
    glands: list[Gland] = []
    area = 0
    for tile in fields.cut(image, corners, _TILE, _MARGIN):
        glands += glands_of(regions.glands(tile.pixels, scale).ids, tile, _LEAST_UM2 / scale**2)
        area += (tile.core[2] - tile.core[0]) * (tile.core[3] - tile.core[1])
    numbers = statistics(glands, area, mpp)
    if len(corners) < total:
        numbers |= {"tiles_measured": len(corners), "tiles_with_tissue": total}
        warnings.append(f"only {len(corners)} of {total} tiles with tissue were measured; the count is of these")
    if mpp is None:
        warnings.append(f"no pixel size was given: {_DEFAULT_MPP:g} µm per pixel (20x) was assumed")
    features = [
        fields.feature(ring, objectType="detection", **{"class": kind})
        for one in glands
        for kind, rings in (("gland", (one.ring,)), ("lumen", one.lumens))
        for ring in rings
    ]
    text = f"{len(glands)} glands, {numbers['gland_percent']:g} % of the field"
    if glands:
        text += f"; lumen {numbers['lumen_percent_of_glands']:g} % of the glands"
    return ToolResult(
        f"{text}.",
        numbers,
        {"glands": fields.draw_outlines(image, features, _COLOURS)},
        fields.collection(features),
        tuple(warnings),
    )
