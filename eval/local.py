"""The local sets with masks, boxes and counts: scores of predictions, whoever makes them.

Each function takes a predictor, a callable on one RGB image, and returns rows (one an image) and a summary with
clustered intervals; :func:`eval.runner.save_run` turns both into a run folder. A predictor that raises makes an *error*
row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from assistant.images.intake import load_image
from eval.metrics.boxes import Detection, Truth, mean_ap
from eval.metrics.ranking import balanced_accuracy, counting_scores
from eval.metrics.segmentation import aggregated_jaccard, dice, mean_class_iou, panoptic_quality
from eval.stats import cluster_statistic
from eval.task import SUMMARY, Root, measures, one_of
from training.data.records import data_root, read_jsonl

#: Sets with instance ids; ``glas`` has a mask whose connected components are nearly instances.
INSTANCE_SETS = ("monuseg", "consep_patches", "dsb2018_stained", "glas")
CLASS_SETS = {"luad_tissue_seg": 4, "wbc_seg": 3}

Rows = tuple[pd.DataFrame, pd.DataFrame]


def instances(
    dataset: str, predict: Callable[[Image.Image], NDArray[Any]], root: Root = None, split: str = "val"
) -> Rows:
    """Instance segmentation: Dice, AJI, PQ with its DQ and SQ, and the count.

    Args:
        predict: Image → instance ids [H, W], 0 is background.
    """

    def score(row: dict[str, Any], image: Image.Image, folder: Path) -> dict[str, float]:
        truth = _instances(row, folder)
        found = np.asarray(predict(image))
        if found.shape != truth.shape:
            raise ValueError(f"the prediction is {found.shape}, the image {truth.shape}")
        quality = panoptic_quality(truth, found)
        counts = {"true_count": float(quality.tp + quality.fn), "count": float(quality.tp + quality.fp)}
        overlap = {"dice": dice(truth, found), "aji": aggregated_jaccard(truth, found)}
        return overlap | {"pq": quality.pq, "dq": quality.dq, "sq": quality.sq} | counts

    rows = _each(one_of(dataset, INSTANCE_SETS, "set of instances"), score, root, split)
    columns = {"dice": "Dice", "aji": "AJI", "pq": "PQ", "dq": "DQ", "sq": "SQ"}
    table = measures(rows, columns, errors_wrong=tuple(columns))
    return rows, pd.concat([table, _counts(rows)], ignore_index=True)


def classes(
    dataset: str, predict: Callable[[Image.Image], NDArray[Any]], root: Root = None, split: str = "val"
) -> Rows:
    """Classes of pixels: mean IoU over the classes of an image, by image."""
    number = CLASS_SETS[one_of(dataset, list(CLASS_SETS), "set of pixel classes")]

    def score(row: dict[str, Any], image: Image.Image, folder: Path) -> dict[str, float]:
        truth = np.asarray(Image.open(folder / row["mask"]))
        return {"miou": mean_class_iou(truth, predict(image), number)}

    rows = _each(dataset, score, root, split)
    return rows, measures(rows, {"miou": "mIoU"}, errors_wrong=("miou",))


def detection(
    predict: Callable[[Image.Image], Sequence[tuple[str, Sequence[float], float]]],
    root: Root = None,
    split: str = "val",
    dataset: str = "bccd_boxes",
) -> Rows:
    """Boxes: mAP@0.5 over labels. Precision is a lower bound in ``bccd_boxes``, where some cells have no box.

    Args:
        predict: Image → (label, xyxy, score) of every box.
    """
    truth: list[Truth] = []
    found: list[Detection] = []

    def score(row: dict[str, Any], image: Image.Image, _: Path) -> dict[str, float]:
        name = str(row["image"])
        truth.extend(Truth(name, b["label"], tuple(b["xyxy"])) for b in row["boxes"])
        ours = [Detection(name, label, (*map(float, box),), p) for label, box, p in predict(image)]  # type: ignore[arg-type]
        found.extend(ours)
        return {"true_count": float(len(row["boxes"])), "count": float(sum(d.score >= 0.5 for d in ours))}

    rows = _each(dataset, score, root, split)
    names = list(rows["id"].str.partition("/")[2])

    def value(index: NDArray[np.int64]) -> float:
        # A drawn image that repeats is another image; its boxes must not meet those of its copy.
        t = [Truth(f"{k}:{x.image}", x.label, x.xyxy) for k, i in enumerate(index) for x in by_truth.get(names[i], [])]
        f = [
            Detection(f"{k}:{x.image}", x.label, x.xyxy, x.score)
            for k, i in enumerate(index)
            for x in by_found.get(names[i], [])
        ]
        return mean_ap(t, f)

    by_truth, by_found = _by_image(truth), _by_image(found)
    mean, low, high = cluster_statistic(value, list(rows["group"]), draws=100)
    errors = int((rows["status"] == "error").sum())
    first = pd.DataFrame(
        [("all", "mAP@0.5", "image", mean, low, high, len(rows), errors, len(rows))], columns=list(SUMMARY)
    )
    return rows, pd.concat([first, _counts(rows)], ignore_index=True)


def classification(
    dataset: str,
    predict: Callable[[Image.Image], tuple[str, float]],
    label: Callable[[dict[str, Any]], str] = lambda row: str(row["label"]),
    root: Root = None,
    split: str = "val",
) -> Rows:
    """Labels: accuracy by image and balanced accuracy. ``predict`` gives a label and its probability."""

    def score(row: dict[str, Any], image: Image.Image, _: Path) -> dict[str, Any]:
        said, confidence = predict(image)
        return {"said": said, "wanted": label(row), "hit": float(said == label(row)), "confidence": confidence}

    rows = _each(dataset, score, root, split)
    tables = [measures(rows, {"hit": "accuracy"}, errors_wrong=("hit",))]
    ok = rows[rows["status"] == "ok"]
    if len(ok):
        truth, said = ok["wanted"].to_numpy(), ok["said"].to_numpy()
        found = cluster_statistic(lambda i: balanced_accuracy(truth[i], said[i]), list(ok["group"]))
        errors, groups = len(rows) - len(ok), ok["group"].nunique()
        line = ("all", "balanced accuracy", "image", *found, len(ok), errors, groups)
        tables.append(pd.DataFrame([line], columns=list(SUMMARY)))
        constant = ok.assign(condition="majority", hit=(ok["wanted"] == ok["wanted"].mode().iloc[0]).astype(float))
        tables.append(measures(constant, {"hit": "accuracy"}))
    return rows, pd.concat(tables, ignore_index=True)


def tool_choice(expected: Sequence[str | None], called: Sequence[str | None]) -> dict[str, float]:
    """Was the right tool called, and only when one was wanted?

    Args:
        expected: Tool that the request needs; None where none is.
        called: Tool that was called; None where none was.

    Returns:
        ``accuracy`` over all requests, ``selection`` over those that need a tool, ``over_call`` over those that do not,
        and ``missed`` (needed, none called); NaN where there are no such requests.
    """
    pairs = list(zip(expected, called, strict=True))
    needed = [(e, c) for e, c in pairs if e is not None]
    idle = [c for e, c in pairs if e is None]
    return {
        "accuracy": _share([e == c for e, c in pairs]),
        "selection": _share([e == c for e, c in needed]),
        "over_call": _share([c is not None for c in idle]),
        "missed": _share([c is None for _, c in needed]),
    }


def _share(values: list[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _each(
    dataset: str, score: Callable[[dict[str, Any], Image.Image, Path], dict[str, Any]], root: Root, split: str
) -> pd.DataFrame:
    folder = data_root(root) / dataset
    rows = []
    for record in read_jsonl(folder / "index.jsonl"):
        if record.get("split") != split:
            continue
        name = str(record["image"])
        group = str(record.get("source_image") or record.get("series") or name)
        row: dict[str, Any] = {
            "id": f"{dataset}/{name}", "condition": "image", "group": f"{dataset}:{group}", "part": dataset,
            "image": str(folder / name),
        }  # fmt: skip
        try:
            row |= {"status": "ok", "error": ""} | score(dict(record), load_image(folder / name), folder)
        except Exception as error:  # a predictor is other people's code
            row |= {"status": "error", "error": f"{type(error).__name__}: {error}"[:300]}
        rows.append(row)
    return pd.DataFrame(rows)


def _instances(row: dict[str, Any], folder: Path) -> NDArray[Any]:
    if "instances" in row:
        return np.asarray(Image.open(folder / row["instances"]))
    from skimage.measure import label

    return np.asarray(label(np.asarray(Image.open(folder / row["mask"])) > 0))


def _counts(rows: pd.DataFrame) -> pd.DataFrame:
    """Counting errors with intervals, over the images that have a prediction."""
    if "count" not in rows:
        return pd.DataFrame(columns=list(SUMMARY))
    ok = rows[rows["status"] == "ok"]
    truth, count = ok["true_count"].to_numpy(), ok["count"].to_numpy()
    out = []
    for key, name in (("mae", "counting: mean absolute error"), ("relative", "counting: relative error")):
        found = cluster_statistic(lambda i, k=key: counting_scores(truth[i], count[i])[k], list(ok["group"]))
        out.append(("all", name, "image", *found, len(ok), len(rows) - len(ok), ok["group"].nunique()))
    return pd.DataFrame(out, columns=list(SUMMARY))


def _by_image(entries: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for entry in entries:
        found.setdefault(entry.image, []).append(entry)
    return found
