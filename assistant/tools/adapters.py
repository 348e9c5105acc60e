"""Adapters for sub-models whose weights are not included: bring a folder in the hub's own format, and they are tools.

=======================  ==========================  ===========================================================
tool                     folder named by             what it has to hold
=======================  ==========================  ===========================================================
``segment_prompted``     ``PATHASSIST_SAM``          a SAM of transformers (``SamModel``: SAM, MedSAM, …)
``detect_cytology``      ``PATHASSIST_CYTOLOGY``     any object detector of transformers (DETR, RT-DETR, YOLOS, …)
``generate_cell_image``  ``PATHASSIST_CELLS``        a diffusers pipeline; ``pip install diffusers`` as well
=======================  ==========================  ===========================================================

Without its folder a tool is listed as "weights not included" and offered to nobody. The last two stand for PathAsst's
cytology detector and cell-image generator, which were not released.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field

from assistant.errors import BadInput, NotAvailable
from assistant.tools import fields
from assistant.tools.base import Card, ToolResult, tool

#: Environment variable that names the folder of each adapter's weights.
FOLDERS = {
    "segment_prompted": "PATHASSIST_SAM",
    "detect_cytology": "PATHASSIST_CYTOLOGY",
    "generate_cell_image": "PATHASSIST_CELLS",
}
_NONE = "weights not included; nothing was measured here"
_TILE, _MARGIN, _SAME = 1024, 128, 0.5
Corners = Annotated[list[float], Field(min_length=4, max_length=4)]


def missing(name: str) -> str | None:
    """Why an adapter cannot be used yet, or None."""
    variable = FOLDERS[name]
    folder = os.environ.get(variable, "").strip()
    if not folder:
        return f"weights not included; run `export {variable}=FOLDER` with a folder in the hub's format, and retry"
    if not Path(folder).is_dir():
        return f"{variable} is {folder[:200]!r}, which is no folder; name one in the hub's format"
    return None


def _folder(name: str) -> str:
    reason = missing(name)
    if reason is not None:
        raise NotAvailable(f"{name}: {reason}")
    return os.environ[FOLDERS[name]].strip()


@lru_cache(maxsize=4)
def _loaded(kind: str, folder: str) -> tuple[Any, Any]:
    """Model and processor out of a folder; nothing is downloaded, and no code in it is run."""
    import transformers

    model, processor = {
        "sam": ("SamModel", "SamProcessor"),
        "detector": ("AutoModelForObjectDetection", "AutoImageProcessor"),
    }[kind]
    try:
        made = getattr(transformers, model).from_pretrained(folder, local_files_only=True, use_safetensors=True)
        prepare = getattr(transformers, processor).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise NotAvailable(f"{folder} cannot be loaded as {model}: {reason}") from error
    return made.eval(), prepare


@tool(
    Card(task="Outline what lies in a box, by a SAM of your own.", training_data=_NONE, licence="that of the weights"),
    timeout=120,
)
def segment_prompted(image: Image.Image, box: Corners) -> ToolResult:
    """Outline the thing in a box with a promptable segmentation model (SAM, MedSAM) whose weights you bring.

    Args:
        image: Field to look at.
        box: x0, y0, x1, y1 in pixels of the image.
    """
    import torch

    model, processor = _loaded("sam", _folder("segment_prompted"))
    x0, y0, x1, y1 = box
    if not (0 <= x0 < x1 <= image.width and 0 <= y0 < y1 <= image.height):
        raise BadInput(f"the box {box} is not inside the image, {image.width} x {image.height} pixels")
    inputs = processor(images=image.convert("RGB"), input_boxes=[[[x0, y0, x1, y1]]], return_tensors="pt")
    with torch.inference_mode():
        said = model(**inputs)
    masks = processor.image_processor.post_process_masks(
        said.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )[0][0]  # [3, H, W]
    scores = said.iou_scores[0, 0]
    best = int(scores.argmax())
    mask: NDArray[np.bool_] = masks[best].numpy().astype(bool)
    area = int(mask.sum())
    numbers = {"box": box, "area_px": area, "predicted_iou": round(float(scores[best]), 4)}
    if not area:
        return ToolResult("Nothing was outlined in the box.", numbers)
    ring = fields.outline(mask, 0, 0)
    shapes = [fields.feature(ring, **{"class": "prompted"})]
    text = f"{area:,} pixels were outlined in the box (the model's own estimate of its overlap: {scores[best]:.2f})."
    overlay = fields.draw_outlines(image, shapes, {"prompted": "#ffd400"})
    return ToolResult(text, numbers, {"outline": overlay}, fields.collection(shapes), (_NONE,))


@tool(
    Card(
        task="Find cells in cytology by an object detector of your own.", training_data=_NONE,
        licence="that of the weights", stains=("Pap", "Giemsa-like blood smears"),
    ),
    timeout=300,
)  # fmt: skip
def detect_cytology(image: Image.Image, threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5) -> ToolResult:
    """Find and count cells in a cytology field or slide region with an object detector whose weights you bring.

    Args:
        image: Field to look at.
        threshold: Score from which a cell counts.
    """
    import torch
    from torchvision.ops import batched_nms

    model, processor = _loaded("detector", _folder("detect_cytology"))
    fields.require_field(image)
    boxes: list[NDArray[np.float32]] = []
    kinds: list[int] = []
    scores: list[float] = []
    corners, wanted = fields.tiles(image, _TILE)
    for part in fields.cut(image, corners, _TILE, _MARGIN):
        height, width = part.pixels.shape[:2]
        with torch.inference_mode():
            said = model(**processor(images=Image.fromarray(part.pixels), return_tensors="pt"))
        found = processor.post_process_object_detection(said, threshold=threshold, target_sizes=[(height, width)])[0]
        rows = zip(found["boxes"].numpy(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        for box, kind, score in rows:
            placed = box + np.array([part.x, part.y, part.x, part.y], np.float32)
            middle = (placed[:2] + placed[2:]) / 2
            x0, y0, x1, y1 = part.core
            if x0 <= middle[0] < x1 and y0 <= middle[1] < y1:  # the margin belongs to the next tile
                boxes.append(placed)
                kinds.append(kind)
                scores.append(score)
    names = {int(k): str(v) for k, v in model.config.id2label.items()}
    warnings = [_NONE]
    if wanted > len(corners):
        warnings.append(f"{len(corners)} of {wanted} tiles with tissue were looked at")
    if not boxes:
        return ToolResult(f"No cell reached a score of {threshold:g}.", {"count": 0}, warnings=tuple(warnings))
    table = torch.from_numpy(np.stack(boxes))
    kept = batched_nms(table, torch.tensor(scores), torch.tensor(kinds), _SAME).tolist()
    counts: dict[str, int] = {}
    shapes = []
    for row in kept:
        label = names.get(kinds[row], str(kinds[row]))
        counts[label] = counts.get(label, 0) + 1
        a, b, c, d = (round(float(v), 1) for v in table[row])
        ring = [[a, b], [c, b], [c, d], [a, d], [a, b]]
        shapes.append(fields.feature(ring, **{"class": label, "score": round(scores[row], 4)}))
    said_counts = ", ".join(f"{n} {label}" for label, n in sorted(counts.items(), key=lambda item: -item[1]))
    overlay = fields.draw_outlines(image, shapes, {})
    numbers = {"count": len(kept), "counts": counts, "threshold": threshold}
    text = f"{len(kept)} cells were found: {said_counts}."
    return ToolResult(text, numbers, {"boxes": overlay}, fields.collection(shapes), tuple(warnings))


@tool(
    Card(
        task="Draw a synthetic cell image by a diffusion model of your own; never evidence.", training_data=_NONE,
        licence="that of the weights",
    ),
    timeout=600,
)  # fmt: skip
def generate_cell_image(
    prompt: Annotated[str, Field(min_length=1, max_length=300)],
    steps: Annotated[int, Field(ge=1, le=200)] = 30,
    seed: int = 0,
) -> ToolResult:
    """Draw a synthetic picture of cells from words, for teaching, with a diffusion model whose weights you bring.

    Args:
        prompt: What to draw.
        steps: Denoising steps.
        seed: The same seed draws the same picture.
    """
    folder = _folder("generate_cell_image")
    try:
        from diffusers import DiffusionPipeline
    except ImportError as error:
        raise NotAvailable("generate_cell_image needs diffusers; run `pip install diffusers`, and retry") from error
    import torch

    try:
        pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotAvailable(f"{folder} cannot be loaded by diffusers: {str(error).splitlines()[0][:300]}") from error
    drawn = pipeline(prompt, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed)).images[0]
    text = "A synthetic picture was drawn. It shows no patient and no real cell, and supports no statement."
    numbers = {"prompt": prompt, "seed": seed, "steps": steps, "synthetic": True}
    return ToolResult(text, numbers, {"synthetic": marked(drawn)}, warnings=("synthetic: not evidence", _NONE))


def marked(picture: Image.Image) -> Image.Image:
    """The picture with the word SYNTHETIC in a band under it, so that it cannot be taken for a field."""
    band = max(16, picture.height // 16)
    canvas = Image.new("RGB", (picture.width, picture.height + band), "black")
    canvas.paste(picture.convert("RGB"), (0, 0))
    place = (4, picture.height + band // 2)
    ImageDraw.Draw(canvas).text(place, "SYNTHETIC", fill="white", anchor="lm", font_size=0.8 * band)
    return canvas
