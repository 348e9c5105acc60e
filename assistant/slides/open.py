"""Which reader opens which file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.slides.base import Slide

#: File names that are slides whatever is in them; a TIFF is one by its pyramid.
SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".dzi"})
_TIFF = {".tif", ".tiff", ".btf", ".tf8"}
_PICTURES = {".png", ".jpg", ".jpeg", ".webp"}
INSTALL = "slides need OpenSlide; install it with: pip install 'pathassist[wsi]'"


def open_slide(path: str | os.PathLike[str], *, plain: bool = True, name: str | None = None) -> Slide:
    """Open a slide.

    Args:
        path: A file in one of the formats of this package's docstring.
        plain: Also take a picture without a pyramid (PNG, JPEG, WebP, TIFF), within the caps of ordinary images.
        name: How messages call it, by default the file's name.

    Raises:
        BadInput: No such file, or nothing in it that any reader understands.
        NotAvailable: OpenSlide is not installed.
    """
    path = Path(path)
    name = name or path.name
    if not path.is_file():
        raise BadInput(f"{name!r} does not exist or is not a file; check the path of the slide")
    suffix = path.suffix.lower()
    if suffix == ".dzi":
        from assistant.slides.dzi import DziSlide

        return DziSlide(path, name)
    if suffix in _PICTURES:
        if not plain:
            raise BadInput(f"{name!r} is a picture, not a slide")
        return _plain(path, name)
    openers = _openers(path)
    reasons: list[str] = []
    for opener in openers:
        try:
            return opener(path, name)
        except NotAvailable:
            raise
        except PathAssistError as error:
            reasons.append(str(error))
    if plain and suffix in _TIFF:
        return _plain(path, name)
    raise BadInput(reasons[0])


def is_slide_name(path: Path) -> bool:
    """Whether the name alone says that it is a slide."""
    return path.suffix.lower() in SUFFIXES or path.name.lower().endswith((".ome.tif", ".ome.tiff"))


def _openers(path: Path) -> list[Callable[[Path, str], Slide]]:
    try:
        import openslide  # noqa: F401
    except (ModuleNotFoundError, OSError) as error:  # without its C library it raises an OSError
        raise NotAvailable(INSTALL) from error
    from assistant.slides.readers import OpenSlideReader, TiffSlideReader

    # OpenSlide reads the largest image of an OME-TIFF but not the smaller copies, which hang on it as SubIFDs.
    ome = path.name.lower().endswith((".ome.tif", ".ome.tiff", ".ome.btf"))
    if ome:
        return [TiffSlideReader, OpenSlideReader]
    return [OpenSlideReader, TiffSlideReader] if path.suffix.lower() in {*_TIFF, ".svs"} else [OpenSlideReader]


def _plain(path: Path, name: str) -> Slide:
    from assistant.slides.plain import PlainSlide

    return PlainSlide(path, name)
