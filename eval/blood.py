"""``detect_blood_cells`` on ``val``: boxes and counts, the type of white cells, and what is refused, with controls.

    OMP_NUM_THREADS=1 python -m eval.blood [--out eval/results]

Intervals are 95 %, by bootstrap over images. Writes ``blood.md`` and ``blood.json``, after every part anew.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput
from assistant.files import write_text
from assistant.regions.model import load_regions
from assistant.tools.base import Measured
from assistant.tools.blood import CLOSE_UPS, close_up, detect_blood_cells, leucocyte_head
from eval import regions
from eval.provenance import write_json
from training.data.records import data_root, read_jsonl
from training.data.white_cells import close_ups, white_cells

COMMAND = "OMP_NUM_THREADS=1 python -m eval.blood"
SMEARS = ("bccd_boxes", "wbc_seg")
OTHERS = ("glas", "consep_patches", "luad_tissue_seg", "herlev_pap", "pcam_1k")
_LIMIT = 30


def _rows(name: str, split: str = "val") -> list[dict[str, object]]:
    return [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == split]


def _image(name: str, row: dict[str, object]) -> Image.Image:
    return Image.open(data_root() / name / str(row["image"])).convert("RGB")


def balanced(truth: NDArray[np.str_], said: NDArray[np.str_]) -> float:
    """Mean recall of the classes that are in ``truth``."""
    return float(np.mean([(said[truth == name] == name).mean() for name in np.unique(truth)]))


def types() -> list[Measured]:
    """Type of the labelled cell of every field of ``wbc_seg``, cut out as the tool does and by its mask; the control
    says the commonest."""
    from eval.stats import cluster_statistic

    head = leucocyte_head()
    features, truth = white_cells("val", network=load_regions())
    masked, _ = white_cells("val")
    known = np.isin(truth, head.classes)
    truth = truth[known]
    said, sure = (np.array(head.classes)[head.probabilities(f[known]).argmax(axis=1)] for f in (features, masked))
    commonest = Counter(str(r.get("label")) for r in _rows("wbc_seg", "train")).most_common(1)[0][0]
    groups = [str(i) for i in range(len(truth))]
    out = []
    guesses = {
        "": said,
        ", cut out by its mask": sure,
        " of the control (commonest type)": np.full_like(truth, commonest),
    }
    for metric, guess in guesses.items():
        value = cluster_statistic(lambda i, g=guess: balanced(truth[i], g[i]), groups)
        out.append(Measured(f"balanced accuracy of the type{metric}", "wbc_seg val", *value, len(truth)))
        value = cluster_statistic(lambda i, g=guess: float((truth[i] == g[i]).mean()), groups)
        out.append(Measured(f"accuracy of the type{metric}", "wbc_seg val", *value, len(truth)))
    return out


def refusals() -> list[Measured]:
    """Share of fields that the tool refuses: none of the smears should be, all of the others."""
    out = []
    for name in (*SMEARS, *OTHERS):
        rows = _rows(name)[:_LIMIT]
        refused = []
        for row in rows:
            try:
                detect_blood_cells(_image(name, row))
                refused.append(0.0)
            except BadInput:
                refused.append(1.0)
        groups = [str(r.get("source_image", r["image"])) for r in rows]
        wish = "should be 0" if name in SMEARS else "should be 1"
        out.append(regions.interval(f"share refused ({wish})", f"{name} val", refused, groups))
    return out


def near() -> list[Measured]:
    """Share of images taken for the close-up of a white cell."""
    told: dict[str, list[float]] = {}
    wishes: dict[str, str] = {}
    for image, kind, name in close_ups("val"):
        told.setdefault(name, []).append(float(close_up(image)))
        wishes[name] = "should be 1" if kind == CLOSE_UPS[0] else "should be 0"
    return [
        regions.interval(
            f"share taken for a close-up ({wishes[name]})", f"{name} val", values, [*map(str, range(len(values)))]
        )
        for name, values in told.items()
    ]


def cells() -> list[Measured]:
    """Average precision and counts of the boxes, with a grid of mean boxes as the control."""
    return regions.blood(load_regions())


PARTS = {"types": types, "near": near, "refusals": refusals, "cells": cells}


def write(rows: list[Measured], out: Path) -> None:
    """``blood.json`` and ``blood.md``."""
    state = {"command": COMMAND, "seed": 0, "weights": load_regions().version, "head": leucocyte_head().encoder}
    table = "\n".join(f"| {r.metric} | {r.data} | {r.n} | {r.value:.3f} | {r.low:.3f} to {r.high:.3f} |" for r in rows)
    text = (
        "# Blood cells\n\nWhat `detect_blood_cells` finds, on `val`. Intervals are 95 %, by bootstrap over images; "
        f"seed 0. Region weights `{state['weights']}`.\n\n    {COMMAND}\n\n"
        f"| what | data | n | value | 95 % |\n|---|---|---:|---:|---|\n{table}\n\n"
        "BCCD leaves some red cells without a box, so precision there is a lower bound. The types of `wbc_seg` are "
        "weak labels;\nonly 2 of its `val` cells are eosinophils, basophils are left out; n counts images.\n"
    )
    write_json(out / "blood.json", state | {"rows": [asdict(r) for r in rows]})
    write_text(out / "blood.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    rows: list[Measured] = []
    for name in arguments.parts:
        found = PARTS[name]()
        rows += found
        write(rows, arguments.out)
        for row in found:
            print(row, flush=True)


if __name__ == "__main__":
    main()
