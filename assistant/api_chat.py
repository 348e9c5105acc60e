"""One chat request → pieces of its answer: our request options, the client's own functions, then the model."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from assistant.answer import Answer, Usage
from assistant.api_line import Piece
from assistant.api_schema import ChatRequest, HttpError, ServerSettings
from assistant.api_tools import ground_phrase
from assistant.chat.prompt import Turn
from assistant.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.assistant import Assistant


@dataclass(frozen=True)
class Calls(Answer):
    """An answer that asks the client to run functions; ``calls`` is OpenAI's ``tool_calls``."""

    calls: Sequence[dict[str, Any]] = ()


def answer_pieces(
    assistant: Assistant, asked: ChatRequest, settings: ServerSettings, stop: threading.Event
) -> Iterator[Piece]:
    """Tool calls, text and the answer.

    Raises:
        BadInput: An image, a region or a function that cannot be used.
        HttpError: 501 for what this installation does not have.
        NotAvailable: Weights are missing.
    """
    if (quoted := asked.tool_result_reply()) is not None:
        yield quoted
        yield Answer(quoted, 1.0, False, quoted, model=assistant.name, warnings=(QUOTED,))
        return
    turns = asked.turns()
    if asked.functions_wanted and (calls := _client_calls(assistant, asked, turns)):
        yield Calls("", 1.0, False, "", model=assistant.name, usage=Usage(), calls=calls)
        return
    *history, question = turns
    wanted, images, text = asked.extension, question.images, question.text
    keywords: dict[str, Any] = {}
    if wanted.tools not in (None, "none"):
        keywords["tools"] = wanted.tools
    if wanted.options:
        keywords["options"] = wanted.options
    if wanted.region is not None:
        crop, sentence = _region(_last_image(turns), wanted.region)
        images, text = (*images, crop), f"{text}\n{sentence}" if sentence else text
    boxes = ground_phrase(_last_image(turns), wanted.ground) if wanted.ground else []
    for item in assistant.stream(
        images,
        text,
        history=history,
        max_new_tokens=asked.new_tokens(settings),
        temperature=asked.temperature or 0.0,
        top_p=asked.top_p or 1.0,
        seed=asked.seed,
        stop=stop,
        **keywords,
    ):
        if isinstance(item, Answer) and boxes:
            last = next(len(turn.images) for turn in reversed(turns) if turn.images)
            numbered = [replace(box, image=last) for box in boxes]
            item = replace(item, boxes=(*item.boxes, *numbered))
        yield item


QUOTED = "the reply quotes what the client's functions returned; no model has judged it"


def _client_calls(assistant: Assistant, asked: ChatRequest, turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Calls of the client's functions that the newest turn asks for; empty where it asks for none."""
    try:
        planning = importlib.import_module("assistant.chat.openai_tools")
    except ImportError:
        message = "this installation cannot call functions; send the request without tools"
        raise HttpError(501, "tools_not_supported", message) from None
    body = {"tools": asked.tools, "tool_choice": asked.tool_choice}
    functions = planning.parse_tools(body)
    choice = planning.parse_choice(body, functions)
    found = planning.propose_call(assistant, turns, functions, choice)
    calls: list[dict[str, Any]] = planning.tool_calls_json(found) if found else []
    return calls


def _last_image(turns: Sequence[Turn]) -> Image:
    image = next((turn.images[-1] for turn in reversed(turns) if turn.images), None)
    if image is None:
        raise BadInput("pathology.region and pathology.ground need an image; add one to the message")
    return image


def _region(image: Image, box: tuple[float, float, float, float]) -> tuple[Image, str]:
    """The crop that a region means and the sentence that tells the model of it."""
    x0, y0, x1, y1 = box
    width, height = image.size
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise BadInput(
            f"pathology.region is {list(box)}; it must be [x0, y0, x1, y1] inside the {width} x {height} pixels"
        )
    try:
        from assistant.chat.region import region_prompt
    except ImportError:
        message = "this installation has no region prompts; crop the image and send the crop"
        raise HttpError(501, "region_not_supported", message) from None
    found: tuple[Image, str] = region_prompt(image, box)
    return found
