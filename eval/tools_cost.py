"""Seconds and memory of the tools on square fields, each in a process of its own so that the peak is its own.

    OMP_NUM_THREADS=1 python -m eval.tools_cost --out eval/results

A ``val`` field of the kind a tool is meant for is repeated until it is as large as asked. ``find_similar_cases``
searches a library of the other fields. Writes ``tools-cost.json`` and ``tools-cost.md``; a tool measured before is kept
unless it is named again.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from assistant.files import write_text
from eval.provenance import write_json
from training.data.records import data_root, read_jsonl

COMMAND = "OMP_NUM_THREADS=1 python -m eval.tools_cost --out eval/results"
SIDES = (512, 1024, 4096)
#: A set with a field each tool accepts; "ihc" is scikit-image's immunostain.
FIELDS = {
    "check_quality": "monuseg", "segment_nuclei": "monuseg", "segment_glands": "glas", "segment_tissue": "monuseg",
    "classify_tissue": "crc_polyp5", "classify_cervical_cell": "herlev_pap", "detect_blood_cells": "bccd_boxes",
    "score_ihc": "ihc", "normalise_stain": "monuseg", "find_similar_cases": "monuseg", "ground_phrase": "glas",
}  # fmt: skip
_LIBRARY = 64  # fields of the library searched
_WARM = 256  # side of the field of the first call


def field_of(name: str, folder: Path) -> Path:
    """The picture that is repeated for a tool; ``folder`` takes one that has to be written."""
    wanted = FIELDS.get(name, "monuseg")
    if wanted == "ihc":
        from skimage.data import immunohistochemistry

        path = folder / "ihc.png"
        Image.fromarray(immunohistochemistry()).save(path)  # type: ignore[no-untyped-call]
        return path
    row = next(r for r in read_jsonl(data_root() / wanted / "index.jsonl") if r["split"] == "val")
    return data_root() / wanted / str(row["image"])


def cost(name: str, side: int, store: str = "") -> dict[str, Any]:
    """CPU seconds of the second call and memory in MiB of one tool on a square field, in a fresh process.

    Args:
        store: A case library.

    Returns:
        ``seconds``, ``mib`` (peak of the process), ``before`` (its peak after a small call), ``said`` (how it ended).
    """
    with tempfile.TemporaryDirectory() as folder:
        image = field_of(name, Path(folder))
        command = [sys.executable, "-m", "eval.tools_cost", "--one", name, str(side), str(image)]
        done = subprocess.run([*command, store], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{name} at {side}: {(done.stderr.strip().splitlines() or ['ended without a word'])[-1]}")
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def one(name: str, side: int, image: Path, store: str) -> None:
    """One measurement, as JSON on standard output."""
    from assistant.errors import PathAssistError
    from assistant.images.intake import load_image
    from assistant.tools import Context, find_tools
    from assistant.tools.schema import context_parameter

    part = load_image(image)
    tool = find_tools()[name]
    keywords: dict[str, Any] = {"context": Context(store=store)} if context_parameter(tool) else {}
    keywords |= {"ground_phrase": {"phrase": "gland"}, "normalise_stain": {"reference": part}}.get(name, {})
    field = repeated(part, side)
    said = "ok"
    for shown in (repeated(part, _WARM), field):
        began = time.process_time()
        try:
            tool(shown, **keywords)
            said = "ok"
        except PathAssistError as error:
            said = f"refused: {error}"
        seconds = time.process_time() - began
        if shown is not field:
            before = _peak()
    print(json.dumps({"seconds": round(seconds, 3), "mib": round(_peak()), "before": round(before), "said": said}))


def repeated(part: Image.Image, side: int) -> Image.Image:
    """A field of ``side`` pixels square filled with copies of ``part``."""
    field = Image.new("RGB", (side, side))
    for x in range(0, side, part.width):
        for y in range(0, side, part.height):
            field.paste(part, (x, y))
    return field


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def library(folder: Path) -> str:
    """A case library of ``train`` fields under ``folder``; its URL."""
    pictures = folder / "pictures"
    pictures.mkdir()
    rows = [r for r in read_jsonl(data_root() / "crc_polyp5" / "index.jsonl") if r["split"] == "train"]
    for number, row in enumerate(rows[:_LIBRARY]):
        source = data_root() / "crc_polyp5" / str(row["image"])
        (pictures / f"{number:03d}{source.suffix}").symlink_to(source)
    store = f"faiss:{folder / 'cases'}"
    command = [str(Path(sys.executable).with_name("pathassist")), "index", "build", str(pictures), "--store", store]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return store


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# What the tools cost", "", f"Printed by `{COMMAND}`.",
        f"{result['machine']}, one thread, other work on the same machine: CPU seconds, so waiting is not counted, of",
        "the second call in a fresh process, without the start of the tools' process. *peak* is the process's largest",
        f"resident memory, *before* that after a first call on {_WARM} × {_WARM} pixels (Python, weights, libraries).",
        "One field each, n = 1, no interval. A val field is repeated until it is as large as asked. Control: *before*.",
        "",
        "| tool | side, px | seconds | peak, MiB | before, MiB | ended |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for c in result["cost"]:
        lines.append(
            f"| {c['tool']} | {c['side']} | {c['seconds']:.2f} | {c['mib']:.0f} | {c['before']:.0f} | {c['said']} |"
        )
    return "\n".join(lines) + "\n"


def measure(out: Path, names: Sequence[str], sides: Sequence[int]) -> Path:
    """Measure tools at sides and write the page after each, whole or not at all."""
    path = out / "tools-cost.json"
    kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cost"] if path.is_file() else []
    done = {(row["tool"], row["side"]): row for row in kept}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = library(Path(folder)) if "find_similar_cases" in names else ""
        for side in sides:
            for name in names:
                row = {"tool": name, "side": side, **cost(name, side, store=store)}
                print(json.dumps(row), flush=True)
                done[name, side] = row
                order = list(FIELDS)
                rows = sorted(done.values(), key=lambda r: (order.index(r["tool"]), r["side"]))
                result = {"command": COMMAND, "machine": _machine(), "cost": rows}
                write_json(path, result)
                write_text(out / "tools-cost.md", markdown(result))
    return out / "tools-cost.md"


def _machine() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else "unknown CPU"


def main() -> None:
    """Command line, see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--tools", nargs="*", choices=tuple(FIELDS), default=tuple(FIELDS))
    parser.add_argument("--sides", nargs="*", type=int, default=SIDES)
    args = parser.parse_args()
    print(measure(args.out, args.tools, args.sides))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])
    else:
        main()
