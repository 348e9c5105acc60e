"""The one door for images: whatever a user gives becomes a plain RGB image, or one clear error.

Everything else in the project works on what comes out of here, so no path, URL or byte of a user reaches another
library. Metadata (EXIF, GPS, slide labels, comments) does not come through: the result is a new image of pixels only.

A whole slide given by its path becomes an overview of at most 1,024 pixels, and :func:`image_warnings` says so and
names the command that cuts out a field: who asks about a slide gets an answer about it, and knows how coarse it was.
"""

from __future__ import annotations

import binascii
import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from assistant.errors import BadInput, PathAssistError, TooLarge
from assistant.images import quality
from assistant.images.headers import read_header
from assistant.images.quality import blankness

__all__ = [
    "DEFAULT_LIMITS",
    "ImageSource",
    "Limits",
    "blankness",
    "decode_data_uri",
    "image_warnings",
    "load_image",
    "load_images",
]

ImageSource = Image.Image | str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

# Pillow's readers are called by name rather than through Image.open: that one also warns about large images through
# the process-wide warning filters, where threads of a server would see each other's settings. The caps are ours.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": JpegImageFile,
    "TIFF": TiffImageFile,
    "WebP": WebPImageFile,
}


@dataclass(frozen=True)
class Limits:
    """What an image may cost. All are checked before a decoder runs.

    Attributes:
        max_bytes: Size of the file.
        max_pixels: Width times height. Decoding takes up to about 12 bytes of memory per pixel.
        min_side: Shorter side in pixels.
        max_aspect: Longer over shorter side.
    """

    max_bytes: int = 50 * 1024 * 1024
    max_pixels: int = 100_000_000
    min_side: int = 2
    max_aspect: float = 100.0


DEFAULT_LIMITS = Limits()
_OVERVIEW = 1024
_NOTE = "slide overview"  # key in ``Image.info``; its value is an object, which no file can bring along
_TIFF = (".tif", ".tiff", ".btf")


@dataclass(frozen=True)
class SlideOverview:
    """What an image made of a whole slide carries in ``info["slide overview"]``: the slide's size in pixels."""

    width: int
    height: int

    def __str__(self) -> str:
        return (
            f"a whole slide of {self.width} x {self.height} pixels was given and only its overview of at most "
            f"{_OVERVIEW} pixels was looked at; for a field use: "
            "pathassist slide region SLIDE X Y WIDTH HEIGHT --out field.png"
        )


def image_warnings(image: Image.Image) -> tuple[str, ...]:
    """Sentences for a reader about what makes the image doubtful, as in ``quality``, and about slides."""
    note = image.info.get(_NOTE)
    return (*([str(note)] if isinstance(note, SlideOverview) else []), *quality.image_warnings(image))


def load_image(source: ImageSource, *, limits: Limits = DEFAULT_LIMITS, overview: bool = True) -> Image.Image:
    """Turn an image in any accepted form into a new RGB image.

    The EXIF orientation is applied and then all metadata dropped; transparency is laid over white; palette and grey
    images are converted. A file is judged by its content, its name does not matter.

    Args:
        source: A PIL image, a path, the bytes of a file, or a binary file object (read from its start). URLs are not
            opened; see ``decode_data_uri`` for data URIs.
        limits: Caps on bytes, pixels and shape.
        overview: A path of a whole slide (by its name, or a TIFF over the caps) gives an overview of the slide.

    Returns:
        A new image: mode ``"RGB"``, [H, W], empty ``info`` except for an overview's :class:`SlideOverview`. ``source``
        is not changed.

    Raises:
        TooLarge: More bytes or pixels than ``limits`` allow.
        BadInput: Anything else that is not one still picture of 8 bits per channel in PNG, JPEG, TIFF or WebP.
    """
    name = "the image"
    try:
        if isinstance(source, Image.Image):
            return _from_pil(source, limits)
        if overview and isinstance(source, (str, os.PathLike)) and (slide := _slide_path(source, limits)):
            return _slide_overview(slide)
        if isinstance(source, (str, os.PathLike)):
            name, data = _read_path(source, limits)
        elif isinstance(source, (bytes, bytearray, memoryview)):
            data = bytes(source)
        elif hasattr(source, "read"):
            data = _read_stream(source, limits)
        else:
            raise BadInput(
                f"is a {type(source).__name__}; give a PIL image, a path, bytes or a binary file"
                " (for an array: PIL.Image.fromarray)"
            )
        return _decode(data, limits)
    except PathAssistError as error:
        raise type(error)(f"{name} {error}") from error


