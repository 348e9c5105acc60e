"""The door for images: everything good comes in as plain RGB, everything hostile ends in one clear line."""

from __future__ import annotations

import base64
import io
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps, PngImagePlugin

from assistant.errors import BadInput, PathAssistError, TooLarge
from assistant.images import DEFAULT_LIMITS, Limits, decode_data_uri, load_image, load_images
from tests.hostile import chunk, encoded, hostile_files, ihdr, png_of, sample

LOSSLESS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "tiff": ("TIFF", {}),
    "tiff-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tiff-deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "tiff-packbits": ("TIFF", {"compression": "packbits"}),
    "tiff-zstd": ("TIFF", {"compression": "zstd"}),
    "bigtiff": ("TIFF", {"big_tiff": True}),
    "webp": ("WEBP", {"lossless": True}),
}


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.size == b.size and np.array_equal(np.asarray(a), np.asarray(b))


def message(source: Any, limits: Limits = DEFAULT_LIMITS) -> str:
    """The text of the error that ``source`` is refused with, checked to be one line."""
    with pytest.raises(BadInput) as caught:
        load_image(source, limits=limits)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 300
    return text


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return hostile_files(tmp_path_factory.mktemp("hostile"))


# ---------------------------------------------------------------- hostile files


def test_hostile_files_are_refused(hostile: dict[str, Path], subtests: pytest.Subtests) -> None:
    assert len(hostile) >= 24
    for name, path in hostile.items():
        with subtests.test(name):
            began = time.process_time()
            text = message(path)
            assert time.process_time() - began < 2
            assert name in text
            assert str(path.parent) not in text
            assert message(path.read_bytes()).startswith("the image ")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("huge_header.png", "4,611,686,014,132 million"),
        ("huge_header.jpg", "65535 x 65535"),
        ("huge_width.tif", "2147483648 x 16"),
        ("huge_canvas.webp", "65535 x 65535"),
        ("decompression_bomb.png", "12000 x 12000"),
        ("second_header.png", "60000 x 60000"),
    ],
)
def test_bombs_are_refused_by_size(hostile: dict[str, Path], name: str, says: str) -> None:
    with pytest.raises(TooLarge, match="limit is 100 million") as caught:
        load_image(hostile[name])
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("empty.png", "empty"),
        ("truncated_in_pixels.png", "truncated"),
        ("truncated_in_pixels.jpg", "truncated"),
        ("truncated_in_pixels.tif", "truncated"),
        ("truncated_compressed.tif", "cut off"),
        ("wrong_checksum_pixels.png", "checksum of its IDAT"),
        ("animated.png", "animated PNG"),
        ("animated.webp", "animated WebP"),
        ("two_pages.tif", "more than one page, as slides"),
        ("cmyk.jpg", "convert it to RGB"),
        ("sixteen_bit_rgb.png", "16 bits per channel; scale it to 8 bits"),
        ("float.tif", "32 bits per channel"),
        ("fax.tif", "compression 4"),
        ("one_pixel.png", "1 x 1 pixels"),
        ("ribbon.png", "20000 x 2 pixels"),
        ("gif_and_script.gif", "a GIF file"),
        ("web_page.png", "a web page"),
        ("archive.jpg", "a zip archive"),
        ("external_entity.svg", "an SVG drawing"),
        ("heic.jpg", "HEIC"),
    ],
)
def test_errors_name_what_is_wrong(hostile: dict[str, Path], name: str, says: str) -> None:
    assert says in message(hostile[name])


