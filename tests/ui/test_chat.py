"""The page's handlers, as plain functions and generators, and what the evidence panel shows."""

from __future__ import annotations

import re
import threading
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from assistant.answer import Answer, Box, Case, ToolCall
from assistant.errors import BadInput
from tests.ui.conftest import MARKUP, ShowAssistant
from ui.app import AUTH_VARIABLE, read_auth
from ui.chat import KEEP, Chat, Screen
from ui.evidence import EMPTY, Record, chat_text, evidence_html, in_words, panel, record
from ui.examples import write_examples
from ui.history import history_to_turns, last_question, show, unshow

REQUEST: Any = SimpleNamespace(session_hash="one")


@pytest.fixture
def red(tmp_path: Path) -> str:
    path = tmp_path / "Jane Doe 1961.png"
    Image.new("RGB", (16, 12), "#ff0000").save(path)
    return str(path)


def send(chat: Chat, text: str, files: list[str], history: list[Any] | None = None, records: Any = ()) -> Screen:
    return chat.submit({"text": text, "files": files}, history or [], list(records), REQUEST)


def ask(chat: Chat, text: str, files: list[str], history: list[Any] | None = None, records: Any = ()) -> list[Screen]:
    sent = send(chat, text, files, history, records)
    return list(chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, REQUEST))


def texts(messages: list[Any]) -> list[str]:
    return [part["text"] for m in messages for part in m["content"] if part.get("type") == "text"]


# -- asking ----------------------------------------------------------------


def test_an_answer_streams_and_ends_with_its_evidence(chat: Chat, show: ShowAssistant, red: str) -> None:
    show.delay = 0.06
    *_, last = screens = ask(chat, "what is this", [red])
    growing = [texts(s.chatbot)[-1] for s in screens if s.chatbot is not KEEP]
    assert growing[-1] == "#ff0000 what is this"
    assert len(growing) > 2
    assert all(later.startswith(earlier) for earlier, later in pairwise(growing))
    assert "90 %, high" in last.evidence
    assert [r.question for r in last.records] == ["what is this"]
    assert last.composer["interactive"] is True
    assert last.composer["stop_btn"] is False


def test_settings_reach_the_model(chat: Chat, show: ShowAssistant, red: str) -> None:
    sent = send(chat, "why", [red])
    list(chat.respond(sent.chatbot, [], 0.65, 64, 0.7, REQUEST))
    assert show.thresholds == [0.65]
    assert (show.calls[0]["max_new_tokens"], show.calls[0]["temperature"]) == (64, 0.7)


def test_sending_shows_the_question_at_once_and_offers_to_stop(chat: Chat, red: str) -> None:
    sent = send(chat, " why ", [red])
    assert texts(sent.chatbot) == ["why"]
    assert (sent.composer["interactive"], sent.composer["submit_btn"], sent.composer["stop_btn"]) == (
        False,
        False,
        True,
    )
    assert "Waiting" in sent.evidence


def test_stored_images_carry_neither_name_nor_metadata(chat: Chat, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "Jane Doe"
    source = tmp_path / "Jane Doe.jpg"
    Image.new("RGB", (16, 12), "#ff0000").save(source, exif=exif)
    stored = Path(send(chat, "why", [str(source)]).chatbot[0]["content"][0]["path"])
    assert "Jane" not in str(stored.relative_to(chat.folder))
    assert b"Jane" not in stored.read_bytes()
    assert stored.stat().st_mode & 0o077 == 0


def test_a_conversation_hands_over_all_earlier_turns_with_their_images(
    chat: Chat, show: ShowAssistant, red: str
) -> None:
    first = ask(chat, "one", [red])[-1]
    ask(chat, "two", [], first.chatbot, first.records)
    history = show.calls[1]["history"]
    assert [(t.role, t.text, len(t.images)) for t in history] == [("user", "one", 1), ("assistant", "#ff0000 one", 0)]
    assert history[0].images[0].getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("text", "says"), [("", "the question is empty"), ("x" * 9_000, "at most 8,000"), ("  \n", "the question is empty")]
)
def test_a_bad_question_is_told_and_kept(chat: Chat, red: str, text: str, says: str) -> None:
    sent = send(chat, text, [red])
    assert says in sent.notice.lower()
    assert 'role="alert"' in sent.notice
    assert sent.chatbot is KEEP
    assert sent.composer["value"]["text"] == text
    assert len(sent.composer["value"]["files"]) == 1


