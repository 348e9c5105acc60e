"""The region network on ``val``: nuclei, glands, tissue and blood cells, each with its control.

    OMP_NUM_THREADS=1 python -m eval.regions [--weights FILE] [--tune]

``--tune`` tries settings of the watershed on ``val`` and prints them. ``eval.tools`` puts the rows on the tools' page.
Intervals are 95 %, by bootstrap over images or the images they were cut from.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.regions.instances import GLANDS, NUCLEI, Settings
from assistant.regions.model import Regions, load_regions, read_regions
from assistant.regions.network import BLOOD_CELLS, NUCLEUS_KINDS
from assistant.tools.base import Measured
from assistant.tools.blood import THRESHOLD
from eval.metrics.boxes import Detection, Truth, detection_ap, mean_ap
from eval.metrics.segmentation import (
    aggregated_jaccard,
    dice,
    f1_of,
    mean_class_iou,
    object_dice,
    object_f1,
    panoptic_quality,
    typed_f1,
)
from eval.stats import cluster_interval, cluster_statistic
from training.data.records import data_root, read_jsonl

NUCLEI_SETS = ("monuseg", "consep_patches", "dsb2018_stained")
Rows = list[dict[str, object]]


def val_rows(name: str) -> Rows:
    """Index rows of a set's ``val``."""
    return [r for r in read_jsonl(data_root() / name / "index.jsonl") if r["split"] == "val"]


def pixels(name: str, row: dict[str, object]) -> NDArray[np.uint8]:
    """The field, [H, W, 3]."""
    with Image.open(data_root() / name / str(row["image"])) as opened:
        return np.asarray(opened.convert("RGB"))


def plane(name: str, row: dict[str, object], key: str) -> NDArray[np.int64]:
    """A label image, [H, W]."""
    with Image.open(data_root() / name / str(row[key])) as opened:
        return np.asarray(opened).astype(np.int64)


def interval(metric: str, data: str, values: Sequence[float], groups: Sequence[str]) -> Measured:
    """Mean with its interval over groups."""
    return Measured(metric, data, *cluster_interval(values, groups), len(values))


def median(values: Sequence[float], groups: Sequence[str]) -> tuple[float, float, float]:
    """Median with its interval over groups."""
    table = np.asarray(values)
    return cluster_statistic(lambda i: float(np.median(table[i])), groups)


def nuclei(network: Regions, settings: Settings = NUCLEI) -> list[Measured]:
    """PQ, AJI, Dice, count error on every set, and F1 of the kinds on CoNSeP."""
    found = []
    for name in NUCLEI_SETS:
        rows = val_rows(name)
        groups = [str(r.get("source_image", r["image"])) for r in rows]
        table: dict[str, list[float]] = {"PQ": [], "AJI": [], "Dice": [], "relative count error": []}
        kinds: dict[int, list[tuple[int, ...]]] = {k: [] for k in range(1, len(NUCLEUS_KINDS) + 1)}
        for row in rows:
            truth = plane(name, row, "instances")
            result = network.nuclei(pixels(name, row), settings=settings)
            ids, true_count = result.ids, len(np.unique(truth)) - 1
            table["PQ"].append(panoptic_quality(truth, ids).pq)
            table["AJI"].append(aggregated_jaccard(truth, ids))
            table["Dice"].append(dice(truth, ids))
            table["relative count error"].append(abs(int(ids.max()) - true_count) / max(1, true_count))
            if "types" in row and result.kinds is not None:
                _, dense = np.unique(truth, return_inverse=True)
                dense = dense.reshape(truth.shape)
                planes = plane(name, row, "types")
                true_kinds = [int(np.bincount(planes[dense == n]).argmax()) for n in range(1, int(dense.max()) + 1)]
                ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
                counts = typed_f1(dense, true_kinds, ids, result.kinds.argmax(axis=1)[: ids.max()] + 1)
                for kind, known in kinds.items():
                    known.append(counts.get(kind, (0,) * 6))
        for metric, values in table.items():
            found.append(interval(metric, f"{name} val", values, groups))
        errors = table["relative count error"]
        found.append(Measured("median relative count error", f"{name} val", *median(errors, groups), len(errors)))
        if any(kinds[1]):
            for kind, rows_ in kinds.items():
                table_ = np.array(rows_)
                value = cluster_statistic(lambda i, t=table_: f1_of(tuple(t[i].sum(axis=0))), groups)
                found.append(Measured(f"F1 of {NUCLEUS_KINDS[kind - 1]} nuclei", f"{name} val", *value, len(table_)))
    return found


