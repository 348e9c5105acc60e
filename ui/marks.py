"""Marking a region to ask about, and pointing to what a phrase means, on the picture of the conversation.

A region is marked by two clicks at opposite corners, or written as four numbers, which also works by keyboard.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw

from assistant.answer import DISCLAIMER
from assistant.chat.region import check_region, parse_region
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.images.intake import load_image
from ui.evidence import error_html, escape, info_html, picture_uri, regions_html
from ui.history import last_question

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
_YELLOW, _BLACK = (255, 213, 74), (0, 0, 0)
HINT = info_html(
    "Take the picture, then click two opposite corners of the part you mean. The next question is about it."
)
MARKED = "The next question is about the marked region. Clear it to ask about the whole picture again."


def marks_panel(chatbot: gr.Chatbot, composer: gr.MultimodalTextbox) -> list[Any]:
    """Put the panel onto the page under construction.

    Returns:
        Components that say what is marked: the picture's file and the region ("" for none), inputs of ``Chat.submit``.
    """
    taken = gr.State(None)
    corner = gr.State(None)
    marked = gr.State("")  # a state, so that a program which asks over the API need not send it
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    with gr.Accordion("Mark a region, or point to words", open=False, elem_id="pa-marks"):
        take = gr.Button("Take the picture of the question", size="sm", elem_id="pa-take")
        picture = gr.Image(type="pil", label="Picture", interactive=False, visible=False, buttons=[], elem_id="pa-mark")
        region = gr.Textbox(
            "", label="Region", info="x0,y0,x1,y1 in pixels", lines=1, max_length=80, elem_id="pa-region"
        )
        clear = gr.Button("Clear the region", size="sm", elem_id="pa-unmark")
        phrase = gr.Textbox(
            "", label="Point to…", placeholder="a lymphocyte", lines=1, max_length=400, elem_id="pa-phrase"
        )
        said = gr.HTML(HINT, elem_id="pa-marks-said", padding=False, js_on_load=None)
    take.click(_take, [composer, chatbot], [taken, picture, region, corner, said], **quick)
    picture.select(_corner, [taken, corner], [picture, region, corner, said], **quick)
    region.submit(_written, [taken, region], [picture, said], **quick)
    region.change(lambda text: text, region, marked, **quick)
    clear.click(_clear, taken, [picture, region, corner, said], **quick)
    phrase.submit(
        _point, [phrase, taken, composer, chatbot], said,
        show_progress="hidden", api_visibility="private", concurrency_id="model", concurrency_limit=1,
    )  # fmt: skip
    return [taken, marked]


def drawn(image: Image.Image, xyxy: Sequence[float]) -> Image.Image:
    """A copy with the region's outline."""
    shown = image.copy()
    pen = ImageDraw.Draw(shown)
    width = max(2, round(max(image.size) / 200))
    pen.rectangle(tuple(xyxy), outline=_BLACK, width=width + 2)
    pen.rectangle(tuple(xyxy), outline=_YELLOW, width=width)
    return shown


def _picture_of(message: Any, history: list[Any] | None) -> str:
    """The picture in the composer, else that of the last question that has one."""
    files = list((message or {}).get("files") or [])
    rest = list(history or [])
    while not files and rest:
        rest, text, files = last_question(rest)
        if not text and not files:
            break
    if not files:
        raise BadInput("there is no picture yet; add one to the question first")
    return str(files[0])


def _take(message: Any, history: list[Any] | None) -> tuple[Any, ...]:
    try:
        path = _picture_of(message, history)
        image = load_image(path)
    except PathAssistError as error:
        return None, gr.update(value=None, visible=False), "", None, error_html(str(error))
    return path, gr.update(value=image, visible=True), "", None, HINT


def _corner(path: str | None, first: list[int] | None, event: gr.SelectData) -> tuple[Any, ...]:
    """A click: the first corner, or the second, which completes the region."""
    if not path:
        return KEEP, KEEP, None, KEEP
    x, y = (int(value) for value in event.index)
    if first is None:
        image = load_image(path)
        size = max(4, max(image.size) // 60)
        said = info_html("Now click the opposite corner.")
        return drawn(image, (x - size, y - size, x + size, y + size)), "", [x, y], said
    text = f"{min(first[0], x)},{min(first[1], y)},{max(first[0], x)},{max(first[1], y)}"
    shown, said = _written(path, text)
    return shown, text if shown is not KEEP else "", None, said


def _written(path: str | None, text: str) -> tuple[Any, str]:
    if not path:
        return KEEP, error_html("no picture is taken; press “Take the picture of the question” first")
    image = load_image(path)
    if not text.strip():
        return image, HINT
    try:
        box = check_region(image.size, parse_region(text))
    except PathAssistError as error:
        return KEEP, error_html(str(error))
    return drawn(image, box), info_html(MARKED)


def _clear(path: str | None) -> tuple[Any, ...]:
    return (load_image(path) if path else KEEP), "", None, HINT


def _point(phrase: str, taken: str | None, message: Any, history: list[Any] | None) -> str:
    """Boxes for a phrase, or in words why there are none."""
    try:
        path = taken if taken and Path(taken).is_file() else _picture_of(message, history)
        image = load_image(path)
        boxes = _grounder().ground(image, phrase.strip())
    except PathAssistError as error:
        return error_html(str(error))
    except Exception:
        log.exception("a phrase could not be pointed to")
        return error_html("internal error: the phrase could not be pointed to; the terminal has the details")
    if not boxes:
        return info_html(f"Nothing like “{phrase.strip()}” was found in this picture.")
    return (
        f'<section class="evidence" aria-label="Found for the phrase"><h2>{escape(phrase.strip())}</h2>'
        f"{regions_html(boxes, picture_uri(image), image.size)}<p class='meta'>{escape(DISCLAIMER)}</p></section>"
    )


@lru_cache(maxsize=1)
def _grounder() -> Any:
    """The grounder, loaded at the first phrase.

    Raises:
        NotAvailable: It or its weights are missing.
    """
    try:
        from assistant.grounding import load_grounder
    except ImportError as error:
        raise NotAvailable("pointing to words is not part of this installation") from error
    return load_grounder()
