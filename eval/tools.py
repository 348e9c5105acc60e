"""The tools measured on ``val``: accuracy with intervals and baselines, seconds and memory.

    OMP_NUM_THREADS=1 python -m eval.tools --out eval/results --publish

``--publish`` also writes the numbers that tool cards show (``assistant/weights/tools/measured.json``). Intervals are
95 %, by bootstrap over images or their groups.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.files import write_text
from assistant.images.intake import load_image
from assistant.images.stain import separate_stains
from assistant.regions.model import load_regions
from assistant.tools import fields
from assistant.tools.base import MEASURED, Measured
from assistant.tools.heads import Head, load_head
from assistant.tools.nuclei import watershed_nuclei
from eval import regions
from eval.anchors import NOT_THE_SAME
from eval.metrics.segmentation import aggregated_jaccard, dice, panoptic_quality
from eval.provenance import write_json
from eval.stats import cluster_interval
from eval.tools_cost import cost
from eval.tools_published import GOALS, PUBLISHED
from training.data.head_labels import OTHER, head_labels, labelled_features
from training.data.records import data_root, read_jsonl

COMMAND = "OMP_NUM_THREADS=1 python -m eval.tools --out eval/results --publish"
NUCLEI_SETS = {"monuseg": 0.25, "consep_patches": 0.25, "dsb2018_stained": 0.25}
SIDES = (512, 1024, 4096)
_TIMED = (
    "check_quality", "segment_nuclei", "segment_glands", "segment_tissue", "classify_tissue", "classify_cervical_cell",
)  # fmt: skip


def otsu_components(stain: NDArray[np.float32]) -> NDArray[np.int32]:
    """Control: connected parts above Otsu's threshold, without a watershed."""
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label
    from skimage.morphology import remove_small_objects

    smooth = gaussian(stain, 1.0)
    found: NDArray[np.int32] = label(remove_small_objects(smooth > threshold_otsu(smooth), max_size=40))
    return found


def trunk(limit: int) -> dict[str, list[Measured]]:
    """The region networks' tools; nuclei beside the classical method."""
    network = load_regions()
    found = {"segment_nuclei": [*regions.nuclei(network), *nuclei(limit)]}
    found["segment_glands"] = regions.glands(network)
    found["segment_tissue"] = regions.tissue(network)
    found["detect_blood_cells"] = regions.blood(network)
    return found


