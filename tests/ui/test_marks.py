"""Marking a region: the panel's handlers, the question that follows, and what the evidence shows of it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from assistant.answer import NO_CONFIDENCE, Answer, ToolCall
from assistant.chat.region import read_region
from tests.ui.conftest import ShowAssistant
from ui import marks
from ui.chat import KEEP, Chat, Screen
from ui.evidence import Record, evidence_html, sorted_warnings
from ui.marks import BOX, BRUSH, paint_html, region_picture, region_words

REQUEST: Any = SimpleNamespace(session_hash="one")
PAINTED = "brush 20: 60,60 140,60"


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "field.png"
    image = Image.new("RGB", (200, 160), "#ff0000")
    image.paste("#0000ff", (100, 0, 200, 160))
    image.save(path)
    return str(path)


def submit(chat: Chat, picture: str, region: str, files: list[str] | None = None) -> Screen:
    message = {"text": "what is it", "files": [picture] if files is None else files}
    return chat.submit(message, [], [], REQUEST, picture, region)


@pytest.mark.parametrize(("region", "size"), [("10,20,60,80", (50, 60)), (PAINTED, (121, 41))])
def test_the_question_is_about_the_region_and_the_evidence_shows_it(
    chat: Chat, show: ShowAssistant, picture: str, region: str, size: tuple[int, int]
) -> None:
    sent = submit(chat, picture, region)
    *_, last = chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, REQUEST)
    assert show.calls[-1]["images"][0].size == size
    assert "Region asked about" in last.evidence
    assert ("is painted" in last.evidence) is (region == PAINTED)
    uri = re.search(r'src="data:image/jpeg;base64,([^"]+)"', last.evidence)
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri[1]))) as shown:
        assert shown.size == (200, 160)


def test_asking_again_keeps_the_region(chat: Chat, picture: str) -> None:
    sent = submit(chat, picture, PAINTED)
    *_, last = chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, REQUEST)
    again = chat.retry(last.chatbot, last.records, REQUEST)
    *_, last = chat.respond(again.chatbot, again.records, 0.4, 128, 0.0, REQUEST)
    assert "Region asked about" in last.evidence


def test_a_question_without_a_region_shows_none(chat: Chat, picture: str) -> None:
    sent = submit(chat, picture, "")
    *_, last = chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, REQUEST)
    assert "Region asked about" not in last.evidence


@pytest.mark.parametrize("region", ["brush", "brush 5: 900,900", "1,2,3", "0,0,4,4"])
def test_a_region_that_cannot_be_used_is_told(chat: Chat, picture: str, region: str) -> None:
    sent = submit(chat, picture, region)
    assert 'role="alert"' in sent.notice
    assert sent.chatbot is KEEP
    assert sent.composer["value"]["text"] == "what is it"


def test_a_region_of_another_picture_is_not_asked_about(chat: Chat, picture: str, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    Image.new("RGB", (40, 40)).save(other)
    sent = submit(chat, picture, PAINTED, [str(other)])
    assert "another picture" in sent.notice
    assert submit(chat, picture, PAINTED, []).chatbot is not KEEP  # a further question about the picture taken


def test_paint_is_seen_in_the_picture(picture: str) -> None:
    with Image.open(picture) as image:
        shown = region_picture(image, read_region(image.size, PAINTED))
    assert shown.getpixel((100, 60)) != (0, 0, 255)
    assert shown.getpixel((190, 150)) == (0, 0, 255)
    box = read_region((200, 160), "10,20,60,80")
    assert region_words((200, 160), box) == "Asked about the marked box, from (10, 20) to (60, 80) of 200 × 160 pixels."


def test_either_way_of_marking_can_be_written(picture: str) -> None:
    view = marks._written(picture, PAINTED)
    assert view.how == BRUSH
    assert f'data-strokes="{PAINTED}"' in view.pane["value"]
    assert view.picture["visible"] is False
    assert "Painted: 9" in view.said  # of the box 40,40,161,81
    view = marks._written(picture, "10,20,60,80")
    assert (view.how, view.pane["visible"], view.picture["visible"]) == (BOX, False, True)
    assert 'role="alert"' in marks._written(picture, "brush 5: x").said
    assert "No picture is taken" in marks._written(None, PAINTED).said


def test_two_clicks_make_a_box(picture: str) -> None:
    first = marks._corner(picture, None, SimpleNamespace(index=[90, 80]))  # type: ignore[arg-type]
    assert first.corner == [90, 80]
    second = marks._corner(picture, first.corner, SimpleNamespace(index=[10, 20]))  # type: ignore[arg-type]
    assert (second.region, second.corner) == ("10,20,90,80", None)
    near = marks._corner(picture, [10, 20], SimpleNamespace(index=[11, 21]))  # type: ignore[arg-type]
    assert (near.region, near.corner) == ("", None)
    assert 'role="alert"' in near.said


def test_clearing_takes_the_paint_away_and_a_new_conversation_everything(picture: str) -> None:
    view = marks._cleared(picture, BRUSH)
    assert 'data-strokes=""' in view.pane["value"]
    assert view.region == ""
    assert marks.nothing()[:2] == (None, BOX)
    assert marks._cleared("/no/such/file.png", BRUSH).region == ""


def test_a_large_picture_is_painted_on_in_small_with_its_own_pixels() -> None:
    shown = paint_html(Image.new("RGB", (3000, 1000)), '"><script>')
    assert 'width="1024" height="341" data-width="3000" data-height="1000" data-strokes=""' in shown
    assert "<script" not in shown


# -- confidence ----------------------------------------------------------------


def made(*warnings: str, confidence: float = 0.0) -> Record:
    tools = (ToolCall("score_ihc", {}, {}, 1.0),)
    return Record("q", Answer("61 %", confidence, False, "61 %", warnings=warnings, tools=tools), 0.4)


def test_why_there_is_no_confidence_stands_with_the_confidence() -> None:
    why = f"{NO_CONFIDENCE} score_ihc: its counts were never measured"
    shown = evidence_html(made(why, "the image is nearly blank"))
    assert "not known" in shown
    assert shown.index("No confidence for score_ihc") < shown.index("About the image") < shown.index("nearly blank")
    assert "About the tools" not in shown


def test_warnings_are_sorted_by_what_they_are_about() -> None:
    rests = "confidence 0.93: when score_ihc says positive, it was right in 13 of 14 fields of val"
    record = made(rests, "score_ihc gave no result (timeout)", "the image is blurred", confidence=0.93)
    assert sorted_warnings(record.answer) == (
        [rests],
        ["score_ihc gave no result (timeout)"],
        ["the image is blurred"],
    )
    shown = evidence_html(record)
    assert shown.index("93 %") < shown.index("13 of 14") < shown.index("About the image")


def test_an_unknown_confidence_is_known_to_be_unknown_however_it_is_written() -> None:
    assert not made("No confidence for score_ihc: never measured").answer.confidence_known
    assert made("the image is blurred").answer.confidence_known
