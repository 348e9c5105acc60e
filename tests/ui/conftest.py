"""A page with known replies, served for real."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from assistant.answer import Answer, Box, Case, ToolCall, Usage
from assistant.api import bind
from tests.fakes import EchoAssistant
from tests.serving import wait_for
from ui.chat import Chat

LONG = "Gland with crowded nuclei, stratified and elongated, in a desmoplastic stroma. " * 60


class ShowAssistant(EchoAssistant):
    """An echo that also shows every state of the page, by the first word of the question.

    ``OPTIONS`` answers one of four, ``DOUBT`` declines, ``WARN`` warns, ``LONG`` is long, ``RICH`` has boxes, tools and
    cases, ``HTML`` writes markup. The rest is the echo's.
    """

    name = "embedded"

    def __init__(self) -> None:
        super().__init__()
        self.thresholds: list[float | None] = []

    def stream(self, images: Any, question: str, *, threshold: float | None = None, **keywords: Any) -> Iterator[Any]:
        self.thresholds.append(threshold)
        kind = question.split()[0]
        extra: dict[str, Any] = {
            "OPTIONS": {"options": {"A) liver": 0.08, "B) colon": 0.82, "C) brain": 0.06, "D) skin": 0.04}},
            "WARN": {"warnings": ("the image is nearly blank (97% of it shows no tissue)",), "confidence": 0.55},
            "RICH": {
                "boxes": (Box("gland <1>", (4, 3, 12, 9), 0.91), Box("lumen", (1, 1, 4, 4), 0.62)),
                "tools": (ToolCall("nuclei", {"scale": 0.5}, {"count": 214}, 1.25),),
                "cases": (
                    Case("c1", 0.87, "Tubular adenoma, colon"),
                    Case("c2", 0.61, "", "https://example.org/x.png"),
                ),
            },
        }.get(kind, {})
        text = {"LONG": LONG, "OPTIONS": "B) colon", "HTML": MARKUP}.get(kind)
        if text is None and not extra:
            yield from super().stream(images, question, **keywords)
            return
        text = text or "Colon."
        self.calls.append({"images": list(images), "question": question, **keywords})
        yield from (word + " " for word in text.split(" ")) if kind == "LONG" else (text,)
        base = {"confidence": 0.9, "abstained": False, "best_guess": text, "model": self.name, "seconds": 1.42}
        yield Answer(text=text, usage=Usage(312, 24), **base | extra)


MARKUP = (
    '<img src="https://example.org/a.png" onerror="document.title=\'hit\'"><script>document.title="hit"</script> '
    "![x](https://example.org/b.png) ${1+1} {{value}} H&E &lt; p < 0.05"
)


@contextmanager
def served(assistant: Any, **keywords: Any) -> Iterator[str]:
    """The page and API on a free port; yields the address."""
    from ui.app import serve_app

    listener = bind("127.0.0.1", 0, None)
    app = serve_app(assistant, **keywords)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, 30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        shutil.rmtree(app.state.files, ignore_errors=True)


@pytest.fixture
def show() -> ShowAssistant:
    return ShowAssistant()


@pytest.fixture
def chat(tmp_path: Path, show: ShowAssistant) -> Chat:
    folder = tmp_path / "files"
    folder.mkdir()
    return Chat(show, [], folder)


@pytest.fixture(scope="module")
def page_assistant() -> ShowAssistant:
    return ShowAssistant()


@pytest.fixture(scope="module")
def page_url(page_assistant: ShowAssistant) -> Iterator[str]:
    with served(page_assistant) as url:
        yield url
