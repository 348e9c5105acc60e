"""The Benchmarks tab: choose tasks and a model, run them with a progress bar, see the report; earlier runs as well.

Benchmarks run as ``pathassist eval`` in a process of their own, so that Stop ends them at once and the page stays
quick; what was answered until then is kept, and the next run goes on from there. The report is ``pathassist report``'s
page, shown in a frame that may run no script and load nothing.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from assistant.errors import BadInput, PathAssistError
from assistant.model.preset import preset_names
from ui.evidence import error_html, escape, info_html

log = logging.getLogger(__name__)

KEEP: Any = gr.skip()
TASKS = {
    "local-vqa": "Local four-choice questions (val)",
    "pathmmu": "PathMMU (val)",
    "pathmmu-rotated": "PathMMU, options rotated (val)",
    "pmeb-style": "PMEB-style retrieval and classification (val)",
    "refpath": "RefPath (testA)",
    "pathvqa": "PathVQA (val)",
}
CONTROLS = {"Image and all controls": "", "Image only": "image", "Image and blank image": "image,blank"}
START = info_html("Choose benchmarks and a model, then run. A finished run is not answered again.")
_STEP = re.compile(r"(?:^|[\r\n])\s*([^\r\n:|]*?):\s+\d+%\|[^|]*\|\s*(\d+)/(\d+)")
_FRAME_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'",
    "x-frame-options": "SAMEORIGIN",
    "cache-control": "no-store",
}
_MODEL = re.compile(r"[\w.:/#@+-]{1,200}")


class View(NamedTuple):
    """New values of the tab's outputs, in their order."""

    status: Any = KEEP
    report: Any = KEEP
    earlier: Any = KEEP


