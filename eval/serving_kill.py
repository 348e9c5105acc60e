"""kill -9 while index builds, reports of every format and outlines are written: what is left must be whole."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from assistant.errors import BadInput
from assistant.geojson import read_geojson

IMAGES = 300
OUTLINES = 2000
#: Writes reports and outlines over and over; says "go" once all five are there.
_WRITER = """
import sys
from pathlib import Path
from PIL import Image
from assistant.answer import Answer
from assistant.cli_tools import write_files
from assistant.geojson import box, write_geojson
from assistant.report import draft
from assistant.tools.base import ToolResult
from assistant.tools.run import ToolCall
boxes = write_geojson(box((x, x, x + 9, x + 9), label="nucleus") for x in range(int(sys.argv[2])))
call = ToolCall("segment_nuclei", {"image": 1}, ToolResult("outlines", geojson=boxes), 0.0, "ok")
picture = Image.effect_noise((900, 700), 60).convert("RGB")
report = draft(Answer("colon", 0.9, False, "colon", model="none"), picture, questions="Which organ is this?")
first = True
while True:
    for ending in ("html", "pdf", "docx", "json"):
        report.save(f"{sys.argv[1]}/report.{ending}")
    write_files(call, None, Path(sys.argv[1]) / "report.geojson")
    if first:
        print("go", flush=True)
        first = False
"""


def readable(path: Path) -> bool:
    """Whether an exported report can be read to its end."""
    data = path.read_bytes()
    if path.suffix == ".pdf":
        return data.startswith(b"%PDF") and data.rstrip().endswith(b"%%EOF")
    if path.suffix == ".docx":
        try:
            with zipfile.ZipFile(path) as file:
                return file.testzip() is None
        except zipfile.BadZipFile:
            return False
    if path.suffix == ".json":
        try:
            json.loads(data)
        except ValueError:
            return False
        return True
    if path.suffix == ".geojson":
        try:
            return len(read_geojson(data)) == OUTLINES
        except BadInput:
            return False
    return data.rstrip().endswith(b"</html>")


def reports(folder: Path, rounds: int, seed: int = 0) -> dict[str, Any]:
    """Kill a process that writes reports and outlines at ``rounds`` random moments; every file is read then."""
    chance = random.Random(seed)  # noqa: S311
    out = folder / "reports"
    out.mkdir()
    broken, seen, parts = 0, 0, 0
    for _ in range(rounds):
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", _WRITER, str(out), str(OUTLINES)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout is not None  # noqa: S101
        if process.stdout.readline().strip() != "go":
            raise SystemExit("reports could not be written; run `pathassist draft --help`")
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        process.wait()
        process.stdout.close()
        found = sorted(out.glob("report.*"))
        seen += len(found)
        broken += sum(not readable(path) for path in found)
        parts += sum(1 for path in out.iterdir() if path.name.startswith("."))
    return {"reports_killed": rounds, "reports_read": seen, "reports_broken": broken, "hidden_parts_left": parts}


def index(folder: Path, rounds: int) -> dict[str, Any]:
    """Kill an index build while it writes batches; building on then gives every case once."""
    from eval.serving_hostile import _image

    source, store = folder / "fields", folder / "store"
    source.mkdir()
    chance = random.Random(0)  # noqa: S311
    for number in range(IMAGES):
        _image(chance, 48).save(source / f"{number}.png")
    base = [sys.executable, "-m", "assistant", "index"]
    command = [*base, "build", str(source), "--store", f"faiss:{store}", "--json"]
    held: list[Any] = []
    for number in range(rounds):
        before = _size(store)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < 120:
            if _size(store) > before:  # a batch is being written: killed at once, later in every round
                time.sleep(0.02 * number)
                break
            time.sleep(0.005)
        process.kill()
        process.wait()
        said = subprocess.run(  # noqa: S603
            [*base, "info", "--store", f"faiss:{store}", "--json"], capture_output=True, text=True, check=False
        )
        try:
            data = json.loads(said.stdout)
            held.append(data.get("cases", "refused: " + str(data.get("error", {}).get("code", "?"))))
        except (ValueError, AttributeError):
            held.append(f"exit {said.returncode}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return {
        "index_after_kill": held,
        "index_finished": done.stdout.strip()[:600] or done.stderr.strip()[:300],
        "index_images": IMAGES,
    }


def _size(store: Path) -> int:
    """Bytes of vectors in a store."""
    if not store.is_dir():
        return 0
    return sum(p.stat().st_size for p in store.rglob("*") if p.suffix == ".f32")
