"""The Cases tab in a real browser, over a small library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from assistant.cases.library import Library
from tests.assistant.cases.conftest import paint
from tests.ui.conftest import ShowAssistant, served
from tests.ui.library import make_library
from tests.ui.test_browser import browser, shot  # noqa: F401
from tests.ui.test_browser import pytestmark as of_a_browser
from tests.ui.test_tabs_browser import open_tab as choose_tab

pytestmark = [
    *of_a_browser,
    # gradio's own statistics use an option that pandas 3 has deprecated too; as an error it would end gradio's queue.
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    # gradio's image component leaves the uploaded file to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]

SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    library = make_library(tmp_path_factory.mktemp("library"), fields=4)
    yield library
    library.close()


@pytest.fixture(scope="module")
def url(library: Library) -> Iterator[str]:
    assistant: Any = ShowAssistant()
    assistant.library = library
    with served(assistant) as url:
        yield url


def open_tab(browser: Any, url: str, size: tuple[int, int]) -> Any:  # noqa: F811
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
    page.set_default_timeout(60_000)
    page.goto(url)
    choose_tab(page, "Cases")
    return page


@SIZES
def test_search_go_on_and_add(browser: Any, url: str, size: tuple[int, int], tmp_path: Path) -> None:  # noqa: F811
    page = open_tab(browser, url, size)
    page.get_by_text("Drop an image, type words, or both").wait_for()
    shot(page, "cases-empty")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_role("alert").get_by_text("There is nothing to search for").wait_for()

    page.locator("#pa-case-image input[type=file]").set_input_files(str(paint(tmp_path / "q.png", "red", 321)))
    page.locator("#pa-case-image img").wait_for()
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("8 cases found by image, of").wait_for()
    assert page.locator(".pa-hits li").first.get_by_text("Red field").is_visible()
    page.locator("#pa-gallery .grid-container img").first.wait_for()
    shot(page, "cases-found")
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]

    page.locator("#pa-gallery .grid-container button").nth(1).click()
    page.get_by_role("button", name="Search with case 2").click()
    page.get_by_text("found by the chosen case").wait_for()
    shot(page, "cases-again")

    page.get_by_role("button", name="Filters and ranking").click()
    page.get_by_label("Other filters").fill("organ=lung")
    page.get_by_label("Like these words").fill("blue")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_text("4 cases found by image and words").wait_for()
    shot(page, "cases-filtered")

    page.get_by_role("button", name="Add a case").click()
    new = paint(tmp_path / "Jane Doe.png", "white", size[0])
    page.locator("#pa-case-add input[type=file]").set_input_files(str(new))
    page.locator("#pa-case-add img").wait_for()
    page.get_by_label("Title").fill("White field")
    page.get_by_role("button", name="Add to library").click()
    page.get_by_text("Added to the library: White field").wait_for()
    shot(page, "cases-added")
    assert "Jane" not in page.locator("#pa-case-list").inner_text()


@SIZES
def test_without_a_library_the_command_is_shown(browser: Any, page_url: str, size: tuple[int, int]) -> None:  # noqa: F811
    page = open_tab(browser, page_url, size)
    page.get_by_text("pathassist index build FOLDER --store faiss:cases").wait_for()
    shot(page, "cases-none")
    choose_tab(page, "Chat")
    page.get_by_text("Ask about a pathology image").wait_for()
    shot(page, "chat-tab")
