"""A page with the Slides tab, a small chat beside it, and a slide made for it, served for real."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import uvicorn
from fastapi import FastAPI
from PIL import Image

from assistant.api import bind
from tests.serving import wait_for
from ui.app import _PageHeaders
from ui.slides import Slides, SlidesTab, slides_tab
from ui.theme import CSS


def write_slide(path: Path, *, ome: bool = False) -> Path:
    """2,400 x 1,800 pixels, 0.5 µm each, three levels: pink tissue with dark blue nuclei on glass; a red corner."""
    import tifffile

    pixels = np.full((1800, 2400, 3), 244, np.uint8)
    noise = np.random.default_rng(1).integers(0, 18, pixels.shape, dtype=np.uint8)
    pixels[200:1600, 200:2000] = (222, 150, 186)
    down, across = np.mgrid[0:1800, 0:2400]
    for y in range(260, 1560, 60):
        for x in range(260, 1960, 60):
            box = np.s_[y - 12 : y + 13, x - 12 : x + 13]
            inside = (down[box] - y) ** 2 + (across[box] - x) ** 2 <= 10**2
            pixels[box][inside] = (70, 40, 130)
    pixels[1700:, 2300:] = (220, 20, 20)
    pixels -= noise
    with tifffile.TiffWriter(path, ome=ome) as file:
        options: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": None}
        if ome:
            metadata = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
            file.write(pixels, subifds=2, metadata=metadata, **options)
            for step in (2, 4):
                file.write(np.ascontiguousarray(pixels[::step, ::step]), subfiletype=1, **options)
        else:
            for step in (1, 2, 4):
                resolution = (20_000 / step, 20_000 / step)  # pixels per centimetre
                file.write(
                    np.ascontiguousarray(pixels[::step, ::step]),
                    subfiletype=int(step > 1),
                    resolution=resolution,
                    resolutionunit="CENTIMETER",
                    metadata=None,
                    **options,
                )
    return path


@contextmanager
def served_slides(folder: Path | None = None) -> Iterator[tuple[str, SlidesTab]]:
    """Address of the page, and its tab."""
    from assistant.images.intake import load_image

    files = Path(tempfile.mkdtemp(prefix="pathassist-test-"))
    with gr.Blocks(title="slides", analytics_enabled=False, fill_width=True) as demo:
        with gr.Tabs(elem_id="pa-tabs") as tabs:
            with gr.Tab("Chat", id="chat"):
                chatbot = gr.HTML("", elem_id="reply", js_on_load=None)
                composer = gr.MultimodalTextbox(elem_id="composer", file_types=["image"], label="Your question")
            with gr.Tab("Slides", id="slides"):
                tab = slides_tab(None, files, folder=folder)
        tab.connect(composer, tabs)

        def reply(message: dict[str, Any]) -> str:
            image: Image.Image = load_image(message["files"][0])
            return f"<p>{image.width} x {image.height}: {message['text']}</p>"

        composer.submit(reply, composer, chatbot)
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.router.routes.extend(tab.routes)
    app.add_middleware(_PageHeaders)
    app = gr.mount_gradio_app(app, demo, path="/", css_paths=[CSS], footer_links=[], run_history=False, ssr_mode=False)
    listener = bind("127.0.0.1", 0, None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        wait_for(lambda: server.started, 30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", tab
    finally:
        server.should_exit = True
        thread.join(20)
        listener.close()
        tab.store.close()
        shutil.rmtree(files, ignore_errors=True)


__all__ = ["Slides", "served_slides", "write_slide"]
