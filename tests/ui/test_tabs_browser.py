"""The tabs in a real browser: what can be done in each, at both widths, and that screen readers find names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ui.test_browser import BOTH, DARK, answered, ask, browser, page, picture, pytestmark, shot, upload

__all__ = ["browser", "page", "picture", "pytestmark"]

TABS = ("Chat", "Slides", "Tools", "Cases", "Report", "Benchmarks")
SERIOUS = ("serious", "critical")
_AXE = """async () => {
  const found = await axe.run(document, {resultTypes: ['violations']});
  return found.violations.map((v) => [v.impact, v.id, v.nodes.slice(0, 4).map((n) => n.html.slice(0, 200))]);
}"""


def open_tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name="Chat", exact=True).wait_for()
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():  # on narrow screens the last ones are in a menu
        page.locator(".overflow-menu button").first.click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()
    else:
        tab.click()


def violations(page: Any) -> list[Any]:
    """Serious findings of axe on what is shown now."""
    package = pytest.importorskip("axe_core_python")
    page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    return [found for found in page.evaluate(_AXE) if found[0] in SERIOUS]


@BOTH
def test_every_tab_opens_and_has_no_serious_finding(page: Any) -> None:
    found = {}
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(400)
        shot(page, f"tab-{name.lower()}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        found[name] = [*violations(page), *([["serious", "wider than the screen", wide]] if wide > 1 else [])]
    assert {name: what for name, what in found.items() if what} == {}


@DARK
def test_tabs_in_the_dark(page: Any) -> None:
    found = {}
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)
        shot(page, f"dark-{name.lower()}")
        found[name] = violations(page)
    assert {name: what for name, what in found.items() if what} == {}


@BOTH
def test_an_answer_and_an_added_picture_have_no_serious_finding(page: Any, picture: str) -> None:
    upload(page, picture)
    assert violations(page) == []
    ask(page, "RICH picture")
    answered(page, "Colon.")
    assert violations(page) == []


# Gradio looks at an uploaded picture and leaves its file to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_a_tool_is_run_and_its_files_can_be_kept(page: Any, picture: str) -> None:
    open_tab(page, "Tools")
    page.locator("#pa-tool-card").get_by_text("Licence").wait_for()
    page.locator("#pa-tool-run").click()
    page.locator("#pa-tool-status").get_by_text("No image was given").wait_for()
    page.locator("#pa-tool-image input[type=file]").set_input_files(picture)
    page.locator("#pa-tool-image img").wait_for()
    page.locator("#pa-tool-run").click()
    page.locator("#pa-tool-files").get_by_text("result").first.wait_for(timeout=120_000)
    assert page.locator("#pa-tool-numbers tr").count() >= 2
    shot(page, "tool-run")


def test_a_region_is_marked_by_keyboard_and_asked_about(page: Any, picture: str, page_assistant: Any) -> None:
    upload(page, picture)
    page.get_by_role("button", name="Mark a region").click()
    page.locator("#pa-take").click()
    page.locator("#pa-mark img").wait_for()
    box = page.get_by_role("textbox", name="Region")
    box.fill("1,2,500")
    box.press("Enter")
    page.locator("#pa-marks-said").get_by_text("is not four numbers").wait_for()
    box.fill("2,3,22,19")
    box.press("Enter")
    page.locator("#pa-marks-said").get_by_text("marked region").wait_for()
    shot(page, "region")
    ask(page, "what is here")
    answered(page, "what is here")
    assert page_assistant.calls[-1]["images"][0].size == (20, 16)


def test_words_light_up_their_boxes(page: Any, picture: str) -> None:
    upload(page, picture)
    ask(page, "RICH picture")
    answered(page, "Colon.")
    first = page.locator("#pa-evidence ol.regions .link").first
    first.focus()
    opacity = "element => getComputedStyle(element).opacity"
    assert page.locator("#pa-evidence .b1").first.evaluate(opacity) == "1"
    assert page.locator("#pa-evidence .b2").first.evaluate(opacity) == "0.25"
    shot(page, "linked")
