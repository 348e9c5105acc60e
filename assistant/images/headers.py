"""What an image file says about itself, read from its bytes before any decoder sees them.

Decoders allocate, decompress and follow offsets as they open a file, so a size cap checked afterwards comes too late.
``read_header`` walks each container once, in time and memory bounded by the file's own length, and refuses structures
that only make sense as an attack: a JPEG of thousands of scans, a PNG of millions of chunks, a TIFF directory whose
values overlap so that a small file claims gigabytes.

Errors are phrases that start with a verb ("is empty; …"): the caller puts the name of the image in front.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Literal

from assistant.errors import BadInput

FORMATS = "PNG, JPEG, TIFF or WebP"

#: No ordinary writer comes near these; beyond them opening the file costs seconds to minutes of CPU.
_MAX_SEGMENTS = 16_384  # JPEG segments, WebP chunks, PNG chunks other than IDAT
_MAX_JPEG_SCANS = 100  # progressive encoders write about ten
_MAX_STRIPS = 1 << 18  # strips or tiles of a TIFF
_MAX_TILE_PIXELS = 1 << 26
_MAX_TAGS = 4096  # entries of one TIFF or EXIF directory
_MAX_DIRECTORIES = 16

#: Starts of files that people try, so that the error can name what they gave.
_OTHER_FORMATS = (
    (b"GIF8", "a GIF file"), (b"BM", "a BMP file"), (b"%PDF", "a PDF file"), (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"), (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 file"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 file"), (b"\x89HDF", "an HDF5 file"), (b"SIMPLE", "a FITS file"),
    (b"\x7fELF", "a program"), (b"MZ", "a program"), (b"MM\x00+", "a big-endian BigTIFF"),
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What decoding needs to know beforehand.

    Attributes:
        format: Container, by content.
        width: Pixels, as stored (before the EXIF orientation is applied).
        height: Pixels, as stored.
        bits: Bits per sample, the largest of all channels.
        frames: 1, or 2 for "more than one": nothing here uses later frames.
        cmyk: True for four-ink images.
        orientation: EXIF orientation 1…8; always 1 for TIFF, where Pillow applies it while decoding.
        data: The bytes to decode; of a JPEG without metadata segments and without what follows its end marker.
    """

    format: Literal["PNG", "JPEG", "TIFF", "WebP"]
    width: int
    height: int
    data: bytes
    bits: int = 8
    frames: int = 1
    cmyk: bool = False
    orientation: int = 1


def read_header(data: bytes) -> Header:
    """Identify an image by content and read its size, depth, frame count and orientation.

    Args:
        data: The whole file.

    Raises:
        BadInput: Empty, not one of the four formats, cut off, or built to exhaust a decoder.
    """
    if not data:
        raise BadInput(f"is empty (0 bytes); give a {FORMATS} file")
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00")):
            return _tiff(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError) as error:
        raise BadInput(f"is cut off after {len(data)} bytes; copy or export it again") from error
    raise BadInput(f"is not an image that can be read: it looks like {_guess(data)}; allowed: {FORMATS}")


def _guess(data: bytes) -> str:
    """Name the kind of a file that is none of ours."""
    for magic, name in _OTHER_FORMATS:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "a HEIC, AVIF or video file"
    if data[128:132] == b"DICM":
        return "a DICOM file"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html", b"<script")):
        return "a web page"
    if b"\x00" not in head and all(byte >= 32 or byte in b"\t\r\n\x0b\x0c" for byte in head):
        return "text"
    return "unknown binary data"