def glands(network: Regions, settings: Settings = GLANDS) -> list[Measured]:
    """Object Dice and F1 on GlaS, and object Dice of calling the whole field one gland."""
    from skimage.measure import label

    rows, table = val_rows("glas"), {"object Dice": [], "object F1": [], "control: one gland": []}  # type: ignore[var-annotated]
    for row in rows:
        truth = label(plane("glas", row, "mask") > 0, connectivity=1)
        ids = network.glands(pixels("glas", row), settings=settings).ids
        table["object Dice"].append(object_dice(truth, ids))
        table["object F1"].append(object_f1(truth, ids))
        table["control: one gland"].append(object_dice(truth, np.ones_like(truth)))
    groups = [str(r["image"]) for r in rows]
    return [interval(metric, "glas val", values, groups) for metric, values in table.items()]


def tissue(network: Regions) -> list[Measured]:
    """Mean IoU of tumour, stroma and normal on LUAD where tissue is labelled, and of the commonest class."""
    rows, names = val_rows("luad_tissue_seg"), ("mIoU", "pixel accuracy", "control: all tumour, mIoU")
    truths, guesses = [], []
    for row in rows:
        field = pixels("luad_tissue_seg", row)
        truth = plane("luad_tissue_seg", row, "mask")
        chances = network.tissue(field)[:3]
        small = chances.argmax(axis=0).astype(np.uint8)
        guess = np.asarray(Image.fromarray(small).resize((truth.shape[1], truth.shape[0]), Image.Resampling.NEAREST))
        known = truth < 3
        truths.append(truth[known])
        guesses.append(guess[known])

    def miou(index: NDArray[np.int64], said: Sequence[NDArray[np.int64]]) -> float:
        return mean_class_iou(np.concatenate([truths[i] for i in index]), np.concatenate([said[i] for i in index]), 3)

    def right(index: NDArray[np.int64]) -> float:
        return float(np.mean(np.concatenate([truths[i] == guesses[i] for i in index])))

    flat = [np.zeros_like(t) for t in truths]
    groups = [str(r["image"]) for r in rows]
    values = [
        cluster_statistic(lambda i: miou(i, guesses), groups),  # type: ignore[arg-type]
        cluster_statistic(right, groups),
        cluster_statistic(lambda i: miou(i, flat), groups),
    ]
    return [Measured(n, "luad_tissue_seg val", *v, len(rows)) for n, v in zip(names, values, strict=True)]


