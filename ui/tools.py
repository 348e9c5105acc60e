"""The Tools tab: one sub-model on one image, with its card, its numbers, what it drew, and files to keep."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from assistant.answer import DISCLAIMER
from assistant.errors import PathAssistError
from assistant.images.intake import load_image
from assistant.tools.base import Tool
from assistant.tools.registry import find_tools
from assistant.tools.run import ToolCall, ToolState, run_call
from assistant.tools.schema import image_parameters, json_schema, summary
from ui.evidence import error_html, escape, info_html

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
START = info_html("Drop an image and press Run.")
_KEEP_S = 4 * 3600
_MAX_ROWS = 60


class View(NamedTuple):
    """New values of the tab's outputs, in their order."""

    status: Any = KEEP
    numbers: Any = KEEP
    pictures: Any = KEEP
    files: Any = KEEP


class Tools:
    """The handlers of the tab.

    Args:
        files: Folder that Gradio serves; downloads are written there.
        store: URL of the case library, empty for none.
    """

    def __init__(self, files: Path, store: str = "") -> None:
        self.files = files
        self.store = store
        self._running: dict[str, tuple[threading.Event, ToolState]] = {}
        self._lock = threading.Lock()

    def run(
        self, name: str, research: bool, values: dict[str, Any], images: list[str | None], session: str
    ) -> Iterator[View]:
        """Run one tool; the last view holds what came of it.

        Args:
            values: Arguments other than images, as the form gave them; empty ones are left out.
            images: Files of the image arguments, in the order of the signature.
        """
        stop = threading.Event()
        with self._lock:
            if session in self._running:
                yield View(error_html("a tool is still running; stop it first"))
                return
            state = ToolState(store=self.store, research=bool(research))
            self._running[session] = (stop, state)
        yield View(_busy(name), "", gr.update(value=None, visible=False), gr.update(value=None, visible=False))
        try:
            tool = find_tools()[name]
            wanted = image_parameters(tool)
            if missing := [p for p, path in zip(wanted, images, strict=False) if not path]:
                yield View(error_html(f"no image was given for: {', '.join(missing)}; drop one in and run again"))
                return
            state.images = [load_image(str(path)) for path in images[: len(wanted)]]
            arguments = {p: number for number, p in enumerate(wanted, 1)} | _given(tool, values)
            yield self._shown(tool, run_call(name, arguments, state, stop=stop))
        except PathAssistError as error:
            yield View(error_html(str(error)))
        except Exception:
            log.exception("the tool %s could not be run", name)
            yield View(error_html("internal error: the tool could not be run; the terminal has the details"))
        finally:
            with self._lock:
                self._running.pop(session, None)
            state.close()

    def stop(self, request: gr.Request) -> None:
        """End the session's tool; its process ends with it."""
        with self._lock:
            running = self._running.get(_session(request))
        if running:
            running[0].set()

    def _shown(self, tool: Tool, call: ToolCall) -> View:
        result = call.result
        if call.status == "cancelled":
            return View(info_html("Stopped."))
        if not result.ok:
            return View(error_html(result.text))
        folder = Path(tempfile.mkdtemp(prefix="tool-", dir=self.files))
        record = {**call.to_json(), "research_only": tool.card.research_only, "disclaimer": DISCLAIMER}
        (folder / "result.json").write_text(json.dumps(record, indent=1, default=str), encoding="utf-8")
        pictures = []
        for label, picture in result.overlays.items():
            path = folder / f"overlay-{_plain(label)}.png"
            picture.save(path, "PNG", compress_level=1)
            pictures.append((str(path), label.replace("_", " ")))
        written = [folder / "result.json", *(Path(path) for path, _ in pictures)]
        if result.geojson is not None:
            (folder / "shapes.geojson").write_text(json.dumps(result.geojson), encoding="utf-8")
            written.append(folder / "shapes.geojson")
        return View(
            _said(call), numbers_html(result.numbers),
            gr.update(value=pictures or None, visible=bool(pictures)),
            gr.update(value=[str(path) for path in written], visible=True),
        )  # fmt: skip


