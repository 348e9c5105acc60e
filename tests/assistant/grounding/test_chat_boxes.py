"""A tiny real LLaVA writes boxes that can always be read; an endpoint's answers are read the same way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from PIL import Image

from assistant.answer import Box
from assistant.errors import BadInput
from assistant.grounding.boxes_text import NOTHING, NotBoxes, box_text, parse_boxes, write_boxes
from assistant.grounding.chat_boxes import ChatGrounder, _ids, _Writer, grounding_prompt
from tests.conftest import make_tiny_llava, tiny_tokenizer
from tests.serving import Quiet, answering


@pytest.mark.parametrize("seed", range(3))
def test_a_tiny_llava_always_writes_boxes(seed: int, field: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    from assistant.assistant import Assistant
    from assistant.model.engine import make_engine

    model, processor = make_tiny_llava(seed)
    grounder = ChatGrounder(Assistant(model, processor, make_engine(model), name="tiny"), limit=3)
    written: list[list[int]] = []
    plain = _Writer.boxes

    def boxes(self: _Writer, limit: int) -> Any:
        found = plain(self, limit)
        written.append(self.tokens)
        return found

    monkeypatch.setattr(_Writer, "boxes", boxes)
    # Random weights say nothing as likely as a box: the first choice is made for them.
    first = _Writer.choose
    monkeypatch.setattr(_Writer, "choose", lambda self, o: (self.read(o[0]), (0, 0.0))[1] if o[0] else first(self, o))
    found = grounder.ground(field, "the largest gland")
    assert 1 <= len(found) <= 3
    text = processor.tokenizer.decode(written[0])
    assert sorted(write_boxes([b.xyxy], field.size) for b in found) == sorted(
        box_text(row) for row in dict.fromkeys(parse_boxes(text))
    )
    for box in found:
        assert isinstance(box, Box)
        assert box.label == "the largest gland"
        assert 0 < box.score <= 1
        assert 0 <= box.xyxy[0] < box.xyxy[2] <= field.width
        assert 0 <= box.xyxy[1] < box.xyxy[3] <= field.height
    assert [b.score for b in found] == sorted((b.score for b in found), reverse=True)


def test_a_tiny_llava_without_help(tiny_assistant: Any, field: Image.Image) -> None:
    grounder = ChatGrounder(tiny_assistant, limit=2)
    first, again = (grounder.ground(field, "all glands") for _ in range(2))
    assert first == again
    assert grounder.ground(Image.new("RGB", (64, 64), "white"), "all glands") == []
    assert grounder.ground(field, "all glands", threshold=1.0) == []


def writer_that_wants(text: str, tokenizer: Any) -> _Writer:
    """A model that finds one answer likely, as its tokenizer cuts it."""
    wanted = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    place = 0

    def logits() -> torch.Tensor:
        out = torch.zeros(len(tokenizer))
        if place < len(wanted):
            out[wanted[place]] = 20.0
        return out

    def step(token: int) -> torch.Tensor:
        nonlocal place
        assert token == wanted[place], f"{tokenizer.decode([token])!r} after {tokenizer.decode(wanted[:place])!r}"
        place += 1
        return logits()

    writer = _Writer(tokenizer, [tokenizer.eos_token_id], logits())
    writer.step = step
    return writer


ANSWERS = [
    NOTHING,
    "<box>(0,0),(1,1)</box>",
    "<box>(999,999),(1000,1000)</box>",
    "<box>(1,10),(100,1000)</box> <box>(10,1),(11,2)</box>",
    " ".join(box_text((i, 7 * i, i + 500, 7 * i + 9)) for i in range(30)),
]


def tokenizers() -> Iterator[Any]:
    """Ours of bytes, and where it is at hand the real one of the embedded model, which cuts words."""
    yield tiny_tokenizer()
    from assistant.model.cache import cache_root
    from assistant.model.parts import part_named
    from assistant.model.store import cached_language

    folder = cached_language(part_named("smollm2-135m-instruct"), cache_root())
    if folder is not None:
        from transformers import AutoTokenizer

        yield AutoTokenizer.from_pretrained(folder)


def test_what_training_writes_can_be_written_token_by_token() -> None:
    for tokenizer in tokenizers():
        for answer in ANSWERS:
            found = writer_that_wants(answer, tokenizer).boxes(40)
            assert [box for box, _ in found] == parse_boxes(answer)
            assert all(score > 0.99 for _, score in found)


def test_a_model_that_repeats_itself_and_one_that_never_stops() -> None:
    tokenizer = tiny_tokenizer()
    twice = writer_that_wants(" ".join([box_text((1, 2, 3, 4))] * 2), tokenizer)
    assert [box for box, _ in twice.boxes(40)] == [(1, 2, 3, 4)]
    many = writer_that_wants(" ".join(box_text((0, 0, i + 1, 9)) for i in range(50)), tokenizer)
    assert len(many.boxes(5)) == 5


class Threes:
    """Cuts as Llama 3 does: a run of up to three digits is one token."""

    eos_token_id = 1

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        found = re.findall(r"\d{1,3}|\D", text)
        return {"input_ids": [300 + 1000 * len(t) + int(t) if t.isdigit() else ord(t) for t in found]}

    def decode(self, ids: list[int]) -> str:
        return str(ids)

    def __len__(self) -> int:
        return 5000


def test_numbers_of_one_token_are_chosen_at_once() -> None:
    assert _ids(Threes(), "105") == (3405,)
    assert len(_ids(Threes(), "1000")) == 2
    for answer in ANSWERS:
        assert [box for box, _ in writer_that_wants(answer, Threes()).boxes(40)] == parse_boxes(answer)


@pytest.mark.parametrize(("phrase", "message"), [(" ", "empty"), ("a" * 500, "at most 400"), ("A) x B) y", "options")])
def test_phrases_that_are_refused(tiny_assistant: Any, field: Image.Image, phrase: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        ChatGrounder(tiny_assistant).ground(field, phrase)
    with pytest.raises(BadInput, match="threshold is 2"):
        ChatGrounder(tiny_assistant).ground(field, "gland", threshold=2)


class Endpoint(Quiet):
    """An OpenAI-compatible server with one answer for everything."""

    said = ""
    finish = "stop"
    asked: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        half = len(self.said) // 2
        seen = {"content": [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": []}], "refusal": None}
        rows = [({"content": part}, None, seen) for part in (self.said[:half], self.said[half:])]
        chunks = [
            {
                "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
                "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": logprobs}],
            }
            for delta, reason, logprobs in [*rows, ({}, self.finish, None)]
        ]  # fmt: skip
        data = "".join(f"data: {json.dumps(c)}\n\n" for c in chunks).encode() + b"data: [DONE]\n\n"
        self.send(200, "text/event-stream", data)


@contextmanager
def remote(
    monkeypatch: pytest.MonkeyPatch, said: str, finish: str = "stop"
) -> Iterator[tuple[ChatGrounder, list[Any]]]:
    pytest.importorskip("openai")
    from assistant.model.remote import RemoteAssistant

    handler = type("Handler", (Endpoint,), {"said": said, "finish": finish, "asked": []})
    with answering(handler) as address:
        monkeypatch.setenv("PATHASSIST_REMOTE_URL", f"{address}/v1")
        monkeypatch.setenv("PATHASSIST_REMOTE_MODEL", "m")
        there = RemoteAssistant.connect()
        try:
            yield ChatGrounder(there), handler.asked  # type: ignore[attr-defined]
        finally:
            there._client.close()


def test_an_endpoint_answers_with_boxes_in_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.effect_noise((2000, 1000), 80).convert("RGB")  # sent smaller: thousandths do not mind
    with remote(monkeypatch, "Here: <box>(0,100),(500,300)</box> <box>(10,10),(20,20)</box>") as (grounder, asked):
        boxes = grounder.ground(image, "the gland")
    assert {b.xyxy for b in boxes} == {(0.0, 100.0, 1000.0, 300.0), (20.0, 10.0, 40.0, 20.0)}
    assert all(0 < b.score <= 1 for b in boxes)
    parts = asked[0]["messages"][-1]["content"]
    assert parts[-1]["text"] == grounding_prompt("the gland")


@pytest.mark.parametrize(
    ("said", "finish", "message"),
    [
        ("<box>(120,1400),(300,1600)</box>", "stop", "may write pixels"),
        ("<box>(1,2),(3,4)</box> <box>(5,", "length", "cut off"),
        ("<box>(1,2),(3,4)</box> <box>(5,", "stop", "ends inside a box"),
        ("I am sorry, I cannot.", "stop", "without a box"),
    ],
)
def test_an_endpoint_that_does_not_point(monkeypatch: pytest.MonkeyPatch, said: str, finish: str, message: str) -> None:
    with (
        remote(monkeypatch, said, finish) as (grounder, _),
        pytest.raises(NotBoxes, match=message),
    ):
        grounder.ground(Image.effect_noise((200, 100), 80).convert("RGB"), "the gland")


def test_an_endpoint_that_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with remote(monkeypatch, NOTHING) as (grounder, _):
        assert grounder.ground(Image.effect_noise((200, 100), 80).convert("RGB"), "the gland") == []
