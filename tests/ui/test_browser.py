"""The page in a real browser: what a person sees and does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.serving import png
from tests.ui.conftest import ShowAssistant

CHROMIUM = next((p for name in ("chromium", "chromium-browser") if (p := shutil.which(name))), None)
SHOTS = os.environ.get("PATHASSIST_SHOTS")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # gradio's own statistics use an option that pandas has deprecated; as an error it would end gradio's queue.
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (Debian: apt-get install chromium)"),
]
DISCLAIMER = "Research use only, not for diagnosis."


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture(params=[(1440, 900, "light")], ids=["wide"])
def page(request: pytest.FixtureRequest, browser: Any, page_url: str, page_assistant: ShowAssistant) -> Iterator[Any]:
    """An open page; at the end it must not have asked another host for anything, nor raised a script error."""
    width, height, scheme = request.param
    page_assistant.delay = 0.0
    page_assistant.gate.set()
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    foreign: list[str] = []
    errors: list[str] = []
    local = (page_url, "data:", "blob:")
    page.on("request", lambda r: None if r.url.startswith(local) else foreign.append(r.url))
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.goto(page_url)
    page.get_by_text("Ask about a pathology image").wait_for()
    yield page
    page_assistant.gate.set()
    context.close()
    assert foreign == []
    assert errors == []


NARROW = pytest.mark.parametrize("page", [(390, 844, "light")], indirect=True, ids=["narrow"])
DARK = pytest.mark.parametrize("page", [(1440, 900, "dark")], indirect=True, ids=["dark"])
BOTH = pytest.mark.parametrize(
    "page", [(1440, 900, "light"), (390, 844, "light")], indirect=True, ids=["wide", "narrow"]
)


@pytest.fixture
def picture(tmp_path: Path, field: Image.Image) -> str:
    path = tmp_path / "field.png"
    field.save(path)
    return str(path)


def shot(page: Any, name: str) -> None:
    """Keep a picture where someone wants to look at it: ``PATHASSIST_SHOTS=DIR``."""
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(SHOTS) / f"{name}-{page.viewport_size['width']}.png"))


def upload(page: Any, *paths: str) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload a file").click()
    chooser.value.set_files(list(paths))
    page.locator("#pa-composer .thumbnail-item").nth(len(paths) - 1).wait_for()


def ask(page: Any, text: str) -> None:
    box = page.locator("#pa-composer textarea")
    box.fill(text)
    box.press("Enter")


def answered(page: Any, text: str) -> None:
    page.locator("#pa-chat .bot").get_by_text(text).first.wait_for()
    page.locator("#pa-evidence .verdict").first.wait_for()
    page.locator("#pa-composer .submit-button").wait_for()


@BOTH
def test_first_sight(page: Any) -> None:
    assert page.get_by_role("note").get_by_text(DISCLAIMER).is_visible()
    assert page.locator("#pa-chat .example").count() == 3
    page.get_by_role("textbox", name="Your question").wait_for()
    for name in ("Upload a file", "Submit", "Settings", "New conversation"):
        assert page.get_by_role("button", name=name).is_visible()
    assert page.get_by_role("button", name="Share").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    shot(page, "empty")


@BOTH
def test_ask_about_an_uploaded_image(page: Any, picture: str) -> None:
    upload(page, picture)
    shot(page, "uploaded")
    ask(page, "OPTIONS which organ?")
    answered(page, "B) colon")
    evidence = page.locator("#pa-evidence")
    assert evidence.get_by_role("meter", name="Confidence").get_attribute("aria-valuenow") == "90"
    assert "82 %" in evidence.inner_text()
    assert page.locator("#pa-chat .user img").first.evaluate("i => i.complete && i.naturalWidth > 0")
    assert page.get_by_role("note").get_by_text(DISCLAIMER).first.is_visible()
    shot(page, "answer")


def test_text_streams_and_can_be_stopped(page: Any, page_assistant: ShowAssistant, picture: str) -> None:
    page_assistant.gate.clear()
    upload(page, picture)
    before = page_assistant.cancelled
    ask(page, "one two three four")
    page.locator("#pa-chat .bot").get_by_text("#").wait_for()
    assert "three" not in page.locator("#pa-chat .bot").first.inner_text()
    shot(page, "streaming")
    page.get_by_role("button", name="Stop").click()
    page.locator("#pa-evidence").get_by_text("Stopped").first.wait_for()
    assert page_assistant.cancelled == before + 1
    assert page.locator("#pa-composer .submit-button").is_visible()
    shot(page, "stopped")


def test_a_whole_answer_follows_the_stream(page: Any, page_assistant: ShowAssistant) -> None:
    page_assistant.delay = 0.1
    ask(page, "one two three four")
    answered(page, "one two three four")


@BOTH
def test_a_corrupt_file_is_told_where_one_looks(page: Any, tmp_path: Path) -> None:
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(png()[:40])
    upload(page, str(corrupt))
    ask(page, "what is it?")
    alert = page.locator("#pa-notice [role=alert]")
    alert.wait_for()
    assert "corrupt.png" in alert.inner_text()
    assert page.locator("#pa-composer textarea").input_value() == "what is it?"
    shot(page, "error")


@BOTH
def test_a_program_is_not_taken(page: Any, tmp_path: Path) -> None:
    program = tmp_path / "setup.exe"
    program.write_bytes(b"MZ" + bytes(100))
    page.locator("#pa-composer input[type=file]").set_input_files(str(program))
    page.get_by_text("nvalid file type").first.wait_for()
    page.wait_for_timeout(1_000)  # the toast fades in
    note = page.get_by_role("note").get_by_text(DISCLAIMER)
    on_top = "e => { const r = e.getBoundingClientRect();"
    on_top += " return document.elementFromPoint(r.left + r.width / 2, r.top + r.height / 2) === e }"
    assert note.evaluate(on_top), "the message covers the disclaimer"
    shot(page, "program")


@BOTH
def test_not_enough_evidence_looks_different(page: Any, picture: str) -> None:
    upload(page, picture)
    ask(page, "DOUBT which organ?")
    answered(page, "Not enough evidence — best guess")
    bubble = page.locator("#pa-chat .bot.message").last
    assert bubble.evaluate("e => getComputedStyle(e).borderLeftWidth") == "5px"
    shot(page, "abstained")


def test_warnings_rich_evidence_and_earlier_answers(page: Any, picture: str) -> None:
    upload(page, picture)
    ask(page, "WARN what is it?")
    answered(page, "Colon.")
    assert page.locator("#pa-evidence").get_by_text("nearly blank").is_visible()
    shot(page, "warning")
    upload(page, picture)
    ask(page, "RICH what is it?")
    page.locator("#pa-evidence").get_by_text("Tubular adenoma").wait_for()
    assert page.locator("#pa-evidence svg rect").count() == 2
    page.locator("#pa-evidence").get_by_text("Earlier answers").wait_for()
    shot(page, "rich")


def test_a_long_answer_scrolls_inside_the_conversation(page: Any) -> None:
    ask(page, "LONG describe it")
    page.locator("#pa-evidence .verdict").wait_for()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight + 1")
    assert page.locator("#pa-composer textarea").is_visible()
    shot(page, "long")


def test_markup_is_text(page: Any) -> None:
    ask(page, "HTML <b>bold</b> please")
    answered(page, "onerror")
    assert page.title() == "pathassist"
    assert page.locator("#pa-chat .bot img, #pa-chat .user b").count() == 0
    shown = page.locator("#pa-chat .bot").last.inner_text()
    assert "${1+1} {{value}} H&E &lt; p < 0.05" in shown


def test_an_example_runs_by_keyboard(page: Any) -> None:
    page.locator("#pa-chat .example").first.focus()
    page.keyboard.press("Enter")
    answered(page, "Which stain is this?")


def test_settings_reach_the_model_and_a_new_conversation_is_empty(page: Any, page_assistant: ShowAssistant) -> None:
    page.get_by_role("button", name="Settings").click()
    page.locator("#pa-settings input[type=number]").first.fill("0.75")
    page.locator("#pa-settings input[type=number]").first.press("Tab")
    shot(page, "settings")
    ask(page, "what now")
    answered(page, "what now")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_text("Ask about a pathology image").wait_for()
    assert page.locator("#pa-evidence .verdict").count() == 0


@DARK
def test_dark(page: Any, picture: str) -> None:
    upload(page, picture)
    ask(page, "DOUBT which organ?")
    answered(page, "Not enough evidence — best guess")
    brightness = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0,3).map(Number)")
    assert max(brightness) < 60
    shot(page, "dark")
