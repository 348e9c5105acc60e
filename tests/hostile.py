"""Image files that must be refused with one clear line, generated: shared by the tests of intake, API and page.

Each file is small on disk (under 4 MB); none may crash, hang or exhaust whoever opens it.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def sample(width: int = 96, height: int = 64) -> Image.Image:
    """A colourful, noisy RGB image: compresses badly, so that cutting its file anywhere hits pixel data."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise[: height // 2] = noise[: height // 2] // 4 + np.array([150, 90, 140], dtype=np.uint8)
    return Image.fromarray(noise)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of ``image`` saved in a Pillow format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """One PNG chunk with a right checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def ihdr(width: int, height: int, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG header chunk; colour 0 is grey, 2 is RGB."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))


def png_of(header: bytes, raw: bytes, *extra: bytes) -> bytes:
    """A PNG of a header chunk, more chunks and the rows ``raw`` (filter bytes included)."""
    return PNG_MAGIC + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND")


def tiff_of(tags: Iterable[tuple[int, int, int, int]], following: int = 0, tail: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory of (tag, type, count, value or offset) entries."""
    entries = sorted(tags)
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<4sIH", b"II*\x00", 8, len(entries)) + directory + struct.pack("<I", following) + tail


def tiff_tags(width: int, height: int, strip: int = 8) -> list[tuple[int, int, int, int]]:
    """The tags of an uncompressed grey picture in one strip."""
    return [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, strip),
        (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, width * height % 2**32),
    ]  # fmt: skip


def overlapping_exif(tags: int = 4000, size: int = 30_000) -> bytes:
    """An EXIF block whose every entry claims the same bytes: read naively, kilobytes become 120 MB."""
    entries = [(0x9000 + index, 7, size, 8) for index in range(tags)]
    return tiff_of(entries, tail=bytes(size))


