"""The chat page, alone or together with the HTTP API in one process.

pathassist ui
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant.answer import DISCLAIMER
from assistant.api import bind, create_app
from assistant.api_guard import is_loopback
from assistant.errors import BadInput
from assistant.images.intake import DEFAULT_LIMITS
from ui.benchmarks import benchmarks_tab
from ui.cases import cases_tab
from ui.chat import Chat
from ui.drawer import drawer
from ui.evidence import EMPTY, escape
from ui.examples import SOURCE, write_examples
from ui.login import PageLogin
from ui.marks import marks_panel, nothing
from ui.models import Models
from ui.report import report_tab
from ui.slides import slides_tab
from ui.theme import CASES_CSS, CSS, ICON, PAGE_CSS, PAGE_JS, theme
from ui.tools import tools_tab

if TYPE_CHECKING:
    from assistant.assistant import Assistant

AUTH_VARIABLE = "PATHASSIST_UI_AUTH"
API_PATHS = ("/v1/{rest:path}", "/health", "/ready")
LOOPBACK_NAMES = ["localhost", "127.0.0.1", "[::1]"]
_KEEP_FILES_S = 4 * 3600
# The page is Gradio's: inline scripts and styles and templates compiled in the browser are how it works. What this
# still enforces is that nothing is loaded from, or sent to, another host, whatever ends up in the page.
PAGE_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; "
        "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


def build(assistant: Assistant, *, can_add: bool = False, models: Models | None = None) -> gr.Blocks:
    """The page around an assistant.

    Image files of conversations go to a new folder that only this user can read; ``demo.files`` is its path, for the
    caller to delete when the page is no longer served. With ``can_add`` its users may add cases to the library.
    ``models`` are those that a conversation can change to; by default all presets that can be loaded here.
    """
    files = _private_folder()
    examples = write_examples(files / "examples")
    models = models or Models(assistant)
    chat = Chat(assistant, examples, files, models)
    with gr.Blocks(
        title="pathassist",
        analytics_enabled=False,
        delete_cache=(600, _KEEP_FILES_S),
        fill_width=True,
    ) as demo:
        demo.files = files
        header = gr.HTML(_header(assistant.name), elem_id="pa-header", js_on_load=None)
        records = gr.State([], time_to_live=_KEEP_FILES_S)
        with gr.Tabs(elem_id="pa-tabs") as tabs:
            with gr.Tab("Chat", id="chat"), gr.Row(elem_id="pa-main", equal_height=False):
                with gr.Column(elem_id="pa-talk", min_width=0):
                    chatbot = gr.Chatbot(
                        elem_id="pa-chat",
                        label="Conversation",
                        show_label=False,
                        container=False,
                        height="100%",
                        layout="bubble",
                        buttons=["copy"],
                        feedback_options=None,
                        sanitize_html=True,
                        render_markdown=False,
                        latex_delimiters=[],
                        allow_tags=False,
                        allow_file_downloads=False,
                        placeholder=_placeholder(),
                        examples=[
                            {"display_text": label, "text": question, "files": [str(image)]}
                            for label, image, question in examples
                        ],
                    )
                    notice = gr.HTML("", elem_id="pa-notice", js_on_load=None)
                    composer = gr.MultimodalTextbox(
                        elem_id="pa-composer",
                        label="Your question",
                        show_label=False,
                        container=False,
                        placeholder="Ask about the image…",
                        file_count="multiple",
                        file_types=["image"],
                        lines=1,
                        max_lines=6,
                        max_plain_text_length=8_000,
                    )
                    hint = gr.HTML(_hint(assistant), elem_id="pa-hint", js_on_load=None)
                with gr.Column(elem_id="pa-side", min_width=0):
                    evidence = gr.HTML(EMPTY, elem_id="pa-evidence", js_on_load=None)
                    marks = marks_panel(chatbot, composer)
                    fresh = gr.Button("New conversation", size="sm", elem_id="pa-new")
            with gr.Tab("Slides", id="slides"):
                slides = slides_tab(assistant, files)
            with gr.Tab("Tools", id="tools"):
                tools_tab(files, _store_of(assistant))
            with gr.Tab("Cases", id="cases"):
                cases = cases_tab(getattr(assistant, "library", None), can_add=can_add)
            with gr.Tab("Report", id="report"):
                report_tab(records)
            with gr.Tab("Benchmarks", id="benchmarks"):
                benchmarks = benchmarks_tab(model=assistant.name)
        settings = drawer(models, header=header, bar=_header, hint=hint, hint_of=_hint, takes_tools=chat.takes_tools)
        slides.connect(composer, tabs)
        if cases is not None:
            slides.open_from(cases.slide, cases.find, cases.chosen, cases.said, tabs)
        # What the application has to serve beside the page, and to close with it.
        demo.routes = [*slides.routes, *benchmarks.routes()]
        demo.closing = [slides.store.close, benchmarks.close]

        screen = [chatbot, evidence, notice, records, composer]
        quick = {"outputs": screen, "queue": False, "show_progress": "hidden", "api_visibility": "undocumented"}
        answer = {
            "fn": chat.respond,
            "inputs": [chatbot, records, *settings],
            "outputs": screen,
            "show_progress": "hidden",
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "api_visibility": "undocumented",
        }
        running = [
            composer.submit(chat.submit, [composer, chatbot, records, *marks.inputs], **quick).success(
                **answer, api_name="respond"
            ),
            chatbot.example_select(chat.example, [chatbot, records], **quick).success(**answer, api_name=None),
            chatbot.retry(chat.retry, [chatbot, records], **quick).success(**answer, api_name=None),
        ]
        chatbot.undo(chat.undo, [chatbot, records], **quick)
        composer.stop(chat.stop, queue=False, show_progress="hidden", api_visibility="undocumented")
        fresh_start = [fresh.click, chatbot.clear]
        gr.on(fresh_start, chat.clear, None, **quick, cancels=running)
        gr.on(fresh_start, nothing, None, **{**quick, "outputs": marks.outputs})
        demo.unload(chat.leave)
    return demo


def serve_app(assistant: Assistant, *, auth: tuple[str, str] | None = None, models: Models | None = None) -> FastAPI:
    """Page and API in one application: ``/`` and ``/v1/…``.

    Args:
        assistant: Answers the questions.
        auth: User and password of the page, which slides and reports ask for too; the password is also the API's
            bearer key. Without it only loopback host names are answered.
        models: What a conversation of the page can change to; the API always answers with ``assistant``.
    """
    api = create_app(assistant, api_key=auth[1] if auth else None)
    demo = build(assistant, can_add=auth is None, models=models)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, lifespan=lambda _: api.router.lifespan_context(api))
    app.router.routes.extend(Route(path, endpoint=api) for path in API_PATHS)
    login = PageLogin()
    if auth is not None:
        login.guard(demo.routes)
    app.router.routes.extend(demo.routes)
    app.state.files = demo.files
    app.state.closing = demo.closing
    app.add_middleware(_PageHeaders)
    if auth is None:
        # A web page elsewhere could otherwise reach this one by pointing its own name at 127.0.0.1.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK_NAMES, www_redirect=False)
    gr.mount_gradio_app(
        app,
        demo,
        path="/",
        auth=auth,
        auth_message=escape(DISCLAIMER) if auth else None,
        theme=theme(),
        css_paths=[CSS, CASES_CSS, PAGE_CSS],
        head=f"<script>{PAGE_JS.read_text(encoding='utf-8')}</script>",
        favicon_path=str(ICON),
        footer_links=[],
        allowed_paths=[],
        max_file_size=DEFAULT_LIMITS.max_bytes,
        show_error=False,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
    )
    login.follow(app)
    return app


def launch(
    assistant: Assistant | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    model: str = "embedded",
    open_browser: bool = False,
    auth: str | tuple[str, str] | None = None,
    library: str | None = None,
    notes: str | Path | None = None,
) -> None:
    """Serve page and API until interrupted.

    Args:
        assistant: A loaded assistant; without one, ``model`` is loaded.
        host: Address to listen on; one that other machines reach needs ``auth``.
        port: 0 takes any free port.
        model: Preset to load.
        open_browser: Open the page once it is served.
        auth: ``("user", "password")`` or ``"user:password"``; default: the variable ``PATHASSIST_UI_AUTH``.
        library: URL of the case library to search, see ``Assistant.load``.
        notes: Folder of notes to quote from.

    Raises:
        BadInput: The address needs a login, the login is malformed, or the port is taken.
        NotAvailable: The model cannot be loaded.
    """
    login = read_auth(auth, host)
    listener = bind(host, port, login[1] if login else None)
    files, closing = None, []
    try:
        if assistant is None:
            from assistant.assistant import Assistant

            assistant = Assistant.load(model, library=library, notes=notes)
        app = serve_app(assistant, auth=login)
        files, closing = app.state.files, app.state.closing
        name = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104
        url = f"http://{name}:{listener.getsockname()[1]}"
        print(f"{assistant.name} answers on {url} (API: {url}/v1; Ctrl-C stops). {DISCLAIMER}", flush=True)
        # No access log: addresses of uploaded files would put their names into it.
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=5
        )
        if open_browser:
            threading.Timer(1.0, webbrowser.open, [url]).start()
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        for close in closing:
            close()
        if files:
            shutil.rmtree(files, ignore_errors=True)


def read_auth(
    auth: str | tuple[str, str] | None, host: str, env: Mapping[str, str] = os.environ
) -> tuple[str, str] | None:
    """The login in force, or None.

    Raises:
        BadInput: It is malformed, or there is none and other machines can reach ``host``.
    """
    given = auth or env.get(AUTH_VARIABLE)
    if not given:
        if not is_loopback(host):
            raise BadInput(
                f"--host {host} can be reached from other machines and no login is set; "
                f"set {AUTH_VARIABLE}=user:password, or use --host 127.0.0.1"
            )
        return None
    user, password = given if isinstance(given, tuple) else given.partition(":")[::2]
    if not user or not password:
        raise BadInput(f"the login needs a user and a password; set {AUTH_VARIABLE}=user:password")
    return user, password


class _PageHeaders:
    """Adds the page's security headers; the API's own, stricter ones stay."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in PAGE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, respond if scope["type"] == "http" else send)


