"""``ground_phrase``: boxes of what a phrase means, or outlines, for the chat model and for users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from PIL import Image, ImageDraw
from pydantic import Field

from assistant.tools import fields
from assistant.tools.base import Card, Context, ToolResult, tool
from assistant.tools.trunk import DEFAULT

if TYPE_CHECKING:
    from assistant.answer import Box
    from assistant.grounding.masks import Outline


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
    image: Image.Image,
    phrase: Annotated[str, Field(min_length=1, max_length=400)],
    masks: bool = False,
    context: Context = DEFAULT,
) -> ToolResult:
    """Find where something is in a field: boxes of what a phrase names, such as "the largest gland".

    Args:
        image: Field to look at.
        phrase: What to point at, in English.
        masks: Outline the nucleus or gland in each box where one fits it.
    """
    from assistant.grounding import load_grounder
    from assistant.grounding.masks import features, outlines

    grounder = load_grounder(research=context.research)
    fields.require_field(image)
    boxes = grounder.ground(image, phrase)
    numbers = {"phrase": phrase, "count": len(boxes), "boxes": [box.as_dict() for box in boxes]}
    if not boxes:
        return ToolResult(f"Nothing like “{phrase}” was found in the field.", numbers)
    noun = "box" if len(boxes) == 1 else "boxes"
    text = f"{len(boxes)} {noun} for “{phrase}”, the best with score {boxes[0].score:.2f}"
    if masks:
        found = outlines(image, boxes, grounder.detector.regions)
        numbers["outlines"] = [{"kind": one.kind, "fit": one.fit} for one in found]
        fitted = sum(one.kind != "box" for one in found)
        text += f"; {fitted} outlined"
        warnings = (
            (f"no outline fits {len(found) - fitted} of the boxes; kept as boxes",) if fitted < len(found) else ()
        )
    else:
        found, warnings = [_plain(box) for box in boxes], ()
    return ToolResult(
        f"{text}.", numbers, {"boxes": _drawn(image, found)}, fields.collection(features(found)), warnings
    )


def _plain(box: Box) -> Outline:
    from assistant.grounding.masks import Outline, corners

    return Outline(box, corners(box), "box", 0.0)


def _drawn(image: Image.Image, found: list[Outline]) -> Image.Image:
    canvas, factor = fields.working_copy(image, 16_000_000)
    canvas = canvas.convert("RGB").copy()
    pen = ImageDraw.Draw(canvas)
    for one in found:
        pen.line([(x / factor, y / factor) for x, y in one.ring], fill="#ffd400", width=3, joint="curve")
    return canvas
