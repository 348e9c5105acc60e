"""The Slides tab: a slide to move about in, layers of shapes on it, and the view as input of chat and tools.

A slide is known to the browser by a random id only. Uploads are moved out of the folder that Gradio serves, since
a slide file holds label and macro images, and deleted when the slide is closed.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from starlette.routing import Route

from assistant.answer import DISCLAIMER
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.geojson import MAX_BYTES, Shape, box, colour_of, read_geojson
from assistant.slides import SUFFIXES, is_slide_name, openseadragon
from assistant.slides.deepzoom import slide_routes
from assistant.slides.store import SlideStore
from ui.evidence import error_html, escape, info_html

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.assistant import Assistant
    from retrieval.records import Region

    #: What is chosen → path of the slide file, and the region on it or None for all of it.
    FindPlace = Callable[[str], tuple[Path, Region | None]]

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PATHASSIST_SLIDES"
STATIC = Path(__file__).with_name("static")
KEEP: Any = gr.skip()
START = info_html("Open a slide from a file. It stays on this machine; label and macro images are never shown.")
_TYPES = sorted([*SUFFIXES, ".tif", ".tiff", ".btf", ".png", ".jpg", ".jpeg", ".webp"])
_VIEW_SIDE = 2048  # longest side of a view that chat or tools are given
_LISTED = 500
_KEEP_S = 4 * 3600
CHOSEN = "chosen case"
_VIEWER = """<section class="pa-viewer" data-state="empty" aria-label="Slide viewer">
<div class="pav-bar"><button type="button" data-act="zoom-in">Zoom in</button>
<button type="button" data-act="zoom-out">Zoom out</button><button type="button" data-act="home">Whole slide</button>
<button type="button" data-act="full">Full screen</button></div>
<div class="pav-stage"><div class="pav-osd"></div><img class="pav-plain" alt="The whole slide" hidden>
<canvas class="pav-overlay" aria-hidden="true"></canvas><div class="pav-scale" role="img" hidden></div>
<p class="pav-empty">Open a slide to look at it here.</p></div>
<p class="pav-message" role="status">No slide is open.</p>
<fieldset class="pav-layers" hidden><legend>Layers</legend></fieldset>
<div><a class="pav-export" download="annotations.geojson" hidden>Export layers as GeoJSON</a></div></section>"""
_ON_LOAD = """
const at = (path) => new URL(path, document.baseURI).href;
if (!document.getElementById('pa-viewer-css')) {
  const style = document.createElement('link');
  Object.assign(style, {id: 'pa-viewer-css', rel: 'stylesheet', href: at('slides/assets/viewer.css')});
  document.head.append(style);
}
const script = document.createElement('script');
script.src = at('slides/assets/viewer.js');
script.onload = () => window.paViewer.attach(element);
document.head.append(script);
"""
# The value is ID.NONCE, or ID.NONCE.X,Y,WIDTH,HEIGHT to move to a region, once. A tab never opened has no viewer yet.
_SHOW = """async (value) => {
  const [id, , place] = value.split('.'), fresh = window.paShown !== value;
  window.paShown = value;
  for (let left = 400; left && !window.paViewer?.attached(); left--) await new Promise((go) => setTimeout(go, 50));
  window.paViewer?.show(id, place && fresh ? place.split(',').map(Number) : null);
}"""


@dataclass
class SlidesTab:
    """What the page needs of the tab.

    Attributes:
        routes: To be put into the application before Gradio is mounted.
        ask_image: The view that was asked about, as a file.
        asked: The event after which ``ask_image`` is new; see :meth:`connect`.
        store: The open slides.
        slides: The handlers.
        opened, shown, status: State and outputs of the tab that opening a slide changes.
        show: The arguments of the event that lets the viewer show ``shown``.
    """

    routes: list[Route]
    ask_image: gr.Image
    asked: Any
    store: SlideStore
    slides: Slides
    opened: gr.State
    shown: gr.Textbox
    status: gr.HTML
    show: dict[str, Any]

    def connect(self, composer: gr.MultimodalTextbox, tabs: gr.Tabs, chat: str = "chat") -> None:
        """ "Ask about this view" puts the view into the composer and turns to the chat tab with that id."""

        def pass_on(path: str | None) -> tuple[Any, Any]:
            if not path:
                return KEEP, KEEP
            return {"text": "", "files": [path]}, gr.Tabs(selected=chat)

        self.asked.success(
            pass_on, self.ask_image, [composer, tabs], queue=False, show_progress="hidden", api_visibility="private"
        )

    def open_from(
        self,
        button: gr.Button,
        find: FindPlace,
        chosen: gr.State,
        notice: gr.HTML,
        tabs: gr.Tabs,
        tab: str = "slides",
    ) -> None:
        """The button opens the slide of what is chosen, turns to the tab with that id and moves to the region.

        Args:
            find: What is chosen → path and region; its errors come to ``notice`` without a change of tab.
        """

        def go(what: str, opened: str, request: gr.Request) -> tuple[Any, ...]:
            try:
                path, region = find(what)
                return (*self.slides.open_place(path, region, opened, request), "", gr.Tabs(selected=tab))
            except PathAssistError as error:
                return KEEP, KEEP, KEEP, error_html(str(error)), KEEP
            except Exception:
                log.exception("the slide of a case could not be opened")
                said = error_html("internal error: the slide could not be opened; the terminal has the details")
                return KEEP, KEEP, KEEP, said, KEEP

        screen = [self.opened, self.shown, self.status, notice, tabs]
        quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        button.click(go, [chosen, self.opened], screen, **quick).success(**self.show)


class Slides:
    """The handlers of one page.

    Args:
        files: Folder that Gradio serves, for pictures of views.
        folder: Slides that are listed by number; None for none.
        store: Where slides are opened.
    """

    def __init__(self, files: Path, folder: Path | None, store: SlideStore | None = None) -> None:
        self.files = files
        self.folder = folder
        self.store = store or SlideStore()
        self.uploads = Path(tempfile.mkdtemp(prefix="pathassist-slides-"))
        self._stops: dict[str, threading.Event] = {}
        self._places: dict[str, Path] = {}  # slides opened by open_place
        atexit.register(self.close)

    def close(self) -> None:
        """Close all slides and delete what was uploaded."""
        self.store.close()
        shutil.rmtree(self.uploads, ignore_errors=True)

    def listed(self) -> list[Path]:
        """Slides of the folder, by name; the page shows numbers only."""
        if self.folder is None or not self.folder.is_dir():
            return []
        files = sorted(path for path in self.folder.iterdir() if path.is_file())
        return [path for path in files if is_slide_name(path) or path.suffix.lower() in (".tif", ".tiff")][:_LISTED]

    def choices(self) -> list[tuple[str, int]]:
        """Labels and numbers for the list."""
        return [(_label(number, path), number) for number, path in enumerate(self.listed())]

    def open_upload(self, path: str | None, opened: str, request: gr.Request) -> tuple[Any, ...]:
        """Open an uploaded file under the name its user gave it."""
        if not path:
            return KEEP, KEEP, KEEP, KEEP
        source = Path(path)
        target = Path(tempfile.mkdtemp(dir=self.uploads)) / f"slide{''.join(source.suffixes[-2:]).lower()[-12:]}"
        shutil.move(source, target)
        found = self._open(target, source.name, opened, request, lambda: shutil.rmtree(target.parent, True))
        if found[0] is KEEP:
            shutil.rmtree(target.parent, ignore_errors=True)
        return (*found, None)

    def open_listed(self, number: int | None, opened: str, request: gr.Request) -> tuple[Any, ...]:
        """Open a slide of the folder."""
        slides = self.listed()
        if number is None or not 0 <= int(number) < len(slides):
            return KEEP, KEEP, KEEP
        return self._open(slides[int(number)], f"Slide {int(number) + 1}", opened, request, None)

    def open_place(
        self, path: Path, region: Region | None, opened: str, request: gr.Request, title: str = CHOSEN
    ) -> tuple[Any, ...]:
        """Open a slide and mark a region; gives new state, viewer with the place to move to, and status.

        The slide that is open stays as it is, with its layers, when it is the same one.

        Raises:
            BadInput, NotAvailable: It cannot be opened, or is smaller than the region.
        """
        identifier, closed = opened, [opened]
        if self._places.get(opened) != path:
            identifier = self.store.add(
                path,
                session=_session(request),
                title=f"Slide of the {title}",
                on_close=lambda: self._places.pop(closed[0], None),
            )
            closed[0] = identifier
        try:
            with self.store.use(identifier) as slide:
                x, y, width, height = region or (0, 0, *slide.size)
                if x + width > slide.size[0] or y + height > slide.size[1]:
                    raise BadInput(
                        "this is not the slide that the library was built from: it ends before the case's region; "
                        "run pathassist index build again"
                    )
            mark = box((x, y, x + width, y + height), label=title, colour=colour_of(title))
            self.store.put_layer(identifier, title[:1].upper() + title[1:], [mark])
        except PathAssistError:
            if identifier != opened:
                self.store.remove(identifier)
            raise
        if identifier != opened:
            self.store.remove(opened)
            self._places[identifier] = path
        return identifier, f"{_again(identifier)}.{x},{y},{width},{height}", info_html(f"Open: Slide of the {title}")

    def _open(
        self, path: Path, title: str, opened: str, request: gr.Request, on_close: Callable[[], None] | None
    ) -> tuple[Any, ...]:
        """New state, viewer and status."""
        try:
            identifier = self.store.add(path, session=_session(request), title=title, on_close=on_close)
        except PathAssistError as error:
            return KEEP, KEEP, error_html(str(error))
        self.store.remove(opened)
        return identifier, identifier, info_html(f"Open: {title}")

    def ask(self, view: str, opened: str) -> tuple[Any, Any]:
        """The view at the resolution of the screen, as a file for the chat."""
        try:
            picture, *_ = self.look(view, opened, on_screen=True)
        except PathAssistError as error:
            return None, error_html(str(error))
        with tempfile.NamedTemporaryFile(dir=self.files, prefix="view-", suffix=".png", delete=False) as file:
            picture.save(file, "PNG", compress_level=1)
        return file.name, info_html(f"This view is ready to be asked about: {picture.width} × {picture.height} pixels.")

    def run(self, name: str | None, view: str, opened: str, request: gr.Request) -> tuple[Any, Any]:
        """Run a tool on the view; its outlines become a layer. Gives the viewer's new value and the result."""
        from assistant.tools import ToolState, find_tools, run_call
        from assistant.tools.schema import arguments_model, image_parameters

        stop = self._stops[_session(request)] = threading.Event()
        try:
            if not name:
                raise BadInput("no tool is chosen; choose one from the list")
            picture, x, y, scale, mpp = self.look(view, opened)
            tool = find_tools()[name]
            arguments: dict[str, Any] = dict.fromkeys(image_parameters(tool), 1)
            if mpp and "mpp" in arguments_model(tool).model_fields:
                arguments["mpp"] = mpp
            with ToolState([picture]) as state:
                call = run_call(name, arguments, state, stop=stop)
            if call.status != "ok":
                return KEEP, error_html(call.result.text)
            shapes = _of_tool(call.result.geojson, name)
            if shapes:
                self._add_layer(opened, name, shapes, x, y, scale)
            return _again(opened), _result(call.result.text, call.result.numbers, call.result.warnings, len(shapes))
        except PathAssistError as error:
            return KEEP, error_html(str(error))
        finally:
            self._stops.pop(_session(request), None)

    def point(self, phrase: str, view: str, opened: str) -> tuple[Any, Any]:
        """Find a phrase in the view; its boxes become a layer."""
        try:
            if not phrase.strip():
                raise BadInput("there is nothing to look for; write what to point to, for example: a lymphocyte")
            picture, x, y, scale, _ = self.look(view, opened)
            boxes = _grounder().ground(picture, phrase.strip())
            if not boxes:
                return KEEP, info_html(f"Nothing like “{phrase.strip()[:80]}” was found in this view.")
            shapes = [
                box(one.xyxy, label=phrase.strip()[:80], colour=colour_of(phrase), measurements={"score": one.score})
                for one in boxes
            ]
            self._add_layer(opened, phrase.strip()[:60], shapes, x, y, scale)
            best = {"found": len(boxes), "best score": round(float(boxes[0].score), 3)}
            return _again(opened), _result(f"{len(boxes)} found.", best, (), len(shapes))
        except PathAssistError as error:
            return KEEP, error_html(str(error))

    def bring(self, path: str | None, opened: str) -> tuple[Any, Any, Any]:
        """A GeoJSON file becomes the layer "Imported"; gives viewer, result and the emptied upload."""
        if not path:
            return KEEP, KEEP, KEEP
        try:
            self._need(opened)
            if os.path.getsize(path) > MAX_BYTES:
                raise BadInput(f"the GeoJSON has over {MAX_BYTES >> 20} MiB; split the file")
            count = self.store.import_shapes(opened, "Imported", read_geojson(Path(path).read_bytes()))
            return _again(opened), info_html(f"{count} shapes were imported."), None
        except PathAssistError as error:
            return KEEP, error_html(str(error)), None

    def clear(self, opened: str) -> tuple[Any, Any]:
        """Remove all layers."""
        try:
            for name in self.store.layers(self._need(opened)):
                self.store.put_layer(opened, name, [])
            return _again(opened), info_html("The layers were removed.")
        except PathAssistError as error:
            return KEEP, error_html(str(error))

    def stop(self, request: gr.Request) -> None:
        """End the session's running tool."""
        running = self._stops.get(_session(request))
        if running:
            running.set()

    def look(self, view: str, opened: str, *, on_screen: bool = False) -> tuple[Image, int, int, float, float | None]:
        """Picture of a view, its corner, slide pixels for one of its own, and its µm per pixel.

        Raises:
            BadInput: No slide, or a view that is none.
        """
        with self.store.use(self._need(opened)) as slide:
            try:
                seen = json.loads(view)
                x, y = max(0, int(seen["x"])), max(0, int(seen["y"]))
                width = min(round(float(seen["width"])), slide.size[0] - x)
                height = min(round(float(seen["height"])), slide.size[1] - y)
                zoom = float(seen["scale"]) if on_screen else 1.0
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                raise BadInput("the view could not be read; wait until the slide is shown, then try again") from error
            if width < 2 or height < 2:
                raise BadInput("the slide is not in view; choose “Whole slide”")
            shrink = max(1.0, max(width, height) / _VIEW_SIDE, 1 / max(zoom, 1e-6))
            out = max(2, round(width / shrink)), max(2, round(height / shrink))
            picture = slide.read(x, y, width, height, out)
            scale = width / picture.width
            return picture, x, y, scale, slide.mpp * scale if slide.mpp else None

    def _need(self, opened: str) -> str:
        if not opened:
            raise BadInput("no slide is open; open one first")
        return opened

    def _add_layer(self, opened: str, name: str, shapes: Sequence[Shape], x: int, y: int, scale: float) -> None:
        from assistant.geojson import moved

        self.store.put_layer(opened, name, moved(shapes, x, y, scale))


