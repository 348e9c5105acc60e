"""Marking a region to ask about, and pointing to what a phrase means, on the picture of the conversation.

A region is a box or painted with a brush. A box is marked by two clicks at opposite corners or written as four numbers,
a brush by pointer or keyboard (``static/brush.js``) or written as its strokes: the field Region always has the text.
"""

from __future__ import annotations

import base64
import io
import logging
import secrets
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from PIL import Image, ImageDraw

from assistant.answer import DISCLAIMER
from assistant.chat.region import Region, is_brush, read_region
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.images.intake import load_image
from ui.evidence import error_html, escape, info_html, picture_uri, regions_html
from ui.history import last_question

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
BOX, BRUSH = "Box", "Brush"
_YELLOW, _BLACK = (255, 213, 74), (0, 0, 0)
_PAINT_SIDE = 1024  # longest side of the picture that is painted on in the browser
_MAX_TEXT = 40_000
_BRUSH_JS = Path(__file__).with_name("static") / "brush.js"
HINT = info_html(
    "Take the picture, then click two opposite corners of the part you mean. The next question is about it."
)
BRUSH_HINT = info_html("Take the picture, then paint over the part you mean. The next question is about it.")
MARKED = "The next question is about the marked region. Clear it to ask about the whole picture again."
OTHER_PICTURE = (
    "a region is marked in another picture than the one added here; take the new picture under “Mark a region”, or "
    "clear the region to ask about the whole picture"
)


class View(NamedTuple):
    """New values of the panel's outputs, in their order; ``KEEP`` leaves one as it is."""

    taken: Any = KEEP
    how: Any = KEEP
    picture: Any = KEEP
    pane: Any = KEEP
    region: Any = KEEP
    corner: Any = KEEP
    said: Any = KEEP


class MarksPanel(NamedTuple):
    """What the page needs of the panel.

    Attributes:
        inputs: Components that say what is marked, inputs of ``Chat.submit``: the picture's file and the region ("" for
            none).
        outputs: Takes what :func:`nothing` gives.
    """

    inputs: list[Any]
    outputs: list[Any]


def marks_panel(chatbot: gr.Chatbot, composer: gr.MultimodalTextbox) -> MarksPanel:
    """Put the panel onto the page under construction."""
    taken = gr.State(None)
    corner = gr.State(None)
    marked = gr.State("")  # a state, so that a program which asks over the API need not send it
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
    with gr.Accordion("Mark a region, or point to words", open=False, elem_id="pa-marks"):
        take = gr.Button("Take the picture of the question", size="sm", elem_id="pa-take")
        how = gr.Radio([BOX, BRUSH], value=BOX, label="Mark with", elem_id="pa-mark-with")
        picture = gr.Image(type="pil", label="Picture", interactive=False, visible=False, buttons=[], elem_id="pa-mark")
        pane = gr.HTML(
            "", visible=False, elem_id="pa-paint", padding=False, js_on_load=_BRUSH_JS.read_text(encoding="utf-8")
        )
        region = gr.Textbox(
            "", label="Region", info="x0,y0,x1,y1 in pixels, or brush radius: x,y x,y …", lines=1, max_lines=3,
            max_length=_MAX_TEXT, elem_id="pa-region",
        )  # fmt: skip
        clear = gr.Button("Clear the region", size="sm", elem_id="pa-unmark")
        phrase = gr.Textbox(
            "", label="Point to…", placeholder="a lymphocyte", lines=1, max_length=400, elem_id="pa-phrase"
        )
        said = gr.HTML(HINT, elem_id="pa-marks-said", padding=False, js_on_load=None)
    view = list(View(taken, how, picture, pane, region, corner, said))
    take.click(_take, [composer, chatbot, how], view, **quick)
    how.input(_cleared, [taken, how], view, **quick)
    picture.select(_corner, [taken, corner], view, **quick)
    region.submit(_written, [taken, region], view, **quick)
    region.change(_painted, [taken, region], said, trigger_mode="always_last", **quick)
    region.change(lambda text: text, region, marked, **quick)
    clear.click(_cleared, [taken, how], view, **quick)
    phrase.submit(
        _point, [phrase, taken, composer, chatbot], said,
        show_progress="hidden", api_visibility="private", concurrency_id="model", concurrency_limit=1,
    )  # fmt: skip
    return MarksPanel([taken, marked], view)


def nothing() -> View:
    """The panel of a new conversation."""
    hidden = gr.update(value=None, visible=False)
    return View(None, BOX, hidden, gr.update(value="", visible=False), "", None, HINT)


def drawn(image: Image.Image, xyxy: Sequence[float]) -> Image.Image:
    """A copy with the region's outline."""
    shown = image.copy()
    pen = ImageDraw.Draw(shown)
    width = max(2, round(max(image.size) / 200))
    pen.rectangle(tuple(xyxy), outline=_BLACK, width=width + 2)
    pen.rectangle(tuple(xyxy), outline=_YELLOW, width=width)
    return shown


