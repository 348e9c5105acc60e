"""Tables in Markdown from decided items: n, value and clustered 95 % interval for our model and every control."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from assistant.answer import DISCLAIMER
from assistant.chat.calibration import Calibration
from eval.fit import cross_fitted_confidence
from eval.stats import accuracy_at_coverage, calibration_error, cluster_interval

CONTROLS = ("hit_likelihood", "hit_blank", "hit_text", "hit_majority", "hit_probe")
HEADS = ("ours [95 %]", "without the second look", "blank image", "text only", "majority", "ImageNet probe [95 %]")


def _interval(frame: pd.DataFrame, column: str) -> tuple[float, float, float]:
    return cluster_interval(frame[column].astype(float), list(frame["group"]))


def _cells(frame: pd.DataFrame) -> tuple[str, dict[str, Any]]:
    """One table row (without its name) and the same as numbers."""
    numbers: dict[str, Any] = {"n": len(frame), "groups": int(frame["group"].nunique())}
    cells = [str(len(frame)), str(numbers["groups"])]
    for column in ("hit", *CONTROLS):
        mean, low, high = _interval(frame, column)
        numbers[column] = [round(mean, 4), round(low, 4), round(high, 4)]
        wide = column in ("hit", "hit_probe")
        cells.append(f"{mean:.3f} [{low:.2f}, {high:.2f}]" if wide else f"{mean:.3f}")
    return " | ".join(cells), numbers


def _slices(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Rows of the table: all open sets, then each set and kind, then the sets never trained on."""
    opened, closed = frame[frame["open_licence"]], frame[~frame["open_licence"]]
    rows = [("**open sets, all**", opened)]
    for (dataset, kind), part in opened.groupby(["dataset", "kind"], sort=True):
        rows.append((f"{dataset}: {kind}", part))
        if dataset == "atlas" and kind != "stain":
            rows.append(("… slides of cases seen in training", part[~part["unseen_case"]]))
            rows.append(("… cases never seen", part[part["unseen_case"]]))
    for dataset, part in closed.groupby("dataset", sort=True):
        rows.append((f"*{dataset}* (never trained on)", part))
    return [(name, part) for name, part in rows if len(part)]


def vqa_markdown(frame: pd.DataFrame, calibration: Calibration, model: str) -> tuple[str, dict[str, Any]]:
    """The whole report of the four-choice benchmark.

    Args:
        frame: Decided items (``eval.vqa.decide``).

    Returns:
        Markdown and the same numbers as a dictionary.
    """
    looked = str(frame["encoder"].iloc[0]).rpartition("-")[0] or "no encoder"
    numbers: dict[str, Any] = {"rows": {}, "calibration": calibration.as_dict()}
    lines = [
        f"# Four-choice questions on `val`: {model}",
        "",
        f"{DISCLAIMER} Reprint: `make results`; per-item scores are in `{model}-vqa.items.parquet`.",
        "Intervals: bootstrap over slides or groups, 2,000 draws. Atlas diagnoses are slide-level. *Second look*: the",
        f"cosine of image and option by {looked} counts beside the likelihood; its weight was fitted on these.",
        "",
        "| items | n | groups | " + " | ".join(HEADS) + " |",
        "|---" * (3 + len(HEADS)) + "|",
    ]
    for name, part in _slices(frame):
        cells, values = _cells(part)
        numbers["rows"][name.strip("*… ")] = values
        lines.append(f"| {name} | {cells} |")
    opened = frame[frame["open_licence"]]
    cross, hits = cross_fitted_confidence(opened, calibration)
    summary = {
        "expected calibration error (fitted on val)": calibration_error(opened["confidence"], opened["hit"]),
        "expected calibration error (cross-fitted by group)": calibration_error(cross, hits),
        "accuracy (weights cross-fitted by group)": float(np.mean(hits)),
        "accuracy at 50 % coverage": accuracy_at_coverage(opened["confidence"], opened["hit"]),
        "accuracy at 50 % coverage (cross-fitted)": accuracy_at_coverage(cross, hits),
        "answered at the shipped threshold": float((opened["confidence"] >= calibration.threshold).mean()),
        "accuracy of those answered": float(opened["hit"][opened["confidence"] >= calibration.threshold].mean()),
        "seconds a question (median)": float(frame["seconds"].median()),
    }
    numbers["summary"] = {k: round(v, 4) for k, v in summary.items()}
    lines += ["", "| confidence on the open sets | value |", "|---|---|"]
    lines += [f"| {k} | {v:.3f} |" for k, v in summary.items()]
    c = calibration
    lines += [
        "",
        f"Calibration: prior weight {c.prior_weight:.2f}, encoder weight {c.encoder_weight:.2f}, "
        f"temperature {c.temperature:.2f}, top {c.top_slope:.2f}·log-odds {c.top_offset:+.2f}, "
        f"threshold {c.threshold:.2f}.",
        "",
    ]
    return "\n".join(lines), numbers
