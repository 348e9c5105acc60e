"""``segment_nuclei``: instances and kinds by the region network, or by the classical method it has to beat.

Classical: haematoxylin by colour deconvolution, Otsu's threshold within a local one, a watershed on the distance
transform (the usual recipe of scikit-image and QuPath). Sizes are set for 0.25 µm per pixel (40x), scaled from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import NotAvailable
from assistant.images.stain import separate_stains
from assistant.regions.model import Instances, Regions
from assistant.regions.network import NUCLEUS_KINDS
from assistant.tools import fields, trunk
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.trunk import Mpp

Method = Literal["auto", "network", "classical"]

_MAX_OUTLINES = 20_000
_COLOURS = {"other": "#ffd400", "inflammatory": "#2fd05a", "epithelial": "#ff4d4d", "spindle": "#3d9bff"}
_CLASSICAL = "classical method without training: crowded nuclei are merged at times, pale ones missed"
_KINDS = "kinds of nuclei were learned on colon; on other organs take them as a hint"
#: At 0.25 µm per pixel: Otsu on a smoothed map, window of the local threshold, smallest and widest nucleus, distance
#: between seeds. Set by hand; the kind of threshold was compared on 19 train fields.
_SMOOTH, _WINDOW, _MIN_AREA, _MAX_AREA, _SEEDS = 1.0, 151, 40, 4000, 6


@dataclass(frozen=True)
class Nucleus:
    """One nucleus: outline and centre in pixels of the field, area in px², eccentricity 0–1, solidity 0–1.

    ``kind`` is one of ``NUCLEUS_KINDS`` where the network told it.
    """

    ring: list[list[float]]
    x: float
    y: float
    area: float
    eccentricity: float
    solidity: float
    label: int
    tile: int
    kind: str | None = None


def watershed_nuclei(stain: NDArray[np.float32], mpp: float = 0.25) -> NDArray[np.int32]:
    """Nuclei of a map of nuclear stain, as instance ids [H, W], 0 is background.

    Args:
        stain: Optical density [H, W], high in nuclei.
        mpp: Micrometres per pixel.
    """
    from scipy import ndimage
    from skimage.feature import peak_local_max
    from skimage.filters import gaussian, threshold_local, threshold_otsu
    from skimage.measure import label
    from skimage.morphology import disk, opening, remove_small_holes, remove_small_objects
    from skimage.segmentation import watershed

    scale = 0.25 / mpp
    smooth = gaussian(stain, _SMOOTH * max(scale, 0.5))  # type: ignore[no-untyped-call]
    if float(np.ptp(smooth)) < 1e-3:
        return np.zeros(stain.shape, np.int32)
    window = min(int(_WINDOW * scale) | 1, (min(stain.shape) - 1) | 1)
    mask = (smooth > threshold_otsu(smooth)) & (smooth > threshold_local(smooth, max(window, 3)))  # type: ignore[no-untyped-call]
    mask = opening(mask, disk(max(1, round(2 * scale))))  # type: ignore[no-untyped-call]
    mask = remove_small_holes(mask, max_size=max(1, int(100 * scale**2)))
    mask = remove_small_objects(mask, max_size=max(1, int(_MIN_AREA * scale**2)))
    distance = gaussian(ndimage.distance_transform_edt(mask), 1.5 * scale)  # type: ignore[no-untyped-call]
    parts, apart = label(mask), max(1, round(_SEEDS * scale))  # type: ignore[no-untyped-call]
    peaks = peak_local_max(distance, apart, labels=parts, exclude_border=False)  # type: ignore[no-untyped-call]
    seeds = np.zeros(stain.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    found: NDArray[np.int32] = watershed(-distance, seeds, mask=mask)  # type: ignore[no-untyped-call]
    return found


def nuclei_of(
    ids: NDArray[np.int32],
    tile: fields.Tile,
    mpp: float,
    number: int = 0,
    kinds: NDArray[np.float32] | None = None,
) -> list[Nucleus]:
    """The instances whose centre lies in the tile's core and whose size is a nucleus's.

    Args:
        kinds: Chances of ``NUCLEUS_KINDS`` of the instances 1…N, [N, 4].
    """
    from skimage.measure import regionprops

    x0, y0, x1, y1 = tile.core
    found = []
    for region in regionprops(ids):  # type: ignore[no-untyped-call]
        row, column = region.centroid
        x, y = float(column + tile.x), float(row + tile.y)
        if not (x0 <= x < x1 and y0 <= y < y1 and region.area <= _MAX_AREA * (0.25 / mpp) ** 2):
            continue
        top, left = region.bbox[:2]
        ring = fields.outline(region.image, left + tile.x, top + tile.y)
        shape = float(region.eccentricity), float(region.solidity)
        kind = None if kinds is None else NUCLEUS_KINDS[int(kinds[region.label - 1].argmax())]
        found.append(Nucleus(ring, x, y, float(region.area), *shape, int(region.label), number, kind))
    return found


def statistics(nuclei: list[Nucleus], area_px: float, mpp: float | None) -> dict[str, Any]:
    """Count, density, size and shape; micrometres where the pixel size is known."""
    areas = np.array([one.area for one in nuclei], dtype=float)
    unit = 1.0 if mpp is None else mpp**2
    suffix = "px2" if mpp is None else "um2"
    numbers: dict[str, Any] = {"count": len(nuclei), "measured_megapixels": round(area_px / 1e6, 4)}
    numbers["density_per_megapixel"] = round(len(nuclei) / area_px * 1e6, 1)
    if mpp is not None:
        numbers["density_per_mm2"] = round(len(nuclei) / (area_px * mpp**2) * 1e6, 1)
    if len(areas):
        numbers[f"area_median_{suffix}"] = round(float(np.median(areas)) * unit, 2)
        numbers[f"area_iqr_{suffix}"] = [round(float(q) * unit, 2) for q in np.percentile(areas, (25, 75))]
        numbers["area_variation"] = round(float(areas.std() / areas.mean()), 3)
        numbers["eccentricity_median"] = round(float(np.median([one.eccentricity for one in nuclei])), 3)
        numbers["solidity_median"] = round(float(np.median([one.solidity for one in nuclei])), 3)
    return numbers


def finder(method: Method, mpp: float, context: Context) -> tuple[Callable[[fields.Tile], Instances], str]:
    """What finds the nuclei of a tile, and its name: ``network`` or ``classical``.

    Raises:
        NotAvailable: ``network`` was asked for and may not run or has no weights.
    """

    def classical(tile: fields.Tile) -> Instances:
        return Instances(watershed_nuclei(separate_stains(Image.fromarray(tile.pixels))["hematoxylin"], mpp))

    if method == "classical":
        return classical, "classical"
    try:
        regions: Regions = trunk.network(context)
    except NotAvailable:
        if method == "network":
            raise
        return classical, "classical"
    return lambda tile: regions.nuclei(tile.pixels, mpp), "network"


@tool(
    Card(
        task="Outline nuclei of an H&E field, count them, name their kind, and describe size and shape.",
        training_data=f"{trunk.TRAINING}; kinds from CoNSeP. The classical method has no training",
        licence=f"{trunk.LICENCE}; classical method Apache-2.0, which runs where research parts are switched off",
        stains=("H&E",),
        magnifications="20x to 40x (0.2 to 0.5 µm per pixel)",
        limits="kinds were learned on colon alone; crowded nuclei are merged at times; see the measured numbers",
    ),
    timeout=120,
)
def segment_nuclei(
    image: Image.Image, mpp: Mpp | None = None, method: Method = "auto", context: Context = trunk.DEFAULT
) -> ToolResult:
    """Find and count the nuclei of an H&E field: instances, kinds, density, size and shape statistics.

    Args:
        image: Field to count in.
        mpp: Micrometres per pixel where known; sizes are then in µm and density per mm². Without it 0.25 is assumed
            for the method and everything is given in pixels.
        method: The trained network, the classical method, or the network where it may run.
    """
    warnings = [*trunk.require_he(image)]
    find, used = finder(method, mpp or 0.25, context)
    corners, total = fields.tiles(image)
    nuclei: list[Nucleus] = []
    area = 0
    for number, tile in enumerate(fields.cut(image, corners)):
        found = find(tile)
        nuclei += nuclei_of(found.ids, tile, mpp or 0.25, number, found.kinds)
        area += (tile.core[2] - tile.core[0]) * (tile.core[3] - tile.core[1])
    numbers = statistics(nuclei, area, mpp) | {"method": used}
    text = f"{len(nuclei)} nuclei"
    if len(corners) < total:
        numbers |= sampled(nuclei, len(corners), total)
        text = f"about {numbers['count_estimate']} nuclei, estimated from {len(corners)} of {total} tiles"
        warnings.append(f"only {len(corners)} of {total} tiles were measured")
    warnings.append(_CLASSICAL if used == "classical" else _KINDS)
    parts = [f"{numbers['density_per_mm2']:g} per mm²" if mpp else f"{numbers['density_per_megapixel']:g} per Mpx"]
    if used == "network" and nuclei:
        counts = {kind: sum(one.kind == kind for one in nuclei) for kind in NUCLEUS_KINDS}
        numbers["kinds"] = counts
        parts += [f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: -item[1]) if count]
    features = [
        fields.feature(
            one.ring, objectType="detection", area=round(one.area * (mpp or 1) ** 2, 2), **{"class": one.kind}
        )
        for one in nuclei[:_MAX_OUTLINES]
    ]
    return ToolResult(
        f"{text}, {', '.join(parts)}.",
        numbers,
        {"nuclei": fields.draw_outlines(image, features, _COLOURS)},
        fields.collection(features),
        tuple(warnings),
    )


def sampled(nuclei: list[Nucleus], measured: int, total: int) -> dict[str, Any]:
    """Count over all tiles with tissue from the measured ones, with a normal 95 % interval over tiles."""
    per_tile = np.bincount([one.tile for one in nuclei], minlength=measured).astype(float)
    half = 1.96 * per_tile.std(ddof=1) / measured**0.5 * (1 - measured / total) ** 0.5
    low, high = (max(0.0, (per_tile.mean() + sign * half) * total) for sign in (-1, 1))
    return {
        "tiles_measured": measured,
        "tiles_with_tissue": total,
        "count_estimate": round(float(per_tile.mean()) * total),
        "count_interval_95": [round(low), round(high)],
    }