def nuclei(limit: int) -> list[Measured]:
    """PQ, AJI, Dice and count error of the watershed, and PQ of the control, on each set's ``val``."""
    found = []
    for name, mpp in NUCLEI_SETS.items():
        rows = [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val"][:limit]
        table: dict[str, list[float]] = {}
        for row in rows:
            truth = np.asarray(Image.open(data_root() / name / str(row["instances"])))
            stain = separate_stains(load_image(data_root() / name / str(row["image"])))["hematoxylin"]
            ids, control = watershed_nuclei(stain, mpp), otsu_components(stain)
            true_count = len(np.unique(truth)) - 1
            values = {
                "PQ, classical": panoptic_quality(truth, ids).pq, "AJI, classical": aggregated_jaccard(truth, ids),
                "Dice, classical": dice(truth, ids),
                "PQ, control (Otsu, no watershed)": panoptic_quality(truth, control).pq,
            }  # fmt: skip
            if true_count:
                values["relative count error, classical"] = abs(int(ids.max()) - true_count) / true_count
            for metric, value in values.items():
                table.setdefault(metric, []).append(value)
        groups = [str(r.get("source_image", r["image"])) for r in rows]
        for metric, values_ in table.items():
            clusters = groups if len(values_) == len(groups) else [str(i) for i in range(len(values_))]
            mean, low, high = cluster_interval(values_, clusters)
            found.append(Measured(metric, f"{name} val", mean, low, high, len(values_)))
    return found


def balanced(truth: Sequence[str], guess: Sequence[str], draws: int = 1000) -> tuple[float, float, float]:
    """Balanced accuracy with a bootstrap interval that resamples within each class."""
    y, hit = np.asarray(truth), np.asarray(truth) == np.asarray(guess)
    generator = np.random.default_rng(0)
    parts = [hit[y == name] for name in np.unique(y)]
    sampled = [[generator.choice(part, len(part)).mean() for part in parts] for _ in range(draws)]
    low, high = np.percentile(np.mean(sampled, axis=1), (2.5, 97.5))
    return float(np.mean([part.mean() for part in parts])), float(low), float(high)


def heads() -> dict[str, list[Measured]]:
    """Balanced accuracy of every head on ``val``, and of the likeliest class as control."""
    records, features = labelled_features(Path("runs/encoder"))
    found: dict[str, list[Measured]] = {"classify_tissue": [], "classify_cervical_cell": []}
    for name, labels in head_labels(records).items():
        rows = [i for i, r in enumerate(records) if r.split == "val" and labels[i]]
        truth, head = [str(labels[i]) for i in rows], load_head(name)
        guess = answers(head, features[rows])
        tool = "classify_cervical_cell" if name == "cervical" else "classify_tissue"
        where = f"{name} val, {len(head.classes)} classes, chance {1 / len(head.classes):.2f}"
        found[tool].append(Measured("balanced accuracy", where, *balanced(truth, guess), len(rows)))
        if name == "site":
            known = [t != OTHER for t in truth]
            for metric, part, wanted in (
                ("called 'other' though known", known, True), ("called 'other' rightly", [not k for k in known], True),
            ):  # fmt: skip
                hits = [(g == OTHER) == wanted for g, k in zip(guess, part, strict=True) if k]
                groups = [records[i].group for i, k in zip(rows, part, strict=True) if k]
                found[tool].append(Measured(metric, f"{name} val", *cluster_interval(hits, groups), len(hits)))
        if name == "cervical":
            two = [["abnormal", "normal"][t.startswith("normal")] for t in truth]
            normal = head.probabilities(features[rows])[:, [c.startswith("normal") for c in head.classes]].sum(axis=1)
            summary = ["normal" if p > 0.5 else "abnormal" for p in normal]
            where = "Herlev val, normal against abnormal, chance 0.50"
            found[tool].append(Measured("balanced accuracy", where, *balanced(two, summary), len(rows)))
    return found


def answers(head: Head, features: NDArray[np.float32]) -> list[str]:
    """Classes as the tool says them: "other" under the threshold."""
    shares = head.probabilities(features)
    best = shares.argmax(axis=1)
    sure = shares.max(axis=1) >= head.threshold
    return [head.classes[i] if ok else OTHER for i, ok in zip(best, sure, strict=True)]


def stains(per_slide: int = 6) -> list[Measured]:
    """Kind of stain guessed right on ``val``: H&E sets, immunostained slides, and sets that are neither."""
    pink = ("monuseg", "consep_patches", "crc_polyp5", "lc25000_lung", "pcam_1k", "glas", "luad_tissue_seg")
    sets = {"H&E-like": pink, "other or uncertain": ("bccd_boxes", "herlev_pap", "wbc_seg")}  # fmt: skip
    items: list[tuple[str, str, Path]] = []
    for wanted, names in sets.items():
        for name in names:
            rows = [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val"]
            step = max(1, len(rows) // 15)
            items += [(wanted, f"{name}/{r['image']}", data_root() / name / str(r["image"])) for r in rows[::step]]
    seen: dict[str, int] = {}
    for row in read_jsonl(data_root() / "atlas" / "index.jsonl"):
        slide = str(row["slide"])
        seen[slide] = seen.get(slide, 0) + (row["split"] == "val")
        if row["split"] == "val" and (seen[slide] <= per_slide or "IHC" in str(row["stain"])):
            kind = "DAB immunostain" if "IHC" in str(row["stain"]) else "H&E-like"
            items.append((kind, slide, data_root() / "atlas" / str(row["image"])))
    found = []
    for wanted in ("H&E-like", "DAB immunostain", "other or uncertain"):
        part = [
            (group, fields.guess_stain(load_image(path))[0] == wanted) for kind, group, path in items if kind == wanted
        ]
        groups, hits = [group for group, _ in part], [hit for _, hit in part]
        found.append(Measured(f"recall of {wanted}", "val of 11 sets", *cluster_interval(hits, groups), len(hits)))
    return found


def run(out: Path, *, publish: bool, limit: int, parts: Sequence[str], timed: Sequence[str] = _TIMED) -> Path:
    """Measure ``parts`` and write ``tools.json`` and ``tools.md``; parts not asked for are kept from last time."""
    path = out / "tools.json"
    results: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"tools": {}, "cost": []}
    makers: dict[str, Callable[[], dict[str, list[Measured]]]] = {
        "heads": heads,
        "stains": lambda: {"check_quality": stains()},
        "regions": lambda: trunk(limit),
    }
    for part in parts:
        began = time.process_time()
        if part == "cost":
            kept = [row for row in results["cost"] if row["tool"] not in timed]
            results["cost"] = kept + [{"tool": n, "side": s, **cost(n, s)} for n in timed for s in SIDES]
        else:
            results["tools"] |= {k: [vars(one) for one in v] for k, v in makers[part]().items()}
        print(f"{part}: {time.process_time() - began:.0f} s of CPU", flush=True)
        write_json(path, results)
    write_text(out / "tools.md", markdown(results))
    if publish:
        write_json(MEASURED, results["tools"])
    return out / "tools.md"


def markdown(results: dict[str, Any]) -> str:
    """The page."""
    lines = [
        "# Tools on `val`",
        "",
        "Means over images with 95 % bootstrap intervals (over slides or groups where known).",
        "",
    ]
    lines += goals(results["tools"])
    for name, rows in results["tools"].items():
        lines += [f"## {name}", "", "| metric | data | value [95 %] | n |", "|---|---|---|---|"]
        lines += [
            f"| {r['metric']} | {r['data']} | {r['value']:.3f} [{r['low']:.3f}, {r['high']:.3f}] | {r['n']} |"
            for r in rows
        ]
        lines += [
            f"| {m}, published (not checked here): {who} | {d}, {NOT_THE_SAME} | {v:.3f} | |"
            for who, m, d, v in PUBLISHED.get(name, ())
        ]
        lines.append("")
    if results["cost"]:
        lines += [
            "## Cost",
            "",
            "CPU seconds on one thread, second call in a process; memory is the process's peak.",
            "",
        ]
        lines += ["| tool | side, px | seconds | MiB |", "|---|---|---|---|"]
        lines += [f"| {c['tool']} | {c['side']} | {c['seconds']:.2f} | {c['mib']:.0f} |" for c in results["cost"]]
        lines.append("")
    lines += [
        "`score_ihc`: no field with counted cells was at hand, so its counts are not measured.",
        "",
        f"    {COMMAND}",
    ]
    return "\n".join(lines) + "\n"


def goals(tools: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The goals as a table: value, and whether it was reached."""
    lines = ["## Goals", "", "| tool | metric | data | value [95 %] | goal | |", "|---|---|---|---|---|---|"]
    for name, metric, data, limit, sense in GOALS:
        row = next((r for r in tools.get(name, ()) if (r["metric"], r["data"]) == (metric, data)), None)
        if row is None:
            continue
        reached = row["value"] >= limit if sense == ">=" else row["value"] <= limit
        shown = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        lines.append(f"| {name} | {metric} | {data} | {shown} | {sense} {limit:.2f} | {'yes' if reached else 'no'} |")
    return [*lines, ""]


def main() -> None:
    """Command line, see the module's first lines."""
    everything = ("heads", "stains", "regions", "cost")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("eval/results"))
    parser.add_argument("--publish", action="store_true", help="write the numbers that cards show")
    parser.add_argument("--limit", type=int, default=10_000, help="images a nuclei set, for the classical method")
    parser.add_argument("--parts", nargs="*", choices=everything, default=everything)
    parser.add_argument("--timed", nargs="*", choices=_TIMED, default=_TIMED, help="tools whose cost is measured")
    args = parser.parse_args()
    out = run(args.out, publish=args.publish, limit=args.limit, parts=args.parts, timed=args.timed)
    print(out)


if __name__ == "__main__":
    main()
