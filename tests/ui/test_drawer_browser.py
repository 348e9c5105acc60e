"""The drawer and the brush in a real browser, by pointer and by keyboard."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from assistant.errors import NotAvailable
from tests.serving import wait_for
from tests.ui.conftest import ShowAssistant, served
from tests.ui.test_browser import BOTH, DARK, answered, ask, browser, page, pytestmark, shot, upload
from tests.ui.test_tabs_browser import violations
from ui.models import Models, Offer

__all__ = ["browser", "page", "pytestmark"]

OFFERS = [Offer(name, "") for name in ("embedded", "big", "broken")]
OFFERS.append(Offer("huge", "", "it ships no trained weights"))


@pytest.fixture(scope="module")
def loading() -> threading.Event:
    """Set: a model that is being loaded becomes ready."""
    return threading.Event()


@pytest.fixture(scope="module")
def page_url(page_assistant: ShowAssistant, loading: threading.Event) -> Iterator[str]:
    def load(name: str) -> ShowAssistant:
        assert loading.wait(30)
        if name == "broken":
            raise NotAvailable("its weights are damaged; run pathassist doctor --fix")
        made = ShowAssistant()
        made.name = name
        return made

    with served(
        page_assistant, models=Models(page_assistant, load=load, offers=lambda: OFFERS, room=lambda _: "")
    ) as url:
        yield url


@pytest.fixture
def field(tmp_path: Path) -> str:
    path = tmp_path / "field.png"
    Image.new("RGB", (320, 240), "#c080a0").save(path)
    return str(path)


@pytest.mark.parametrize("page", [(1440, 900, "light"), (390, 844, "dark")], ids=["wide", "narrow"], indirect=True)
def test_the_drawer_opens_is_reached_by_keyboard_and_closes(page: Any) -> None:
    toggle = page.get_by_role("button", name="Settings")
    drawer = page.get_by_role("dialog", name="Settings")
    assert drawer.count() == 0
    toggle.focus()
    page.keyboard.press("Enter")
    drawer.wait_for()
    page.wait_for_timeout(300)
    assert toggle.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.activeElement.textContent") == "Close"
    note = page.get_by_role("note").get_by_text("Research use only").first
    on_top = "e => { const r = e.getBoundingClientRect();"
    on_top += " return document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2) === e }"
    assert note.evaluate(on_top), "the drawer covers the disclaimer"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if page.viewport_size["width"] > 1100:
        page.get_by_role("button", name="New conversation").click()  # beside the drawer, not below it
    page.get_by_text("1 other cannot be loaded here").click()
    assert drawer.get_by_text("It ships no trained weights").is_visible()
    shot(page, "drawer")
    assert violations(page) == []
    page.keyboard.press("Escape")
    drawer.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.textContent") == "Settings"


@DARK
def test_the_drawer_in_the_dark(page: Any) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("dialog", name="Settings").wait_for()
    page.wait_for_timeout(300)
    shot(page, "dark-drawer")
    assert violations(page) == []


def test_another_model_is_loaded_and_the_conversation_kept(page: Any, loading: threading.Event) -> None:
    loading.clear()
    ask(page, "OPTIONS before")
    answered(page, "B) colon")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("radio", name="big").check()
    page.locator("#pa-model-said").get_by_text("Loading big").wait_for()
    assert "loading big" in page.locator("#pa-header .pa-chip").inner_text()
    page.wait_for_timeout(300)
    shot(page, "model-loading")
    assert violations(page) == []
    loading.set()
    page.locator("#pa-model-said").get_by_text("big answers from the next question on").wait_for()
    assert page.locator("#pa-header .pa-chip").inner_text() == "big"
    page.get_by_role("radio", name="broken").check()
    alert = page.locator("#pa-model-said [role=alert]")
    alert.wait_for()
    assert "its weights are damaged" in alert.inner_text()
    assert "big stays in use" in alert.inner_text()
    page.wait_for_timeout(300)
    shot(page, "model-failed")
    assert page.get_by_role("radio", name="big").is_checked()
    page.get_by_role("button", name="Close", exact=True).click()
    ask(page, "OPTIONS after")
    page.locator("#pa-evidence").get_by_text("big · ").first.wait_for()
    assert page.locator("#pa-chat .user.message").count() == 2


def take_to_paint(page: Any, field: str) -> Any:
    upload(page, field)
    page.get_by_role("button", name="Mark a region").click()
    page.get_by_role("radio", name="Brush").check()
    page.locator("#pa-take").click()
    canvas = page.get_by_role("application", name="Picture to paint on")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    return canvas


@BOTH
def test_what_is_painted_is_asked_about(page: Any, field: str, page_assistant: ShowAssistant) -> None:
    canvas = take_to_paint(page, field)
    place = canvas.bounding_box()
    scale = place["width"] / 320
    page.mouse.move(place["x"] + 80 * scale, place["y"] + 60 * scale)
    page.mouse.down()
    page.mouse.move(place["x"] + 200 * scale, place["y"] + 60 * scale, steps=12)
    page.mouse.up()
    said = page.locator("#pa-marks-said").get_by_text("Painted:")
    said.wait_for()
    assert page.get_by_role("textbox", name="Region").input_value().startswith("brush 12.8: 80,60 ")
    shot(page, "painting")
    assert violations(page) == []
    ask(page, "what is here")
    answered(page, "what is here")
    width, height = page_assistant.calls[-1]["images"][0].size
    assert abs(width - (120 + 2 * 12.8)) <= 4
    assert abs(height - 2 * 12.8) <= 4
    evidence = page.locator("#pa-evidence")
    assert evidence.get_by_role("img", name="The picture with the region").is_visible()
    shot(page, "painted")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("Ask about a pathology image").wait_for()
    canvas.wait_for(state="hidden")
    assert page.get_by_role("textbox", name="Region").input_value() == ""


def test_the_brush_works_by_keyboard_and_in_writing(page: Any, field: str) -> None:
    canvas = take_to_paint(page, field)
    region = page.get_by_role("textbox", name="Region")
    filled = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v)"
    filled += ".length"
    canvas.focus()
    for key in ("ArrowLeft", "Space", "ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    page.locator("#pa-marks-said").get_by_text("Painted:").wait_for()
    assert region.input_value() == "brush 12.8: 154,120 160,120 160,126"
    painted = canvas.evaluate(filled)
    assert painted > 0
    page.keyboard.press("Backspace")
    assert region.input_value() == ""
    assert canvas.evaluate(filled) == 0
    region.fill("brush 30: 50,50")
    region.press("Enter")
    page.locator("#pa-marks-said").get_by_text("box 20,20,81,81").wait_for()
    wait_for(lambda: canvas.evaluate(filled) > painted)
    page.locator("#pa-unmark").click()
    page.locator("#pa-marks-said").get_by_text("then paint over").wait_for()
    wait_for(lambda: canvas.evaluate(filled) == 0)
    assert region.input_value() == ""
