"""Seconds and memory of one tool on one field, in a process of its own so that the peak is its own.

    OMP_NUM_THREADS=1 python -m eval.tools_cost TOOL SIDE IMAGE WEIGHTS

``IMAGE`` is repeated until the field is SIDE pixels square. Prints JSON.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from training.data.records import data_root, read_jsonl


def cost(name: str, side: int, weights: Path) -> dict[str, float]:
    """CPU seconds of the second call and peak memory in MiB of one tool on a square field, in a fresh process."""
    row = next(r for r in read_jsonl(data_root() / "monuseg" / "index.jsonl") if r["split"] == "val")
    image = data_root() / "monuseg" / str(row["image"])
    command = [sys.executable, "-m", "eval.tools_cost", name, str(side), str(image), str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{name} at {side}: {done.stderr.strip().splitlines()[-1]}")
    measured: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def main(name: str, side: int, image: Path, weights: Path) -> None:
    """One measurement, as JSON on standard output."""
    from assistant.images.intake import load_image
    from assistant.regions.model import read_regions
    from assistant.tools import Context, find_tools, trunk
    from assistant.tools.schema import context_parameter

    if name.startswith("segment_") or name == "detect_blood_cells":
        network = read_regions(weights)
        vars(trunk)["load_regions"] = lambda: network
    part = load_image(image)
    field = Image.new("RGB", (side, side))
    for x in range(0, side, part.width):
        for y in range(0, side, part.height):
            field.paste(part, (x, y))
    tool = find_tools()[name]
    keywords = {one: Context() for one in [context_parameter(tool)] if one}
    tool(field.crop((0, 0, 128, 128)), **keywords)
    began = time.process_time()
    tool(field, **keywords)
    seconds = time.process_time() - began
    print(json.dumps({"seconds": seconds, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]))
