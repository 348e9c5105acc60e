"""``ground_phrase``: boxes of what a phrase means, for the chat model and for users."""

from __future__ import annotations

from typing import Annotated

from PIL import Image, ImageDraw
from pydantic import Field

from assistant.errors import NotAvailable
from assistant.tools import fields
from assistant.tools.base import Card, Context, ToolResult, tool


@tool(
    Card(
        task="Point at what a phrase means: boxes with scores, or nothing like that here.",
        training_data="phrases made from the boxes and masks of BCCD, WBC, GlaS, MoNuSeg, DSB 2018, CoNSeP, WSSS4LUAD",
        licence="research-only (some sources have no open licence)",
        stains=("H&E", "Giemsa-like blood smears"),
        magnifications="10x to 40x",
        research_only=True,
        limits="knows blood cells, glands, nuclei and lung tumour tissue; other words may give nothing or a wrong box",
    ),
    timeout=60,
)
def ground_phrase(
    image: Image.Image, phrase: Annotated[str, Field(min_length=1, max_length=400)], context: Context
) -> ToolResult:
    """Find where something is in a field: boxes of what a phrase names, such as "the largest gland".

    Args:
        image: Field to look at.
        phrase: What to point at, in English.
    """
    from assistant.grounding import load_grounder

    if not context.research:
        raise NotAvailable("the grounding weights are for research only and switched off here; allow research tools")
    fields.require_field(image)
    boxes = load_grounder().ground(image, phrase)
    numbers = {"phrase": phrase, "count": len(boxes), "boxes": [box.as_dict() for box in boxes]}
    if not boxes:
        return ToolResult(f"Nothing like “{phrase}” was found in the field.", numbers)
    canvas, factor = fields.working_copy(image, 16_000_000)
    canvas = canvas.convert("RGB").copy()
    pen, rows = ImageDraw.Draw(canvas), []
    for box in boxes:
        x0, y0, x1, y1 = box.xyxy
        pen.rectangle([v / factor for v in box.xyxy], outline="#ffd400", width=3)
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        rows.append(fields.feature(ring, objectType="annotation", name=phrase))
    noun = "box" if len(boxes) == 1 else "boxes"
    text = f"{len(boxes)} {noun} for “{phrase}”, the best with score {boxes[0].score:.2f}."
    return ToolResult(text, numbers, {"boxes": canvas}, fields.collection(rows))