def _private_folder() -> Path:
    """A new folder for uploads. Gradio takes its place from the environment while components are made."""
    folder = Path(tempfile.mkdtemp(prefix="pathassist-ui-"))
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _store_of(assistant: Any) -> str:
    return str(getattr(getattr(assistant, "library", None), "url", "") or "")


def _header(model: str) -> str:
    """The bar at the top; ``model`` is what it says of the model."""
    return (
        '<header class="pa-bar"><div class="pa-brand"><span class="pa-mark" aria-hidden="true"></span>'
        f'<h1>pathassist</h1><span class="pa-chip" title="Model in use">{escape(model)}</span></div>'
        f'<div class="pa-bar-end"><p class="pa-disclaimer" role="note">{escape(DISCLAIMER)}</p>'
        '<button type="button" class="pa-plain" data-drawer="toggle" aria-expanded="false" aria-controls="pa-settings">'
        "Settings</button></div></header>"
    )


def _hint(assistant: Any) -> str:
    """What can be dropped in, and where it goes."""
    where = "They are sent to the endpoint of the preset." if _is_remote(assistant) else "They stay on this machine."
    return (
        f'<p class="pa-hint">Drop or paste up to {assistant.max_images} images (PNG, JPEG, TIFF, WebP), '
        f"{DEFAULT_LIMITS.max_bytes // 2**20} MB each. {where}</p>"
    )


def _is_remote(assistant: Any) -> bool:
    return hasattr(assistant, "remote_model")


def _placeholder() -> str:
    return (
        '<div class="pa-welcome"><h2>Ask about a pathology image</h2>'
        "<p>Drop one or more microscope fields below and ask, or try an example.</p>"
        f"<small>{escape(SOURCE)}</small></div>"
    )
