"""One self-contained HTML page from run folders: tables, intervals, figures, failures, and a comparison of runs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from assistant import DISCLAIMER
from assistant.errors import BadInput
from assistant.files import write_text
from eval.anchors import NOT_THE_SAME, anchors_for
from eval.conditions import CONTROLS
from eval.figures import confusion_table, curves, reliability, thumbnail
from eval.metrics.ranking import confusion
from eval.pathmmu import robustness
from eval.runner import Run, read_run
from eval.stats import Comparison, accuracy_at_coverage, calibration_error, compare

GALLERY = 12
#: More labels than these make no readable matrix.
_MOST_LABELS = 24
#: Columns by which two runs of a task are compared, in order of preference.
_COMPARED = ("strict", "hit", "closed_strict", "acc0.50", "hit1", "pa_exact", "pq", "miou")
_TEMPLATE = Path(__file__).with_name("templates") / "report.html.j2"


def write_report(runs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Path:
    """Write the page about some runs; two or more of one task are compared.

    Args:
        runs: Run folders, or folders of run folders.

    Raises:
        BadInput: No run named. PathAssistError: A folder holds no finished run.
    """
    from jinja2 import Environment

    folders = [f for run in runs for f in _folders(Path(run))]
    if not folders:
        raise BadInput("no run given; name at least one folder that pathassist eval wrote")
    read = [read_run(f) for f in folders]
    page = (
        Environment(autoescape=True)
        .from_string(_TEMPLATE.read_text(encoding="utf-8"))
        .render(
            runs=[section(run) for run in read],
            comparisons=comparisons(read),
            disclaimer=DISCLAIMER,
            not_same=NOT_THE_SAME,
        )
    )
    path = Path(out)
    write_text(path, page)
    return path


def _folders(path: Path) -> list[Path]:
    if (path / "run.json").is_file() or not path.is_dir():
        return [path]
    return sorted(p.parent for p in path.glob("*/run.json")) or [path]


def section(run: Run) -> dict[str, Any]:
    """What the page shows of one run."""
    info, rows = run.info, run.rows
    shown = rows[rows["condition"] == main_condition(rows)]
    return {
        "title": f"{info['task']} · {info['model']}",
        "anchor": f"run-{info['fingerprint']}",
        "info": info,
        "facts": {
            "split": info["split"], "items": info["n"], "errors": info["errors"],
            "images missing": info.get("images_missing", 0), "seconds": info["seconds"], "seed": info["seed"],
            "weights": info["revision"], "data": info["data_hash"], "prompts": info["prompt_hash"] or "none",
            "code": info["git"], "task version": info["version"],
            "versions": ", ".join(f"{k} {v}" for k, v in info["versions"].items()),
        },
        "command": _command(info),
        "note": info.get("note", ""),
        "tables": tables(run.summary),
        "reliability": _reliability(shown),
        "robustness": _robustness(run.summary),
        "confusions": _confusions(shown),
        "failures": failures(shown),
        "errors": _errors(rows),
        "anchors": anchors_for(info["task"]),
    }  # fmt: skip


def _command(info: dict[str, Any]) -> str:
    """The command that makes the run anew."""
    options = {"--model": info.get("called") or info["model"], "--split": info["split"], "--seed": info["seed"]}
    if info["task"] != "pmeb-style":
        options["--show"] = ",".join(info["conditions"])
    if info["limit"]:
        options["--limit"] = info["limit"]
    return " ".join(["pathassist eval", info["task"], *(f"{name} {value}" for name, value in options.items())])


def main_condition(rows: pd.DataFrame) -> str:
    """The condition figures are drawn of: the image, or text where there is none."""
    names = list(dict.fromkeys(rows["condition"]))
    return "image" if "image" in names else str(names[0])


def tables(summary: pd.DataFrame) -> list[dict[str, Any]]:
    """One table a metric: parts down, conditions across, each cell value, interval and n."""
    out = []
    for metric, inside in summary.groupby("metric", sort=False):
        names = list(dict.fromkeys(inside["condition"]))
        conditions = sorted(names, key=lambda name: name[-1:].isdigit())  # corruptions last
        rows = []
        for part in dict.fromkeys(inside["part"]):
            of_part = inside[inside["part"] == part].set_index("condition")
            cells = [_cell(of_part.loc[c]) if c in of_part.index else "" for c in conditions]
            first = of_part.iloc[0]
            rows.append(
                {"part": part, "n": int(first["n"]), "groups": int(first["groups"]), "errors": int(first["errors"])}
                | {"cells": cells}
            )
        out.append({"metric": metric, "conditions": conditions, "rows": rows})
    return out


def _cell(row: pd.Series) -> str:
    if pd.isna(row["value"]):
        return "–"
    return f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


def _hits(rows: pd.DataFrame) -> str | None:
    """The column that says whether an item is right."""
    return next((c for c in _COMPARED if c in rows and rows[c].notna().any()), None)


def _reliability(rows: pd.DataFrame) -> dict[str, Any] | None:
    column = _hits(rows)
    if column is None or "confidence" not in rows:
        return None
    sure = rows[rows["confidence"].notna() & rows[column].notna()]
    if len(sure) < 2 or not set(sure[column].unique()) <= {0.0, 1.0}:
        return None
    p, hit = sure["confidence"].to_numpy(dtype=float), sure[column].to_numpy(dtype=float)
    return {
        "svg": reliability(p, hit),
        "ece": calibration_error(p, hit),
        "half": accuracy_at_coverage(p, hit),
        "n": len(sure),
    }


def _robustness(summary: pd.DataFrame) -> str | None:
    for metric in ("accuracy (strict)", "accuracy"):
        table = robustness(summary, metric)
        if len(table):
            lines = {
                str(kind): [(float(s), float(v)) for s, v in row.dropna().items()] for kind, row in table.iterrows()
            }
            return curves(lines, "strength", metric, "Accuracy under corruption")
    return None


def _confusions(rows: pd.DataFrame) -> list[dict[str, str]]:
    if "wanted" not in rows or "said" not in rows:
        return []
    out = []
    for part, inside in rows[(rows["status"] == "ok") & rows["wanted"].notna()].groupby("part", sort=True):
        wanted = inside["wanted"].astype(str)
        said = inside["said"].fillna("(not read)").astype(str)
        labels, counts = confusion(list(wanted), list(said))
        if 2 <= len(labels) <= _MOST_LABELS and len(inside) > len(labels):
            out.append({"part": str(part), "table": confusion_table(labels, counts)})
    return out


def failures(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The wrong answers the model was surest of (or the worst overlaps), with thumbnails."""
    column = next((c for c in ("iou", "pq", "miou") if c in rows), None) or _hits(rows)
    if column is None:
        return []
    ok = rows[(rows["status"] == "ok") & rows[column].notna()]
    wrong = ok[ok[column].astype(float) < 0.5]
    if "confidence" in wrong and wrong["confidence"].notna().any():
        wrong = wrong.sort_values("confidence", ascending=False, kind="stable")
    else:
        wrong = wrong.sort_values(column, kind="stable")
    out = []
    for row in wrong.head(GALLERY).to_dict("records"):
        image = row.get("image")
        out.append({
            "id": row["id"], "image": thumbnail(image) if isinstance(image, str) and Path(image).is_file() else None,
            "said": _short(row.get("said") if isinstance(row.get("said"), str) else row.get("response")),
            "wanted": _short(row.get("wanted", row.get("answer"))), "score": float(row[column]), "measure": column,
            "confidence": row.get("confidence"),
        })  # fmt: skip
    return out


