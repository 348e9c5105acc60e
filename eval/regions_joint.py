"""One shared network or one a task? Both trained from the same start on as many crops of each source, on ``val``.

    for t in joint nuclei glands tissue blood; do
        pathassist train regions --recipe training/recipes/alone/$t.yaml --out runs/alone/$t
    done
    OMP_NUM_THREADS=1 python -m eval.regions_joint --runs runs/alone --out eval/results

The runs are short (120 steps): they compare, and are no match for the shipped network. The control is the same start
with heads that were never trained.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from assistant.answer import DISCLAIMER
from assistant.errors import BadInput
from assistant.regions.model import Regions, read_regions
from assistant.regions.network import Trunk
from assistant.tools.base import Measured
from eval import regions
from eval.provenance import write_json

NAME = "regions-joint"
COMMAND = "OMP_NUM_THREADS=1 python -m eval.regions_joint --runs runs/alone --out eval/results"
#: Head → its measurement and the metrics that are compared.
HEADS: dict[str, tuple[Callable[[Regions], list[Measured]], tuple[str, ...]]] = {
    "nuclei": (regions.nuclei, ("PQ", "AJI", "Dice")),
    "glands": (regions.glands, ("object Dice",)),
    "tissue": (regions.tissue, ("mIoU",)),
    "blood": (regions.blood, ("mAP@0.5",)),
}


def run(runs: Path, out: Path) -> Path:
    """Measure every network, write ``regions-joint.{md,json}``, and return the page's path.

    Raises:
        BadInput: A run is missing, or they were not trained alike.
    """
    recipes = {name: _recipe(runs / name) for name in ("joint", *HEADS)}
    for name, recipe in recipes.items():
        other = {k for k in recipe if k != "shares" and recipe[k] != recipes["joint"][k]}
        if other:
            raise BadInput(f"{runs / name} differs from the joint run in {sorted(other)[0]}; train them alike")
    joint = read_regions(runs / "joint" / "model.safetensors")
    torch.manual_seed(0)
    untrained = Regions(Trunk().to(memory_format=torch.channels_last), research=True, version="untrained")
    rows: list[dict[str, Any]] = []
    for head, (measure, metrics) in HEADS.items():
        alone = read_regions(runs / head / "model.safetensors")
        for kind, network in (("joint", joint), ("alone", alone), ("untrained", untrained)):
            found = [m for m in measure(network) if m.metric in metrics]
            rows += [{"head": head, "network": kind, **vars(m)} for m in found]
            print(head, kind, [(m.data, m.metric, round(m.value, 3)) for m in found], flush=True)
    numbers = {"command": COMMAND, "recipe": recipes["joint"], "rows": rows}
    write_json(out / f"{NAME}.json", numbers)
    page = out / f"{NAME}.md"
    page.write_text(markdown(numbers), encoding="utf-8")
    return page


def _recipe(folder: Path) -> dict[str, Any]:
    path = folder / "recipe.json"
    if not path.is_file():
        raise BadInput(
            f"no run in {folder}; train it: pathassist train regions "
            f"--recipe training/recipes/alone/{folder.name}.yaml --out {folder}"
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def markdown(numbers: dict[str, Any]) -> str:
    """The page."""
    table: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in numbers["rows"]:
        table.setdefault((row["head"], row["data"], row["metric"]), {})[row["network"]] = row
    recipe = numbers["recipe"]
    lines = [
        "# One shared network or one a task? On `val`",
        "",
        f"{DISCLAIMER} Reprint: `{numbers['command']}`.",
        f"All start from the encoder of pathclip-small and see as many crops of a source in {recipe['steps']} steps,",
        "so they compare with each other and not with the shipped network. *untrained*: the same with random heads and",
        "encoder. Intervals: 95 %, bootstrap over images or the slides they were cut from.",
        "",
        "| head | data | metric | n | joint [95 %] | alone [95 %] | untrained |",
        "|---|---|---|---|---|---|---|",
    ]
    for (head, data, metric), by in table.items():
        cells = [f"{by[k]['value']:.3f} [{by[k]['low']:.3f}, {by[k]['high']:.3f}]" for k in ("joint", "alone")]
        ends = [str(by["joint"]["n"]), *cells, f"{by['untrained']['value']:.3f}"]
        lines.append(f"| {head} | {data} | {metric} | {' | '.join(ends)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/alone"))
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    args = parser.parse_args()
    print(run(args.runs, args.out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
