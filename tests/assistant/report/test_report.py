"""Drafting, editing and exporting a report, with hostile text in every field."""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from assistant.answer import DISCLAIMER, Answer, Box, Case, Note, ToolCall
from assistant.errors import BadInput, TooLarge
from assistant.report import Report, Statement, draft
from assistant.report.draft import pixel_hash
from assistant.report.model import MAX_ITEMS, clean, write

HOSTILE = (
    '<script>alert(1)</script> "><img src=x onerror=alert(1)> {{7*7}} ${x} &lt; &#x41; <b>b</b> </para> <font> ]]> '
    "\x00\x07\x1b[31m \u202egnp.exe\u202c \ud800 \ufffe =cmd|' /C calc'!A0 中文 β µm² 😀"
)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def answer(text: str, **keywords: Any) -> Answer:
    return Answer(**{"text": text, "confidence": 0.8, "abstained": False, "best_guess": text, "model": "m"} | keywords)


@pytest.fixture
def report(field: Image.Image) -> Report:
    tools = (
        ToolCall("nuclei", {}, {"ok": True, "text": "214 nuclei.", "numbers": {"count": 214, "area_um2": 31.5}}, 1),
    )
    answers = [
        answer("B) colon", options={"A) liver": 0.1, "B) colon": 0.9}),
        answer("PAS"),
        answer(
            "A) adenoma\n\nSimilar cases: [1] Adenoma (0.87).",
            options={"A) adenoma": 0.7, "B) normal": 0.3},
            boxes=(Box("gland", (10, 20, 60, 90), 0.9),),
            cases=(Case("patient-name", 0.87, "Adenoma"),),
            support="supported",
            tools=tools,
        ),
        answer("Not enough evidence in this image.", abstained=True, best_guess="grade 2", confidence=0.2),
        answer("Yes", options={"Yes": 0.9, "No": 0.1}, notes=(Note("n", 0.5, "Atlas", "Polyps are common."),)),
    ]
    questions = [
        "Which organ is this?\nA) liver\nB) colon",
        "Which stain is this?",
        "Which of these is it?\nA) adenoma\nB) normal",
        "Which grade is it?",
        "Is a gland shown?",
    ]
    return draft(answers, field, questions=questions, revision="r1", now=NOW)


def test_answers_are_sorted_into_the_sections(report: Report) -> None:
    assert (report.specimen.text, report.stain.text) == ("colon", "PAS")
    assert [f.text for f in report.findings] == ["adenoma", "Is a gland shown? Yes"]
    assert [(c.label, c.confidence) for c in report.differential] == [("adenoma", 0.7), ("normal", 0.3)]
    assert [(m.name, m.value, m.unit) for m in report.measurements] == [("count", "214", ""), ("area", "31.5", "µm²")]
    assert any("Which grade is it?" in text and "grade 2" in text for text in report.limits)
    assert not any("grade" in f.text for f in report.findings)


def test_a_claim_says_what_it_rests_on(report: Report) -> None:
    kinds = {e.id: e.kind for e in report.evidence}
    assert {kinds[i] for i in report.findings[0].evidence} == {"answer", "tool", "region", "case"}
    assert report.status(report.findings[0]) == "supported"
    assert report.status(report.specimen) == "model only"
    report.findings.append(Statement("Added by hand", ["E99"]))
    assert report.marks_of(report.findings[-1]) == ["no evidence", "added by a person"]
    assert "no evidence" in report.to_html()


def test_an_unsupporting_case_is_no_evidence(field: Image.Image) -> None:
    made = draft(answer("Adenoma", cases=(Case("c", 0.9, "Normal mucosa"),), support="unsupported",
                        support_text="No supporting case."), field, questions="What is it?")  # fmt: skip
    assert made.status(made.findings[0]) == "model only"
    assert len(made.cases) == 1
    assert any("No supporting case." in text for text in made.limits)


def test_an_edit_shows_and_the_drafts_hash_stays(report: Report) -> None:
    hash_before = report.provenance.draft
    assert report.marks_of(report.findings[0]) == []
    report.findings[0].text = "tubular adenoma"
    again = Report.from_json(report.to_json())
    assert again.marks_of(again.findings[0]) == ["edited by a person"]
    assert again.provenance.draft == hash_before


