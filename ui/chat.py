"""What the page does: plain generators and functions from what the user did to what is shown next.

The conversation itself lives in the browser (the chat component's value); the server keeps the image files of it for a
while, and per session one stop signal and what the evidence panel needs.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr

from assistant.answer import Answer, ToolCall
from assistant.chat.prompt import parse_question
from assistant.chat.region import read_region, region_prompt
from assistant.errors import BadInput, PathAssistError
from assistant.images.intake import load_image
from assistant.tools.registry import find_tools
from assistant.tools.run import ToolState
from ui.evidence import Record, chat_text, error_html, info_html, panel, picture_uri, record, working
from ui.history import history_to_turns, last_question, show
from ui.marks import OTHER_PICTURE, region_picture, region_words
from ui.models import Models, takes

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.assistant import Assistant

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
REGION_CONTEXT = 0.0  # what the crop of a region keeps of its surroundings; see eval/results/region.md
_FRAME_S = 0.05  # the page is redrawn at most this often while text streams
_REGIONS = 256  # pictures of regions that were asked about, kept for the evidence; some 60 kB each
_SEARCH = "find_similar_cases"


class Screen(NamedTuple):
    """New values of the page's outputs, in their order; ``KEEP`` leaves one as it is."""

    chatbot: Any = KEEP
    evidence: Any = KEEP
    notice: Any = KEEP
    records: Any = KEEP
    composer: Any = KEEP


