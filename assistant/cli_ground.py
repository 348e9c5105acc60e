"""``pathassist ground``: from a phrase to boxes, or to outlines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, Quantization, finish, load_assistant
from assistant.errors import BadInput
from assistant.files import whole, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.answer import Box
    from assistant.grounding.chat_boxes import Grounds
    from assistant.grounding.masks import Outline
    from assistant.regions.model import Regions

_COLOUR = (255, 210, 0)
_LABELLED = 40  # with more boxes on a picture their scores would hide it


def register(app: typer.Typer) -> None:
    """Add the command to ``pathassist``."""
    app.command(
        epilog="""\b
Examples:
  pathassist ground field.png "the largest gland"
  pathassist ground smear.jpg "all platelets in the upper half" --overlay boxes.png
  pathassist ground field.png "all glands" --masks --geojson glands.geojson
  pathassist ground slide.svs "tumour region" --geojson regions.geojson --budget 24
  pathassist ground field.png "the largest gland" --model remote
"""
    )(ground)


def ground(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="A field, or a slide (searched coarse to fine).")],
    phrase: Annotated[str, typer.Argument(metavar="PHRASE", help="What to point at, in English.")],
    threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Score from which a box is shown.")] = None,
    masks: Annotated[
        bool, typer.Option("--masks", help="Outline the nucleus or gland in each box where one fits it.")
    ] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Picture with the boxes drawn on it (.png, .jpg, .webp).")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Boxes or outlines for QuPath; on a slide in full-resolution pixels.")
    ] = None,
    budget: Annotated[int, typer.Option(min=1, max=400, help="Fields of a slide that are looked at.")] = 16,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Preset that points; a chat model writes its boxes in words.")
    ] = "embedded",
    quantization: Annotated[
        Quantization | None, typer.Option(help="Weight format of a chat model; needs CUDA.")
    ] = None,
    open_only: Annotated[
        bool, typer.Option("--open-only", help="Use only weights trained on openly licensed sets.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Point at what a phrase means: boxes with scores, or "nothing like that here"."""
    import time

    from assistant.grounding.masks import on_slide, outlines
    from assistant.grounding.slides import ground_slide
    from assistant.images.intake import load_image
    from assistant.slides import open_slide

    if overlay is not None and overlay.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise BadInput(f"--overlay is {overlay.name!r}; its name must end in .png, .jpg or .webp")
    found: dict[str, Any] = {}
    shapes: list[Outline] | None = None
    if _is_slide(image):
        with open_slide(image) as slide:
            size, shown = slide.size, slide.thumbnail(1024)
            grounder = _grounder(model, quantization, open_only)
            began = time.perf_counter()
            boxes, looked = ground_slide(grounder, slide, phrase, budget=budget, threshold=threshold)
            if masks:
                shapes = on_slide(slide, boxes, _regions(open_only))
            found |= {"fields_looked_at": looked, "seconds": round(time.perf_counter() - began, 2)}
    else:
        shown = load_image(image)
        size = shown.size
        boxes = _grounder(model, quantization, open_only).ground(shown, phrase, threshold=threshold)
        if masks:
            shapes = outlines(shown, boxes, _regions(open_only))
    written = {}
    if overlay is not None:
        with whole(overlay) as partial:
            draw(shown, boxes, shown.width / size[0], shapes).save(partial)
        written["overlay"] = str(overlay)
    if geojson is not None:
        _write_geojson(boxes, shapes, geojson)
        written["geojson"] = str(geojson)
    notes = [f"  {_said(shape)}" for shape in shapes] if shapes is not None else [""] * len(boxes)
    lines = [
        f"{b.score:.2f}  [{', '.join(f'{v:g}' for v in b.xyxy)}]{note}" for b, note in zip(boxes, notes, strict=True)
    ] or ["nothing like that here"]
    if shapes is not None:
        found["outlines"] = [{"kind": s.kind, "fit": s.fit, "ring": s.ring, "note": s.note} for s in shapes]
    if "fields_looked_at" in found:
        lines.append(f"{found['fields_looked_at']} fields looked at in {found['seconds']:.1f} s")
    value = {
        "phrase": phrase, "size": list(size), "boxes": [b.as_dict() for b in boxes], "model": model,
        "licence": _licence(model, open_only), **found, "written": written, "disclaimer": DISCLAIMER,
    }  # fmt: skip
    finish(as_json, value, "\n".join([*lines, DISCLAIMER]))


def _is_slide(path: Path) -> bool:
    """By its name, or a TIFF with a pyramid or too large to be one field."""
    from assistant.errors import PathAssistError
    from assistant.grounding.slides import FIELD
    from assistant.slides import is_slide_name, open_slide

    if is_slide_name(path):
        return True
    if path.suffix.lower() not in (".tif", ".tiff", ".btf", ".tf8") or not path.is_file():
        return False
    try:
        with open_slide(path, plain=False) as slide:
            return len(slide.levels) > 1 or max(slide.size) > 4 * FIELD
    except PathAssistError:
        return False


def _grounder(model: str, quantization: Quantization | None, open_only: bool) -> Grounds:
    """The small grounder, or a chat model that writes boxes."""
    from assistant.grounding import load_grounder
    from assistant.grounding.chat_boxes import ChatGrounder

    if model == "embedded":
        return load_grounder(research=not open_only)
    chosen = quantization.value if quantization is not None else None
    return ChatGrounder(load_assistant(model, quantization=chosen, quiet=True))


def _regions(open_only: bool) -> Regions:
    from assistant.grounding.detector import load_detector

    if open_only:
        from assistant.grounding import load_grounder

        return load_grounder(research=False).detector.regions
    return load_detector().regions


def _licence(model: str, open_only: bool) -> str:
    if model != "embedded":
        return f"that of the preset {model}"
    return "openly licensed training sets only" if open_only else "research-only weights"


def _said(shape: Outline) -> str:
    return shape.note or f"{shape.kind} outlined, IoU {shape.fit:.2f} with the box"


def draw(image: Image, boxes: list[Box], factor: float = 1.0, shapes: Sequence[Outline] | None = None) -> Image:
    """A copy of the image with boxes, or outlines, and their scores; ``factor`` brings them to its pixels."""
    from PIL import ImageDraw

    canvas = image.convert("RGB").copy()
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 300))
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (v * factor for v in box.xyxy)
        if shapes is None or shapes[number].kind == "box":
            pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=_COLOUR, width=width)
        else:
            pen.line([(x * factor, y * factor) for x, y in shapes[number].ring], fill=_COLOUR, width=width)
        if len(boxes) > _LABELLED:
            continue
        text = f"{box.score:.2f}"
        _, _, wide, high = pen.textbbox((0, 0), text)
        small = x1 - x0 < 3 * wide or y1 - y0 < 3 * high  # its label would hide it
        place = (x0, max(0.0, y0 - high - width)) if small else (x0 + width, y0 + width)
        pen.rectangle(pen.textbbox(place, text), fill=_COLOUR)
        pen.text(place, text, fill=(0, 0, 0))
    return canvas


def _write_geojson(boxes: list[Box], shapes: Sequence[Outline] | None, path: Path) -> None:
    import json

    from assistant.grounding.masks import Outline, corners, features
    from assistant.tools.fields import collection

    rows = shapes if shapes is not None else [Outline(box, corners(box), "box", 0.0) for box in boxes]
    write_text(path, json.dumps(collection(features(rows))))