def test_provenance_has_hashes_and_no_names(report: Report, field: Image.Image) -> None:
    p = report.provenance
    assert p.images == [pixel_hash(field)]
    assert len(p.prompts) == 5
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in [*p.images, *p.prompts, p.cases, p.draft])
    assert (p.model, p.revision, p.created) == ("m", "r1", "2026-01-02T03:04:05+00:00")
    assert "patient-name" not in report.to_json()


def test_metadata_of_the_image_is_left_behind(field: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    field.save(path, exif=exif, comment=b"Jane Doe")
    with Image.open(path) as opened:
        made = draft(answer("x"), opened, questions="What is it?")
    again = made.pictures[0].image()
    assert not again.getexif()
    assert "comment" not in again.info
    import base64

    assert b"Jane" not in base64.b64decode(made.pictures[0].data.split(",")[1])


def test_a_failed_tool_is_a_limit_and_no_finding(field: Image.Image) -> None:
    from assistant.tools import ToolState, run_call

    with ToolState([field]) as state:
        calls = [run_call("check_quality", {"image": 1}, state), run_call("no_such_tool", {"image": 1}, state)]
    made = draft([], field, tools=calls)
    assert [e.kind for e in made.evidence] == ["tool"]
    assert any("no_such_tool" in text for text in made.limits)
    assert {m.tool for m in made.measurements} == {"check_quality"}
    assert made.stain.text
    assert made.status(made.stain) == "supported"


def test_a_repeated_call_is_one_piece_of_evidence_with_its_picture(field: Image.Image) -> None:
    call = ToolCall(
        "count_cells", {}, {"ok": True, "text": "214 cells.", "numbers": {"cells": 214}}, 1.0, overlay=field
    )
    first = answer("Many cells.", tools=(call,))
    declined = answer("Not enough evidence.", abstained=True, best_guess="x", tools=(call,))
    made = draft([first, declined], field, questions=["What is shown?", "Which grade is it?"])
    assert [e.kind for e in made.evidence] == ["tool", "answer"]
    assert len(made.measurements) == 1
    alone = draft([declined], field, questions=["Which grade is it?"])
    assert [f.text for f in alone.findings] == ["214 cells."]
    assert [p.caption for p in alone.pictures] == ["Image 1", "Drawn by count_cells"]


class Collector(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@pytest.fixture
def hostile(field: Image.Image) -> Report:
    boxes = (Box(HOSTILE, (float("-1e9"), 5, 1e9, 3), 0.5),)
    call = ToolCall(HOSTILE, {}, {"text": HOSTILE, "numbers": {HOSTILE: HOSTILE}, "warnings": [HOSTILE]}, 1)
    one = answer(
        HOSTILE, options={HOSTILE: 1.0}, boxes=boxes, tools=(call,), model=HOSTILE, warnings=(HOSTILE,),
        cases=(Case("c", 0.5, HOSTILE, "javascript:alert(1)"),), notes=(Note("n", 0.4, HOSTILE, HOSTILE),),
    )  # fmt: skip
    made = draft(one, field, questions=HOSTILE, title=HOSTILE, revision=HOSTILE)
    made.comment = HOSTILE
    made.findings.append(Statement(HOSTILE * 300))
    made.limits.append("\n" * 3000 + "w" * 5000)
    return made


def test_hostile_text_stays_text_in_html(hostile: Report) -> None:
    page = Collector()
    page.feed(hostile.to_html())
    assert not page.tags & {"script", "b>", "font", "iframe", "a", "link"}
    assert all(not name.startswith("on") for name, _ in page.attributes)
    assert all(value.startswith("data:image/") for name, value in page.attributes if name in ("src", "href"))
    assert "<script>alert(1)</script>" in "".join(page.words)
    assert not re.search("[\x00-\x08\x1b\u202e]", hostile.to_html())


def test_hostile_text_stays_text_in_docx(hostile: Report, tmp_path: Path) -> None:
    from docx import Document

    path = hostile.to_docx(tmp_path / "r.docx")
    words = "\n".join(p.text for p in Document(str(path)).paragraphs)
    assert "<script>alert(1)</script>" in words
    with zipfile.ZipFile(path) as archive:
        assert not [n for n in archive.namelist() if "vba" in n.lower() or "embeddings" in n]
        assert 'TargetMode="External"' not in archive.read("word/_rels/document.xml.rels").decode()


def test_hostile_text_stays_text_in_pdf(hostile: Report, tmp_path: Path) -> None:
    data = hostile.to_pdf(tmp_path / "r.pdf").read_bytes()
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    for word in (b"/JavaScript", b"/JS", b"/Launch", b"/URI", b"/EmbeddedFile"):
        assert word not in data


def test_the_pdf_can_be_read_and_has_greek_letters(report: Report, tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("pdftotext") is None:
        pytest.skip("pdftotext is not installed (Debian: poppler-utils)")
    report.findings[0].text = "β-catenin ≥ 3 µm² 中"
    path = report.to_pdf(tmp_path / "r.pdf")
    text = subprocess.run(["pdftotext", str(path), "-"], capture_output=True, check=True).stdout.decode()
    assert "β-catenin ≥ 3 µm²" in text
    assert "1 characters have no sign" in text
    assert text.count(DISCLAIMER) >= 2


def test_the_same_report_gives_the_same_files(report: Report, tmp_path: Path) -> None:
    for name in ("a.json", "a.html", "a.pdf"):
        assert report.save(tmp_path / name).read_bytes() == report.save(tmp_path / f"b{name}").read_bytes()


def test_json_carries_the_whole_report_both_ways(report: Report) -> None:
    assert Report.from_json(report.to_json()) == report.cleaned()


def changed(report: Report, **values: Any) -> str:
    return json.dumps(json.loads(report.to_json()) | values)


def test_json_that_is_no_report_is_refused(report: Report) -> None:
    for text, words in (
        ("{", "not readable"),
        ("[]", "not readable"),
        (changed(report, findings=[{"text": 3}]), "findings.0.text"),
        (changed(report, schema=99), "version 99"),
        (changed(report, pictures=[{"data": "file:///etc/passwd", "width": 1, "height": 1}]), "data URI"),
        (changed(report, pictures=[{"data": "data:image/png;base64,AAAA", "width": 1, "height": 1}]), "image"),
        (changed(report, cases=[{"number": 1, "title": "", "score": 1, "thumbnail": "javascript:1"}]), "data URI"),
    ):
        with pytest.raises(BadInput, match=words):
            Report.from_json(text)
    with pytest.raises(TooLarge, match="entries"):
        Report.from_json(changed(report, limits=["x"] * (MAX_ITEMS + 1)))
    assert Report.from_json(changed(report, disclaimer="For diagnosis.")).disclaimer == DISCLAIMER


def test_files_appear_whole_or_not_at_all(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.html"
    path.write_text("before")

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt):
        report.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]
    assert path.read_text() == "before"


def test_a_wrong_name_or_folder_is_one_clear_error(report: Report, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'r\.txt'.*\.docx"):
        report.save(tmp_path / "r.txt")
    with pytest.raises(BadInput, match="cannot be written"):
        write(tmp_path / "none" / "r.json", b"")
    with pytest.raises(BadInput, match="nothing to report"):
        draft([])
    with pytest.raises(BadInput, match="1 answers and 2 questions"):
        draft(answer("x"), questions=["a", "b"])


def test_boxes_are_drawn_where_they_are(field: Image.Image) -> None:
    from assistant.report.draw import drawn

    big = field.resize((2400, 2000))
    made = draft(answer("x", boxes=(Box("g", (600, 500, 1200, 1000), 0.9),)), big, questions="What?")
    image = drawn(made.pictures[0])
    assert image.size == (1000, 833)
    assert sum(abs(a - b) for a, b in zip(image.getpixel((250, 300)), (15, 106, 114), strict=True)) < 90
    plain = made.pictures[0].image()
    assert image.crop((600, 500, 1000, 833)).tobytes() == plain.crop((600, 500, 1000, 833)).tobytes()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")


def test_clean_keeps_line_breaks_and_cuts() -> None:
    assert clean("a\r\nb\tc\x00\u202e") == "a\nb\tc"
    assert len(clean("x" * 50, 10)) == 10
