"""The Slides tab in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.slides import openseadragon
from tests.ui.slides_page import served_slides, write_slide
from tests.ui.test_browser import browser, shot  # noqa: F401
from tests.ui.test_browser import pytestmark as of_a_browser
from ui.slides import SlidesTab

pytest.importorskip("openslide")
pytest.importorskip("tifffile")
pytestmark = [
    *of_a_browser,
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])
NEEDS_VIEWER = pytest.mark.skipif(openseadragon.script() is None, reason="no OpenSeadragon: pathassist doctor --fix")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_slide(folder / "Jane Doe.tif")
    return folder


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[tuple[str, SlidesTab]]:
    with served_slides(folder) as page:
        yield page


def open_tab(browser: Any, url: str, size: tuple[int, int], problems: list[str]) -> Any:  # noqa: F811
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(60_000)
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else problems.append(r.url))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    page.get_by_role("tab", name="Slides").click()
    page.get_by_text("Open a slide to look at it here").wait_for()
    return page


@NEEDS_VIEWER
@SIZES
def test_look_ask_measure_and_annotate(
    browser: Any,  # noqa: F811
    served: tuple[str, SlidesTab],
    folder: Path,
    size: tuple[int, int],
    tmp_path: Path,
) -> None:
    problems: list[str] = []
    page = open_tab(browser, served[0], size, problems)
    shot(page, "slides-empty")
    page.locator("#pa-slide-file input[type=file]").set_input_files(str(folder / "Jane Doe.tif"))
    page.locator('.pa-viewer[data-state="ready"]').wait_for()
    page.get_by_text("2400 × 1800 pixels · 0.5 µm per pixel").wait_for()
    assert page.get_by_role("img", name="Scale bar: ").inner_text().endswith("µm")
    shot(page, "slides-open")
    whole = json.loads(page.evaluate("paViewer.view()"))
    assert (whole["x"], whole["y"], whole["width"], whole["height"]) == (0, 0, 2400, 1800)

    page.evaluate("paViewer.viewer().viewport.fitBounds(paViewer.viewer().world.getItemAt(0)"
                  ".imageToViewportRectangle(300, 300, 400, 300), true)")  # fmt: skip
    seen = json.loads(page.evaluate("paViewer.view()"))
    assert seen["x"] <= 300 <= 700 <= seen["x"] + seen["width"] + 1
    page.get_by_role("application", name="Slide: arrow keys move").focus()
    page.keyboard.press("+")
    page.wait_for_function(f"JSON.parse(paViewer.view()).width < {seen['width'] * 0.95}")
    page.get_by_role("button", name="Zoom out").click()
    page.wait_for_function(f"JSON.parse(paViewer.view()).width >= {seen['width'] * 0.9}")

    page.locator("#pa-slide-tool input").click()
    page.get_by_role("option", name="segment_nuclei").click()
    page.get_by_role("button", name="Run tool").click()
    page.get_by_text("shapes are on the slide as a layer").wait_for(timeout=120_000)
    page.get_by_role("checkbox", name="segment_nuclei").wait_for()
    shot(page, "slides-tool")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export layers as GeoJSON").click()
    exported = json.loads(Path(download.value.path()).read_text())["features"]
    centres = [middle(one["geometry"]["coordinates"][0]) for one in exported]
    # Nuclei were painted at 260 + 60 n: what was found in the view lies there in pixels of the whole slide.
    near = [abs((c - 260 + 30) % 60 - 30) <= 3 for centre in centres for c in centre]
    assert len(centres) >= 10
    assert sum(near) / len(near) > 0.8  # by chance: 0.12
    assert exported[0]["properties"]["objectType"] == "detection"

    page.get_by_role("button", name="Layers from and to files").click()
    annotations = Path(__file__).parents[1] / "assistant" / "slides" / "qupath.geojson"
    page.locator("#pa-slide-geojson input[type=file]").set_input_files(str(annotations))
    page.get_by_text("4 shapes were imported").wait_for()
    page.get_by_role("checkbox", name="Imported (4)").wait_for()
    page.get_by_role("button", name="Whole slide").click()
    page.wait_for_function("JSON.parse(paViewer.view()).width >= 2399")
    page.wait_for_timeout(800)  # the movement ends
    shot(page, "slides-layers")
    inked = "() => paInk = [...document.querySelector('.pav-overlay').getContext('2d').getImageData(0, 0, 4000, 4000)" \
        ".data].filter((v, i) => i % 4 === 3 && v).length"  # fmt: skip
    before = page.evaluate(inked)
    page.get_by_role("checkbox", name="Imported (4)").uncheck()
    assert page.evaluate(inked) < before
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    page.get_by_role("button", name="Ask about this view").click()
    page.get_by_role("tab", name="Chat", selected=True).wait_for()
    page.locator("#composer .thumbnail-item").wait_for()
    page.locator("#composer textarea").fill("What is this?")
    page.locator("#composer textarea").press("Enter")
    page.get_by_text(": What is this?").wait_for()
    width, height = (int(word) for word in page.locator("#reply").inner_text().split(":")[0].split(" x "))
    assert width / height == pytest.approx(2400 / 1800, rel=0.02)
    assert width < 1000
    assert problems == []


def middle(ring: list[list[float]]) -> tuple[float, float]:
    across, down = [point[0] for point in ring], [point[1] for point in ring]
    return (min(across) + max(across)) / 2, (min(down) + max(down)) / 2


@SIZES
def test_without_the_viewer_the_slide_is_a_picture(
    browser: Any,  # noqa: F811
    served: tuple[str, SlidesTab],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path))
    problems: list[str] = []
    page = open_tab(browser, served[0], size, problems)
    page.locator("#pa-slide-list input").click()
    option = page.get_by_role("option", name="Slide 1 · TIF")
    assert "Jane" not in option.inner_text()
    option.click()
    page.locator('.pa-viewer[data-state="plain"]').wait_for()
    page.get_by_text("run: pathassist doctor --fix").wait_for()
    assert json.loads(page.evaluate("paViewer.view()"))["width"] == 2400
    assert "Jane" not in page.content()
    picture, stage = (page.locator(name).bounding_box() for name in (".pav-plain", ".pav-stage"))
    assert abs(picture["height"] - stage["height"]) <= 3  # layers are drawn where the picture is
    shot(page, "slides-plain")
    assert problems == []


def test_errors_are_one_line(browser: Any, served: tuple[str, SlidesTab], tmp_path: Path) -> None:  # noqa: F811
    problems: list[str] = []
    page = open_tab(browser, served[0], (1440, 900), problems)
    page.get_by_role("button", name="Ask about this view").click()
    page.get_by_role("alert").get_by_text("no slide is open; open one first").wait_for()
    (tmp_path / "mine.svs").write_bytes(b"nothing")
    page.locator("#pa-slide-file input[type=file]").set_input_files(str(tmp_path / "mine.svs"))
    page.get_by_role("alert").get_by_text("'mine.svs' cannot be read as a slide").wait_for()
    shot(page, "slides-error")
    assert problems == []
