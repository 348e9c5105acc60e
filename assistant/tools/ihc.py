"""``score_ihc``: how many cells of a DAB immunostain are positive, and how strongly.

Haematoxylin and DAB by colour deconvolution (Ruifrok and Johnston 2001, scikit-image). Nuclei are found twice and put
together: by the region network on the haematoxylin alone, drawn as if it were H&E (which finds pale nuclei between
brown cytoplasm), and where either stain is high, by the watershed of ``segment_nuclei`` (which finds brown nuclei, and
is all there is where research parts are switched off). *Nuclear* markers (Ki-67, ER, PR, p53) are read inside the
nucleus; *membrane* markers (HER2, PD-L1) in a ring around it. Strength is the mean optical density of DAB there, in
three classes at 0.2, 0.4 and 0.6, the limits QuPath starts with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from assistant.errors import BadInput, NotAvailable
from assistant.images.stain import separate_stains
from assistant.regions.instances import NUCLEI
from assistant.regions.model import Regions
from assistant.tools import fields, trunk
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.nuclei import Nucleus, nuclei_of, watershed_nuclei
from assistant.tools.trunk import Mpp

Compartment = Literal["nuclear", "membrane"]

#: Optical density of DAB from which a cell is weakly, moderately and strongly positive.
LIMITS = (0.2, 0.4, 0.6)
CLASSES = ("negative", "weak", "moderate", "strong")
_COLOURS = {"negative": "#3d7dff", "weak": "#ffe14d", "moderate": "#ff9a1f", "strong": "#e0201b"}
_RING_UM = 1.5  # width of the ring that stands for the membrane
_COMPLETE = 0.7  # share of the ring that is stained for a membrane to count as complete
_MAX_OUTLINES = 20_000
#: Optical density that the densest haematoxylin of a tile is drawn with, the most it is raised by, the eosin beneath.
_DENSE, _MOST, _EOSIN = 0.72, 4.0, 0.12
#: A watershed nucleus joins those of the network when it is this solid and less of it than that is covered by them.
_SOLID, _COVERED = 0.85, 0.25

HER2_CRITERIA = (
    "3+: over 10 % of cells with complete, strong membrane staining; "
    "2+: over 10 % with complete, weak to moderate staining, or 10 % or less complete and strong; "
    "1+: over 10 % with incomplete, faint staining; 0: none, or faint in 10 % or less (after ASCO/CAP 2018)"
)


@dataclass(frozen=True)
class Cell:
    """A nucleus, its class 0–3, and the share of its ring that is stained (0 for nuclear markers)."""

    nucleus: Nucleus
    strength: int
    complete: float


@tool(
    Card(
        task="Count positive and negative cells of a DAB immunostain and score them.",
        training_data=f"nuclei: {trunk.TRAINING}; fixed limits of optical density, as QuPath's defaults",
        licence=f"{trunk.LICENCE}; without research parts the watershed alone runs, Apache-2.0",
        stains=("DAB immunostain with haematoxylin",),
        magnifications="20x to 40x",
        limits=(
            "no field with counted cells was at hand, so its counts are not measured; tumour cells are not told from "
            "others, so TPS and CPS count every nucleus; brown pigment counts as DAB"
        ),
    ),
    timeout=120,
)
def score_ihc(
    image: Image.Image,
    compartment: Compartment = "nuclear",
    mpp: Mpp = 0.5,
    threshold: Annotated[float, Field(ge=0.05, le=1.5)] = LIMITS[0],
    context: Context = trunk.DEFAULT,
) -> ToolResult:
    """Score a brown (DAB) immunostain: positive and negative cells, percentage, H-score, Ki-67 index, HER2 0 to 3+.

    Args:
        image: Immunostained field.
        compartment: Where the marker sits: nuclear (Ki-67, ER, PR, p53) or membrane (HER2, PD-L1).
        mpp: Micrometres per pixel; 0.25 is 40x, 0.5 is 20x.
        threshold: Optical density of DAB from which a cell is positive.
    """
    fields.require_field(image)
    stain, shares = fields.guess_stain(image)
    if stain != "DAB immunostain":
        seen = "looks like H&E" if stain == "H&E-like" else "does not look like a DAB immunostain"
        raise BadInput(
            f"the field {seen} ({shares['brown']:.0%} brown, {shares['pink']:.0%} pink); "
            "IHC scoring needs brown DAB with blue haematoxylin: give the immunostained field"
        )
    corners, total = fields.tiles(image)
    limits = np.array((threshold, *(limit + threshold - LIMITS[0] for limit in LIMITS[1:])))
    regions: Regions | None = None
    try:
        regions = trunk.network(context)
    except NotAvailable:
        warnings = ["nuclei were found by a watershed alone, which misses pale ones between brown cytoplasm"]
    else:
        warnings = []
    cells: list[Cell] = []
    for number, tile in enumerate(fields.cut(image, corners)):
        cells += score_tile(tile, number, compartment, mpp, limits, regions)
    if not cells:
        raise BadInput("no nuclei were found in the field; check the pixel size (--arg mpp=0.25 for 40x)")
    numbers = scores(cells, compartment)
    warnings += ["every nucleus counts as a tumour cell: lymphocytes and stroma are not told apart"]
    if len(corners) < total:
        warnings.append(f"only {len(corners)} of {total} tiles with tissue were measured")
    features = [
        fields.feature(cell.nucleus.ring, objectType="detection", **{"class": CLASSES[cell.strength]})
        for cell in cells[:_MAX_OUTLINES]
    ]
    percentage = f"{numbers['positive_percent']:g} % of {numbers['cells']} cells positive"
    extra = f"Ki-67 index {numbers['ki67_index']:g} %" if compartment == "nuclear" else f"HER2-style {numbers['her2']}"
    return ToolResult(
        f"{percentage}, H-score {numbers['h_score']:g}, {extra}.",
        numbers,
        {"cells": fields.draw_outlines(image, features, _COLOURS)},
        fields.collection(features),
        tuple(warnings),
    )


#: A field drawn anew is unlike those trained on: the network is less sure of its nuclei.
_DRAWN = replace(NUCLEI, sure=0.0)


def score_tile(
    tile: fields.Tile,
    number: int,
    compartment: Compartment,
    mpp: float,
    limits: NDArray[np.float64],
    regions: Regions | None = None,
) -> list[Cell]:
    """The cells of one tile with their classes; ``regions`` finds nuclei beside the watershed."""
    from skimage.filters import threshold_otsu

    stains = separate_stains(Image.fromarray(tile.pixels))
    brown = stains["dab"]
    nuclear = np.maximum(stains["hematoxylin"], 0)
    if compartment == "nuclear":
        # A nuclear marker hides the haematoxylin under it, and is darker: each stain is measured by its own limit, so
        # that pale blue nuclei are found beside dark brown ones. A membrane marker leaves nuclei blue.
        blue = nuclear / max(float(threshold_otsu(nuclear)), 1e-3)  # type: ignore[no-untyped-call]
        nuclear = np.maximum(blue, np.maximum(brown, 0) / limits[0]).clip(0, 1.5)
    ids = watershed_nuclei(nuclear.astype(np.float32), mpp)
    if regions is not None:
        ids = joined(regions.nuclei(as_he(stains["hematoxylin"]), mpp, _DRAWN).ids, ids)
    nuclei = nuclei_of(ids, tile, mpp, number)
    size = int(ids.max()) + 1
    if compartment == "nuclear":
        areas = np.bincount(ids.ravel(), minlength=size)
        sums = np.bincount(ids.ravel(), weights=brown.ravel(), minlength=size)
        return [Cell(one, int((sums[one.label] / areas[one.label] >= limits).sum()), 0.0) for one in nuclei]
    rings = ring_labels(ids, max(1, round(_RING_UM / mpp)))
    counts = np.bincount(rings.ravel(), minlength=size)
    stained = np.bincount(rings.ravel(), weights=(brown >= limits[0]).ravel(), minlength=size)
    density = np.bincount(rings.ravel(), weights=np.where(brown >= limits[0], brown, 0).ravel(), minlength=size)
    cells = []
    for one in nuclei:
        share = float(stained[one.label] / max(1, counts[one.label]))
        mean = float(density[one.label] / max(1, stained[one.label]))
        cells.append(Cell(one, int((mean >= limits).sum()) if share >= 0.1 else 0, share))
    return cells


def as_he(hematoxylin: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Haematoxylin alone [H, W], in optical density, drawn [H, W, 3] as dense as in H&E and on some eosin."""
    from skimage.color import hed2rgb

    density = np.maximum(hematoxylin, 0)
    gain = min(_MOST, _DENSE / max(float(np.percentile(density, 99)), 1e-3))
    stains = np.stack([density * gain, np.full(density.shape, _EOSIN), np.zeros(density.shape)], axis=-1) / 6.0
    pixels: NDArray[np.uint8] = (hed2rgb(stains) * 255).clip(0, 255).astype(np.uint8)
    return pixels


