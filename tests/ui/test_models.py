"""Which model answers in which conversation, and what the drawer says of a change."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assistant.answer import Answer
from assistant.errors import BadInput, NotAvailable
from assistant.model.preset import load_preset, preset_names
from tests.ui.conftest import ShowAssistant
from ui.chat import Chat
from ui.drawer import loading_html, missing_html
from ui.models import Models, Offer, no_room, shipped_offers, why_not

ONE: Any = SimpleNamespace(session_hash="one")
TWO: Any = SimpleNamespace(session_hash="two")
OFFERS = [Offer("embedded", ""), Offer("big", ""), Offer("other", ""), Offer("far", "", "it ships no trained weights")]


def named(name: str) -> ShowAssistant:
    made = ShowAssistant()
    made.name = name
    return made


def models(show: ShowAssistant, **more: Any) -> Models:
    return Models(show, **{"load": named, "offers": lambda: OFFERS, "room": lambda _: ""} | more)


def answer_of(chat: Chat, request: Any, text: str = "what") -> Answer:
    sent = chat.submit({"text": text, "files": []}, [], [], request)
    *_, last = chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, request)
    return last.records[-1].answer


def test_each_conversation_has_its_own_model(show: ShowAssistant, tmp_path: Path) -> None:
    held = models(show)
    chat = Chat(show, [], tmp_path, held)
    held.choose("one", "big")
    assert answer_of(chat, ONE).model == "big"
    assert answer_of(chat, TWO).model == "embedded"
    assert (held.name_of("one"), held.name_of("two")) == ("big", "embedded")
    chat.leave(ONE)
    assert held.name_of("one") == "embedded"


def test_an_answer_under_way_ends_with_the_model_it_was_begun_with(show: ShowAssistant, tmp_path: Path) -> None:
    held = models(show)
    chat = Chat(show, [], tmp_path, held)
    show.gate.clear()
    sent = chat.submit({"text": "one two three", "files": []}, [], [], ONE)
    running = chat.respond(sent.chatbot, sent.records, 0.4, 128, 0.0, ONE)
    next(running)
    next(running)
    held.choose("one", "big")
    show.gate.set()
    *_, last = running
    assert last.records[-1].answer.model == "embedded"
    assert answer_of(chat, ONE).model == "big"


def test_a_model_is_loaded_once_for_all(show: ShowAssistant) -> None:
    loaded: list[str] = []

    def load(name: str) -> ShowAssistant:
        loaded.append(name)
        return named(name)

    held = models(show, load=load)
    threads = [threading.Thread(target=held.choose, args=(str(n), "big")) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert loaded == ["big"]
    held.choose("0", "embedded")
    assert loaded == ["big"]


def test_what_cannot_be_loaded_leaves_the_old_model(show: ShowAssistant) -> None:
    def load(_: str) -> ShowAssistant:
        raise NotAvailable("its weights are damaged")

    held = models(show, load=load)
    for name, error, said in (
        ("far", NotAvailable, "no trained weights"),
        ("/etc/passwd", BadInput, "not offered"),
        ("big", NotAvailable, "damaged"),
    ):
        with pytest.raises(error, match=said):
            held.choose("one", name)
        assert held.of("one") is show


def test_what_nobody_uses_makes_room_and_what_somebody_uses_does_not(show: ShowAssistant) -> None:
    held: Models
    held = models(show, room=lambda name: "it is full" if len(held._loaded) >= 2 and name == "other" else "")
    held.choose("one", "big")
    with pytest.raises(NotAvailable, match=r"it is full; start the server with --model other"):
        held.choose("two", "other")
    assert held.name_of("two") == "embedded"
    with held.answering("one") as answering:  # its page is closed, its answer is still under way
        held.forget("one")
        with pytest.raises(NotAvailable):
            held.choose("two", "other")
        assert answering.name == "big"
    held.choose("two", "other")
    assert set(held._loaded) == {"embedded", "other"}
    assert held.of("one") is show


def test_without_cases_the_library_is_left_out(show: ShowAssistant) -> None:
    show.library = object()  # type: ignore[attr-defined]
    held = models(show)
    with held.answering("one", cases=False) as without, held.answering("one") as with_cases:
        assert without.library is None
        assert without.calls is show.calls
        assert with_cases is show
    assert show.library is not None  # type: ignore[attr-defined]


def test_the_switch_of_similar_cases_reaches_the_model(
    show: ShowAssistant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    stream = ShowAssistant.stream

    def look(self: Any, *given: Any, **keywords: Any) -> Any:
        seen.append(self.library)
        return stream(self, *given, **keywords)

    monkeypatch.setattr(ShowAssistant, "stream", look)
    show.library = library = object()  # type: ignore[attr-defined]
    chat = Chat(show, [], tmp_path, models(show))
    for cases in (True, False):
        sent = chat.submit({"text": "what", "files": []}, [], [], ONE)
        list(chat.respond(sent.chatbot, [], 0.4, 128, 0.0, ONE, (), True, cases))
    assert seen == [library, None]


def test_every_shipped_preset_is_offered_or_has_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path))
    monkeypatch.delenv("PATHASSIST_REMOTE_URL", raising=False)
    reasons = {offer.name: offer.why_not for offer in shipped_offers()}
    assert list(reasons) == preset_names()
    assert "trained" in reasons["qwen-7b"]
    assert "PATHASSIST_REMOTE_URL" in reasons["remote"]
    assert reasons["embedded"]  # nothing is in this cache
    monkeypatch.setenv("PATHASSIST_REMOTE_URL", "http://127.0.0.1:1/v1")
    assert why_not(load_preset("remote")) == ""


def test_room_is_compared_with_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, place, full in ((1.0, "memory", True), (40.0, "memory", False), (8.0, "GPU memory", False)):
        monkeypatch.setattr("ui.models._free_gib", lambda free=free, place=place: (free, place))
        assert bool(no_room("pathasst-13b")) is full
    assert no_room("remote") == ""
    monkeypatch.setattr("ui.models._free_gib", lambda: (1.0, "memory"))
    assert "27 GiB" in no_room("pathasst-13b")


def test_names_and_reasons_are_text() -> None:
    shown = missing_html([Offer("<b>", "", "<script>"), Offer("fine", "")]) + loading_html("<i>", "${x}")
    assert "&lt;b&gt;" in shown
    assert "1 other cannot be loaded here" in shown
    for sign in ("<b>", "<script", "<i>", "${"):
        assert sign not in shown
    assert missing_html([Offer("fine", "")]) == ""