def load_images(sources: ImageSource | Sequence[ImageSource], *, limits: Limits = DEFAULT_LIMITS) -> list[Image.Image]:
    """``load_image`` for one image or several, in the order given.

    Raises:
        BadInput: As ``load_image``; with several images the message says which one it is.
    """
    if not isinstance(sources, Sequence) or isinstance(sources, (str, bytes, bytearray, memoryview)):
        return [load_image(sources, limits=limits)]
    images = []
    for index, source in enumerate(sources, start=1):
        try:
            images.append(load_image(source, limits=limits))
        except PathAssistError as error:
            raise type(error)(f"image {index} of {len(sources)}: {error}") from error
    return images


def decode_data_uri(uri: str, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """Decode ``data:image/…;base64,…``, the only form of image reference that is accepted from the network.

    The declared subtype is ignored: content decides.

    Raises:
        TooLarge: The payload is over ``limits.max_bytes``; found before it is decoded.
        BadInput: Any other URI or path (never opened, never repeated in the message), or not valid base64.
    """
    if not isinstance(uri, str):
        raise BadInput(f"an image reference must be a string, got {type(uri).__name__}")
    head, comma, _ = uri[:256].partition(",")
    words = head.strip().lower().split(";")
    if not (comma and words[0].startswith("data:image/") and words[-1] == "base64"):
        scheme = uri[:16].partition(":")[0].lower()
        kind = f"a {scheme} URL" if scheme in {"http", "https", "ftp", "file", "data", "s3", "gs"} else "other text"
        raise BadInput(
            f"only data URIs are accepted for images (data:image/png;base64,...), got {kind};"
            " URLs and local paths are never opened: send the image itself as base64"
        )
    payload = len(uri) - len(head) - 1
    if payload > limits.max_bytes * 4 / 3 * 1.05 + 4:  # 5 % for line breaks
        raise TooLarge(f"the image has about {_mib(payload * 3 // 4)}; the limit is {_mib(limits.max_bytes)}")
    try:
        text = uri[len(head) + 1 :].encode("ascii").translate(None, b" \t\r\n")
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise BadInput("the image's data URI is not valid base64; encode the file's bytes with base64") from error
    return load_image(data, limits=limits)


def _slide_path(source: str | os.PathLike[str], limits: Limits) -> Path | None:
    """The path when it names a slide: by its suffix, or a TIFF that is over the caps as an image and has a pyramid."""
    from assistant.slides import is_slide_name, open_slide

    try:
        path = Path(os.fsdecode(source))
        if not path.is_file():
            return None
        if is_slide_name(path):
            return path
        if path.suffix.lower() not in _TIFF:
            return None
        with path.open("rb") as file:
            header = read_header(file.read(limits.max_bytes)) if path.stat().st_size <= limits.max_bytes else None
        if header is not None and header.width * header.height <= limits.max_pixels:
            return None
        with open_slide(path, plain=False) as slide:
            return path if len(slide.levels) > 1 else None
    except (PathAssistError, OSError, ValueError):
        return None  # what is wrong with it is said by who reads it as an image


def _slide_overview(path: Path) -> Image.Image:
    """The whole slide in at most 1,024 pixels, with a note that it is."""
    from assistant.slides import open_slide

    try:
        with open_slide(path, plain=False, name="") as slide:
            image = slide.thumbnail(_OVERVIEW)
            image.info = {_NOTE: SlideOverview(*slide.size)}
            return image
    except PathAssistError as error:
        raise type(error)(str(error).removeprefix("'' ")) from error


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"


def _check_bytes(size: int, limits: Limits) -> None:
    if size > limits.max_bytes:
        raise TooLarge(f"has {_mib(size)}; the limit is {_mib(limits.max_bytes)}: crop or downsample it")


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"is {width} x {height} pixels, {width * height / 1e6:,.0f} million;"
            f" the limit is {limits.max_pixels / 1e6:,.0f} million: crop or downsample it"
        )
    if min(width, height) < limits.min_side:
        raise BadInput(f"is {width} x {height} pixels; each side must have at least {limits.min_side}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise BadInput(
            f"is {width} x {height} pixels; the longer side may be at most {limits.max_aspect:g} times the shorter:"
            " crop it"
        )