def _png(data: bytes) -> Header:
    """Walk the chunks: every checksum is compared here, because decoding alone skips those of the pixel data."""
    view = memoryview(data)
    header: Header | None = None
    pos, others, pixels = 8, 0, False
    while True:
        length, kind = struct.unpack_from(">I4s", data, pos)
        end = pos + 12 + length
        if end > len(data):
            raise BadInput(f"is a truncated PNG: it ends after {len(data)} bytes inside a chunk; export it again")
        if zlib.crc32(view[pos + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            name = kind.decode("latin-1") if kind.isalpha() else kind.hex()
            raise BadInput(f"is a damaged PNG: the checksum of its {name} chunk is wrong; export it again")
        body = view[pos + 8 : end - 4]
        if header is None:
            if kind != b"IHDR" or length != 13:
                raise BadInput("is a damaged PNG: it does not begin with a header chunk; export it again")
            width, height, bits = struct.unpack_from(">IIB", body)
            header = Header("PNG", width, height, data, bits=bits)
        elif kind == b"IDAT":
            pixels = True
        elif kind == b"acTL" and length >= 4 and struct.unpack_from(">I", body)[0] > 1:
            header = replace(header, frames=2)
        elif kind == b"eXIf":
            header = replace(header, orientation=_exif_orientation(bytes(body)))
        elif kind == b"IEND":
            if not pixels:
                raise BadInput("is a damaged PNG: it holds no pixel data; export it again")
            return header
        others += kind != b"IDAT"
        if others > _MAX_SEGMENTS:
            raise BadInput(f"is a PNG of more than {_MAX_SEGMENTS} chunks, as no encoder writes; export it again")
        pos = end


#: A marker, past stuffed zeros, restart markers and fill bytes: what ends a run of entropy-coded data.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
#: APP1…APP13, APP15 and comments. APP0 (JFIF) and APP14 (Adobe) say how to read the colours and stay.
_JPEG_METADATA = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})


def _jpeg(data: bytes) -> Header:
    """Walk the segments to the end marker and leave the metadata out of what will be decoded."""
    sizes: list[tuple[int, int, int, int]] = []
    kept = [b"\xff\xd8"]
    exif = b""
    pos, scans, segments, first_scan = 2, 0, 0, 0
    while match := _JPEG_MARKER.search(data, pos):
        marker, start = data[match.end() - 1], match.start()
        if marker == 0xD9:
            pos = match.end()
            break
        end = match.end() + struct.unpack_from(">H", data, match.end())[0]
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise BadInput(f"is a JPEG of more than {_MAX_SEGMENTS} segments, as no encoder writes; export it again")
        if marker in _JPEG_SIZES:
            sizes.append(struct.unpack_from(">BHHB", data, start + 4))
        if marker == 0xDA:
            scans += 1
            first_scan = first_scan or start
            if scans > _MAX_JPEG_SCANS:
                raise BadInput(f"is a JPEG of more than {_MAX_JPEG_SCANS} scans, as no encoder writes; export it again")
        if not scans:
            if marker == 0xE1 and data.startswith(b"Exif\x00\x00", start + 4):
                exif = exif or data[start + 4 : end]
            if marker not in _JPEG_METADATA:
                kept.append(data[start:end])
        pos = end
    else:
        pos = len(data)
    if len(sizes) != 1 or not scans:
        raise BadInput(f"is a damaged JPEG: {len(sizes)} size headers and {scans} scans; export it again")
    bits, height, width, channels = sizes[0]
    clean = b"".join([*kept, data[first_scan:pos]])
    return Header("JPEG", width, height, clean, bits, cmyk=channels == 4, orientation=_exif_orientation(exif))


def _webp(data: bytes) -> Header:
    """Read the canvas size ahead of libwebp, which allocates whole canvases as it opens a file."""
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        packed = struct.unpack_from("<I", data, 21)[0]
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise BadInput("is a damaged WebP: it holds no picture; export it again")
    frames, orientation, pos = 0, 1, 12
    for _ in range(_MAX_SEGMENTS):
        if pos + 8 > len(data) or frames > 1:
            break
        name, length = struct.unpack_from("<4sI", data, pos)
        frames += name == b"ANMF"
        if name == b"EXIF":
            orientation = _exif_orientation(data[pos + 8 : pos + 8 + length])
        pos += 8 + length + length % 2
    return Header("WebP", width, height, data, frames=max(frames, 1), orientation=orientation)


#: TIFF tags, by number in the TIFF 6.0 and EXIF 2.3 specifications.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_TILE_WIDTH, _TILE_HEIGHT, _OFFSETS, _SUB_IFDS = 322, 323, (273, 324), (34665, 34853, 40965)
#: None, LZW, JPEG, Deflate (two numbers), PackBits, ZSTD, WebP: what colour pictures come in. The rest are fax and
#: scanner codecs that a microscope never wrote, and that print a line for every damaged row.
_COMPRESSIONS = frozenset({1, 5, 7, 8, 32946, 32773, 50000, 50001})
#: Bytes per value of each TIFF type, as Pillow reads them.
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}


