"""A whole benchmark in the Benchmarks tab: run, stopped midway, gone on with, and its report shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from assistant.answer import Answer
from tests.ui.conftest import ShowAssistant, served
from tests.ui.test_browser import browser, shot  # noqa: F401
from tests.ui.test_browser import pytestmark as of_a_browser
from tests.ui.test_tabs_browser import open_tab

pytestmark = [*of_a_browser, pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")]
SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])
COLOURS = ("red", "green", "blue", "orange")
ITEMS = 48


class Seeing(ShowAssistant):
    """Names the colour of the image, after ``pause`` seconds."""

    pause = 0.0

    def stream(self, images: Any, question: str, **keywords: Any) -> Iterator[Any]:
        self.calls.append({"images": list(images), "question": question})
        time.sleep(self.pause)
        pixel = images[0].convert("RGB").getpixel((0, 0))
        text = f"({'ABCD'[[Image.new('RGB', (1, 1), c).getpixel((0, 0)) for c in COLOURS].index(pixel)]})"
        yield text
        yield Answer(text=text, confidence=0.9, abstained=False, best_guess=text, model=self.name, seconds=0.1)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PathMMU's layout with one question an image; the page is served from a folder of its own."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(ITEMS):
        Image.new("RGB", (24, 24), COLOURS[number % 4]).save(folder / "images" / f"{number}.png")
        options = [f"{'ABCD'[n]}) {colour}" for n, colour in enumerate(COLOURS)]
        rows.append({"No": number, "img": f"{number}.png", "question": "Which colour?", "options": options,
                     "answer": options[number % 4]})  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"PubMed": {"val": rows}}))
    monkeypatch.setenv("PATHASSIST_DATA", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


@SIZES
def test_a_benchmark_is_stopped_gone_on_with_and_reported(
    browser: Any,  # noqa: F811
    data: Path,
    size: tuple[int, int],
) -> None:
    assistant = Seeing()
    assistant.pause = 0.25
    with served(assistant) as url:
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        page.set_default_timeout(120_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url)
        open_tab(page, "Benchmarks")
        page.get_by_role("checkbox", name="Local four-choice questions").uncheck()
        page.get_by_role("checkbox", name="PathMMU (val)", exact=True).check()
        page.locator("#pa-bench-model input").fill(f"openai:{url}/v1#embedded")
        page.locator("#pa-bench-model input").press("Enter")
        page.locator("#pa-bench-limit input").fill("")
        page.locator("#pa-bench-show input").click()
        page.get_by_role("option", name="Image only").click()
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text(re.compile(rf"pathmmu: (16|32) of {ITEMS}")).wait_for()
        shot(page, "benchmark-running")
        page.get_by_role("button", name="Stop", exact=True).click()
        page.get_by_text("Stopped. What was answered is kept").wait_for()
        kept = sum(len(pd.read_parquet(path)) for path in (data.parent / "runs/eval").glob("*/parts/*.parquet"))
        asked = len(assistant.calls)
        assert 16 <= kept < ITEMS
        assert asked - kept <= 16 + 4, "more than one batch was lost"

        assistant.pause = 0.0
        page.get_by_role("button", name="Run", exact=True).click()
        page.get_by_text("Finished.").wait_for()
        assert len(assistant.calls) - asked == ITEMS - kept, "it did not go on from what was kept"
        report = page.frame_locator("#pa-bench-report iframe")
        report.get_by_text("pathmmu").first.wait_for()
        shot(page, "benchmark-report")
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        page.locator("#pa-bench-earlier input").click()
        page.get_by_role("option", name=re.compile(rf"pathmmu · .* · n = {ITEMS}")).wait_for()
        (info,) = [json.loads(p.read_text()) for p in (data.parent / "runs/eval").glob("*/run.json")]
        assert (info["n"], info["errors"], info["conditions"]) == (ITEMS, 0, ["image"])
        right = [
            r["value"] for r in info["summary"] if r["metric"] == "accuracy (strict)" and r["condition"] == "image"
        ]
        assert right == [1.0]
        assert problems == []
