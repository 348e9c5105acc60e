"""How long the page takes until it can be used, and its slide tiles until they are there, in a real browser.

    OMP_NUM_THREADS=1 python -m eval.page_time --slides shared/data/slides --slide 2 --out eval/results

Server and browser (chromium over Playwright) share this machine. A visit is a new browser profile without anything
cached; usable is the moment at which the question box is shown, takes text, and the browser has drawn it. The control
is an empty Gradio page, one text box, visited in turn with ours. Tiles are what the viewer itself asks for while it is
zoomed and moved by the same steps in every visit, each with a slide opened anew, so that no tile is cached; their
control is a small file of the same server, fetched as often.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from assistant.errors import BadInput, NotAvailable
from assistant.files import write_text
from eval.provenance import git_revision, versions, write_json

COMMAND = "OMP_NUM_THREADS=1 python -m eval.page_time --slides {slides} --slide {slide} --visits {visits} --out {out}"
GOAL_S, GOAL_MS = 3.0, 50.0
_START_S, _WAIT_MS = 300.0, 120_000
_EMPTY = """
import gradio as gr, socket, uvicorn
from fastapi import FastAPI
with gr.Blocks(analytics_enabled=False) as demo:
    gr.Textbox(label="Text")
app = gr.mount_gradio_app(FastAPI(), demo, path="/", ssr_mode=False)
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]} (empty)", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""
_USABLE = """(() => {
  const look = () => {
    const box = document.querySelector(%s);
    if (!box || !box.offsetParent || box.disabled) return requestAnimationFrame(look);
    requestAnimationFrame(() => setTimeout(() => { window.pageUsable = performance.now(); }, 0));
  };
  look();
})()"""
_TILES = """() => performance.getEntriesByType('resource').filter((e) => /slides\\/[^/]+_files\\//.test(e.name))
  .map((e) => [e.duration, e.responseEnd - e.requestStart, e.transferSize])"""
_SMALL = """async (count) => {
  const found = [];
  for (let n = 0; n < count; n++) {
    const began = performance.now();
    await (await fetch(`slides/assets/viewer.css?n=${n}`, {cache: 'no-store'})).text();
    found.push(performance.now() - began);
  }
  return found;
}"""


@contextmanager
def serving(command: Sequence[str], **environment: str) -> Iterator[str]:
    """The address of a server that prints it, run in a process of its own.

    Raises:
        NotAvailable: It did not start.
    """
    process = subprocess.Popen(  # noqa: S603
        list(command), stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1", **environment}
    )
    try:
        assert process.stdout is not None  # noqa: S101
        line = next((line for line in process.stdout if "http://" in line), "")
        found = re.search(r"http://[\w.:]+", line)
        if found is None:
            raise NotAvailable(f"the server did not start: {' '.join(command)[:100]}; run it by itself to see why")
        _wait_for(found[0])
        yield found[0]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def visit(browser: Any, url: str, selector: str, text: str = "a") -> tuple[float, float]:
    """Seconds from the start of the navigation until the page can be used: first visit, and a reload with its cache."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        page.set_default_timeout(_WAIT_MS)
        page.add_init_script(_USABLE % json.dumps(selector))
        seconds = []
        for _ in range(2):
            page.goto(url, wait_until="commit")
            page.wait_for_function("window.pageUsable")
            page.locator(selector).first.fill(text)
            if page.locator(selector).first.input_value() != text:
                raise NotAvailable("the box did not take text though it was shown")
            seconds.append(float(page.evaluate("window.pageUsable")) / 1000)
        return seconds[0], seconds[1]
    finally:
        context.close()


def tiles(browser: Any, url: str, slide: int) -> tuple[list[list[float]], list[float]]:
    """Milliseconds of each tile that the viewer fetched while it was moved, and of the small file as often."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    try:
        page = context.new_page()
        page.set_default_timeout(_WAIT_MS)
        page.goto(url)
        page.get_by_role("tab", name="Slides", exact=True).click()
        page.get_by_label("Slides on this machine").click()
        page.get_by_role("option").nth(slide - 1).click()
        page.wait_for_function("document.querySelector('.pa-viewer')?.dataset.state === 'ready'")
        _rest(page)
        stage = page.locator(".pav-stage").bounding_box()
        middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2
        for steps in ("zoom-in", "zoom-in", "left", "zoom-in", "up", "right", "down", "down", "right", "zoom-out"):
            if steps.startswith("zoom"):
                page.locator(f"[data-act={steps}]").click()
            else:
                far = {"left": (300, 0), "right": (-300, 0), "up": (0, 250), "down": (0, -250)}[steps]
                page.mouse.move(*middle)
                page.mouse.down()
                page.mouse.move(middle[0] + far[0], middle[1] + far[1], steps=8)
                page.mouse.up()
            _rest(page)
        found = page.evaluate(_TILES)
        return found, page.evaluate(_SMALL, len(found))
    finally:
        context.close()


def median_interval(values: Sequence[float], *, draws: int = 4000, seed: int = 0) -> dict[str, Any]:
    """Median with a 95 % percentile bootstrap interval, the 95th percentile and n."""
    numbers = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(numbers), (draws, len(numbers)))
    low, high = np.percentile(np.median(numbers[picks], axis=1), [2.5, 97.5])
    p95 = float(np.percentile(numbers, 95))
    return {
        "n": len(numbers),
        "p50": round(float(np.median(numbers)), 3),
        "low": round(float(low), 3),
        "high": round(float(high), 3),
        "p95": round(p95, 3),
    }