@pytest.mark.parametrize("kind", ["png", "tiff", "tiff-lzw", "webp", "jpeg"])
def test_cut_anywhere_is_refused_or_rgb(kind: str) -> None:
    save, options = LOSSLESS.get(kind, ("JPEG", {}))
    data = encoded(sample(), save, **options)
    refused = 0
    for end in range(0, len(data), max(1, len(data) // 60)):
        try:
            assert load_image(data[:end]).mode == "RGB"
        except PathAssistError:
            refused += 1
    assert refused > 50


BASES = {
    "png": encoded(sample(24, 16), "PNG"),
    "jpeg": encoded(sample(24, 16), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x01\x00\x12\x01\x03\x00\x01"
                    b"\x00\x00\x00\x06\x00\x00\x00\x00\x00\x00\x00"),
    "progressive": encoded(sample(24, 16), "JPEG", progressive=True),
    "tiff": encoded(sample(24, 16), "TIFF"),
    "tiff-deflate": encoded(sample(24, 16), "TIFF", compression="tiff_adobe_deflate"),
    "webp": encoded(sample(24, 16), "WEBP", exif=b"II*\x00\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BASES)
# CPU time is bounded in the test: a deadline in wall time fails on a busy machine.
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutated_files_end_in_rgb_or_a_clear_error(kind: str, data: st.DataObject) -> None:
    base = BASES[kind]
    flips = data.draw(
        st.lists(st.tuples(st.integers(0, len(base) - 1), st.integers(0, 255)), min_size=1, max_size=8), label="flips"
    )
    # Headers are where the damage is done: half of the flips are steered there.
    mutated = bytearray(base)
    for index, (where, value) in enumerate(flips):
        mutated[where % 64 if index % 2 else where] = value
    cut = data.draw(st.integers(0, 40), label="cut")
    began = time.process_time()
    try:
        image = load_image(bytes(mutated[: len(mutated) - cut]), limits=Limits(max_pixels=1_000_000))
    except PathAssistError as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert image.mode == "RGB"
        assert image.info == {}
    assert time.process_time() - began < 1


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(head=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"II+\x00\x08\x00\x00\x00",
                             b"MM\x00*", b"RIFF\x00\x01\x00\x00WEBPVP8X"]), body=st.binary(max_size=300))  # fmt: skip
def test_random_bytes_are_refused(head: bytes, body: bytes) -> None:
    with pytest.raises(BadInput):
        load_image(head + body)


# ---------------------------------------------------------------- what comes in


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind: str) -> None:
    save, options = LOSSLESS[kind]
    assert same(load_image(encoded(sample(), save, **options)), sample())


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
def test_jpeg_decodes_as_pillow_does(options: dict[str, Any]) -> None:
    data = encoded(sample(), "JPEG", **options)
    assert same(load_image(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_adobe_rgb_jpeg_keeps_its_colours() -> None:
    """A JPEG stored without YCbCr is told apart only by its Adobe segment, which must survive the metadata cut."""
    data = encoded(sample(), "JPEG", quality=95, subsampling=0, keep_rgb=True)
    assert same(load_image(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_kind_of_source(tmp_path: Path) -> None:
    data = encoded(sample(), "PNG")
    path = tmp_path / "field.png"
    path.write_bytes(data)
    at_end = io.BytesIO(data)
    at_end.seek(0, io.SEEK_END)
    with path.open("rb") as file:
        sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), at_end, file, sample()]
        for source in sources:
            assert same(load_image(source), sample())


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    for name in ("field.jpg", "field.txt", "field", "fi\neld.PNG"):
        (tmp_path / name).write_bytes(encoded(sample(), "PNG"))
        assert same(load_image(tmp_path / name), sample())


@pytest.mark.parametrize("tail", [b"PK\x03\x04 a zip behind the picture", b"\xff\xd8\xff\xe0", b"\xff\xda" * 500])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_what_follows_the_picture_is_left_behind(kind: str, tail: bytes) -> None:
    data = encoded(sample(), kind)
    assert same(load_image(data + tail), load_image(data))


def test_first_picture_of_a_camera_pair() -> None:
    """Phones write MPO: a JPEG with a second picture behind it."""
    data = encoded(sample(), "MPO", save_all=True, append_images=[sample().rotate(180)])
    assert same(load_image(data), Image.open(io.BytesIO(data)).convert("RGB"))


def test_grey_palette_and_one_bit_become_rgb() -> None:
    grey = sample().convert("L")
    palette = sample().quantize(32)
    for image in (grey, palette, grey.convert("1")):
        for kind in ("PNG", "TIFF"):
            assert same(load_image(encoded(image, kind)), image.convert("RGB"))
        assert same(load_image(image), image.convert("RGB"))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", None])
def test_transparency_is_laid_over_white(kind: str | None) -> None:
    rgba = Image.new("RGBA", (8, 4), (200, 0, 100, 0))  # hidden colour under full transparency
    rgba.paste((10, 20, 30, 255), (0, 0, 4, 4))
    rgba.putpixel((7, 3), (0, 0, 0, 128))
    image = load_image(rgba if kind is None else encoded(rgba, kind, lossless=True))
    assert image.getpixel((0, 0)) == (10, 20, 30)
    assert image.getpixel((5, 0)) == (255, 255, 255)
    assert image.getpixel((7, 3)) == (127, 127, 127)


def test_other_transparency_of_png() -> None:
    palette = Image.new("P", (8, 4), 1)
    palette.putpalette([1, 2, 3, 250, 0, 0])
    palette.putpixel((0, 0), 0)
    assert load_image(encoded(palette, "PNG", transparency=1)).getpixel((5, 2)) == (255, 255, 255)
    assert load_image(encoded(palette, "PNG", transparency=b"\xff\x80")).getpixel((0, 0)) == (1, 2, 3)
    grey_alpha = Image.new("LA", (8, 4), (40, 0))
    assert load_image(encoded(grey_alpha, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    rgb = Image.new("RGB", (8, 4), (9, 8, 7))
    assert load_image(encoded(rgb, "PNG", transparency=(9, 8, 7))).getpixel((0, 0)) == (255, 255, 255)


# ---------------------------------------------------------------- metadata


def private_exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "PATIENT Jane Doe"
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 18.0)}
    return exif


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_orientation_is_applied_and_metadata_dropped(kind: str, orientation: int) -> None:
    image = sample(48, 32).resize((96, 64), Image.Resampling.NEAREST)
    data = encoded(image, kind, exif=private_exif(orientation).tobytes(), lossless=True, quality=95)
    assert b"Jane Doe" in data
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    for source in (data, Image.open(io.BytesIO(data))):
        loaded = load_image(source)
        assert same(loaded, upright)
        assert loaded.info == {}
        assert not loaded.getexif()
        for again in ("PNG", "JPEG", "TIFF", "WEBP"):
            assert b"Jane Doe" not in encoded(loaded, again)


def test_text_profile_and_comment_are_dropped() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Label", "Jane Doe 1970")
    text.add_itxt("XML:com.adobe.xmp", "<x>Jane Doe</x>")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    png = encoded(sample(), "PNG", pnginfo=text, icc_profile=profile, dpi=(72, 72))
    jpeg = encoded(sample(), "JPEG", comment=b"Jane Doe", icc_profile=profile, dpi=(72, 72))
    for data in (png, jpeg):
        image = load_image(data)
        assert image.info == {}
        assert not hasattr(image, "text")
        assert type(image) is Image.Image


def test_the_given_image_is_left_alone() -> None:
    given = sample()
    given.info["note"] = "kept"
    loaded = load_image(given)
    loaded.putpixel((0, 0), (1, 2, 3))
    assert given.info == {"note": "kept"}
    assert same(given, sample())


def test_damaged_exif_does_not_cost_the_picture() -> None:
    data = encoded(sample(), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00")
    assert load_image(data).size == sample().size


# ---------------------------------------------------------------- limits


def test_a_large_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(200 << 30)  # sparse: 200 GiB that are nowhere
    began = time.process_time()
    with pytest.raises(TooLarge, match=r"204800.0 MiB; the limit is 50.0 MiB"):
        load_image(path)
    assert time.process_time() - began < 1


def test_an_endless_stream_is_refused() -> None:
    class Endless(io.RawIOBase):
        taken = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            self.taken += len(buffer)
            return len(buffer)

    stream = Endless()
    with pytest.raises(TooLarge, match=r"1.0 MiB"):
        load_image(stream, limits=Limits(max_bytes=1 << 20))  # type: ignore[arg-type]
    assert stream.taken <= 2 << 20


def test_pixels_are_counted_before_decoding() -> None:
    broken = png_of(ihdr(300, 300), b"\x00" * 100)
    assert "truncated" in message(broken)
    for data in (broken, *(encoded(sample(300, 300), kind) for kind in ("JPEG", "TIFF", "WEBP"))):
        with pytest.raises(TooLarge, match=r"300 x 300 pixels"):
            load_image(data, limits=Limits(max_pixels=89_999))


def test_limits_hold_for_pil_images_too() -> None:
    with pytest.raises(TooLarge):
        load_image(sample(), limits=Limits(max_pixels=100))
    assert "at most 2 times" in message(Image.new("RGB", (90, 30)), Limits(max_aspect=2))
    assert "at least 64" in message(sample(100, 40), Limits(min_side=64))
    assert load_image(Image.new("RGB", (2, 2))).size == (2, 2)


@pytest.mark.parametrize("mode", ["I", "F", "I;16", "CMYK", "LAB"])
def test_pil_modes_that_would_lose_meaning(mode: str) -> None:
    assert "PNG" in message(Image.new(mode, (16, 16)))


def test_pil_image_with_frames(hostile: dict[str, Path]) -> None:
    with Image.open(hostile["animated.webp"]) as image:
        assert "several frames" in message(image)


def test_pil_image_that_cannot_be_decoded() -> None:
    lazy = Image.open(io.BytesIO(encoded(sample(), "JPEG")[:2000]))
    assert "cannot be decoded" in message(lazy)


def test_pillows_own_cap_is_neither_needed_nor_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's threads share Pillow's cap and Python's warning filters; both stay as they were found."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)  # between one and two times this, Pillow only warns
    filters = list(warnings.filters)
    data = [encoded(sample(), kind) for kind in ("PNG", "JPEG", "WEBP")] * 20

    def load(source: bytes) -> tuple[int, int]:
        assert warnings.filters == filters
        return load_image(source).size

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(load, data)) == {sample().size}
    assert Image.MAX_IMAGE_PIXELS == 4000
    assert warnings.filters == filters


def test_pillows_warning_on_a_tiff_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(TooLarge):
        load_image(encoded(sample(), "TIFF"))


# ---------------------------------------------------------------- paths and other sources


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "does not exist; check the path" in message(tmp_path / "none.png")
    assert "is a directory" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    assert "not a regular file" in message(tmp_path / "pipe.png")
    assert "not a regular file" in message("/dev/zero")
    assert "cannot be read" in message("a\x00b.png")
    assert "cannot be read" in message("x" * 5000)
    assert "does not exist" in message("two\nlines.png")
    assert "does not exist" in message("")


@pytest.mark.parametrize("url", ["http://example.org/a.png", "file:///etc/passwd", "data:image/png;base64,AAAA"])
def test_urls_are_not_paths(url: str) -> None:
    assert "URLs are not opened" in message(url)


def test_other_types() -> None:
    assert "ndarray" in message(np.zeros((4, 4, 3), np.uint8))
    assert "NoneType" in message(None)
    assert "opened as text" in message(io.StringIO("text"))
    closed = io.BytesIO(b"")
    closed.close()
    assert "cannot be read" in message(closed)


def test_several_images_say_which_one() -> None:
    good = encoded(sample(), "PNG")
    assert [image.size for image in load_images([good, sample(), io.BytesIO(good)])] == [sample().size] * 3
    assert [image.size for image in load_images(good)] == [sample().size]
    assert load_images([]) == []
    with pytest.raises(BadInput, match=r"^image 2 of 3: the image is empty"):
        load_images([good, b"", good])
    with pytest.raises(TooLarge, match=r"^image 1 of 1"):
        load_images([good], limits=Limits(max_pixels=10))


# ---------------------------------------------------------------- data URIs


def uri(data: bytes, head: str = "data:image/png;base64,") -> str:
    return head + base64.b64encode(data).decode()


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:image/jpeg;base64,", "DATA:image/PNG;Base64,",
                                  "data:image/png;name=a.png;base64,"])  # fmt: skip
def test_data_uri(head: str) -> None:
    assert same(decode_data_uri(uri(encoded(sample(), "PNG"), head)), sample())


def test_data_uri_with_line_breaks() -> None:
    text = "data:image/png;base64," + base64.encodebytes(encoded(sample(), "PNG")).decode()
    assert same(decode_data_uri(text), sample())


@pytest.mark.parametrize(
    "reference",
    ["http://h.example/secret.png", "https://h.example/secret.png", "HTTPS://h.example/secret.png",
     "file:///etc/secret", "ftp://h.example/secret", "/etc/secret", "C:\\secret.png", "secret", "", "data:",
     "data:text/html;base64,c2VjcmV0", "data:image/png,secret", "data:image/png;base64", "data:,secret",
     "data:application/octet-stream;base64,c2VjcmV0", " http://h.example/secret.png"],
)  # fmt: skip
def test_other_references_are_refused_and_not_repeated(reference: str) -> None:
    with pytest.raises(BadInput, match="only data URIs are accepted") as caught:
        decode_data_uri(reference)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("payload", ["!!!!", "AAA", "AAAAA===", "QUJD\u00e9", "QUJ-", "QUJD,QUJD"])
def test_invalid_base64(payload: str) -> None:
    with pytest.raises(BadInput, match="not valid base64"):
        decode_data_uri("data:image/png;base64," + payload)


def test_data_uri_content_is_checked() -> None:
    with pytest.raises(BadInput, match="is empty"):
        decode_data_uri("data:image/png;base64,")
    with pytest.raises(BadInput, match="an SVG drawing"):
        decode_data_uri(uri(b"<svg xmlns='x'/>", "data:image/svg+xml;base64,"))
    with pytest.raises(BadInput, match="must be a string, got bytes"):
        decode_data_uri(b"data:image/png;base64,AAAA")  # type: ignore[arg-type]


def test_data_uri_is_measured_before_it_is_decoded() -> None:
    text = "data:image/png;base64," + "!" * (80 << 20)  # not base64: decoding it would give another error
    with pytest.raises(TooLarge, match=r"60.0 MiB; the limit is 50.0 MiB"):
        decode_data_uri(text)
    small = uri(png_of(ihdr(10, 10), b"\x00" * 310, chunk(b"prVt", bytes(5000))))
    with pytest.raises(TooLarge):
        decode_data_uri(small, Limits(max_bytes=5000))