@pytest.mark.parametrize("content", [b"MZ\x90\x00 this is a program", b"\x89PNG\r\n\x1a\n\x00\x00", b""])
def test_a_bad_file_is_told_in_one_line_and_dropped(chat: Chat, tmp_path: Path, red: str, content: bytes) -> None:
    bad = tmp_path / "setup.exe"
    bad.write_bytes(content)
    sent = send(chat, "why", [red, str(bad)])
    assert sent.notice.count("<li>") == 1
    assert "Traceback" not in sent.notice
    assert "setup.exe" in sent.notice
    assert len(sent.composer["value"]["files"]) == 1
    assert sent.chatbot is KEEP


@pytest.mark.parametrize(
    ("text", "says"),
    [("REFUSE it", "Refused: say something else"), ("CRASH it", "internal error"), ("BREAK it", "internal error")],
)
def test_a_failed_answer_gives_the_question_back(
    chat: Chat, red: str, caplog: pytest.LogCaptureFixture, text: str, says: str
) -> None:
    last = ask(chat, text, [red])[-1]
    assert says.lower() in last.notice.lower()
    assert "secret" not in last.notice
    assert last.chatbot == []
    assert last.composer["value"]["text"] == text
    assert len(last.composer["value"]["files"]) == 1
    assert last.composer["interactive"] is True


def test_an_image_that_is_gone_is_told(chat: Chat, red: str) -> None:
    sent = send(chat, "why", [red])
    Path(sent.chatbot[0]["content"][0]["path"]).unlink()
    last = list(chat.respond(sent.chatbot, [], 0.4, 128, 0.0, REQUEST))[-1]
    assert "no longer kept" in last.notice


def test_abstention_is_worded_as_such(chat: Chat, red: str) -> None:
    last = ask(chat, "DOUBT it", [red])[-1]
    assert texts(last.chatbot)[-1] == "Not enough evidence — best guess: #ff0000 DOUBT it"
    assert 'class="verdict abstained">Not enough evidence' in last.evidence


def test_respond_without_a_question_changes_nothing(chat: Chat, show: ShowAssistant) -> None:
    answered = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    for history in ([], answered):
        assert list(chat.respond(history, [], 0.4, 128, 0.0, REQUEST)) == [Screen()]
    assert show.calls == []


# -- stopping and starting over ----------------------------------------------------------------


def test_stop_ends_the_generation_and_keeps_what_was_written(chat: Chat, show: ShowAssistant, red: str) -> None:
    show.gate.clear()
    sent = send(chat, "a b c d", [red])
    screens: list[Screen] = []
    thread = threading.Thread(
        target=lambda: screens.extend(chat.respond(sent.chatbot, [], 0.4, 128, 0.0, REQUEST)), daemon=True
    )
    thread.start()
    while not any(s.chatbot is not KEEP for s in screens):
        assert thread.is_alive()
    chat.stop(REQUEST)
    thread.join(5)
    assert show.cancelled == 1
    assert texts(screens[-1].chatbot) == ["a b c d", "#ff0000"]
    assert "Stopped" in screens[-1].evidence


def test_stop_before_the_turn_comes_gives_the_question_back(chat: Chat, show: ShowAssistant, red: str) -> None:
    sent = send(chat, "a b", [red])
    chat.stop(REQUEST)
    last = list(chat.respond(sent.chatbot, [], 0.4, 128, 0.0, REQUEST))[-1]
    assert last.chatbot == []
    assert last.composer["value"]["text"] == "a b"
    assert "Stopped" in last.notice


def test_stop_reaches_only_its_own_session(chat: Chat, show: ShowAssistant, red: str) -> None:
    sent = send(chat, "a b", [red])
    chat.stop(SimpleNamespace(session_hash="two"))
    last = list(chat.respond(sent.chatbot, [], 0.4, 128, 0.0, REQUEST))[-1]
    assert texts(last.chatbot)[-1] == "#ff0000 a b"


def test_closing_the_generator_stops_the_model(chat: Chat, show: ShowAssistant, red: str) -> None:
    stops: list[threading.Event] = []
    original = show.stream

    def spy(*args: Any, **keywords: Any) -> Any:
        stops.append(keywords["stop"])
        return original(*args, **keywords)

    show.stream = spy  # type: ignore[method-assign]
    sent = send(chat, "a b c", [red])
    running = chat.respond(sent.chatbot, [], 0.4, 128, 0.0, REQUEST)
    next(running)
    next(running)
    running.close()
    assert stops[0].is_set()