def joined(network: NDArray[np.int32], watershed: NDArray[np.int32]) -> NDArray[np.int32]:
    """Instances of both, each nucleus once: the network's, and solid ones of the watershed that it left out.

    Where a nucleus of the watershed is taken, what the network has inside it (a part of it) is not.
    """
    from skimage.measure import regionprops
    from skimage.segmentation import relabel_sequential

    out = network.copy()
    sizes = np.bincount(network.ravel())
    number = len(sizes)
    for region in regionprops(watershed):  # type: ignore[no-untyped-call]
        rows, columns = region.coords.T
        under = network[rows, columns]
        if region.solidity < _SOLID or (under > 0).mean() >= _COVERED:
            continue
        parts = np.bincount(under, minlength=len(sizes))[1:]
        for inside in np.flatnonzero(parts > 0.5 * sizes[1:]) + 1:
            out[out == inside] = 0
        free = out[rows, columns] == 0
        out[rows[free], columns[free]] = number
        number += 1
    found: NDArray[np.int32] = relabel_sequential(out)[0].astype(np.int32)  # type: ignore[no-untyped-call]
    return found


def ring_labels(ids: NDArray[np.int32], width: int) -> NDArray[np.int32]:
    """Instances grown by ``width`` pixels without what they were, and half as far inward: where a membrane lies."""
    from skimage.morphology import disk, erosion
    from skimage.segmentation import expand_labels

    inner = erosion(ids, disk(max(1, width // 2)))  # type: ignore[no-untyped-call]
    ring: NDArray[np.int32] = np.where(inner > 0, 0, expand_labels(ids, width)).astype(np.int32)  # type: ignore[no-untyped-call]
    return ring


def scores(cells: list[Cell], compartment: Compartment) -> dict[str, Any]:
    """Percentages and scores of counted cells; shares in percent, the H-score from 0 to 300."""
    strength = np.array([cell.strength for cell in cells])
    count = np.bincount(strength, minlength=4)
    percent = count / len(cells) * 100
    positive = int(count[1:].sum())
    numbers: dict[str, Any] = {
        "cells": len(cells), "positive": positive, "negative": int(count[0]),
        "positive_percent": round(positive / len(cells) * 100, 1),
        **{f"{name}_percent": round(float(share), 1) for name, share in zip(CLASSES[1:], percent[1:], strict=True)},
        "h_score": round(float(percent @ np.arange(4)), 1),
        "compartment": compartment,
    }  # fmt: skip
    if compartment == "nuclear":
        numbers["ki67_index"] = numbers["positive_percent"]
        return numbers
    complete = np.array([cell.complete for cell in cells]) >= _COMPLETE
    numbers |= {
        "tps_like_percent": numbers["positive_percent"],
        # Without cell types positive immune cells are among the positive ones already: CPS as for tumour cells alone.
        "cps_like": round(min(100.0, positive / len(cells) * 100), 1),
        "complete_membrane_percent": round(float((complete & (strength > 0)).mean() * 100), 1),
        "her2": her2(strength, complete),
        "her2_criteria": HER2_CRITERIA,
    }
    return numbers


def her2(strength: NDArray[np.int64], complete: NDArray[np.bool_]) -> str:
    """``"0"``, ``"1+"``, ``"2+"`` or ``"3+"`` by :data:`HER2_CRITERIA`."""
    strong = float((complete & (strength == 3)).mean())
    whole = float((complete & (strength > 0)).mean())
    any_stain = float((strength > 0).mean())
    if strong > 0.1:
        return "3+"
    if whole > 0.1 or strong > 0:
        return "2+"
    return "1+" if any_stain > 0.1 else "0"
