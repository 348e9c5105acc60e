"""Does the program know what is not a microscope field? Photographs and drawings beside fields of ``val``.

The strangers are pictures that installed packages bring along (scikit-image, scikit-learn, matplotlib); none was used
to fit anything but the threshold. Control: the warning by colour rules (``assistant/images/quality.py``), which needs
no model.

    OMP_NUM_THREADS=1 python -m eval.familiar --out eval/results
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from assistant.answer import DISCLAIMER
from assistant.images.intake import load_image
from assistant.images.quality import image_warnings
from assistant.model.familiar import THRESHOLD, load_familiar
from eval.provenance import write_json
from eval.stats import cluster_interval
from training.data.records import OPEN_SETS, RESTRICTED_SETS, load_records

COMMAND = "OMP_NUM_THREADS=1 python -m eval.familiar --out eval/results"
#: Folder of a package → pictures in it. Microscopy (cell.png, ihc.png) and the retina are not among them.
STRANGERS = {
    "skimage/data": (
        "astronaut.png", "brick.png", "camera.png", "chelsea.png", "clock_motion.png", "coffee.png", "coins.png",
        "color.png", "grass.png", "gravel.png", "horse.png", "hubble_deep_field.jpg", "logo.png", "moon.png",
        "motorcycle_left.png", "page.png", "rocket.jpg", "text.png",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}  # fmt: skip
_COLOURS = ("stained tissue", "greyscale")


def strangers() -> list[Path]:
    """The pictures that are there."""
    found = []
    for folder, names in STRANGERS.items():
        package, _, inside = folder.partition("/")
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            continue
        found += [p for n in names if (p := Path(spec.origin).parent / inside / n).is_file()]
    return found


def run(out: Path) -> Path:
    """Measure, write ``familiar.{md,json}``, and return the page's path."""
    told = load_familiar()
    rows: list[dict[str, Any]] = []
    for path in strangers():
        image = load_image(path)
        rows.append({"set": "strangers", "group": path.name, **_looked(told, image)})
    for record in tqdm(load_records(OPEN_SETS + RESTRICTED_SETS, "val"), unit="field"):
        rows.append({"set": record.dataset, "group": record.group, **_looked(told, load_image(record.image))})
    table = {}
    for name in dict.fromkeys(str(r["set"]) for r in rows):
        part = [r for r in rows if r["set"] == name]
        groups = [str(r["group"]) for r in part]
        scores = [float(r["score"]) for r in part]
        below = cluster_interval([float(s < THRESHOLD) for s in scores], groups)
        colours = cluster_interval([float(r["colours"]) for r in part], groups)
        table[name] = {
            "n": len(part), "below": below, "colours": colours,
            "least": min(scores), "median": float(np.median(scores)), "largest": max(scores),
        }  # fmt: skip
    numbers = {"command": COMMAND, "threshold": THRESHOLD, "sets": table}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "familiar.json", numbers)
    page = out / "familiar.md"
    page.write_text(_markdown(table), encoding="utf-8")
    return page


def _looked(told: Any, image: Any) -> dict[str, Any]:
    warned = any(mark in line for line in image_warnings(image) for mark in _COLOURS)
    return {"score": told.score(image), "colours": warned}


def _markdown(table: dict[str, Any]) -> str:
    lines = [
        "# What is not a microscope field",
        "",
        f"{DISCLAIMER} Reprint: `{COMMAND}`.",
        f"An image below a likeness of {THRESHOLD:.2f} is called unlike every training field and not answered on. The",
        "threshold was chosen on these pictures. 95 % intervals by bootstrap over slides, groups or pictures.",
        "*by colour*: warned of by the colour rules alone (control).",
        "",
        "| set | n | called unlike [95 %] | by colour [95 %] | likeness: least, median, largest |",
        "|---|---|---|---|---|",
    ]
    for name, row in table.items():
        cells = [f"{v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for v in (row["below"], row["colours"])]
        spread = f"{row['least']:.2f}, {row['median']:.2f}, {row['largest']:.2f}"
        lines.append(f"| {name} | {row['n']} | {' | '.join(cells)} | {spread} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    print(run(parser.parse_args().out).read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