def slides_tab(assistant: Assistant | None, files: Path, *, folder: Path | None = None) -> SlidesTab:
    """Put the tab's content onto the page under construction.

    Args:
        assistant: Unused by the tab itself: views go to the page's chat.
        files: Folder that Gradio serves.
        folder: Slides to list; default: the folder that ``PATHASSIST_SLIDES`` names.
    """
    if folder is None and (named := os.environ.get(FOLDER_VARIABLE)):
        folder = Path(named)
    slides = Slides(files, folder)
    opened = gr.State("", time_to_live=_KEEP_S, delete_callback=slides.store.remove)
    with gr.Row(elem_id="pa-slides", equal_height=False):
        with gr.Column(elem_id="pa-slide-side", min_width=0):
            upload = gr.File(
                label="Open a slide", file_count="single", type="filepath", file_types=_TYPES, height=130,
                elem_id="pa-slide-file",
            )  # fmt: skip
            listed = gr.Dropdown(
                choices=slides.choices(), value=None, label="Slides on this machine", visible=bool(slides.listed()),
                elem_id="pa-slide-list",
            )  # fmt: skip
            ask = gr.Button("Ask about this view", variant="primary", elem_id="pa-slide-ask")
            tool = gr.Dropdown(choices=_tools(), value=None, label="Tool to run on this view", elem_id="pa-slide-tool")
            with gr.Row():
                go = gr.Button("Run tool", size="sm", min_width=0, elem_id="pa-slide-run")
                halt = gr.Button("Stop", size="sm", min_width=0, elem_id="pa-slide-stop")
            phrase = gr.Textbox(
                label="Point to", placeholder="a lymphocyte", lines=1, max_length=400, elem_id="pa-slide-phrase"
            )
            with gr.Accordion("Layers from and to files", open=False):
                bring = gr.File(
                    label="Import GeoJSON (QuPath)", file_count="single", type="filepath",
                    file_types=[".geojson", ".json"], height=140, elem_id="pa-slide-geojson",
                )  # fmt: skip
                clear = gr.Button("Remove all layers", size="sm")
        with gr.Column(elem_id="pa-slide-view", min_width=0):
            status = gr.HTML(START, elem_id="pa-slide-status", padding=False, js_on_load=None)
            gr.HTML(_VIEWER, elem_id="pa-slide-viewer", padding=False, js_on_load=_ON_LOAD)
            result = gr.HTML("", elem_id="pa-slide-result", padding=False, js_on_load=None)
    shown = gr.Textbox(visible="hidden", elem_id="pa-slide-id", label="Slide")
    view = gr.Textbox(visible="hidden", elem_id="pa-slide-place", label="View")
    ask_image = gr.Image(visible="hidden", type="filepath", label="View", elem_id="pa-slide-picture")

    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    slow = {**quick, "concurrency_id": "model", "concurrency_limit": 1}
    show: dict[str, Any] = {"fn": None, "inputs": [shown], "outputs": None, "js": _SHOW}
    look = "(...all) => {{ all[{0}] = window.paViewer?.view() ?? ''; return all; }}"
    upload.upload(slides.open_upload, [upload, opened], [opened, shown, status, upload], **quick).then(**show)
    listed.input(slides.open_listed, [listed, opened], [opened, shown, status], **quick).then(**show)
    asked = ask.click(slides.ask, [view, opened], [ask_image, status], js=look.format(0), **quick)
    go.click(slides.run, [tool, view, opened], [shown, result], js=look.format(1), **slow).then(**show)
    halt.click(slides.stop, queue=False, **quick)
    phrase.submit(slides.point, [phrase, view, opened], [shown, result], js=look.format(1), **slow).then(**show)
    bring.upload(slides.bring, [bring, opened], [shown, result, bring], **quick).then(**show)
    clear.click(slides.clear, [opened], [shown, result], **quick).then(**show)
    assets = {name: (lambda path=STATIC / name: path) for name in ("viewer.js", "viewer.css")}
    assets[openseadragon.SCRIPT] = openseadragon.script
    routes = slide_routes(slides.store, assets)
    return SlidesTab(routes, ask_image, asked, slides.store, slides, opened, shown, status, show)


