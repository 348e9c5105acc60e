"""One contract for all readers: the same made slide as tiled TIFF, OME-TIFF, Deep Zoom and plain picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from assistant.errors import BadInput, NotAvailable, TooLarge
from assistant.images.intake import SlideOverview, image_warnings, load_image
from assistant.slides import base, nice_length, open_slide
from assistant.slides.store import SlideStore, read_tile, top_level
from tests.ui.slides_page import write_slide

pytest.importorskip("openslide")
pytest.importorskip("tifffile")


@pytest.fixture(scope="session")
def slides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("slides")
    found = {"tiff": write_slide(folder / "a.tif"), "ome": write_slide(folder / "b.ome.tif", ome=True)}
    with open_slide(found["tiff"]) as slide:
        slide.read(0, 0, *slide.size).save(folder / "c.png")
        found["plain"] = folder / "c.png"
        found["dzi"] = write_dzi(folder / "d.dzi", slide)
    return found


def write_dzi(path: Path, slide: base.Slide) -> Path:
    """Deep Zoom files as viewers' tools write them, 254 pixels and an overlap of 1."""
    top = top_level(slide.size)
    for level in range(top + 1):
        folder = path.with_name(f"{path.stem}_files") / str(level)
        folder.mkdir(parents=True)
        size = [-(-side // 2 ** (top - level)) for side in slide.size]
        for column in range(-(-size[0] // 254)):
            for row in range(-(-size[1] // 254)):
                read_tile(slide, level, column, row).save(folder / f"{column}_{row}.png")
    path.write_text(
        '<?xml version="1.0"?><Image xmlns="http://schemas.microsoft.com/deepzoom/2008" TileSize="254" Overlap="1" '
        f'Format="png"><Size Width="{slide.size[0]}" Height="{slide.size[1]}"/></Image>'
    )
    return path


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("kind", ["tiff", "ome", "plain", "dzi"])
def test_contract(slides: dict[str, Path], kind: str) -> None:
    with open_slide(slides["tiff"]) as reference, open_slide(slides[kind]) as slide:
        assert slide.size == (2400, 1800)
        assert slide.mpp == (pytest.approx(0.5) if kind in ("tiff", "ome") else None)
        assert len(slide.levels) >= 3
        for region in ((0, 0, 300, 200), (250, 250, 513, 300), (2200, 1650, 200, 150)):
            own = slide.read(*region)
            assert (own.mode, own.size) == ("RGB", region[2:])
            assert abs(pixels(own) - pixels(reference.read(*region))).max() <= 1
        small = slide.read(200, 200, 1200, 800, out=(300, 200))
        assert small.size == (300, 200)
        whole = slide.thumbnail(600)
        assert whole.size == (600, 450)
        assert pixels(whole)[440, 590, 0] > pixels(whole)[440, 590, 1] + 100  # the red corner, lower right
        assert abs(pixels(small).mean() - pixels(reference.read(200, 200, 1200, 800)).mean()) < 3
        with pytest.raises(BadInput, match="reaches over the edge of the slide, 2400 x 1800"):
            slide.read(2300, 0, 200, 100)
        with pytest.raises(BadInput, match="is empty"):
            slide.read(0, 0, 0, 10)
        names = {name for name in dir(slide) if not name.startswith("_")}
        assert not names & {"associated_images", "properties", "label", "macro", "path"}
        assert str(slides[kind].parent) not in json.dumps(slide.info())
    with pytest.raises(BadInput, match="is closed"):
        slide.read(0, 0, 10, 10)


@pytest.mark.parametrize("kind", ["tiff", "ome", "plain", "dzi"])
def test_tiles_make_up_the_slide(slides: dict[str, Path], kind: str) -> None:
    with open_slide(slides[kind]) as slide, open_slide(slides["tiff"]) as reference:
        top = top_level(slide.size)
        for level in (top, top - 1):
            size = -(-2400 // 2 ** (top - level)), -(-1800 // 2 ** (top - level))
            whole = Image.new("RGB", size)
            for column in range(-(-size[0] // 254)):
                for row in range(-(-size[1] // 254)):
                    tile = read_tile(slide, level, column, row)
                    whole.paste(tile, (column * 254 - (column > 0), row * 254 - (row > 0)))
            expected = pixels(reference.read(0, 0, 2400, 1800, out=size))
            assert abs(pixels(whole) - expected).mean() < (0.01 if level == top else 6)
        assert read_tile(slide, 0, 0, 0).size == (1, 1)
        for wrong in ((top + 1, 0, 0), (top, 10, 0), (top, -1, 0)):
            with pytest.raises(BadInput):
                read_tile(slide, *wrong)


def test_caps(slides: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(slides["tiff"]) as slide:
        expected = pixels(slide.read(0, 0, 2400, 1800, out=(1201, 901)))
        monkeypatch.setattr(base, "_BAND_PIXELS", 300_000)
        assert abs(pixels(slide.read(0, 0, 2400, 1800, out=(1201, 901))) - expected).mean() < 2
        monkeypatch.setattr(base, "MAX_OUT_PIXELS", 1_000_000)
        with pytest.raises(TooLarge, match=r"picture of 4 million pixels; the limit is 1 million.*--max-side"):
            slide.read(0, 0, 2400, 1800)
        monkeypatch.setattr(base, "MAX_READ_PIXELS", 100_000)
        with pytest.raises(TooLarge, match="no smaller copy of itself"):
            slide.read(0, 0, 2400, 1800, out=(400, 300))


DZI = '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" TileSize="{}" Overlap="1" Format="{}">{}</Image>'
SIZE = '<Size Width="2400" Height="1800"/>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DZI.format(254, "../../x", SIZE), "allowed: 16 to 4096"),
        (DZI.format(0, "png", SIZE), "allowed: 16 to 4096"),
        (DZI.format(254, "png", '<Size Width="99999999999" Height="5"/>'), "allowed: 1 to 4,000,000"),
        (DZI.format(254, "png", ""), "no Image with a Size"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + DZI.format(254, "png", SIZE), "declares entities"),
        ("<Image", "not a Deep Zoom descriptor"),
        ("x" * 70_000, "too long"),
    ],
)
def test_hostile_descriptors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.dzi"
    path.write_text(text)
    (tmp_path / "x_files" / "12").mkdir(parents=True)
    with pytest.raises(BadInput, match=message):
        open_slide(path)


def test_deep_zoom_stays_in_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "x.dzi"
    path.write_text(DZI.format(254, "png", SIZE))
    with pytest.raises(BadInput, match="needs its tiles in the folder 'x_files'"):
        open_slide(path)
    folder = tmp_path / "x_files" / "12"
    folder.mkdir(parents=True)
    Image.new("RGB", (255, 255), "red").save(tmp_path / "secret.png")
    (folder / "0_0.png").symlink_to(tmp_path / "secret.png")
    Image.new("RGB", (900, 900), "red").save(folder / "1_0.png")
    (folder / "2_0.png").write_bytes(b"no picture")
    with open_slide(path) as slide:
        for x, message in ((0, "leads out of its folder"), (260, "its descriptor allows 256"), (520, "cannot be read")):
            with pytest.raises(BadInput, match=message):
                slide.read(x, 0, 100, 100)
        assert slide.read(1000, 1000, 50, 50).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.dcm", "a.tif", "a.ome.tif", "a.mrxs", "a.png"])
@pytest.mark.parametrize("data", [b"", b"II*\0" + b"\xff" * 400, b"\x89PNG\r\n\x1a\nrest", b"MM\0+\0\x08" + b"\0" * 50])
def test_broken_files_end_in_one_line(tmp_path: Path, name: str, data: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(BadInput) as caught:
        open_slide(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_missing_things(tmp_path: Path, slides: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        open_slide(tmp_path / "none.svs")
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    with pytest.raises(NotAvailable, match=r"pip install 'pathassist\[wsi\]'"):
        open_slide(slides["tiff"])
    assert open_slide(slides["dzi"]).size == (2400, 1800)


def test_a_slide_where_a_field_is_expected(slides: dict[str, Path], tmp_path: Path) -> None:
    image = load_image(slides["ome"])
    assert max(image.size) == 1024
    assert isinstance(image.info["slide overview"], SlideOverview)
    assert "a whole slide of 2400 x 1800 pixels was given" in image_warnings(load_image(image))[0]
    plain = load_image(slides["plain"])
    assert (plain.size, plain.info) == ((2400, 1800), {})
    assert not any("whole slide" in warning for warning in image_warnings(plain))
    (tmp_path / "bad.svs").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read as a slide"):
        load_image(tmp_path / "bad.svs")


def test_scale_bar_lengths() -> None:
    assert [nice_length(value) for value in (1, 1.9, 4.99, 5, 73, 1200)] == [1, 1, 2, 5, 50, 1000]


def test_command_line(slides: dict[str, Path], tmp_path: Path) -> None:
    import typer

    from assistant.cli_common import ErrorGroup
    from assistant.cli_slides import register

    app = typer.Typer(cls=ErrorGroup)
    register(app)
    run = CliRunner().invoke
    done = run(app, ["slide", "info", str(slides["ome"]), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["mpp"]) == (0, 0.5)
    out = tmp_path / "field.png"
    done = run(
        app,
        ["slide", "region", str(slides["tiff"]), "200", "200", "800", "400", "--out", str(out), "--max-side", "200"],
    )
    with Image.open(out) as written:
        assert (done.exit_code, written.size) == (0, (200, 100))
    assert "2 µm per pixel" in done.stdout
    done = run(
        app, ["slide", "tiles", str(slides["tiff"]), "--out", str(tmp_path / "tiles"), "--pixels", "512", "--json"]
    )
    rows = json.loads(done.stdout)["tiles"]
    assert len(rows) == len(list((tmp_path / "tiles").iterdir())) > 3
    done = run(app, ["slide", "region", str(slides["tiff"]), "2000", "0", "800", "400", "--out", str(out)])
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert run(app, ["slide", "region", str(slides["tiff"]), "0", "0", "8", "8", "--out", "x.bmp"]).exit_code == 2


@pytest.mark.data
def test_the_slides_of_the_data_folder(data_root: Path) -> None:
    with open_slide(data_root / "slides" / "cmu-1-small-region.svs") as slide:
        assert (slide.size, slide.mpp, slide.objective) == ((2220, 2967), 0.499, 20.0)
        words = json.dumps(slide.info()).lower()
        assert not any(word in words for word in ("macro", "label", "cmu", "scanscope", "user"))
    with open_slide(data_root / "slides" / "tubularadenoma-flat__HE_quarter.tif") as slide:
        assert (slide.size, slide.mpp, len(slide.levels)) == ((4132, 4142), None, 3)
        store = SlideStore()
        identifier = store.add(data_root / "slides" / "tubularadenoma-flat__HE_quarter.tif")
        # Deep Zoom wants 1/4; the file has 1/4.001, which must do.
        assert store.tile(identifier, top_level(slide.size) - 2, 1, 1)[:2] == b"\xff\xd8"
        store.close()
    with pytest.raises(BadInput, match="cannot be read as a slide"):
        open_slide(data_root / "slides" / "broken-for-error-tests.svs")
    image = load_image(data_root / "slides" / "cmu-1-small-region.svs")
    assert image.size == (766, 1024)
