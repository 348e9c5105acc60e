"""``detect_blood_cells``: red cells, white cells and platelets of a stained blood smear, counted, with boxes.

The boxes come from the blood head of the region network. White cells are also given a type by a logistic head on
PathCLIP-small's features of the cell; its labels are weak and basophils are too few to learn.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from assistant.errors import BadInput, NotAvailable
from assistant.regions.model import BLOOD_SCALE, Regions
from assistant.regions.network import BLOOD_CELLS
from assistant.tools import fields, trunk
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.features import PATHCLIP, pooled_features
from assistant.tools.heads import Head

#: Head for the type of a white cell.
LEUCOCYTES = Path(__file__).resolve().parents[1] / "weights" / "grounding" / "detector-leucocytes.safetensors"
#: Head that tells the close-up of a white cell, and its classes.
CLOSE_UP = LEUCOCYTES.with_name("detector-close-up.safetensors")
CLOSE_UPS = ("white cell", "anything else")
#: Longest side of such an image, and that to which it is enlarged: its scale is not a smear's.
_CLOSE_SIDE, _ENLARGED = 400, 320
#: Score from which a box counts as a cell: counts of red cells on train and val are least wrong from 0.45 to 0.5.
THRESHOLD = 0.5
#: Score from which a box counts in the rule below.
_LIKELY = 0.3
#: A field with the colours of another stain is still a smear when it has this many cells, of this median score, that
#: fill this share of it; set on 40 train fields of BCCD, MoNuSeg, CoNSeP and GlaS.
MANY, TYPICAL, FILLED = 13, 0.47, (0.4, 1.0)
#: Micrometres per pixel of the fields the head was trained on: a red cell of 7.5 µm is about 100 of their pixels.
SMEAR_MPP = 0.075
_MARGIN = 0.15
_MAX_SIDE = 2048
_COLOURS = {"red blood cell": "#e0342b", "white blood cell": "#3d6bff", "platelet": "#f5b400"}
_PLURALS = dict(zip(BLOOD_CELLS, ("red cells", "white cells", "platelets"), strict=True))
SmearMpp = Annotated[float, Field(ge=0.02, le=0.5)]
Boxes = NDArray[np.float32]


def cell_crop(image: Image.Image, box: tuple[float, float, float, float] | Boxes) -> Image.Image:
    """A cell with a margin of 15 % of its box on every side, as the type head sees it; box xyxy in pixels."""
    x0, y0, x1, y1 = (float(v) for v in box)
    across, down = (x1 - x0) * _MARGIN, (y1 - y0) * _MARGIN
    corners = (max(0, x0 - across), max(0, y0 - down), min(image.width, x1 + across), min(image.height, y1 + down))
    left, top, right, bottom = (round(v) for v in corners)
    return image.convert("RGB").crop((left, top, max(right, left + 1), max(bottom, top + 1)))


@lru_cache(maxsize=2)
def leucocyte_head(path: Path | None = None) -> Head:
    """The shipped head for the type of a white cell, or another one of white cells.

    Raises:
        NotAvailable: It is missing, damaged, or was fitted on another encoder.
    """
    from assistant.model.cache import sha256

    path = path or LEUCOCYTES
    if not path.is_file():
        raise NotAvailable(f"no weights {path.name}; run `python -m training.tools.leucocytes`")
    head = Head.read(path)
    if head.encoder != (here := sha256(PATHCLIP / "model.safetensors")[:12]):
        raise NotAvailable(
            f"{path.name} belongs to encoder {head.encoder}, not {here}; run `python -m training.tools.leucocytes`"
        )
    return head


def close_up(image: Image.Image) -> bool:
    """Whether an image shows one white cell from near rather than a smear.

    Raises:
        NotAvailable: As :func:`leucocyte_head`.
    """
    if max(image.size) > _CLOSE_SIDE:
        return False
    head = leucocyte_head(CLOSE_UP)
    chances = head.probabilities(pooled_features([image.convert("RGB")]))[0]
    return bool(chances[head.classes.index(CLOSE_UPS[0])] >= 0.5)


def require_smear(image: Image.Image) -> None:
    """Refuse by colour what is no blood smear.

    Raises:
        BadInput: A DAB immunostain, or H&E.
    """
    stain, _ = fields.guess_stain(image)
    if stain != "other or uncertain":
        other = "score_ihc" if stain == "DAB immunostain" else "segment_nuclei or classify_tissue"
        raise BadInput(f"the field looks like {stain.removesuffix('-like')}, not a stained blood smear; use {other}")


def near_cells(network: Regions, image: Image.Image) -> tuple[Boxes, NDArray[np.float32]]:
    """Boxes [N, 4] and scores [N, 3] in the close-up of a white cell: the likeliest one counts, and where none was
    boxed the image is its box."""
    white = BLOOD_CELLS.index("white blood cell")
    scale = BLOOD_SCALE * max(1.0, _ENLARGED / max(image.size))
    boxes, scores = network.blood(np.asarray(image.convert("RGB")), scale)
    if not (scores[:, white] >= _LIKELY).any():
        boxes = np.concatenate([boxes, np.array([[0, 0, *image.size]], np.float32)])
        scores = np.concatenate([scores, np.eye(len(BLOOD_CELLS), dtype=np.float32)[[white]] * THRESHOLD])
    row = int(scores[:, white].argmax())
    scores[row] = np.where(np.arange(len(BLOOD_CELLS)) == white, max(THRESHOLD, float(scores[row, white])), 0)
    return boxes, scores


def white_cell(network: Regions, image: Image.Image) -> Boxes:
    """Box [4] of the white cell of a close-up."""
    boxes, scores = near_cells(network, image)
    found: Boxes = boxes[scores[:, BLOOD_CELLS.index("white blood cell")].argmax()]
    return found


def differential(image: Image.Image, boxes: Boxes) -> list[tuple[str, float]]:
    """Type and probability of each white cell, boxes [N, 4] xyxy in pixels.

    Raises:
        NotAvailable: As :func:`leucocyte_head`.
    """
    head = leucocyte_head()
    if not len(boxes):
        return []
    chances = head.probabilities(pooled_features([cell_crop(image, box) for box in boxes]))
    return [(head.classes[int(row.argmax())], float(row.max())) for row in chances]


def crowded(boxes: Boxes, scores: NDArray[np.float32], size: tuple[int, int]) -> bool:
    """Whether cells lie as they do in a smear, whatever its colours."""
    if len(boxes) < MANY:
        return False
    filled = float((boxes[:, 2:] - boxes[:, :2]).prod(axis=1).sum()) / (size[0] * size[1])
    return float(np.median(scores.max(axis=1))) >= TYPICAL and FILLED[0] <= filled <= FILLED[1]


@tool(
    Card(
        task="Find and count the red cells, white cells and platelets of a blood smear; guess the type of white cells.",
        training_data=f"{trunk.TRAINING}; types of white cells from 300 weakly labelled cells, no basophils",
        licence=trunk.LICENCE,
        stains=("Giemsa", "Wright"),
        magnifications="100x oil (about 0.075 µm per pixel); state the pixel size of anything else",
        research_only=True,
        limits="red cells that touch or overlap are missed or merged; the type of a white cell is a hint, no diagnosis",
    ),
    timeout=60,
)
def detect_blood_cells(image: Image.Image, mpp: SmearMpp | None = None, context: Context = trunk.DEFAULT) -> ToolResult:
    """Count red blood cells, white blood cells and platelets of a stained blood smear, with a box around each.

    Args:
        image: Field of a Giemsa- or Wright-stained smear.
        mpp: Micrometres per pixel where known; without it 0.075 (100x oil) is assumed.
    """
    fields.require_field(image)
    network = trunk.network(context)
    near = mpp is None and close_up(image)
    doubt: BadInput | None = None
    try:
        require_smear(image)
    except BadInput as error:
        doubt = None if near else error
    wanted = BLOOD_SCALE * (mpp or SMEAR_MPP) / SMEAR_MPP
    scale = min(wanted, _MAX_SIDE / max(image.size))
    if near:
        boxes, scores = near_cells(network, image)
    else:
        boxes, scores = network.blood(np.asarray(image.convert("RGB")), scale)
    best = scores.max(axis=1, initial=0.0)
    likely, sure = best >= _LIKELY, best >= THRESHOLD
    if doubt is not None and not crowded(boxes[likely], scores[likely], image.size):
        raise doubt
    boxes, scores = boxes[sure], scores[sure]
    if not len(boxes):
        raise BadInput(
            "no blood cell was found, so this does not look like a blood smear at "
            f"{mpp or SMEAR_MPP:g} µm per pixel; give a smear, or its pixel size as mpp"
        )
    kinds = scores.argmax(axis=1)
    white = np.flatnonzero(kinds == BLOOD_CELLS.index("white blood cell"))
    warnings = [] if doubt is None else ["its colours are not those of a smear; it was taken for one by its many cells"]
    types: dict[int, tuple[str, float]] = {}
    try:
        types = dict(zip(white.tolist(), differential(image, boxes[white]), strict=True))
    except NotAvailable as error:
        warnings.append(f"white cells have no type: {error}")
    counts = {name: int((kinds == k).sum()) for k, name in enumerate(BLOOD_CELLS)}
    numbers: dict[str, Any] = {"counts": counts, "count": len(boxes), "threshold": THRESHOLD}
    if types:
        named = [name for name, _ in types.values()]
        numbers["white_cell_types"] = {name: named.count(name) for name in sorted(set(named))}
        warnings.append("types of white cells come from weak labels without basophils; take them as a hint")
    if scale < wanted:
        warnings.append(f"the field was looked at {wanted / scale:.1f} times too small to fit in memory; send a part")
    if near:
        warnings.append("taken for the close-up of a white cell, at whatever scale; it is no count of a smear")
    elif mpp is None:
        warnings.append(f"no pixel size was given: {SMEAR_MPP:g} µm per pixel (100x oil) was assumed")
    features = [
        _feature(boxes[i], BLOOD_CELLS[kinds[i]], float(scores[i].max()), types.get(i)) for i in range(len(boxes))
    ]
    text = ", ".join(f"{number} {_PLURALS[name][: -1 if number == 1 else None]}" for name, number in counts.items())
    if types:
        text += " (" + ", ".join(f"{number} {name}" for name, number in numbers["white_cell_types"].items()) + ")"
    return ToolResult(
        f"{text}.",
        numbers,
        {"blood cells": fields.draw_outlines(image, features, _COLOURS)},
        fields.collection(features),
        tuple(warnings),
    )


def _feature(box: Boxes, name: str, score: float, kind: tuple[str, float] | None) -> dict[str, Any]:
    x0, y0, x1, y1 = (round(float(v), 1) for v in box)
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    said = {} if kind is None else {"type": kind[0], "type_probability": round(kind[1], 3)}
    return fields.feature(ring, objectType="detection", score=round(score, 3), **{"class": name}, **said)