def region_picture(image: Image.Image, region: Region) -> Image.Image:
    """The image with a region as the evidence shows it: what was painted in colour, the box around it as an outline."""
    shown = image.convert("RGB")
    if region.mask is not None:
        tint = Image.blend(shown, Image.new("RGB", shown.size, _YELLOW), 0.5)
        shown = Image.composite(tint, shown, region.mask)
    return drawn(shown, region.box)


def region_words(size: tuple[int, int], region: Region) -> str:
    """What was asked about, in a sentence."""
    left, top, right, bottom = region.box
    place = f"from ({left}, {top}) to ({right}, {bottom}) of {size[0]} × {size[1]} pixels"
    if region.mask is None:
        return f"Asked about the marked box, {place}."
    return (
        f"Asked about what was painted. The model was shown the box around it, {place}, "
        f"{round(100 * region.covered)} % of which is painted."
    )


def paint_html(image: Image.Image, text: str) -> str:
    """The picture to paint on, with the strokes written so far."""
    width, height = image.size
    small = image.convert("RGB")
    small.thumbnail((_PAINT_SIDE, _PAINT_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    strokes = escape(text if is_brush(text) else "")
    return (
        f'<div class="pa-paint"><div class="pa-stage"><img src="{uri}" alt="">'
        f'<canvas width="{small.width}" height="{small.height}" data-width="{width}" data-height="{height}" '
        f'data-strokes="{strokes}" data-version="{secrets.token_hex(4)}" '
        f'tabindex="0" role="application" aria-label="Picture to paint on" '
        'aria-describedby="pa-paint-keys"></canvas><div class="pa-brush" aria-hidden="true"></div></div>'
        '<p class="pa-paint-bar"><label>Brush size <input type="range" min="1" max="15" value="4"></label>'
        '<button type="button" data-act="undo">Undo stroke</button></p>'
        '<p id="pa-paint-keys" class="pa-hint">Paint with the pointer, or by keyboard: arrow keys move the brush, the '
        "space bar begins and ends a stroke, + and − change its size, Backspace takes the last stroke back.</p></div>"
    )


def _views(path: str, text: str, how: str) -> tuple[Any, Any]:
    """Updates of the picture for boxes and of the one to paint on: one of them is shown.

    Raises:
        BadInput: The region cannot be read or does not fit the picture.
    """
    image = load_image(path)
    region = read_region(image.size, text) if text.strip() else None
    if how == BRUSH:
        return gr.update(visible=False), gr.update(value=paint_html(image, text), visible=True)
    shown = image if region is None else drawn(image, region.box)
    return gr.update(value=shown, visible=True), gr.update(value="", visible=False)


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


def _take(message: Any, history: list[Any] | None, how: str) -> View:
    try:
        path = _picture_of(message, history)
        picture, pane = _views(path, "", how)
    except PathAssistError as error:
        return nothing()._replace(how=KEEP, said=error_html(str(error)))
    return View(path, KEEP, picture, pane, "", None, BRUSH_HINT if how == BRUSH else HINT)


def _corner(path: str | None, first: list[int] | None, event: gr.SelectData) -> View:
    """A click: the first corner, or the second, which completes the region."""
    if not path:
        return View(corner=None)
    x, y = (int(value) for value in event.index)
    if first is None:
        image = load_image(path)
        size = max(4, max(image.size) // 60)
        said = info_html("Now click the opposite corner.")
        return View(picture=drawn(image, (x - size, y - size, x + size, y + size)), region="", corner=[x, y], said=said)
    text = f"{min(first[0], x)},{min(first[1], y)},{max(first[0], x)},{max(first[1], y)}"
    view = _written(path, text)
    return view._replace(region="" if view.picture is KEEP else text, corner=None)


def _written(path: str | None, text: str) -> View:
    """A region written by hand shows on the picture, whichever way of marking it belongs to."""
    if not path:
        return View(said=error_html("no picture is taken; press “Take the picture of the question” first"))
    how = BRUSH if is_brush(text) else BOX
    try:
        picture, pane = _views(path, text, how)
    except PathAssistError as error:
        return View(said=error_html(str(error)))
    return View(how=how, picture=picture, pane=pane, said=_what(path, text) if text.strip() else HINT)


def _painted(path: str | None, text: str) -> Any:
    """What a stroke has made of the region, in words; a region that is being typed is read when it is complete."""
    if not path or not is_brush(text):
        return KEEP
    try:
        return _what(path, text)
    except PathAssistError as error:
        return error_html(str(error))


def _what(path: str, text: str) -> str:
    if not is_brush(text):
        return info_html(MARKED)
    region = read_region(load_image(path).size, text)
    left, top, right, bottom = region.box
    return info_html(f"Painted: {round(100 * region.covered)} % of the box {left},{top},{right},{bottom}. {MARKED}")


def _cleared(path: str | None, how: str) -> View:
    """No region, with the picture as it was taken."""
    hint = BRUSH_HINT if how == BRUSH else HINT
    if not path:
        return View(region="", corner=None, said=hint)
    try:
        picture, pane = _views(path, "", how)
    except PathAssistError as error:
        return View(region="", corner=None, said=error_html(str(error)))
    return View(picture=picture, pane=pane, region="", corner=None, said=hint)


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