def test_retry_asks_again_and_replaces_the_answer(chat: Chat, show: ShowAssistant, red: str) -> None:
    first = ask(chat, "one", [red])[-1]
    second = ask(chat, "two", [], first.chatbot, first.records)[-1]
    again = chat.retry(second.chatbot, second.records, REQUEST)
    assert texts(again.chatbot) == ["one", "#ff0000 one", "two"]
    assert [r.question for r in again.records] == ["one"]
    done = list(chat.respond(again.chatbot, again.records, 0.4, 128, 0.0, REQUEST))[-1]
    assert [r.question for r in done.records] == ["one", "two"]
    assert show.calls[-1]["question"] == "two"


def test_undo_takes_the_question_back(chat: Chat, red: str) -> None:
    first = ask(chat, "one", [red])[-1]
    undone = chat.undo(first.chatbot, first.records)
    assert (undone.chatbot, undone.records, undone.evidence) == ([], [], EMPTY)
    assert undone.composer["value"]["text"] == "one"
    assert len(undone.composer["value"]["files"]) == 1


def test_clear_empties_everything_and_stops(chat: Chat, red: str) -> None:
    send(chat, "one", [red])
    stop = chat._stop_of(REQUEST)
    cleared = chat.clear(REQUEST)
    assert (cleared.chatbot, cleared.records, cleared.notice, cleared.evidence) == ([], [], "", EMPTY)
    assert stop.is_set()


def test_examples_are_three_real_questions(tmp_path: Path, show: ShowAssistant) -> None:
    from assistant.chat.prompt import parse_question

    examples = write_examples(tmp_path / "examples")
    (tmp_path / "files").mkdir()
    chat = Chat(show, examples, tmp_path / "files")
    assert len(examples) == 3
    for index, (_, image, question) in enumerate(examples):
        assert parse_question(question).stem
        with Image.open(image) as opened:
            assert min(opened.size) >= 256
        event: Any = SimpleNamespace(index=index, value={"text": "forged", "files": [{"path": "/etc/passwd"}]})
        sent = chat.example([], [], event, REQUEST)
        assert texts(sent.chatbot) == [question]
    assert len({path.read_bytes() for _, path, _ in examples}) == 3


# -- text and history ----------------------------------------------------------------


@given(st.text() | st.text(alphabet="<>&;#alt/mp! x"))
def test_shown_text_comes_back_and_holds_no_tag(text: str) -> None:
    assert unshow(show(text)) == text
    assert not re.search(r"<[A-Za-z/!?]", show(text))


def test_ordinary_text_is_shown_as_it_is() -> None:
    for text in ("H&E", "Ki-67 < 14 %", "a > b && c", "AT&T <3"):
        assert show(text) == text


def shapes(path: str) -> list[list[Any]]:
    answer = {"role": "assistant", "content": "b"}
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    typed = [{"type": "file", "file": {"path": path}}, {"type": "text", "text": "a"}]
    return [
        [{"role": "user", "content": [{"path": path}, "a"]}, answer],
        [{"role": "user", "content": typed}, {"role": "assistant", "content": [{"type": "text", "text": "b"}]}],
        [{"role": "user", "content": file}, {"role": "user", "content": "a"}, answer],
        [{"role": "user", "content": (path,)}, {"role": "user", "content": "a"}, answer],
        [{"role": "user", "content": [gr.FileData(path=path), "a"]}, answer],
        [gr.ChatMessage(role="user", content=[{"path": path}, "a"]), gr.ChatMessage(role="assistant", content="b")],
        [
            {"role": "user", "content": typed, "metadata": None, "options": None},
            {"role": "assistant", "content": "counted 214", "metadata": {"title": "nuclei"}},
            {"role": "assistant", "content": [{"type": "component", "component": "plot", "value": {}}, "b"]},
        ],
    ]


@pytest.mark.parametrize("shape", range(7))
def test_every_shape_of_history_gives_the_same_turns(red: str, shape: int) -> None:
    turns = history_to_turns(shapes(red)[shape])
    assert [(t.role, t.text, len(t.images)) for t in turns] == [("user", "a", 1), ("assistant", "b", 0)]
    assert last_question(shapes(red)[shape]) == ([], "a", [red])


def test_history_undoes_the_escaping() -> None:
    turns = history_to_turns([{"role": "user", "content": show("is <b> &lt; H&E?")}])
    assert turns[0].text == "is <b> &lt; H&E?"


def test_empty_history() -> None:
    assert history_to_turns(None) == history_to_turns([]) == []
    assert last_question([]) == ([], "", [])


def test_a_strange_role_is_refused() -> None:
    with pytest.raises(BadInput, match="tool"):
        history_to_turns([{"role": "tool", "content": "a"}])