def blood(network: Regions, threshold: float = THRESHOLD) -> list[Measured]:
    """Average precision at IoU 0.5 and counts on BCCD; the control puts the mean box of each class on a grid."""
    rows = val_rows("bccd_boxes")
    found: list[list[Detection]] = []
    truths: list[list[Truth]] = []
    control: list[list[Detection]] = []
    errors: dict[str, list[float]] = {name: [] for name in BLOOD_CELLS}
    sides = _mean_sides()
    for row in rows:
        image = str(row["image"])
        boxes = [b for b in row["boxes"] if b["xyxy"][2] > b["xyxy"][0] and b["xyxy"][3] > b["xyxy"][1]]  # type: ignore[attr-defined]
        truths.append([Truth(image, b["label"], tuple(b["xyxy"])) for b in boxes])
        places, scores = network.blood(pixels("bccd_boxes", row))
        best = scores.argmax(axis=1)
        found.append(
            [
                Detection(image, BLOOD_CELLS[k], tuple(float(v) for v in box), float(score[k]))  # type: ignore[arg-type]
                for box, score, k in zip(places, scores, best, strict=True)
            ]
        )
        control.append(_grid(image, sides))
        for k, name in enumerate(BLOOD_CELLS):
            true = sum(b["label"] == name for b in boxes)
            said = int(((best == k) & (scores.max(axis=1) >= threshold)).sum())
            errors[name].append(abs(said - true))
    groups = [str(r["image"]) for r in rows]

    def over(index: NDArray[np.int64], said: list[list[Detection]], label: str | None = None) -> float:
        # An image drawn twice counts twice: its name is made another one.
        true = [replace(t, image=f"{n}/{t.image}") for n, i in enumerate(index) for t in truths[i]]
        mine = [replace(d, image=f"{n}/{d.image}") for n, i in enumerate(index) for d in said[i]]
        return detection_ap(true, mine).get(label, float("nan")) if label else mean_ap(true, mine)

    out = [Measured("mAP@0.5", "bccd val", *cluster_statistic(lambda i: over(i, found), groups, draws=200), len(rows))]
    for name in BLOOD_CELLS:
        value = cluster_statistic(lambda i, n=name: over(i, found, n), groups, draws=200)
        out.append(Measured(f"AP@0.5 of {name}", "bccd val", *value, len(rows)))
        out.append(interval(f"mean absolute count error, {name}", "bccd val", errors[name], groups))
    value = cluster_statistic(lambda i: over(i, control), groups, draws=200)
    out.append(Measured("mAP@0.5 of the control (mean boxes on a grid)", "bccd val", *value, len(rows)))
    return out


def _mean_sides() -> dict[str, tuple[float, float]]:
    sides: dict[str, list[tuple[float, float]]] = {name: [] for name in BLOOD_CELLS}
    for row in read_jsonl(data_root() / "bccd_boxes" / "index.jsonl"):
        if row["split"] == "train":
            for box in row["boxes"]:
                x0, y0, x1, y1 = box["xyxy"]
                sides[box["label"]].append((x1 - x0, y1 - y0))
    return {name: tuple(np.mean(values, axis=0)) for name, values in sides.items()}  # type: ignore[misc]


def _grid(image: str, sides: dict[str, tuple[float, float]], size: tuple[int, int] = (640, 480)) -> list[Detection]:
    out = []
    for name, (w, h) in sides.items():
        for x, y in itertools.product(np.arange(w / 2, size[0], w / 2), np.arange(h / 2, size[1], h / 2)):
            out.append(Detection(image, name, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), 0.5))
    return out


def tune(network: Regions) -> None:
    """Settings of the watershed against PQ and object Dice."""
    for core, smooth, foreground in itertools.product((0.3, 0.4, 0.5, 0.6), (0.5, 1.0), (0.4, 0.5)):
        settings = replace(NUCLEI, core=core, smooth=smooth, foreground=foreground)
        values = []
        for name, stop in (("monuseg", 5), ("consep_patches", 64), ("dsb2018_stained", 14)):
            rows = val_rows(name)[:: max(1, len(val_rows(name)) // 16)][:stop]
            pq = [
                panoptic_quality(plane(name, r, "instances"), network.nuclei(pixels(name, r), settings=settings).ids).pq
                for r in rows
            ]
            values.append(float(np.mean(pq)))
        print("nuclei", core, smooth, foreground, [round(v, 3) for v in values], flush=True)
    for core, smooth, foreground in itertools.product((0.1, 0.2, 0.3, 0.4, 0.5), (1.0, 2.0), (0.5, 0.6)):
        settings = replace(GLANDS, core=core, smooth=smooth, foreground=foreground)
        print("glands", core, smooth, foreground, round(glands(network, settings)[0].value, 3), flush=True)


def main() -> None:
    """Command line of the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="one network's file; default: those that are shipped")
    parser.add_argument("--tune", action="store_true")
    options = parser.parse_args()
    network = read_regions(options.weights) if options.weights else load_regions()
    if options.tune:
        tune(network)
        return
    for part in (nuclei, glands, tissue, blood):
        if part.__name__ in network.trunks:
            for row in part(network):
                print(row, flush=True)


if __name__ == "__main__":
    main()
