"""``pathassist embed``, ``classify`` and ``stain``. Everything heavy is imported inside the commands."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from assistant import DISCLAIMER
from assistant.cli_common import Json, Source, finish, say
from assistant.errors import BadInput

if TYPE_CHECKING:
    from assistant.images.stain import Method
    from assistant.model.encoders.base import Encoder
    from assistant.model.encoders.use import Embedded

EncoderName = Annotated[
    str, typer.Option("--encoder", "-e", help="Encoder: pathclip-small, pathclip, plip, quiltnet-b32, conch, uni, …")
]
From = Annotated[Source, typer.Option("--source", help="Where missing weights may come from.")]


class StainMethod(StrEnum):
    """Ways to handle stains."""

    MACENKO = "macenko"
    VAHADANE = "vahadane"
    REINHARD = "reinhard"
    HED = "hed"


def register(app: typer.Typer) -> None:
    """Add the commands to ``pathassist``."""
    app.command(
        epilog="\b\nExamples:\n  pathassist embed fields/ --out vectors.npz\n"
        "  pathassist embed --text captions.txt --out texts.npz\n"
    )(embed)
    app.command(epilog='\b\nExample:\n  pathassist classify field.png --labels "lung, colon, lymph node"\n')(classify)
    app.command(
        epilog="\b\nExamples:\n  pathassist stain field.png --method macenko --reference good.png --out out.png\n"
        "  pathassist stain field.png --method hed --out stains/\n"
    )(stain)


def embed(
    out: Annotated[Path, typer.Option(help="File for the arrays ids and vectors, ending in .npz.")],
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH...", help="Image files, or folders of them.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="File with one text a line.")] = None,
    encoder: EncoderName = "pathclip-small",
    source: From = Source.WHEELS,
    as_json: Json = False,
) -> None:
    """Turn images and texts into vectors of length 1.

    Files that cannot be read are named, the others embedded, and the exit code is 1.
    """
    from assistant.model.encoders import load_encoder
    from assistant.model.encoders.use import embed_texts, find_images, read_texts, write_vectors

    if not paths and text is None:
        raise BadInput("nothing to embed; name image files or folders, or texts with --text FILE")
    if out.suffix != ".npz":
        raise BadInput(f"--out is {out.name!r}; its name must end in .npz, for example vectors.npz")
    files = find_images(paths or [])
    lines = read_texts(text) if text is not None else []
    model = load_encoder(encoder, source.value)
    result = _embed_images(model, files, quiet=as_json)
    if lines:
        result += embed_texts(model, lines)
    _nothing_left(result)
    write_vectors(out, result)
    _say(result, as_json)
    summary = {
        "out": str(out), "encoder": model.id, "dimension": model.info.dimension, "embedded": len(result.ids),
        "failed": [{"id": name, "reason": reason} for name, reason in result.failed], "warnings": result.warnings,
        "disclaimer": DISCLAIMER,
    }  # fmt: skip
    count = f"{len(result.ids):,} vectors of {model.info.dimension} numbers"
    finish(as_json, summary, f"{count} from {model.id} are in {out}" + _missed(result))
    raise typer.Exit(1 if result.failed else 0)


def classify(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    labels: Annotated[str, typer.Option(help="Classes, separated by commas.")],
    encoder: EncoderName = "pathclip-small",
    source: From = Source.WHEELS,
    as_json: Json = False,
) -> None:
    """Tell which of the labels fits each image best, or that none does."""
    from assistant.model.encoders import load_encoder
    from assistant.model.encoders.classify import ClassCalibration, parse_labels
    from assistant.model.encoders.classify import classify as classes_of
    from assistant.model.encoders.use import find_images

    wanted, files = parse_labels(labels), find_images(images)
    model = load_encoder(encoder, source.value)
    result = _embed_images(model, files, quiet=as_json, in_views=True)
    _nothing_left(result)
    calibration = ClassCalibration.read(encoder)
    found = classes_of(model, result.vectors, wanted, calibration=calibration)
    if calibration.scale is None:
        result.warnings.append(f"probabilities of {encoder} are not calibrated, and it never says 'none of these'")
    _say(result, as_json)
    rows = [
        {
            "image": name, "label": one.label, "cosine": round(one.cosine, 4),
            "probabilities": {label: round(p, 4) for label, p in one.probabilities.items()},
        }
        for name, one in zip(result.ids, found, strict=True)
    ]  # fmt: skip
    text = "\n".join(
        f"{row['image']}: {row['label']}\n"
        + "\n".join(f"  {p:6.1%}  {label}" for label, p in sorted(one.probabilities.items(), key=lambda item: -item[1]))
        for row, one in zip(rows, found, strict=True)
    )
    failed = [{"image": name, "reason": reason} for name, reason in result.failed]
    summary = {
        "encoder": model.id,
        "results": rows,
        "failed": failed,
        "warnings": result.warnings,
        "disclaimer": DISCLAIMER,
    }
    finish(as_json, summary, f"{text}\n{DISCLAIMER}{_missed(result)}")
    raise typer.Exit(1 if result.failed else 0)


def stain(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="An H&E field.")],
    out: Annotated[Path, typer.Option(help="Image to write (PNG), or a folder with --method hed.")],
    method: Annotated[StainMethod, typer.Option(help="How; hed separates the stains instead.")] = StainMethod.MACENKO,
    reference: Annotated[Path | None, typer.Option(help="Field whose colours are taken over.")] = None,
    as_json: Json = False,
) -> None:
    """Give a field the colours of a reference, or split it into its stains.

    A field that is not H&E (blank, inked, IHC) is written unchanged, with the reason, and the exit code is 0.
    """
    from assistant.images.intake import load_image
    from assistant.images.stain import StainNormaliser, separate_stains

    field = load_image(image)
    if method is StainMethod.HED:
        maps = separate_stains(field)
        written = [_save(_density_picture(values), out / f"{image.stem}-{name}.png") for name, values in maps.items()]
        finish(as_json, {"method": method.value, "out": [str(path) for path in written]}, f"stains are in {out}")
        return
    if reference is None:
        raise BadInput(f"--method {method.value} needs --reference FILE, an H&E field whose colours are taken over")
    if out.suffix.lower() != ".png":
        raise BadInput(f"--out is {out.name!r}; its name must end in .png, for example out.png")
    result = StainNormaliser(cast("Method", method.value)).fit(load_image(reference)).transform(field)
    _save(result.image, out)
    note = "" if result.ok else f"the field {result.reason}; it is unchanged"
    summary = {"method": method.value, "out": str(out), "changed": result.ok, "reason": result.reason}
    finish(as_json, summary, f"{out} is written" + (f": {note}" if note else ""))


def _embed_images(model: Encoder, files: list[Path], *, quiet: bool, in_views: bool = False) -> Embedded:
    from tqdm import tqdm

    from assistant.model.encoders.use import embed_files

    # None shows the bar on terminals only.
    with tqdm(total=len(files), unit="image", disable=True if quiet or len(files) < 2 else None) as bar:
        return embed_files(model, files, in_views=in_views, progress=bar.update)


def _nothing_left(result: Embedded) -> None:
    if not result.ids:
        more = f" (and {len(result.failed) - 1:,} more)" if len(result.failed) > 1 else ""
        raise BadInput(f"nothing could be embedded: {result.failed[0][1]}{more}")


def _say(result: Embedded, as_json: bool) -> None:
    """What went wrong, on stderr; JSON carries it itself."""
    if as_json:
        return
    for name, reason in result.failed:
        say(f"skipped {name}: {reason}", err=True)
    for warning in result.warnings:
        say(f"warning: {warning}", err=True)


def _missed(result: Embedded) -> str:
    return f"; {len(result.failed):,} could not be read" if result.failed else ""


def _density_picture(values: Any) -> Any:
    """Optical density as grey, white for none and black for 2 and more."""
    import numpy as np
    from PIL import Image

    return Image.fromarray((255 * (1 - np.clip(values / 2, 0, 1))).round().astype(np.uint8))


def _save(picture: Any, path: Path) -> Path:
    from assistant.model.encoders.use import whole_file

    with whole_file(path) as partial:
        picture.save(partial, "PNG")
    return path