def card_html(tool: Tool) -> str:
    """What a tool is for and how far to trust it."""
    card = tool.card
    rows = [("What it does", card.task), ("Trained on", card.training_data), ("Licence", card.licence),
            ("Stains", ", ".join(card.stains) or "any"), ("Magnification", card.magnifications)]  # fmt: skip
    if card.limits:
        rows.append(("Limits", card.limits))
    measured = "".join(f"<li>{escape(one)}</li>" for one in tool.measured)
    chip = '<span class="pa-chip research">research data only</span>' if card.research_only else ""
    table = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows)
    numbers = f"<ul>{measured}</ul>" if measured else "<p>Nothing was measured of it.</p>"
    return (
        f'<section class="card" aria-label="Card of {escape(tool.name)}"><h2>{escape(label_of(tool.name))} {chip}</h2>'
        f"<p>{escape(summary(tool))}</p><table>{table}</table><h3>Measured</h3>{numbers}</section>"
    )


def numbers_html(numbers: dict[str, Any]) -> str:
    """All numbers of a result as a table; nested ones by their path."""
    rows = list(_flat(numbers))
    if not rows:
        return ""
    body = "".join(f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in rows[:_MAX_ROWS])
    more = f"<p>{len(rows) - _MAX_ROWS} more are in result.json.</p>" if len(rows) > _MAX_ROWS else ""
    return (
        f'<div class="numbers" role="region" aria-label="Numbers" tabindex="0"><table>'
        f"<caption>Numbers</caption><tbody>{body}</tbody></table>{more}</div>"
    )


def label_of(name: str) -> str:
    """A tool's name for people: "segment_nuclei" → "Segment nuclei"."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:].replace("ihc", "IHC")


def tools_tab(files: Path, store: str = "") -> Tools:
    """Put the tab's content onto the page under construction."""
    handlers = Tools(files, store)
    tools = find_tools().tools
    first = next(iter(tools))
    with gr.Row(elem_id="pa-tools", equal_height=False, elem_classes="pa-pane"):
        with gr.Column(elem_id="pa-tool-side", min_width=0, elem_classes="pa-form"):
            choice = gr.Dropdown(
                [(label_of(name), name) for name in tools], value=first, label="Tool", elem_id="pa-tool-name"
            )
            image = gr.Image(type="filepath", label="Image", sources=["upload", "clipboard"], height=220,
                             elem_id="pa-tool-image", buttons=[])  # fmt: skip
            with gr.Group(visible=len(image_parameters(tools[first])) > 1) as more:
                second = gr.Image(type="filepath", label="Second image (reference)", sources=["upload", "clipboard"],
                                  height=180, elem_id="pa-tool-second", buttons=[])  # fmt: skip
            fields: list[tuple[str, str, Any]] = []
            groups: list[tuple[str, Any]] = []
            for name, tool in tools.items():
                with gr.Group(visible=False) as group:
                    made = list(_form(tool))
                fields += [(name, key, one) for key, one in made]
                if made:
                    group.visible = name == first
                    groups.append((name, group))
            research = gr.Checkbox(True, label="Allow tools trained on research-only data", elem_id="pa-tool-research")
            with gr.Row():
                go = gr.Button("Run", variant="primary", elem_id="pa-tool-run")
                halt = gr.Button("Stop", elem_id="pa-tool-stop")
            card = gr.HTML(card_html(tools[first]), elem_id="pa-tool-card", padding=False, js_on_load=None)
        with gr.Column(elem_id="pa-tool-view", min_width=0, elem_classes="pa-wide"):
            status = gr.HTML(START, elem_id="pa-tool-status", padding=False, js_on_load=None)
            pictures = gr.Gallery(
                visible=False, label="Overlay", columns=1, object_fit="contain", height="auto",
                elem_id="pa-tool-overlay", buttons=["fullscreen", "download"],
            )  # fmt: skip
            numbers = gr.HTML("", elem_id="pa-tool-numbers", padding=False, js_on_load=None)
            downloads = gr.File(visible=False, label="Download", interactive=False, file_count="multiple",
                                elem_id="pa-tool-files")  # fmt: skip
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}

    def chosen(name: str) -> list[Any]:
        tool = find_tools()[name]
        two = len(image_parameters(tool)) > 1
        return [card_html(tool), gr.update(visible=two), *(gr.update(visible=name == n) for n, _ in groups)]

    def run(
        name: str, allow: bool, one: str | None, two: str | None, *given: Any, request: gr.Request
    ) -> Iterator[View]:
        values = {key: value for (owner, key, _), value in zip(fields, given, strict=True) if owner == name}
        yield from handlers.run(name, allow, values, [one, two], _session(request))

    outputs = [status, numbers, pictures, downloads]
    choice.input(chosen, choice, [card, more, *(group for _, group in groups)], queue=False, **quick)
    go.click(
        _with_request(run), [choice, research, image, second, *(made for _, _, made in fields)], outputs,
        concurrency_id="tools", concurrency_limit=1, **quick,
    )  # fmt: skip
    halt.click(handlers.stop, queue=False, **quick)
    return handlers