def measure(slides: Path | None, slide: int, visits: int) -> dict[str, Any]:
    """All of it.

    Raises:
        NotAvailable: No chromium, no Playwright, or a server does not start.
    """
    chromium = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        chromium = None
    if chromium is None:
        raise NotAvailable("this needs chromium and playwright; install them with: apt-get install chromium, make dev")
    ours = [sys.executable, "-m", "assistant", "ui", "--port", "0", "--no-open"]
    folder = {"PATHASSIST_SLIDES": str(slides.resolve())} if slides else {}
    times: dict[str, list[float]] = {"first": [], "again": [], "empty_first": [], "empty_again": []}
    fetched: list[list[float]] = []
    small: list[float] = []
    load = os.getloadavg()[0]
    with (
        serving(ours, **folder) as page,
        serving([sys.executable, "-c", _EMPTY]) as empty,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for number in range(visits + 1):
            mine = visit(browser, page, "#pa-composer textarea")
            control = visit(browser, empty, "textarea")
            if number:  # the first pair warms both servers
                for key, seconds in zip(times, (*mine, *control), strict=True):
                    times[key].append(seconds)
        for _ in range(max(3, visits // 5) if slides else 0):
            some, few = tiles(browser, page, slide)
            fetched += some
            small += few
        browser.close()
    result: dict[str, Any] = {
        "code": git_revision(),
        "versions": versions(),
        "load_average": [round(load, 1), round(os.getloadavg()[0], 1)],
        "processors": len(os.sched_getaffinity(0)),
        "page_s": {key: median_interval(values) for key, values in times.items()},
    }
    if fetched:
        result["tiles_ms"] = {
            "whole": median_interval([one[0] for one in fetched]),
            "server": median_interval([one[1] for one in fetched]),
            "control": median_interval(small),
            "mean_kb": round(float(np.mean([one[2] for one in fetched])) / 1000, 1),
        }
    return result


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    names = {"first": "ours, first visit", "again": "ours, reloaded", "empty_first": "empty Gradio page, first visit",
             "empty_again": "empty Gradio page, reloaded"}  # fmt: skip
    before, after = result["load_average"]
    lines = [
        "# The page in a browser",
        "",
        f"Reprint: `{result['command']}`. Code {result['code']}, server and browser together on "
        f"{result['processors']} processor(s), load average of the machine {before} before and {after} after. Other "
        "programs ran too where that is above one, and what counts then is the distance to the control.",
        "",
        "## Until it can be used",
        "",
        f"Goal: {GOAL_S:g} s. Seconds from the start of the navigation; median with 95 % interval.",
        "",
        "| page | n | p50 | p95 |",
        "|---|---|---|---|",
    ]
    lines += [_row(name, result["page_s"][key], 2) for key, name in names.items()]
    if found := result.get("tiles_ms"):
        rows = {"whole": "tile, as the viewer waits for it", "server": "tile, from request to last byte",
                "control": "small file of the same server"}  # fmt: skip
        lines += ["", "## Tiles of the slide viewer", "", f"Goal: p50 of {GOAL_MS:g} ms. Milliseconds of tiles that "
                  f"were in no cache, {found['mean_kb']} kB on average.", "",
                  "| what | n | p50 | p95 |", "|---|---|---|---|"]  # fmt: skip
        lines += [_row(name, found[key], 1) for key, name in rows.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write ``page-time.json`` and ``page-time.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=Path, help="folder of slides for the Slides tab; without it no tiles")
    parser.add_argument("--slide", type=int, default=1, help="which of them, as the page numbers them")
    parser.add_argument("--visits", type=int, default=20)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.visits < 2:
        raise BadInput(f"--visits is {given.visits}; at least 2 are needed for an interval")
    result = measure(given.slides, given.slide, given.visits)
    shown = given.slides if given.slides is None or not given.slides.is_absolute() else "FOLDER"
    result = {"command": COMMAND.format(slides=shown, slide=given.slide, visits=given.visits, out=given.out)} | result
    write_json(given.out / "page-time.json", result)
    write_text(given.out / "page-time.md", markdown(result))
    print(markdown(result))


def _row(name: str, found: dict[str, Any], digits: int) -> str:
    low, high = (f"{found[key]:.{digits}f}" for key in ("low", "high"))
    return f"| {name} | {found['n']} | {found['p50']:.{digits}f} [{low}, {high}] | {found['p95']:.{digits}f} |"


def _rest(page: Any) -> None:
    """Until no tile has come for a while."""
    count, quiet = -1, 0
    for _ in range(100):
        now = len(page.evaluate(_TILES))
        quiet = quiet + 1 if now == count else 0
        if quiet >= 3:
            return
        count = now
        page.wait_for_timeout(150)


def _wait_for(url: str) -> None:
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
                answer.read()
            return
        except OSError:
            time.sleep(0.2)
    raise NotAvailable(f"{url} did not answer within {_START_S:g} s")


if __name__ == "__main__":
    main()