def _read_path(source: str | os.PathLike[str], limits: Limits) -> tuple[str, bytes]:
    """Read a regular file of acceptable size; returns its quoted base name for messages, and its bytes."""
    path = os.fspath(source)
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    shown = repr(path if len(path) <= 200 else path[:197] + "...")
    if path[:5].lower() == "data:" or "://" in path[:16]:
        raise BadInput("is given as a URL; URLs are not opened here: download it, then give its path or its bytes")
    try:
        # Without this a pipe would block for ever and a device never end.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            kind = "a directory; name the files in it" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise BadInput(f"{shown} is {kind}")
        _check_bytes(status.st_size, limits)
        with open(path, "rb") as file:
            return repr(os.path.basename(path)), _read_stream(file, limits)
    except FileNotFoundError as error:
        raise BadInput(f"{shown} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInput(f"{shown} cannot be read: {reason}") from error


def _read_stream(stream: BinaryIO, limits: Limits) -> bytes:
    """Read at most one byte more than allowed, so an endless stream ends too."""
    try:
        if stream.seekable():
            stream.seek(0)
        blocks, total = [], 0
        while total <= limits.max_bytes and (block := stream.read(min(1 << 20, limits.max_bytes + 1 - total))):
            blocks.append(block)
            total += len(block)
        data = b"".join(blocks)
    except (OSError, ValueError, AttributeError) as error:
        raise BadInput(f"cannot be read: {_one_line(error)}") from error
    except TypeError as error:
        raise BadInput("is a file opened as text; open it in binary mode ('rb')") from error
    _check_bytes(total, limits)
    return data


def _decode(data: bytes, limits: Limits) -> Image.Image:
    _check_bytes(len(data), limits)
    header = read_header(data)
    _check_size(header.width, header.height, limits)
    if header.frames > 1:
        raise BadInput(f"is an animated {header.format}; give one still picture: export a single frame as PNG")
    if header.cmyk:
        raise BadInput(f"is a {header.format} in CMYK (print colours); convert it to RGB and save it as PNG")
    if header.bits > 8:
        raise BadInput(
            f"is a {header.format} of {header.bits} bits per channel; scale it to 8 bits per channel and save it as PNG"
        )
    try:
        with _READERS[header.format](io.BytesIO(header.data)) as image:
            # What Pillow found counts, in case the file tells it something else than it told us.
            _check_size(*image.size, limits)
            image.load()
            return _plain_rgb(image, header.orientation)
    except PathAssistError:
        raise
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLarge("needs more memory to decode than there is; crop or downsample it") from error
    except Exception as error:  # hostile bytes make Pillow's readers raise nearly anything
        raise BadInput(f"is a damaged {header.format}: {_one_line(error)}; copy or export it again") from error


def _from_pil(image: Image.Image, limits: Limits) -> Image.Image:
    """Check and copy an image the caller opened; it may still be undecoded, so decoding may fail here."""
    _check_size(*image.size, limits)
    if getattr(image, "is_animated", False):
        raise BadInput("has several frames or pages; give one still picture: image.copy() after image.seek(n)")
    try:
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        rgb = _plain_rgb(image, orientation)
        if isinstance(note := image.info.get(_NOTE), SlideOverview):
            rgb.info = {_NOTE: note}
        return rgb
    except PathAssistError:
        raise
    except Exception as error:  # as in _decode
        raise BadInput(f"cannot be decoded: {_one_line(error)}; open or export it again") from error


def _plain_rgb(image: Image.Image, orientation: int) -> Image.Image:
    """Convert decoded pixels to a new RGB image without metadata, turned upright."""
    if image.mode in {"I", "F"} or image.mode.startswith("I;"):
        raise BadInput(f"has more than 8 bits per channel (mode {image.mode}); scale it to 8 bits and save it as PNG")
    if image.mode in {"CMYK", "LAB"}:
        raise BadInput(f"is in {image.mode} colours; convert it to RGB and save it as PNG")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        rgb = Image.new("RGB", rgba.size, "white")
        rgb.paste(rgba, mask=rgba)
    else:
        rgb = image.convert("RGB")
    rgb.info = {}
    if orientation in range(2, 9):
        # Pillow's own table of turns, on an image whose only metadata is the number just read.
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
        rgb = ImageOps.exif_transpose(rgb)
    return rgb


def _one_line(error: BaseException) -> str:
    """The first line of a library's message, short, or the kind of error where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0][:120].rstrip(".") if lines else type(error).__name__
