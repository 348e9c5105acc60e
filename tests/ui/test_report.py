"""The Report tab: its functions, and the tab alone in a real browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gradio as gr
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from assistant.answer import Answer, Box, Case, ToolCall, Usage
from assistant.api import bind
from assistant.report import Report, Statement
from tests.serving import wait_for
from tests.ui.conftest import MARKUP
from tests.ui.test_browser import browser, shot  # noqa: F401
from tests.ui.test_browser import pytestmark as of_a_browser
from ui import report as tab
from ui.evidence import record

WARNINGS = [
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
]
SIZES = pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["wide", "narrow"])


def records() -> list[Any]:
    field = Image.linear_gradient("L").convert("RGB")
    tool = ToolCall("count_cells", {}, {"ok": True, "text": "214 cells.", "numbers": {"cells": 214}}, 1.0)
    base: dict[str, Any] = {"abstained": False, "model": "embedded", "usage": Usage(1, 1)}
    organ = Answer(text="B) colon", confidence=0.82, best_guess="B) colon",
                   options={"A) liver": 0.18, "B) colon": 0.82}, **base)  # fmt: skip
    finding = Answer(
        text=MARKUP, confidence=0.7, best_guess="x", boxes=(Box("gland <1>", (20, 30, 120, 160), 0.9),), tools=(tool,),
        cases=(Case("c1", 0.87, "Tubular adenoma"),), support="unknown", **base,
    )  # fmt: skip
    return [
        record("Which organ is this?\nA) liver\nB) colon", organ, 0.5, [field]),
        record("What is shown?", finding, 0.5, [field]),
    ]


def test_a_line_keeps_its_evidence_and_shows_edits() -> None:
    report = tab.from_records(records())
    fields = tab.shown(report)._replace(measurements=["0"])
    same = tab.edited(Report.from_json(report.to_json()), fields)
    assert [f.text for f in same.findings] == [" ".join(f.text.split()) for f in report.findings]
    assert not any(f.edited for f in (same.specimen, same.stain))
    assert fields.specimen == "colon [E1]"
    changed = tab.edited(
        Report.from_json(report.to_json()),
        fields._replace(specimen="caecum [E1]", findings="New one\n" + fields.findings.replace("H&E", "HE"),
                        measurements=[], comment="c"),
    )  # fmt: skip
    assert changed.marks_of(changed.specimen)[-1] == "edited by a person"
    assert changed.specimen.confidence is None
    assert changed.marks_of(changed.findings[0]) == ["no evidence", "added by a person"]
    assert changed.marks_of(changed.findings[1]) == ["edited by a person"]
    assert changed.measurements == []
    assert changed.provenance.draft == report.provenance.draft


def test_pictures_that_a_record_holds_are_shown_once() -> None:
    field = Image.linear_gradient("L").convert("RGB")
    base: dict[str, Any] = {"threshold": 0.5, "picture": "", "size": (0, 0), "images": (field,)}
    answer = Answer(text="x", confidence=0.9, abstained=False, best_guess="x")
    made = tab.from_records([SimpleNamespace(question=q, answer=answer, **base) for q in ("What?", "Which?")])
    assert [p.caption for p in made.pictures] == ["Image of question 1"]
    assert len(made.provenance.images) == 1


def test_differential_lines() -> None:
    made = tab._candidate("adenoma = 0.70 [E3, E4]")
    assert (made.label, made.confidence, made.evidence) == ("adenoma", 0.7, ["E3", "E4"])
    assert tab._candidate("stage = II").label == "stage = II"


def test_the_frame_holds_no_live_markup() -> None:
    report = Report(findings=[Statement('"></iframe><script>x</script>${1}{{2}}')])
    page = tab.framed(report)
    assert page.count("<") == 2  # the frame's own tags
    assert "${" not in page
    assert "{{" not in page


def test_nothing_to_report_is_one_line() -> None:
    status = tab.start([])[1]
    assert "There is nothing to report" in status


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The tab alone, under the page's own headers."""
    from ui.app import _PageHeaders, _private_folder

    _private_folder()
    with gr.Blocks(analytics_enabled=False) as demo:
        state = gr.State(records())
        tab.report_tab(state)
    app = FastAPI()
    app.add_middleware(_PageHeaders)
    app = gr.mount_gradio_app(app, demo, path="/", allowed_paths=[], run_history=False, enable_monitoring=False,
                              ssr_mode=False, footer_links=[])  # fmt: skip
    listener = bind("127.0.0.1", 0, None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_for(lambda: server.started, 30)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
    listener.close()


@SIZES
class TestInABrowser:
    pytestmark: ClassVar = [*of_a_browser, *WARNINGS]

    def test_draft_edit_and_export(self, browser: Any, url: str, size: tuple[int, int], tmp_path: Path) -> None:  # noqa: F811
        page = browser.new_context(viewport={"width": size[0], "height": size[1]}).new_page()
        page.set_default_timeout(60_000)
        page.goto(url)
        page.get_by_text("Ask about an image in the Chat tab first").wait_for()
        shot(page, f"report-empty-{size[0]}")
        page.get_by_role("button", name="Draft from the conversation").click()
        preview = page.frame_locator("#pa-report-view iframe")
        preview.get_by_role("heading", name="Draft report").wait_for()
        assert page.get_by_label("Specimen").input_value() == "colon [E1]"
        shot(page, f"report-draft-{size[0]}")
        page.get_by_label("Specimen").fill("caecum [E1]")
        page.get_by_label("Comment").fill("Seen by nobody <yet>")
        page.get_by_role("button", name="Update the preview").click()
        preview.get_by_text("Seen by nobody <yet>").wait_for()
        preview.get_by_text("edited by a person").wait_for()
        assert page.title() != "hit"
        for kind in ("pdf", "docx", "json", "html"):
            page.get_by_label(kind, exact=True).check()
            page.get_by_role("button", name="Export", exact=True).click()
            button = page.get_by_role("button", name=f"Download the {kind.upper()}").or_(
                page.get_by_role("link", name=f"Download the {kind.upper()}"))  # fmt: skip
            button.first.wait_for()
            with page.expect_download() as waiting:
                button.first.click()
            path = tmp_path / f"r.{kind}"
            waiting.value.save_as(path)
            assert waiting.value.suggested_filename == f"pathassist-report.{kind}"
            if kind == "json":
                again = Report.from_json(path.read_bytes())
                assert again.specimen.text == "caecum"
                assert again.comment == "Seen by nobody <yet>"
            else:
                assert path.stat().st_size > 5_000
        shot(page, f"report-exported-{size[0]}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
