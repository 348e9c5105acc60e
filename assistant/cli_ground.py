"""``pathassist ground``: from a phrase to boxes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, finish
from assistant.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.answer import Box

_COLOUR = (255, 210, 0)


def register(app: typer.Typer) -> None:
    """Add the command to ``pathassist``."""
    app.command(
        epilog="""\b
Examples:
  pathassist ground field.png "the largest gland"
  pathassist ground smear.jpg "all platelets in the upper half" --overlay boxes.png
  pathassist ground slide.svs "tumour region" --geojson regions.geojson --budget 24
"""
    )(ground)


def ground(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A field, or a slide (searched coarse to fine).")],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What to point at, in English.")],
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Score from which a box is shown.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture with the boxes drawn on it (.png, .jpg, .webp).")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Boxes for QuPath; on a slide in full-resolution pixels.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, max=400, help="Fields of a slide that are looked at.")] = 16,
    as_json: Json = False,
) -> None:
    """Point at what a phrase means: boxes with scores, or "nothing like that here"."""
    from assistant.grounding import load_grounder
    from assistant.grounding.slides import ground_slide
    from assistant.images.intake import load_image
    from assistant.slides import is_slide_name, open_slide

    if overlay is not None and overlay.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise BadInput(f"--overlay is {overlay.name!r}; its name must end in .png, .jpg or .webp")
    found: dict[str, Any] = {}
    if is_slide_name(image) and image.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        with open_slide(image) as slide:
            size, shown = slide.size, slide.thumbnail(1024)
            boxes, looked = ground_slide(load_grounder(), slide, phrase, budget=budget, threshold=threshold)
        found |= {"fields_looked_at": looked}
    else:
        shown = load_image(image)
        size = shown.size
        boxes = load_grounder().ground(shown, phrase, threshold=threshold)
    written = {}
    if overlay is not None:
        _save(draw(shown, boxes, shown.width / size[0]), overlay)
        written["overlay"] = str(overlay)
    if geojson is not None:
        _write_geojson(boxes, geojson)
        written["geojson"] = str(geojson)
    lines = [f"{b.score:.2f}  [{', '.join(f'{v:g}' for v in b.xyxy)}]" for b in boxes] or ["nothing like that here"]
    value = {
        "phrase": phrase, "size": list(size), "boxes": [b.as_dict() for b in boxes], **found, "written": written,
        "disclaimer": DISCLAIMER,
    }  # fmt: skip
    finish(as_json, value, "\n".join([*lines, DISCLAIMER]))


def draw(image: Image, boxes: list[Box], factor: float = 1.0) -> Image:
    """A copy of the image with boxes and their scores; ``factor`` brings boxes to its pixels."""
    from PIL import ImageDraw

    canvas = image.convert("RGB").copy()
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 300))
    for box in boxes:
        x0, y0, x1, y1 = (v * factor for v in box.xyxy)
        pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=_COLOUR, width=width)
        text = f"{box.score:.2f}"
        place = pen.textbbox((x0 + width, y0 + width), text)
        pen.rectangle(place, fill=_COLOUR)
        pen.text((x0 + width, y0 + width), text, fill=(0, 0, 0))
    return canvas


def _save(picture: Image, path: Path) -> None:
    partial = path.with_name(f".{path.stem}.part{path.suffix}")
    picture.save(partial)
    partial.replace(path)


def _write_geojson(boxes: list[Box], path: Path) -> None:
    import json

    from assistant.tools.fields import collection, feature

    rows = []
    for box in boxes:
        x0, y0, x1, y1 = box.xyxy
        ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
        rows.append(feature(ring, objectType="annotation", name=box.label, measurements={"score": box.score}))
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(json.dumps(collection(rows)), encoding="utf-8")
    partial.replace(path)