def progressive_scans(count: int) -> bytes:
    """A progressive JPEG that repeats its last scan over and over: each repetition costs a pass over the picture."""
    data = encoded(Image.new("RGB", (1024, 1024), "pink"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def _animation(kind: str) -> bytes:
    frames = [sample(), sample().rotate(90), sample().rotate(180)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("field.png", bytes(1 << 20))
    return stream.getvalue()


def _damaged() -> dict[str, bytes]:
    """Files that began as good ones."""
    rgb = sample()
    png, jpeg = encoded(rgb, "PNG"), encoded(rgb, "JPEG", quality=95)
    tiff, webp = encoded(rgb, "TIFF", compression="tiff_lzw"), encoded(rgb, "WEBP", lossless=True)
    plain_tiff = encoded(rgb, "TIFF")
    bad_header_sum, bad_pixel_sum = bytearray(png), bytearray(png)
    bad_header_sum[29] ^= 0xFF
    bad_pixel_sum[png.index(b"IDAT") + 200] ^= 0x10
    rows = b"".join(b"\x00" + bytes(30) for _ in range(10))
    return {
        "empty.png": b"",
        "magic_only.png": PNG_MAGIC,
        "truncated_in_header.png": png[:20],
        "truncated_in_pixels.png": png[: len(png) // 2],
        "truncated_before_end.png": png[:-12],
        "truncated_in_header.jpg": jpeg[:100],
        "truncated_in_pixels.jpg": jpeg[: len(jpeg) // 2],
        "no_pixels.jpg": b"\xff\xd8\xff\xd9",
        "truncated_in_header.tif": plain_tiff[:6],
        "truncated_in_pixels.tif": plain_tiff[: len(plain_tiff) // 2],
        "truncated_compressed.tif": tiff[: len(tiff) // 2],
        "truncated_in_header.webp": webp[:18],
        "truncated_in_pixels.webp": webp[: len(webp) // 2],
        "wrong_checksum_header.png": bytes(bad_header_sum),
        "wrong_checksum_pixels.png": bytes(bad_pixel_sum),
        "wrong_dimensions.png": png_of(ihdr(64, 64), rows),
        "zero_width.png": png_of(ihdr(0, 10), rows),
        "no_pixels.png": PNG_MAGIC + ihdr(10, 10) + chunk(b"IEND"),
        "no_dimensions.tif": tiff_of([(258, 3, 1, 8), (259, 3, 1, 1)]),
    }


def _bombs() -> dict[str, bytes]:
    """Small files that claim, or unpack to, far more than they weigh."""
    row = b"\x00" + bytes(1500)
    zeros = zlib.compress(bytes(8 << 20), 9)
    small_rows = b"".join(b"\x00" + bytes(30) for _ in range(10))
    jpeg = encoded(sample(), "JPEG")
    size_at = jpeg.index(b"\xff\xc0") + 5
    canvas = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (65534).to_bytes(3, "little") * 2
    return {
        "huge_header.png": png_of(ihdr(2**31 - 1, 2**31 - 1), small_rows),
        "decompression_bomb.png": png_of(ihdr(12_000, 12_000, bits=1, colour=0), row * 12_000),
        "second_header.png": png_of(ihdr(10, 10), small_rows, ihdr(60_000, 60_000)),
        "profile_bomb.png": png_of(ihdr(10, 10), small_rows, chunk(b"iCCP", b"icc\x00\x00" + zeros)),
        "text_bomb.png": png_of(ihdr(10, 10), small_rows, chunk(b"zTXt", b"Comment\x00\x00" + zeros)),
        "chunk_flood.png": png_of(ihdr(10, 10), small_rows, chunk(b"prVt") * 100_000),
        "huge_header.jpg": jpeg[:size_at] + b"\xff\xff\xff\xff" + jpeg[size_at + 4 :],
        "exif_bomb.jpg": encoded(sample(), "JPEG", exif=b"Exif\x00\x00" + overlapping_exif(900, 30_000)),
        "exif_bomb.webp": encoded(sample(), "WEBP", exif=overlapping_exif()),
        "segment_flood.jpg": jpeg[:2] + b"\xff\xfe\x00\x02" * 100_000 + jpeg[2:],
        "scan_flood.jpg": progressive_scans(20_000),
        "huge_width.tif": tiff_of(tiff_tags(2**31, 16)),
        "directory_loop.tif": tiff_of(tiff_tags(8, 8), following=8, tail=bytes(64)),
        "overlapping_tags.tif": overlapping_exif(),
        "strip_flood.tif": tiff_of(
            [tag for tag in tiff_tags(64, 64) if tag[0] != 273] + [(273, 4, 300_000, 200)], tail=bytes(1_300_000)
        ),
        "huge_tile.tif": tiff_of([*tiff_tags(64, 64), (322, 4, 1, 2**20), (323, 4, 1, 2**20)], tail=bytes(5000)),
        "huge_canvas.webp": b"RIFF" + struct.pack("<I", len(canvas) + 4) + b"WEBP" + canvas,
    }


def _wrong_kind() -> dict[str, bytes]:
    """Honest files of a kind that is not taken, and files that pretend to be images."""
    rgb = sample()
    rows16 = b"".join(b"\x00" + bytes(60) for _ in range(10))
    entity = '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    return {
        "one_pixel.png": encoded(rgb.crop((0, 0, 1, 1)), "PNG"),
        "ribbon.png": encoded(Image.new("RGB", (20_000, 2), "pink"), "PNG"),
        "animated.png": _animation("PNG"),
        "animated.webp": _animation("WEBP"),
        "two_pages.tif": encoded(rgb, "TIFF", save_all=True, append_images=[rgb]),
        "cmyk.jpg": encoded(rgb.convert("CMYK"), "JPEG"),
        "cmyk.tif": encoded(rgb.convert("CMYK"), "TIFF"),
        "fax.tif": encoded(rgb.convert("1"), "TIFF", compression="group4"),
        "lab.tif": encoded(Image.new("LAB", (16, 16)), "TIFF"),
        "sixteen_bit_grey.png": encoded(Image.new("I;16", (16, 16), 4000), "PNG"),
        "sixteen_bit_rgb.png": png_of(ihdr(10, 10, bits=16), rows16),
        "sixteen_bit.tif": encoded(Image.new("I;16", (16, 16), 4000), "TIFF"),
        "float.tif": encoded(Image.new("F", (16, 16), 0.5), "TIFF"),
        "gif_and_script.gif": encoded(rgb, "GIF").replace(b"GIF87a", b"GIF89a") + b"*/=1;alert(1)//",
        "bitmap.bmp": encoded(rgb, "BMP"),
        "web_page.png": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
        "external_entity.svg": f'{entity}<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'.encode(),
        "archive.jpg": _zip(),
        "document.pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj<</Type/Catalog>>endobj",
        "words.png": b"this is not an image\n",
        "noise.webp": np.random.default_rng(1).bytes(4096),
        "heic.jpg": struct.pack(">I", 24) + b"ftypheic" + bytes(200),
    }


def hostile_files(folder: Path) -> dict[str, Path]:
    """Write every hostile file into ``folder``.

    Returns:
        File name → path. Each one must be refused by ``assistant.images.load_image`` with a ``BadInput``.
    """
    files = {**_damaged(), **_bombs(), **_wrong_kind()}
    paths = {}
    for name, data in files.items():
        paths[name] = folder / name
        paths[name].write_bytes(data)
    return paths