def _tools() -> list[str]:
    """Tools that need one image and nothing else."""
    from assistant.tools import find_tools
    from assistant.tools.schema import arguments_model, image_parameters

    return [
        name
        for name, tool in find_tools().tools.items()
        if len(image_parameters(tool)) == 1
        and not any(
            field.is_required() and key not in image_parameters(tool)
            for key, field in arguments_model(tool).model_fields.items()
        )
    ]


def _grounder() -> Any:
    try:
        from assistant.grounding import load_grounder
    except ImportError as error:
        raise NotAvailable("pointing to words is not part of this installation") from error
    return load_grounder()


def _of_tool(collection: dict[str, Any] | None, name: str) -> list[Shape]:
    """Shapes of a tool's GeoJSON, as detections with its classes."""
    if not collection or not collection.get("features"):
        return []
    shapes = []
    for shape in read_geojson(collection):
        extra = dict(shape.extra)
        label = shape.label or str(extra.pop("class", "") or name)
        shapes.append(replace(shape, kind="detection", label=label, extra=extra))
    return shapes


def _result(text: str, numbers: dict[str, Any], warnings: Sequence[str], count: int) -> str:
    rows = "".join(
        f"<tr><th scope='row'>{escape(str(key))}</th><td>{escape(_short(value))}</td></tr>"
        for key, value in numbers.items()
    )
    notes = "".join(f"<p>Warning: {escape(note)}</p>" for note in warnings)
    layer = f"<p>{count} shapes are on the slide as a layer.</p>" if count else ""
    return (
        f'<div class="notice" role="status"><p>{escape(text)}</p>{notes}<table>{rows}</table>{layer}'
        f"<p><small>{escape(DISCLAIMER)}</small></p></div>"
    )


def _short(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 200 else text[:197] + "…"


def _again(opened: str) -> str:
    """A new value for the same slide, so that the browser fetches its layers again."""
    return f"{opened}.{os.urandom(4).hex()}"


def _label(number: int, path: Path) -> str:
    size = path.stat().st_size
    shown = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
    return f"Slide {number + 1} · {path.suffix.lstrip('.').upper()} · {shown}"


def _session(request: gr.Request) -> str:
    return str(getattr(request, "session_hash", None) or "")
