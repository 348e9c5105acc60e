"""From a case to its place on the slide, in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.cases.library import Library
from assistant.slides import openseadragon
from tests.ui.conftest import ShowAssistant, served
from tests.ui.library import PATCHES, make_slide_library
from tests.ui.test_browser import browser, shot  # noqa: F401
from tests.ui.test_browser import pytestmark as of_a_browser
from tests.ui.test_tabs_browser import open_tab

pytest.importorskip("openslide")
pytest.importorskip("tifffile")
pytestmark = [
    *of_a_browser,
    # gradio's own statistics use an option that pandas 3 has deprecated too; as an error it would end gradio's queue.
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.skipif(openseadragon.script() is None, reason="no OpenSeadragon: pathassist doctor --fix"),
]
SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])
#: Whether a line is drawn within three pixels of a place on the slide.
_OUTLINED = """([x, y]) => {
  const item = paViewer.viewer().world.getItemAt(0), ratio = devicePixelRatio;
  const at = item.imageToViewerElementCoordinates(new OpenSeadragon.Point(x, y));
  const pen = document.querySelector('.pav-overlay').getContext('2d');
  const found = pen.getImageData(Math.round(at.x * ratio) - 3, Math.round(at.y * ratio) - 3, 7, 7).data;
  return found.some((value, i) => i % 4 === 3 && value > 200);
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Library, Path]]:
    library, slide = make_slide_library(tmp_path_factory.mktemp("library"))
    yield library, slide
    library.close()


@pytest.fixture(scope="module")
def url(made: tuple[Library, Path]) -> Iterator[str]:
    assistant: Any = ShowAssistant()
    assistant.library = made[0]
    with served(assistant) as url:
        yield url


def search(page: Any, words: str, case: int = 0) -> None:
    """Search for words and choose a case."""
    page.get_by_label("Like these words").fill(words)
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("button", name="Search with case").wait_for(state="hidden")  # of the search before
    page.get_by_text("found by words").wait_for()
    page.locator("#pa-gallery .grid-container img").first.wait_for()
    page.locator("#pa-gallery .grid-container button").nth(case).click()
    page.get_by_role("button", name=f"Search with case {case + 1}").wait_for()


def contains(page: Any, region: tuple[int, int, int, int]) -> bool:
    """The region is in view, and the view is not the whole slide."""
    seen, (x, y, width, height) = json.loads(page.evaluate("paViewer.view()")), region
    across = seen["x"] <= x and x + width <= seen["x"] + seen["width"] + 1
    down = seen["y"] <= y and y + height <= seen["y"] + seen["height"] + 1
    return bool(across and down and seen["width"] * seen["height"] < 0.75 * 2048 * 1280)


@SIZES
def test_a_case_opens_its_place_on_the_slide(
    browser: Any,  # noqa: F811
    made: tuple[Library, Path],
    url: str,
    size: tuple[int, int],
) -> None:
    problems: list[str] = []
    identifiers: set[str] = set()
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(60_000)
    page.on("request", lambda r: None if r.url.startswith((url, "data:", "blob:")) else problems.append(r.url))
    page.on("request", lambda r: identifiers.update(re.findall(r"/slides/(\w+)/info\.json", r.url)))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url)
    open_tab(page, "Cases")
    button = page.get_by_role("button", name="Open in the slide viewer")
    search(page, "green")
    button.wait_for()
    shot(page, "case-chosen")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    button.click()  # the tab of slides was never open before
    page.locator('.pa-viewer[data-state="ready"]').wait_for()
    page.get_by_text("2048 × 1280 pixels").wait_for()
    page.get_by_role("checkbox", name="Chosen case (1)").wait_for()
    page.get_by_text("Open: Slide of the chosen case").wait_for()
    page.wait_for_function("paViewer.viewer()?.world.getItemCount() === 1")
    page.wait_for_timeout(500)
    assert contains(page, (*PATCHES["green"], 256, 256))
    stage = page.locator(".pav-stage").bounding_box()
    assert stage["y"] + stage["height"] / 2 < size[1], "the slide is not on the screen"
    shot(page, "case-on-slide")
    x, y = PATCHES["green"]
    for place, drawn in (((x + 128, y), True), ((x, y + 128), True), ((x + 128, y + 128), False), ((x - 60, y), False)):
        assert page.evaluate(_OUTLINED, place) is drawn, place
    open_tab(page, "Cases")  # another case of the same slide: it stays open, and the viewer moves
    search(page, "blue")
    button.click()
    page.wait_for_function("JSON.parse(paViewer.view() || '{}').y > 300")
    page.wait_for_timeout(300)
    assert contains(page, (*PATCHES["blue"], 256, 256))
    assert len(identifiers) == 1

    open_tab(page, "Cases")
    search(page, "white")  # a picture of its own
    assert not button.is_visible()

    search(page, "red")
    slide = made[1]
    slide.rename(slide.with_suffix(".gone"))
    try:
        button.click()
        alert = page.get_by_role("alert").get_by_text("not where it was when the library was built")
        alert.wait_for()
        assert abs(alert.bounding_box()["y"] - button.bounding_box()["y"]) < 300, "the message is far from the button"
        assert page.get_by_role("button", name="Search", exact=True).is_visible()  # still the Cases tab
        shot(page, "case-slide-gone")
    finally:
        slide.with_suffix(".gone").rename(slide)
    assert not any(word in page.content() for word in ("Jane", slide.parent.name + "/"))
    assert problems == []
