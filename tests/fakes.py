"""An assistant whose replies are known beforehand, for tests of what stands around it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from assistant.answer import Answer, Usage
from assistant.errors import BadInput
from assistant.images.intake import load_image


class EchoAssistant:
    """Same interface as ``assistant.Assistant``; replies with the question, word by word.

    Each image adds a word with its top left pixel, ``#ff0000``, in front, so a reply shows whose images it was made of.
    Questions that start with ``REFUSE``, ``CRASH``, ``BREAK`` and ``DOUBT`` raise a ``BadInput``, raise a
    ``RuntimeError``, raise one after the first word, and are declined.

    Attributes:
        calls: Arguments of every call, in the order in which they began.
        cancelled: Calls that ended because ``stop`` was set.
        delay: Seconds before each word.
        gate: Clear it to hold every reply before its second word.
        busiest: Most calls under way at once.
    """

    name = "echo"
    max_images = 3
    context_tokens = 1024

    def __init__(self) -> None:
        self.delay = 0.0
        self.calls: list[dict[str, Any]] = []
        self.cancelled = 0
        self.gate = threading.Event()
        self.gate.set()
        self.busiest = 0
        self._under_way = 0

    @classmethod
    def load(cls, preset: str = "embedded", **_: Any) -> EchoAssistant:
        if preset != "embedded":
            raise BadInput(f"unknown preset {preset!r}; available: 'embedded'")
        return cls()

    def ask(self, images: Any, question: str, **keywords: Any) -> Answer:
        *_, answer = self.stream(images, question, **keywords)
        assert isinstance(answer, Answer)
        return answer

    def stream(
        self,
        images: Any,
        question: str,
        *,
        history: Sequence[Any] = (),
        options: Sequence[str] | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        threshold: float | None = None,
        stop: threading.Event | None = None,
    ) -> Iterator[str | Answer]:
        call = {"images": list(images), "question": question, "history": list(history), "options": options}
        call |= {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
        self.calls.append(call)
        if question.startswith("REFUSE"):
            raise BadInput("refused: say something else")
        if question.startswith("CRASH"):
            raise RuntimeError("secret detail")
        pixels = [load_image(image).getpixel((0, 0)) for image in images]
        words = ["#" + bytes(pixel).hex() for pixel in pixels] + question.split()
        self._under_way += 1
        self.busiest = max(self.busiest, self._under_way)
        try:
            yield from self._words(words, max_new_tokens, question, options, stop or threading.Event())
        finally:
            self._under_way -= 1

    def _words(
        self, words: list[str], limit: int, question: str, options: Sequence[str] | None, stop: threading.Event
    ) -> Iterator[str | Answer]:
        shown: list[str] = []
        for word in words[:limit]:
            while shown and not self.gate.is_set() and not stop.is_set():
                time.sleep(0.005)
            if stop.is_set():
                break
            if shown and question.startswith("BREAK"):
                raise RuntimeError("secret detail")
            time.sleep(self.delay)
            shown.append(word)
            yield word if len(shown) == 1 else f" {word}"
        text = " ".join(shown)
        doubt = question.startswith("DOUBT")
        self.cancelled += stop.is_set()
        yield Answer(
            text=f"Not enough evidence. Best guess: {text}" if doubt else text,
            confidence=0.25 if doubt else 0.9,
            abstained=doubt,
            best_guess=text,
            options={option: 1 / len(options) for option in options} if options else {},
            model=self.name,
            usage=Usage(prompt_tokens=7, completion_tokens=len(shown)),
            seconds=0.5,
            finish_reason="cancelled" if stop.is_set() else "length" if len(words) > limit else "stop",
        )
