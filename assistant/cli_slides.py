"""``pathassist slide``: what a slide is, a field of it, tiles of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, finish
from assistant.errors import BadInput
from assistant.files import whole

if TYPE_CHECKING:
    from PIL.Image import Image

slide_app = typer.Typer(
    help="Look into whole slides (SVS, NDPI, MRXS, DICOM, OME-TIFF, tiled TIFF, Deep Zoom .dzi).",
    no_args_is_help=True,
    rich_markup_mode=None,
)
File = Annotated[Path, typer.Argument(metavar="FILE", help="The slide.")]
_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


def register(app: typer.Typer) -> None:
    """Add the commands to ``pathassist``."""
    app.add_typer(slide_app, name="slide")


@slide_app.command(epilog="\b\nExample:\n  pathassist slide info slide.svs --json\n")
def info(file: File, as_json: Json = False) -> None:
    """Show size, resolution and pyramid. Label, macro and file properties are not read."""
    from assistant.slides import open_slide

    with open_slide(file) as slide:
        found = slide.info()
    lines = [
        f"{found['width']} x {found['height']} pixels",
        f"resolution: {found['mpp']:g} µm per pixel" if found["mpp"] else "resolution: not stated",
        f"objective: {found['objective']:g}x" if found["objective"] else "objective: not stated",
        f"reader: {found['reader']}",
        *(
            f"level {number}: {level['width']} x {level['height']}, 1/{level['downsample']:g}"
            for number, level in enumerate(found["levels"])
        ),
        DISCLAIMER,
    ]
    finish(as_json, found | {"disclaimer": DISCLAIMER}, "\n".join(lines))


@slide_app.command(
    epilog="""\b
Examples:
  pathassist slide region slide.svs 12000 8000 2048 2048 --out field.png
  pathassist slide region slide.svs 0 0 46000 32914 --max-side 1024 --out overview.png
"""
)
def region(
    file: File,
    x: Annotated[int, typer.Argument(help="Left edge in pixels of the full resolution.")],
    y: Annotated[int, typer.Argument(help="Top edge.")],
    width: Annotated[int, typer.Argument(help="Width in pixels of the full resolution.")],
    height: Annotated[int, typer.Argument(help="Height.")],
    out: Annotated[Path, typer.Option(help="File for the picture: .png, .jpg or .webp.")],
    max_side: Annotated[int, typer.Option(min=1, max=20_000, help="Longer side of the picture in pixels.")] = 4096,
    as_json: Json = False,
) -> None:
    """Write a region of a slide as a picture."""
    from assistant.slides import open_slide

    _check_name(out)
    with open_slide(file) as slide:
        scale = min(1.0, max_side / max(width, height, 1))
        picture = slide.read(x, y, width, height, (max(1, round(width * scale)), max(1, round(height * scale))))
        mpp = slide.mpp / scale if slide.mpp else None
    _save(picture, out)
    found = {
        "file": str(out),
        "region": [x, y, width, height],
        "size": list(picture.size),
        "mpp": mpp,
        "disclaimer": DISCLAIMER,
    }
    stated = f", {mpp:g} µm per pixel" if mpp else ""
    finish(as_json, found, f"{out}: {picture.width} x {picture.height} pixels{stated}\n{DISCLAIMER}")


@slide_app.command(
    epilog="""\b
Examples:
  pathassist slide tiles slide.svs --out tiles --pixels 512 --mpp 0.5
  pathassist slide tiles slide.svs --json
"""
)
def tiles(
    file: File,
    out: Annotated[Path | None, typer.Option(help="Folder for the tiles as PNG; without it they are listed.")] = None,
    pixels: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 256,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of a tile; default: full resolution.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most tiles.")] = 10_000,
    as_json: Json = False,
) -> None:
    """List or write the tiles of a slide that show tissue."""
    from assistant.cases.slides import Tiling
    from assistant.cases.slides import tiles as find
    from assistant.slides import open_slide

    regions = [case.region for case in find(file, Tiling(pixels, mpp)) if case.region is not None]
    left_out, regions = max(0, len(regions) - limit), regions[:limit]
    rows: list[dict[str, Any]] = [{"x": x, "y": y, "width": w, "height": h} for x, y, w, h in regions]
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with open_slide(file, plain=False) as slide:
            for row, (x, y, width, height) in zip(rows, regions, strict=True):
                scale = min(1.0, pixels / max(width, height))
                size = max(1, round(width * scale)), max(1, round(height * scale))
                target = out / f"{x}_{y}.png"
                _save(slide.read(x, y, width, height, size), target)
                row["file"] = str(target)
    found = {"tiles": rows, "pixels": pixels, "mpp": mpp, "left_out": left_out, "disclaimer": DISCLAIMER}
    text = (
        f"{len(rows)} tiles with tissue" + (f" in {out}" if out else "") + (f"; {left_out} left out" * bool(left_out))
    )
    listed = [] if out else [json.dumps(row) for row in rows]
    finish(as_json, found, "\n".join([*listed, text, DISCLAIMER]))


def _check_name(out: Path) -> None:
    if out.suffix.lower() not in _FORMATS:
        raise BadInput(f"--out is {out.name!r}; its name must end in {', '.join(_FORMATS)}")
    if not out.parent.is_dir():
        raise BadInput(f"--out is in {str(out.parent)!r}, which is not a folder; make it first")


def _save(picture: Image, target: Path) -> None:
    """Whole or not at all."""
    try:
        with whole(target) as partial:
            picture.save(partial)
    except OSError as error:
        raise BadInput(f"{target.name!r} cannot be written: {error.strerror or error}; choose another --out") from error