class Benchmarks:
    """The handlers of the tab.

    Args:
        runs: Folder of the runs.
        data: Data root; None for the usual one.
    """

    def __init__(self, runs: Path, data: Path | None = None) -> None:
        self.runs = runs
        self.data = data
        self._pages = Path(tempfile.mkdtemp(prefix="pathassist-reports-"))
        self._shown: dict[str, Path] = {}
        self._process: subprocess.Popen[str] | None = None
        self._busy = threading.Lock()
        self._stop = threading.Event()

    def close(self) -> None:
        """End what runs and delete the reports made for the page."""
        self.stop()
        shutil.rmtree(self._pages, ignore_errors=True)

    def routes(self) -> list[Route]:
        """The reports, each by a random name; to be added before Gradio is mounted."""
        return [Route("/benchmarks/{name}", self._serve)]

    async def _serve(self, request: Request) -> Response:
        path = self._shown.get(request.path_params["name"])
        if path is None or not path.is_file():
            return PlainTextResponse("no such report", 404)
        return FileResponse(path, media_type="text/html; charset=utf-8", headers=_FRAME_HEADERS)

    def run(self, tasks: Sequence[str], model: str, limit: float | None, controls: str) -> Iterator[View]:
        """Run benchmarks one after the other and show their report."""
        if not self._busy.acquire(blocking=False):
            yield View(error_html("a benchmark is running already; wait for it or stop it"))
            return
        try:
            self._stop.clear()
            commands = [self._command(task, model, limit, controls) for task in _chosen(tasks)]
            folders = []
            for number, (task, command) in enumerate(commands, 1):
                head = f"{TASKS[task]} ({number} of {len(commands)})"
                yield View(progress_html(head, "Loading the model…", None))
                result = yield from self._watch(command, head)
                if result is None:
                    yield View(
                        info_html("Stopped. What was answered is kept; run again to go on."), KEEP, self._choices()
                    )
                    return
                folders.append(Path(result["result"]))
            yield View(progress_html("Report", "Writing the report…", None))
            yield View(info_html("Finished."), self._report(folders), self._choices())
        except PathAssistError as error:
            yield View(error_html(str(error)))
        except Exception:
            log.exception("a benchmark could not be run")
            yield View(error_html("internal error: the benchmark could not be run; the terminal has the details"))
        finally:
            self._end()
            self._busy.release()

    def show(self, chosen: Sequence[str] | None) -> Iterator[View]:
        """The report of earlier runs; several are compared."""
        known = dict(self.earlier())
        wanted = [name for name in chosen or () if name in known.values()]
        if not wanted:
            yield View(error_html("no run is chosen; choose one or several of the earlier runs"))
            return
        yield View(progress_html("Report", "Writing the report…", None))
        try:
            yield View(info_html("Report of earlier runs."), self._report([self.runs / name for name in wanted]))
        except PathAssistError as error:
            yield View(error_html(str(error)))

    def stop(self) -> None:
        """End what runs."""
        self._stop.set()
        self._end()

    def earlier(self) -> list[tuple[str, str]]:
        """Label and folder name of every finished run, newest first."""
        found = []
        for path in self.runs.glob("*/run.json") if self.runs.is_dir() else ():
            try:
                info = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(path.stat().st_mtime))
            label = f"{info.get('task', '?')} · {info.get('model', '?')} · n = {info.get('n', '?')} · {when}"
            found.append((path.stat().st_mtime, label, path.parent.name))
        return [(label, name) for _, label, name in sorted(found, reverse=True)]

    def _choices(self) -> Any:
        found = self.earlier()
        return gr.update(choices=found, visible=bool(found))

    def _command(self, task: str, model: str, limit: float | None, controls: str) -> tuple[str, list[str]]:
        if not _MODEL.fullmatch(model or "") or model.startswith("-"):
            raise BadInput(f"the model {str(model)[:60]!r} is not a name; write a preset, openai:URL#NAME or hf:FOLDER")
        if controls not in CONTROLS.values():
            raise BadInput(f"the conditions {controls[:40]!r} are not offered; choose one of the list")
        command = [sys.executable, "-m", "assistant", "eval", task, "--model", model, "--out", str(self.runs)]
        if limit:
            command += ["--limit", str(int(limit))]
        if controls and task != "pmeb-style":
            command += ["--show", controls]
        if self.data is not None:
            command += ["--data", str(self.data)]
        return task, command

    def _watch(self, command: list[str], head: str) -> Any:
        """Run a command, yielding its progress; its folder, or None when it was stopped."""
        lines: queue.Queue[str | None] = queue.Queue()
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONUNBUFFERED": "1"}
        with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
            process = self._process = subprocess.Popen(  # noqa: S603 (a checked list, no shell)
                command, stdout=said, stderr=subprocess.PIPE, text=True, errors="replace", env=env, bufsize=1
            )
            threading.Thread(target=_pump, args=(process, lines), name="benchmark", daemon=True).start()
            tail = ""
            while (line := lines.get()) is not None:
                if self._stop.is_set():
                    self._end()
                tail = (tail + "\n" + line)[-4000:]
                if found := _STEP.search("\n" + line):
                    done, total = int(found[2]), int(found[3])
                    yield View(progress_html(head, f"{found[1]}: {done} of {total}", done / max(1, total)))
            code = process.wait()
            if self._stop.is_set():
                return None
            said.seek(0)
            out = said.read()
        if code < 0:
            raise BadInput(
                f"the benchmark was ended from outside (signal {-code}), perhaps for lack of memory; "
                "what was answered is kept, run again to go on"
            )
        if code:
            errors = [one for one in tail.splitlines() if one.startswith("error:")]
            raise BadInput(errors[-1].removeprefix("error: ") if errors else f"the benchmark ended with code {code}")
        return {"result": out.strip().splitlines()[-1].split(": ", 1)[1].split(" (")[0]}

    def _report(self, folders: Sequence[Path]) -> str:
        name = secrets.token_urlsafe(16)
        page = self._pages / f"{name}.html"
        command = [sys.executable, "-m", "assistant", "report", *map(str, folders), "--out", str(page)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run(  # noqa: S603 (folders of ours, no shell)
            command, capture_output=True, text=True, errors="replace", env=env, timeout=300, check=False
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
            raise BadInput(errors[-1].removeprefix("error: ") if errors else "the report could not be written")
        self._shown[name] = page
        return (
            f'<p><a href="benchmarks/{name}" target="_blank" rel="noopener">Open the report in a tab of its own</a></p>'
            f'<iframe class="pa-report-frame" sandbox="" title="Report of the benchmarks" '
            f'src="benchmarks/{name}"></iframe>'
        )

    def _end(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def benchmarks_tab(runs: Path = Path("runs/eval"), model: str = "embedded") -> Benchmarks:
    """Put the tab's content onto the page under construction; its routes are to be added to the application."""
    handlers = Benchmarks(runs)
    names = [name for name in preset_names() if name != "remote"]
    found = handlers.earlier()
    with gr.Row(elem_id="pa-benchmarks", equal_height=False, elem_classes="pa-pane"):
        with gr.Column(elem_id="pa-bench-side", min_width=0, elem_classes="pa-form"):
            tasks = gr.CheckboxGroup(
                [(label, name) for name, label in TASKS.items()], value=["local-vqa"], label="Benchmarks",
                elem_id="pa-bench-tasks",
            )  # fmt: skip
            chosen = gr.Dropdown(
                names, value=model if model in names else "embedded", label="Model", allow_custom_value=True,
                info="A preset, openai:URL#NAME, or hf:FOLDER", elem_id="pa-bench-model",
            )  # fmt: skip
            limit = gr.Number(20, label="Items of each benchmark", info="Empty for all of them", precision=0, minimum=1,
                              elem_id="pa-bench-limit")  # fmt: skip
            controls = gr.Dropdown(
                list(CONTROLS.items()), value="image,blank", label="Conditions", elem_id="pa-bench-show"
            )
            with gr.Row():
                go = gr.Button("Run", variant="primary", elem_id="pa-bench-run")
                halt = gr.Button("Stop", elem_id="pa-bench-stop")
            earlier = gr.Dropdown(found, value=[], multiselect=True, label="Earlier runs", visible=bool(found),
                                  elem_id="pa-bench-earlier")  # fmt: skip
            again = gr.Button("Show the report of earlier runs", size="sm", elem_id="pa-bench-again")
        with gr.Column(elem_id="pa-bench-view", min_width=0, elem_classes="pa-wide"):
            status = gr.HTML(START, elem_id="pa-bench-status", padding=False, js_on_load=None)
            report = gr.HTML("", elem_id="pa-bench-report", padding=False, js_on_load=None)
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    outputs = [status, report, earlier]
    go.click(
        handlers.run,
        [tasks, chosen, limit, controls],
        outputs,
        concurrency_id="benchmark",
        concurrency_limit=2,
        **quick,
    )
    again.click(handlers.show, earlier, outputs, concurrency_id="benchmark", **quick)
    halt.click(handlers.stop, queue=False, **quick)
    return handlers


def progress_html(head: str, text: str, share: float | None) -> str:
    """A progress bar; without a share it only says what is going on."""
    now = "" if share is None else f' aria-valuenow="{round(100 * share)}"'
    width = 0 if share is None else round(100 * share)
    return (
        f'<section class="evidence working" aria-label="Progress" aria-busy="true"><h2>{escape(head)}</h2>'
        f'<p role="status">{escape(text)}</p><div class="track" role="progressbar" aria-label="{escape(head)}" '
        f'aria-valuemin="0" aria-valuemax="100"{now}><div class="fill" style="width:{width}%"></div></div></section>'
    )


def _chosen(tasks: Sequence[str] | None) -> list[str]:
    wanted = [task for task in TASKS if task in (tasks or ())]
    if not wanted:
        raise BadInput("no benchmark is chosen; tick at least one")
    return wanted


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    """Lines of a process's messages; universal newlines make a progress bar's carriage returns lines too."""
    assert process.stderr is not None  # noqa: S101
    with process.stderr:
        for line in process.stderr:
            lines.put(line.rstrip("\n"))
    lines.put(None)
