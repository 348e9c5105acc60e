"""How often a tool's class or count is right, by what it says: the confidence shown with answers from tools.

    OMP_NUM_THREADS=1 python -m eval.tool_trust --out eval/results --publish

For every class a tool can name: on how many ``val`` fields it said so, and how often that was right. For counts: in how
many fields the count was within 15 % of the true one. ``--publish`` writes what :mod:`assistant.chat.trust` reads.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from assistant.chat.trust import COUNTS, FILE, NEAR
from assistant.errors import PathAssistError
from assistant.images.intake import load_image
from assistant.regions.network import BLOOD_CELLS
from assistant.tools import find_tools
from assistant.tools.heads import load_head
from eval.provenance import write_json
from training.data.head_labels import OTHER, head_labels, labelled_features
from training.data.records import data_root, read_jsonl

COMMAND = "OMP_NUM_THREADS=1 python -m eval.tool_trust --out eval/results --publish"
Row = tuple[str, str, str, bool]  # tool, part, what was said, whether it was right


def classes() -> Iterator[Row]:
    """Classes of the heads with the site told, and of the seven cervical classes."""
    records, features = labelled_features(Path("runs/encoder"))
    for name, labels in head_labels(records).items():
        if name.startswith("site"):
            continue
        head = load_head(name.replace(" ", "-"))
        rows = [i for i, r in enumerate(records) if r.split == "val" and labels[i] not in (None, OTHER)]
        for i, best in zip(rows, head.probabilities(features[rows]).argmax(axis=1), strict=True):
            tool = "classify_cervical_cell" if name == "cervical" else "classify_tissue"
            part = "class" if name == "cervical" else name.replace("-", " ")
            yield tool, part, head.classes[best], head.classes[best] == labels[i]


def near(count: float, true: int) -> bool:
    """Whether a count is within 15 % of the true one, or half a cell."""
    return abs(count - true) <= max(NEAR * true, 0.5)


def counts(limit: int = 10_000) -> Iterator[Row]:
    """Counts of nuclei, glands and blood cells on ``limit`` fields a set; a tool that refuses says nothing."""
    tools = find_tools()
    for name in ("monuseg", "consep_patches", "dsb2018_stained"):
        for row, image in _val(name, limit):
            instances = np.asarray(Image.open(data_root() / name / str(row["instances"])))
            if said := _numbers(lambda image=image: tools["segment_nuclei"](image)):
                yield "segment_nuclei", COUNTS, "nuclei", near(said["count"], len(np.unique(instances)) - 1)
    for row, image in _val("glas", limit):
        if said := _numbers(lambda image=image: tools["segment_glands"](image)):
            yield "segment_glands", COUNTS, "glands", near(said["count"], int(row["n_glands"]))
    for row, image in _val("bccd_boxes", limit):
        if said := _numbers(lambda image=image: tools["detect_blood_cells"](image)):
            for kind in BLOOD_CELLS:
                true = sum(box["label"] == kind for box in row["boxes"])
                yield "detect_blood_cells", COUNTS, kind, near(said["counts"][kind], true)
    for row, image in _val("wbc_seg", limit):
        types = (_numbers(lambda image=image: tools["detect_blood_cells"](image)) or {}).get("white_cell_types", {})
        if sum(types.values()) == 1:
            (kind,) = types
            yield "detect_blood_cells", "leucocyte", kind, kind == row["label"]


def _val(name: str, limit: int) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """``val`` fields of a set, evenly drawn where there are more than ``limit``."""
    rows = [row for row in read_jsonl(data_root() / name / "index.jsonl") if row["split"] == "val"]
    for i in range(min(limit, len(rows))):
        row = rows[i * len(rows) // min(limit, len(rows))]
        yield row, load_image(data_root() / name / str(row["image"]))


def _numbers(call: Callable[[], Any]) -> dict[str, Any] | None:
    try:
        return dict(call().numbers)
    except PathAssistError:
        return None


def table(rows: Iterator[Row]) -> dict[str, Any]:
    """Tool → part → what was said → ``said``, ``right``."""
    found: dict[str, dict[str, dict[str, dict[str, int]]]] = defaultdict(lambda: defaultdict(dict))
    for tool, part, what, right in rows:
        one = found[tool][part].setdefault(what, {"said": 0, "right": 0})
        one["said"] += 1
        one["right"] += int(right)
    return {tool: {part: dict(sorted(what.items())) for part, what in parts.items()} for tool, parts in found.items()}


def wilson(right: int, said: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share."""
    middle, spread = right + z * z / 2, z * (right * (said - right) / said + z * z / 4) ** 0.5
    return (middle - spread) / (said + z * z), (middle + spread) / (said + z * z)


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    lines = [
        "# How often a tool is right in what it says", "", f"Printed by `{result['command']}`, on `val`.",
        "Classes: of the fields of which a tool said a class, the share in which that was the label, the site being",
        f"told. Counts: the share of fields in which the count was within {NEAR:.0%} of the true one. Wilson's 95 %",
        "interval over fields; fields of one slide are not independent, so it is too narrow where slides are few.",
        "Control: the share of the commonest class among those said. White cells: smears in which one was found.", "",
        "| tool | part | said | right | 95 % interval | n | control |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for tool, parts in result["tools"].items():
        for part, rows in parts.items():
            total = sum(r["said"] for r in rows.values())
            most = max(r["said"] for r in rows.values()) / total if part != COUNTS else None
            for what, row in rows.items():
                low, high = wilson(row["right"], row["said"])
                control = "" if most is None else f"{most:.2f}"
                lines.append(
                    f"| {tool} | {part} | {what} | {row['right'] / row['said']:.3f} | {low:.3f} to {high:.3f} | "
                    f"{row['said']} | {control} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line, see the module's first lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--publish", action="store_true", help="write the numbers that answers show")
    parser.add_argument("--limit", type=int, default=10_000, help="fields a set for counts")
    args = parser.parse_args()
    command = COMMAND if args.limit >= 10_000 else f"{COMMAND} --limit {args.limit}"
    result = {"command": command, "tools": table(iter([*classes(), *counts(args.limit)]))}
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "tool-trust.json", result)
    page = args.out / "tool-trust.tmp"
    page.write_text(markdown(result), encoding="utf-8")
    page.replace(args.out / "tool-trust.md")
    if args.publish:
        write_json(FILE, result)


if __name__ == "__main__":
    main()