def _tiff(data: bytes) -> Header:
    """Read the first directory; a second one makes it a slide or a stack, which are not single fields."""
    tags, following = _read_ifds(data)
    if following:
        raise BadInput(
            "is a TIFF of more than one page, as slides and stacks are; export the page or region to ask about as PNG"
        )
    width, height = (tags.get(tag, (0,))[0] for tag in (_WIDTH, _HEIGHT))
    if not width or not height:
        raise BadInput("is a damaged TIFF: it does not say how large the picture is; export it again")
    tile = tags.get(_TILE_WIDTH, (1,))[0], tags.get(_TILE_HEIGHT, (1,))[0]
    if tile[0] * tile[1] > _MAX_TILE_PIXELS:  # a tile is decoded whole, however small the picture
        raise BadInput(f"is a TIFF with tiles of {tile[0]} x {tile[1]} pixels; export it again as PNG")
    compression = tags.get(_COMPRESSION, (1,))[0]
    if compression not in _COMPRESSIONS:
        raise BadInput(f"is a TIFF with compression {compression}, which is not read; export it as PNG")
    cmyk = tags.get(_PHOTOMETRIC, (2,))[0] == 5
    return Header("TIFF", width, height, data, bits=max(tags.get(_BITS, (1,))), cmyk=cmyk)


def _exif_orientation(exif: bytes) -> int:
    """Orientation 1…8 of an EXIF block, 1 when it is absent or damaged: the pixels may be fine all the same."""
    block = exif.removeprefix(b"Exif\x00\x00")
    if not block.startswith((b"II*\x00", b"MM\x00*")):
        return 1
    try:
        tags, _ = _read_ifds(block)
    except struct.error:
        return 1
    orientation = tags.get(_ORIENTATION, (1,))[0]
    return orientation if 1 <= orientation <= 8 else 1


def _read_ifds(block: bytes) -> tuple[dict[int, tuple[int, ...]], int]:
    """Read the integer tags of the first TIFF directory, and prove that no directory claims more than there is.

    Pillow copies the bytes of every entry of the first directory and of the EXIF ones below it. Entries that overlap
    would make it copy a small file thousands of times, so the bytes claimed in all may not exceed the file.

    Returns:
        Up to eight values per integer tag of the first directory, and the offset of the second (0: there is none).
    """
    order = "<" if block[:2] == b"II" else ">"
    big = block[2] == 43
    count_code, entry_code, entry_size, inline = ("Q", "HHQ", 20, 8) if big else ("H", "HHI", 12, 4)
    word = "Q" if big else "I"
    (first,) = struct.unpack_from(order + word, block, 8 if big else 4)
    if first >= len(block):
        raise struct.error("the first directory lies behind the end of the file")
    claimed, following = 0, 0
    tags: dict[int, tuple[int, ...]] = {}
    seen: set[int] = set()
    queue = [first]
    while queue:
        at = queue.pop()
        if at in seen or at >= len(block):
            continue
        seen.add(at)
        if len(seen) > _MAX_DIRECTORIES:
            raise BadInput(f"holds more than {_MAX_DIRECTORIES} metadata directories; export it again as PNG")
        (count,) = struct.unpack_from(order + count_code, block, at)
        at += struct.calcsize(order + count_code)
        if count > _MAX_TAGS:
            raise BadInput(f"holds {count} metadata entries (at most {_MAX_TAGS}); export it again as PNG")
        readable = min(count, (len(block) - at) // entry_size)
        for index in range(readable):
            here = at + index * entry_size
            tag, kind, values = struct.unpack_from(order + entry_code, block, here)
            size = values * _TYPE_SIZES.get(kind, 0)
            where = here + entry_size - inline
            if size > inline:
                claimed += size
                (where,) = struct.unpack_from(order + word, block, where)
            if claimed > len(block) + 4096:
                raise BadInput("holds metadata that claims more bytes than the file has; export it again as PNG")
            if kind not in _TYPE_CODES or not values or where + size > len(block):
                continue
            if tag in _OFFSETS and values > _MAX_STRIPS:
                raise BadInput(f"is a TIFF of {values} strips (at most {_MAX_STRIPS}); export it again as PNG")
            numbers = struct.unpack_from(f"{order}{min(values, 8)}{_TYPE_CODES[kind]}", block, where)
            if tag in _SUB_IFDS:
                queue.append(numbers[0])
            if len(seen) == 1:
                tags[tag] = numbers
        if len(seen) == 1 and readable == count and len(block) >= at + count * entry_size + inline:
            (following,) = struct.unpack_from(order + word, block, at + count * entry_size)
    return tags, following