def _short(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    text = (
        value if isinstance(value, str) else json.dumps(value, default=lambda v: getattr(v, "tolist", lambda: str(v))())
    )
    return text if len(text) <= 160 else text[:157] + "…"


def _errors(rows: pd.DataFrame) -> list[tuple[str, int]]:
    """Messages of failed items with how often each occurs."""
    failed = rows[rows["status"] == "error"]
    return [(str(message), int(n)) for message, n in failed["error"].value_counts().head(20).items()]


def comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Every later run of a task against its first, and every run against its own controls, on their common items."""
    out, controls = [], []
    first: dict[tuple[str, str], Run] = {}
    for run in runs:
        main = main_condition(run.rows)
        shown = [name for name in CONTROLS if name != main and name in set(run.rows["condition"])]
        controls += [compared(run, name, run, main) for name in shown]
        key = (run.info["task"], run.info["split"])
        if key in first:
            out.append(compared(first[key], main_condition(first[key].rows), run, main_condition(run.rows)))
        else:
            first[key] = run
    return [entry for entry in out + controls if entry is not None]


def compared(a: Run, condition_a: str, b: Run, condition_b: str) -> dict[str, Any] | None:
    """Two runs of one task on the items both have; None where nothing is scored in both."""
    left = a.rows[a.rows["condition"] == condition_a]
    right = b.rows[b.rows["condition"] == condition_b]
    column = next((c for c in _COMPARED if c in left and c in right), None)
    if column is None:
        return None
    # An error counts as wrong on both sides, so that failing on hard items wins nothing.
    kept = [
        frame.assign(score=frame[column].astype("float64").mask(frame["status"] == "error", 0.0))
        for frame in (left, right)
    ]
    kept = [frame[["id", "group", "score"]].dropna() for frame in kept]
    both = kept[0].merge(kept[1][["id", "score"]], on="id", suffixes=("", "_b"))
    if not len(both):
        return None
    found: Comparison = compare(both["score"], both["score_b"], list(both["group"]))
    same = a.info["data_hash"] == b.info["data_hash"]
    return {
        "task": a.info["task"],
        "first": f"{a.info['model']} ({condition_a})", "second": f"{b.info['model']} ({condition_b})",
        "column": column, "result": found, "same_data": same,
        "means": (float(both["score"].mean()), float(both["score_b"].mean())),
        "only_first": len(kept[0]) - len(both), "only_second": len(kept[1]) - len(both),
    }  # fmt: skip