class Chat:
    """The handlers of one page.

    Args:
        assistant: Answers the questions.
        examples: Label, image and question of each example, in the order shown.
        folder: Where image files of conversations are kept; must be one that Gradio serves.
        models: Which model answers in which conversation; by default ``assistant`` in all.
    """

    def __init__(
        self,
        assistant: Assistant,
        examples: Sequence[tuple[str, Path, str]],
        folder: Path,
        models: Models | None = None,
    ) -> None:
        self.models = models or Models(assistant)
        self.examples = list(examples)
        self.folder = folder
        self._stops: dict[str, threading.Event] = {}
        self._states: dict[str, ToolState] = {}
        self._regions: OrderedDict[str, tuple[str, str]] = OrderedDict()  # name of the crop's file → for the evidence
        self._lock = threading.Lock()
        self.takes_tools = takes(assistant, "tools")

    # -- asking ----------------------------------------------------------------------------------------------------

    def submit(
        self, message: Any, history: list[Any], records: list[Record], request: gr.Request,
        marked: str | None = None, region: str | None = "",
    ) -> Screen:  # fmt: skip
        """Check a question and its images and put them into the conversation; :meth:`respond` comes next.

        Args:
            marked: File of the image in which a region is marked.
            region: ``"x0,y0,x1,y1"`` or strokes of a brush in its pixels: the crop around it is asked about instead of
                the images.
        """
        message = message or {}
        text, paths = str(message.get("text") or ""), list(message.get("files") or [])
        if (region or "").strip() and marked:
            try:
                parse_question(text)
                if paths and Path(marked).name not in {Path(path).name for path in paths}:
                    raise BadInput(OTHER_PICTURE)
                crop = self._region(marked, region or "")
            except PathAssistError as error:
                return Screen(notice=error_html(str(error)), composer=composer(text, paths))
            return self._asked(history or [], text.strip(), [crop], records, request)
        good: list[str] = []
        problems: list[str] = []
        for path in paths:
            try:
                good.append(self._store(path))
            except PathAssistError as error:
                problems.append(str(error))
        try:
            parse_question(text)
        except BadInput as error:
            problems.append(str(error))
        if problems:
            return Screen(notice=error_html(*problems), composer=composer(text, good))
        return self._asked(history or [], text.strip(), good, records, request)

    def example(self, history: list[Any], records: list[Record], event: gr.SelectData, request: gr.Request) -> Screen:
        """Ask one of the examples, chosen by its number: what the browser sends besides is not used."""
        _, image, question = self.examples[int(event.index)]
        return self._asked(history or [], question, [self._store(str(image))], records, request)

    def retry(self, history: list[Any], records: list[Record], request: gr.Request) -> Screen:
        """Ask the last question again, with the settings as they are now."""
        before, text, paths = last_question(history or [])
        if not text:
            return Screen()
        return self._asked(before, text, paths, records[: _answers(before)], request)

    def respond(
        self,
        history: list[Any],
        records: list[Record],
        threshold: float,
        length: float,
        variation: float,
        request: gr.Request,
        tools: Sequence[str] = (),
        research: bool = True,
        cases: bool = True,
    ) -> Iterator[Screen]:
        """Answer the question that ends the conversation, piece by piece; nothing when none does.

        Closing the generator stops the model too.

        Args:
            tools: Names of the tools that may be called.
            research: Tools trained on data without an open licence may be called too.
            cases: The case library is searched, where there is one.
        """
        before, text, paths = last_question(history or [])
        if not text or len(before) == len(history) or _role(history[-1]) != "user":
            yield Screen()
            return
        stop = self._stop_of(request)
        yield Screen(evidence=working("Looking at the image…" if paths else "Thinking…", records))
        try:
            with self.models.answering(_session(request), cases=cases) as assistant:
                settings: dict[str, Any] = {
                    "max_new_tokens": int(length), "temperature": float(variation), "threshold": float(threshold)
                } | self._tool_settings(assistant, tools, research, cases, request)  # fmt: skip
                yield from self._answer(assistant, history, records, settings, stop)
        except PathAssistError as error:
            yield self._back(before, text, paths, records, error_html(str(error)))
        except Exception:
            log.exception("a question could not be answered")
            problem = "internal error: the question could not be answered; the terminal has the details"
            yield self._back(before, text, paths, records, error_html(problem))
        finally:
            stop.set()
            self._forget(request, stop)

    def _answer(
        self,
        assistant: Assistant,
        history: list[Any],
        records: list[Record],
        settings: dict[str, Any],
        stop: threading.Event,
    ) -> Iterator[Screen]:
        before, text, paths = last_question(history)
        *earlier, question = history_to_turns(history)
        answer, shown, drawn = None, "", 0.0
        calls: list[ToolCall] = []
        for piece in assistant.stream(question.images, question.text, history=earlier, stop=stop, **settings):
            if isinstance(piece, Answer):
                answer = piece
                continue
            if isinstance(piece, ToolCall):
                calls.append(piece)
                yield Screen(evidence=working("Using tools…", records, calls))
                continue
            shown += piece
            if time.monotonic() - drawn >= _FRAME_S and shown.strip():
                drawn = time.monotonic()
                busy = working("Writing… the confidence follows when the answer is complete.", records, calls)
                yield Screen([*history, _message("assistant", shown)], busy)
        if answer is None:
            raise RuntimeError("the stream ended without an answer")
        if answer.finish_reason == "cancelled" and not answer.best_guess.strip():
            yield self._back(before, text, paths, records, info_html("Stopped before an answer was begun."))
            return
        asked = self._regions.get(Path(paths[0]).name) if paths else None
        records = [*records, record(text, answer, settings["threshold"], question.images, asked)]
        messages = [*history, _message("assistant", chat_text(answer))]
        yield Screen(messages, panel(records), "", records, composer())

    # -- stopping and starting over ----------------------------------------------------------------------------------

    def stop(self, request: gr.Request) -> None:
        """End the session's running answer, or the one that still waits for its turn."""
        with self._lock:
            running = self._stops.get(_session(request))
        if running:
            running.set()

    def undo(self, history: list[Any], records: list[Record]) -> Screen:
        """Take the last question back into the composer."""
        before, text, paths = last_question(history or [])
        return self._back(before, text, paths, records[: _answers(before)], "")

    def clear(self, request: gr.Request) -> Screen:
        """A new conversation."""
        self.stop(request)
        return Screen([], panel([]), "", [], composer())

    def leave(self, request: gr.Request) -> None:
        """The page was closed: end its answer and its tool process."""
        self.stop(request)
        self.models.forget(_session(request))
        with self._lock:
            state = self._states.pop(_session(request), None)
        if state is not None:
            state.close()

    def _tool_settings(
        self, assistant: Assistant, tools: Sequence[str], research: bool, cases: bool, request: gr.Request
    ) -> dict[str, Any]:
        """Keywords of ``Assistant.stream`` for the tools that are switched on; one tool process a session."""
        known = find_tools().tools if tools else {}
        wanted = [name for name in tools or () if name in known and (research or not known[name].card.research_only)]
        if not cases:  # the session's tool process may still hold the library
            wanted = [name for name in wanted if name != _SEARCH]
        if not wanted or not takes(assistant, "tools"):
            return {}
        with self._lock:
            state = self._states.setdefault(_session(request), ToolState())
        state.research = bool(research)
        return {"tools": wanted, "tool_state": state}

    # -- shared ------------------------------------------------------------------------------------------------------

    def _asked(
        self, history: list[Any], text: str, paths: list[str], records: list[Record], request: gr.Request
    ) -> Screen:
        with self._lock:
            self._stops[_session(request)] = threading.Event()
        asked = [*history, _message("user", text, paths)]
        waiting = working("Waiting for the model…", records)
        return Screen(asked, waiting, "", records, composer(busy=True))

    def _back(self, before: list[Any], text: str, paths: list[str], records: list[Record], notice: str) -> Screen:
        """As before the question was sent, with the question in the composer again."""
        return Screen(before, panel(records), notice, records, composer(text, paths))

    def _stop_of(self, request: gr.Request) -> threading.Event:
        with self._lock:
            return self._stops.setdefault(_session(request), threading.Event())

    def _forget(self, request: gr.Request, stop: threading.Event) -> None:
        with self._lock:
            if self._stops.get(_session(request)) is stop:
                del self._stops[_session(request)]

    def _region(self, path: str, text: str) -> str:
        """File with the crop of a region; what the evidence shows of it is kept under the file's name.

        Raises:
            BadInput: The region cannot be read or does not fit the image.
        """
        image = load_image(path)
        region = read_region(image.size, text)
        crop, _ = region_prompt(image, region.box, context=REGION_CONTEXT)
        kept = self._keep(crop)
        shown = picture_uri(region_picture(image, region)), region_words(image.size, region)
        with self._lock:
            self._regions[Path(kept).name] = shown
            while len(self._regions) > _REGIONS:
                self._regions.popitem(last=False)
        return kept

    def _store(self, path: str) -> str:
        """A copy with the pixels only: no metadata, no name of the user's, and a format that every browser shows."""
        return self._keep(load_image(path))

    def _keep(self, image: Image) -> str:
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="image-", suffix=".png", delete=False) as file:
            image.save(file, "PNG", compress_level=1)
        return file.name


def composer(text: str = "", paths: Sequence[str] = (), *, busy: bool = False) -> Any:
    """Update of the input box: its content, and whether it takes a question or offers to stop."""
    value = {"text": text, "files": list(paths)}
    return gr.update(value=value, interactive=not busy, submit_btn=not busy, stop_btn=busy)


def _message(role: str, text: str, paths: Sequence[str] = ()) -> dict[str, Any]:
    files = [{"path": p, "alt_text": f"Image {i} of the question"} for i, p in enumerate(paths, start=1)]
    return {"role": role, "content": [*files, {"type": "text", "text": show(text)}]}


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, dict) else message.role


def _answers(history: list[Any]) -> int:
    return sum(_role(m) == "assistant" for m in history)


def _session(request: gr.Request) -> str:
    return str(getattr(request, "session_hash", None) or "")
