"""The ``remote`` preset against our own server, and against replies with and without log-probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
from PIL import Image

from assistant.answer import Answer, ToolCall
from assistant.errors import BadInput, NotAvailable
from assistant.model.remote import SAMPLED, RemoteAssistant
from tests.serving import Quiet, answering, serving

pytest.importorskip("openai")


def connect(monkeypatch: pytest.MonkeyPatch, url: str, model: str = "tiny", **keywords: Any) -> RemoteAssistant:
    monkeypatch.setenv("PATHASSIST_REMOTE_URL", url)
    monkeypatch.setenv("PATHASSIST_REMOTE_MODEL", model)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be used
    return RemoteAssistant.connect(**keywords)


def test_it_answers_through_our_own_server(
    monkeypatch: pytest.MonkeyPatch, tiny_assistant: Any, field: Image.Image
) -> None:
    question = "Which tissue? A) colon B) lung C) breast"
    here = tiny_assistant.ask(field, question)
    with serving(tiny_assistant) as address:
        there = connect(monkeypatch, f"{address}/v1")
        answer = there.ask(field, question, threshold=0)
        assert set(answer.options) == set(here.options)
        assert answer.confidence == pytest.approx(max(answer.options.values()), abs=1e-3)
        *pieces, final = there.stream(field, "Describe it.", max_new_tokens=6, threshold=0)
        assert isinstance(final, Answer)
        assert "".join(map(str, pieces)).strip() != ""
        assert final.usage.completion_tokens >= 1
        assert final.model == "remote:tiny"
        with pytest.raises(BadInput, match="empty"):
            there.ask(field, " ")


def test_a_wrong_address_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    there = connect(monkeypatch, "http://127.0.0.1:9/v1")
    with pytest.raises(NotAvailable, match=r"cannot reach the model at 127\.0\.0\.1:9") as caught:
        there.ask(None, "Is it?")
    assert "\n" not in str(caught.value)
    for url in ("file:///etc/passwd", "nonsense"):
        with pytest.raises(BadInput, match="PATHASSIST_REMOTE_URL"):
            connect(monkeypatch, url)
    monkeypatch.delenv("PATHASSIST_REMOTE_URL")
    with pytest.raises(NotAvailable, match="export PATHASSIST_REMOTE_URL"):
        RemoteAssistant.connect()
    with pytest.raises(BadInput, match="no endpoint"):
        RemoteAssistant.connect("embedded")


def chunk(delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
    return {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


class Endpoint(Quiet):
    """Speaks the protocol of other servers: with log-probabilities or refusing them, with tool calls, a redirect."""

    asked: ClassVar[list[dict[str, Any]]] = []
    mode = "logprobs"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append(body)
        if self.mode == "redirect":
            self.send_response(307)
            self.send_header("location", "http://127.0.0.1:9/v1/chat/completions")
            self.send_header("content-length", "0")
            self.end_headers()
            return
        if self.mode == "plain" and "logprobs" in body:
            self.send(400, "application/json", b'{"error": {"message": "logprobs are not supported"}}')
            return
        self.send(200, "text/event-stream", "".join(f"data: {json.dumps(c)}\n\n" for c in self._chunks(body)).encode())

    def _chunks(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        if body.get("tools") and body["messages"][-1]["role"] != "tool":
            function = {"name": "check_quality", "arguments": '{"image": 1}'}
            call = {"index": 0, "id": "c1", "type": "function", "function": function}
            return [chunk({"tool_calls": [call]}), chunk({}, "tool_calls")]
        top = [{"token": "B", "logprob": -0.2, "bytes": None}, {"token": " A", "logprob": -1.8, "bytes": None}]
        seen = {"content": [{"token": "B", "logprob": -0.2, "bytes": None, "top_logprobs": top}], "refusal": None}
        return [chunk({"content": "B"}, logprobs=seen if body.get("logprobs") else None), chunk({}, "stop")]


@contextmanager
def endpoint(mode: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    handler = type("Handler", (Endpoint,), {"mode": mode, "asked": []})
    with answering(handler) as address:
        yield f"{address}/v1", handler.asked  # type: ignore[attr-defined]


def test_confidence_is_read_from_the_letters(monkeypatch: pytest.MonkeyPatch, field: Image.Image) -> None:
    with endpoint("logprobs") as (url, asked):
        answer = connect(monkeypatch, url).ask(field, "Which? A) colon B) lung C) breast")
    assert answer.best_guess == "B) lung"
    assert answer.options["B) lung"] == pytest.approx(0.832, abs=0.005)
    assert answer.options["C) breast"] == 0
    assert SAMPLED not in answer.warnings
    (request,) = asked
    assert request["messages"][-1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_without_logprobs_agreement_is_the_confidence_and_it_says_so(
    monkeypatch: pytest.MonkeyPatch, field: Image.Image
) -> None:
    with endpoint("plain") as (url, asked):
        there = connect(monkeypatch, url)
        answer = there.ask(field, "Which? A) colon B) lung")
        opened = there.ask(field, "What is it")
    assert answer.best_guess == "B) lung"
    assert 0.5 < answer.confidence < 1
    assert SAMPLED in answer.warnings
    assert (opened.text, opened.confidence) == ("B", 1.0)
    assert sum("logprobs" in request for request in asked) == 1


def test_its_tool_calls_are_run_here(monkeypatch: pytest.MonkeyPatch, field: Image.Image) -> None:
    with endpoint("logprobs") as (url, asked):
        *_, answer = items = list(
            connect(monkeypatch, url).stream(field, "Is it sharp enough", tools=["check_quality"])
        )
    calls = [item for item in items if isinstance(item, ToolCall)]
    assert [(call.name, call.status) for call in calls] == [("check_quality", "ok")]
    assert isinstance(answer, Answer)
    assert answer.tools == tuple(calls)
    assert json.loads(asked[1]["messages"][-1]["content"])["ok"] is True


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    with endpoint("redirect") as (url, asked):
        with pytest.raises(NotAvailable, match="307"):
            connect(monkeypatch, url).ask(None, "What is it")
        assert len(asked) == 1