# -- evidence ----------------------------------------------------------------


def made(**more: Any) -> Answer:
    return Answer(**{"text": "colon", "confidence": 0.8, "abstained": False, "best_guess": "colon"} | more)


@pytest.mark.parametrize(
    ("confidence", "word"), [(0.95, "high"), (0.9, "high"), (0.7, "moderate"), (0.2, "low"), (0, "low")]
)
def test_confidence_in_words(confidence: float, word: str) -> None:
    assert in_words(confidence) == word


def test_parts_without_content_are_left_out() -> None:
    shown = panel([Record("q", made(), 0.4)])
    for heading in ("Options weighed", "About the image", "Regions", "Tools", "Similar cases", "Earlier answers"):
        assert heading not in shown
    assert "Research use only, not for diagnosis." in shown
    assert "At or above the threshold of 40 %" in shown


def test_all_evidence_is_shown_and_escaped(field: Image.Image) -> None:
    bad = '<script>x</script>" onload="x ${1+1} {{value}}'
    answer = made(
        best_guess=bad,
        abstained=True,
        model=bad,
        options={bad: 0.7, "b": 0.3},
        warnings=(bad,),
        boxes=(Box(bad, (10, 20, 50, 60), 0.5),),
        tools=(ToolCall(bad, {"a": bad}, bad, 1.0),),
        cases=(Case("1", 0.5, bad, bad), Case("2", 0.4, "t", "https://example.org/x.png")),
    )
    shown = panel([record(bad, answer, 0.4, [field])] * 2)
    for sign in ("<script", '" onload', "${", "{{", "example.org"):
        assert sign not in shown
    assert 'viewBox="0 0 240 200"' in shown
    assert '<rect x="10" y="20" width="40" height="40"/>' in shown
    assert "Earlier answers" in shown


def test_boxes_in_one_of_several_images_are_drawn_on_it(field: Image.Image) -> None:
    other = field.resize((100, 80))
    shown = evidence_html(record("q", made(boxes=(Box("gland", (0, 0, 5, 5), 0.5, 2),)), 0.4, [field, other]))
    assert 'viewBox="0 0 100 80"' in shown
    assert "image 2" in shown


@pytest.mark.parametrize("images", [(1, 2), (3,)])
def test_boxes_in_several_images_or_in_a_made_one_are_listed_but_not_drawn(
    field: Image.Image, images: tuple[int, ...]
) -> None:
    answer = made(boxes=tuple(Box("gland", (0, 0, 5, 5), 0.5, image) for image in images))
    shown = evidence_html(record("q", answer, 0.4, [field, field]))
    assert "gland" in shown
    assert "<svg" not in shown


def test_chat_text_of_an_empty_answer_is_not_empty() -> None:
    assert chat_text(made(text=" "))
    assert chat_text(made(text="", best_guess="", abstained=True)).endswith("none")


def test_markup_of_a_model_is_shown_not_run(chat: Chat, red: str) -> None:
    last = ask(chat, "HTML please", [red])[-1]
    text = texts(last.chatbot)[-1]
    assert "<img" not in text
    assert unshow(text) == MARKUP


# -- who may come in ----------------------------------------------------------------


def test_other_machines_need_a_login() -> None:
    with pytest.raises(BadInput, match=rf"192\.0\.2\.1.*{AUTH_VARIABLE}"):
        read_auth(None, "192.0.2.1", {})
    assert read_auth(None, "127.0.0.1", {}) is None
    assert read_auth("me:a:b", "192.0.2.1", {}) == ("me", "a:b")
    assert read_auth(None, "192.0.2.1", {AUTH_VARIABLE: "me:pw"}) == ("me", "pw")


@pytest.mark.parametrize("login", ["me", "me:", ":pw", ("me", "")])
def test_half_a_login_is_refused(login: Any) -> None:
    with pytest.raises(BadInput, match="user and a password"):
        read_auth(login, "127.0.0.1", {})


def test_the_number_of_a_small_box_stands_beside_it() -> None:
    boxes = (Box("nucleus", (50.0, 50.0, 54.0, 54.0), 0.9), Box("gland", (10.0, 10.0, 90.0, 90.0), 0.8))
    boxes += (Box("nucleus", (50.0, 2.0, 54.0, 6.0), 0.7),)
    said = Answer("text", 0.9, False, "text", boxes=boxes)
    page = evidence_html(record("q", said, 0.5, [Image.new("RGB", (100, 100), "pink")]))
    places = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"', page)
    assert places == [("50", "49"), ("11", "15"), ("50", "11")]