def _with_request(run: Any) -> Any:
    """Gradio fills in a request only where it is a positional parameter; the form's values come after it."""

    def handler(request: gr.Request, *values: Any) -> Iterator[View]:
        yield from run(*values, request=request)

    return handler


def _form(tool: Tool) -> Iterator[tuple[str, Any]]:
    """A component for every argument that is not an image."""
    schema = json_schema(tool)
    images = image_parameters(tool)
    for key, entry in schema["properties"].items():
        if key in images:
            continue
        kind = _kind(entry, schema)
        label, info, default = label_of(key), entry.get("description"), entry.get("default")
        if choices := kind.get("enum"):
            made: Any = gr.Dropdown(choices, value=default, label=label, info=info)
        elif kind.get("type") == "boolean":
            made = gr.Checkbox(bool(default), label=label, info=info)
        elif kind.get("type") in ("number", "integer"):
            whole = kind["type"] == "integer"
            made = gr.Number(default, label=label, info=info, precision=0 if whole else None,
                             minimum=kind.get("minimum"), maximum=kind.get("maximum"))  # fmt: skip
        else:
            shown = default if isinstance(default, str) or default is None else json.dumps(default)
            made = gr.Textbox(shown, label=label, info=info, lines=1, max_lines=4, max_length=4000)
        yield key, made


def _kind(entry: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The type of an argument, of "type or null" the type."""
    if "$ref" in entry:
        entry = schema["$defs"][entry["$ref"].rsplit("/", 1)[-1]]
    options = [one for one in entry.get("anyOf", ()) if one.get("type") != "null"]
    return _kind(options[0], schema) if options else entry


def _given(tool: Tool, values: dict[str, Any]) -> dict[str, Any]:
    """The form's values as arguments: empty ones are left to the tool, lists and objects are read as JSON."""
    schema = json_schema(tool)
    found = {}
    for key, value in values.items():
        if value is None or value == "":
            continue
        kind = _kind(schema["properties"][key], schema)
        if kind.get("type") in ("array", "object") and isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                value = [part.strip() for part in value.split(",") if part.strip()]
        found[key] = value
    return found


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{path} · {key}" if path else str(key))
    elif isinstance(value, float):
        yield path, f"{value:.4g}" if math.isfinite(value) else str(value)
    else:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        yield path, text if len(text) <= 300 else text[:297] + "…"


def _said(call: ToolCall) -> str:
    notes = "".join(f"<p>Warning: {escape(note)}</p>" for note in call.result.warnings)
    return (
        f'<div class="notice" role="status"><p>{escape(call.result.text)}</p>{notes}'
        f"<p><small>{call.seconds:.1f} s · {escape(DISCLAIMER)}</small></p></div>"
    )


def _busy(name: str) -> str:
    bones = '<div class="bone" aria-hidden="true"></div>' * 3
    return (
        f'<section class="evidence working" aria-label="Tool" aria-busy="true">'
        f'<p role="status">{escape(label_of(name))} is running…</p>{bones}</section>'
    )


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)[:40] or "picture"


def _session(request: gr.Request) -> str:
    return str(getattr(request, "session_hash", None) or "")
