"""Handlers of the Tools and Benchmarks tabs, and the evidence of boxes and tools, without a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from assistant.answer import Answer, Box, ToolCall
from assistant.tools.registry import find_tools
from ui.benchmarks import _STEP, Benchmarks, progress_html
from ui.evidence import evidence_html, linked, record
from ui.tools import Tools, _form, card_html, numbers_html


def test_boxes_are_linked_to_words_and_markup_stays_text() -> None:
    boxes = [Box("gland <1>", (0, 0, 4, 4), 0.9), Box("gland", (1, 1, 2, 2), 0.5), Box("Gland", (2, 2, 3, 3), 0.4)]
    html = linked("A Gland, a gland <1> and glands & <b>", boxes)
    assert '<mark class="link" tabindex="0" data-box="2 3">Gland</mark>' in html
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert html.count("<mark") >= 1
    assert ">glands<" not in html


def test_a_tool_trace_has_state_text_and_picture() -> None:
    call = ToolCall(
        "segment_nuclei", {"image": 1}, {"ok": True, "text": "12 <nuclei>", "numbers": {"count": 12}, "warnings": []},
        1.5, "ok", Image.new("RGB", (30, 20)),
    )  # fmt: skip
    bad = ToolCall("score_ihc", {}, {"ok": False, "text": "refused", "numbers": {}, "warnings": []}, 0.1, "refused")
    made = record("q", Answer("12", 0.9, False, "12", tools=(call, bad)), 0.5)
    assert made.overlays[0].startswith("data:image/jpeg;base64,")
    assert made.answer.tools[0].overlay is None
    html = evidence_html(made)
    assert "12 &lt;nuclei&gt;" in html
    assert "0.1 s, refused" in html
    assert html.count('class="drawn"') == 1


@pytest.mark.parametrize("name", list(find_tools().tools))
def test_every_tool_has_a_card_and_a_form(name: str) -> None:
    tool = find_tools()[name]
    assert tool.card.licence in card_html(tool).replace("&amp;", "&")
    keys = [key for key, _ in _form(tool)]
    assert "image" not in keys


def test_a_tool_runs_writes_its_files_and_its_process_ends(tmp_path: Path, field: Image.Image) -> None:
    path = tmp_path / "field.png"
    field.resize((256, 256)).save(path)
    tools = Tools(tmp_path)
    first, last = tools.run("check_quality", True, {}, [str(path), None], "s")
    assert 'aria-busy="true"' in first.status
    files = [Path(file) for file in last.files["value"]]
    saved = json.loads(next(file for file in files if file.name == "result.json").read_text(encoding="utf-8"))
    assert saved["name"] == "check_quality"
    assert saved["disclaimer"]
    assert "<table>" in last.numbers
    assert tools._running == {}


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    *_, last = Tools(tmp_path).run("normalise_stain", True, {}, [None, None], "s")
    assert "no image was given for: image, reference" in last.status.lower()
    assert numbers_html({}) == ""
    assert "a · b" in numbers_html({"a": {"b": 1.23456}})


def test_benchmarks_refuse_bad_choices_in_words(tmp_path: Path) -> None:
    benchmarks = Benchmarks(tmp_path)
    for given, said in (
        (([], "embedded", 1, ""), "no benchmark is chosen"),
        ((["local-vqa"], "--help", 1, ""), "is not a name"),
        ((["local-vqa"], "embedded", 1, "rm"), "not offered"),
        ((["local-vqa"], "nonesuch", 1, "image"), "nonesuch"),
    ):
        *_, last = benchmarks.run(*given)
        assert 'role="alert"' in last.status
        assert said in last.status.lower()
    *_, shown = benchmarks.show(["../../etc"])
    assert "no run is chosen" in shown.status.lower()
    benchmarks.close()


def test_progress_is_read_off_the_bar() -> None:
    found = _STEP.search("\nlocal-vqa:  35%|███▌      | 7/20 [00:07<00:13,  1.03s/item]")
    assert found is not None
    assert (found[1], found[2], found[3]) == ("local-vqa", "7", "20")
    html: Any = progress_html("x", "7 of 20", 0.35)
    assert re.search(r'aria-valuenow="35"', html)
