"""Runs a task on a model: progress, resume, controls, provenance, and items that fail stay visible as errors.

A run is a folder named after its fingerprint (task, data, prompts, model, seed, conditions), so results of other data
or weights are never mixed:

    run.json         provenance, and the summary
    items.parquet    one row an item and condition: response, scores, seconds, or why it failed
    parts/           batches not yet merged into items.parquet; each appears whole, so ``kill -9`` loses at most one
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from assistant.errors import NotAvailable, PathAssistError
from assistant.files import whole
from eval.conditions import CONTROLS, Condition, conditions, expanded
from eval.models import Model, NoReply
from eval.provenance import data_hash, digest, git_revision, prompt_hash, read_json, versions, write_json
from eval.task import Item, Root, Task, with_duplicates_marked

BATCH = 16
#: So many failures in a row mean that the model is not there, not that the items are hard.
GIVE_UP_AFTER = 24

#: Called with (items done, items in all, what is running).
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, provenance, rows and summary."""

    folder: Path
    info: dict[str, Any]
    rows: pd.DataFrame
    summary: pd.DataFrame


def run_task(
    task: Task,
    model: Model,
    *,
    root: Root = None,
    split: str = "val",
    out: str | os.PathLike[str] = "runs/eval",
    shown: Sequence[str] = ("image", *CONTROLS),
    limit: int | None = None,
    seed: int = 0,
    called: str = "",
    progress: Progress | None = None,
) -> Run:
    """Answer what is not stored yet, score, and write the run's folder.

    Args:
        shown: Conditions (``eval.conditions``; also ``controls`` and ``robustness``). When no item's image is there,
            only ``text`` is run, and ``run.json`` says so.
        limit: The first so many items only; such a run has a fingerprint of its own.
        called: The model's name on the command line, for the command that reprints the run.
        progress: Called after every batch; default: a progress bar on stderr.

    Raises:
        NotAvailable: The model failed 24 items in a row.
        DataError: The data is missing or malformed.
    """
    items = with_duplicates_marked(task.load(root, split))[:limit]
    shown, note = expanded(shown), ""
    if shown != ["text"] and not any(item.image and item.image.is_file() for item in items):
        if task.kind == "ground":
            raise NotAvailable(
                f"no image of {task.name} is present, and boxes need images; put them beside the annotations"
            )
        shown, note = ["text"], "no image of this set is present: text only"
    wanted = conditions(shown, seed)
    info: dict[str, Any] = {
        "task": task.name, "version": task.version, "split": split, "model": model.name, "revision": model.revision,
        "conditions": list(shown), "seed": seed, "limit": limit, "data_hash": data_hash(items),
        "prompt_hash": prompt_hash(task, items),
    }  # fmt: skip
    fingerprint = digest(str(value) for value in info.values())
    folder = Path(out) / f"{_plain(task.name)}-{split}-{_plain(model.name)}-{fingerprint[:8]}"
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    rows = _answer_all(task, model, items, wanted, folder, progress)
    asked = time.perf_counter() - began
    summary = task.summarise(rows)
    previous = read_json(folder / "run.json") if (folder / "run.json").is_file() else {}
    info |= {
        "fingerprint": fingerprint, "called": called, "note": note, "n": len(items),
        "errors": int((rows["status"] == "error").sum()),
        "problems": sum(bool(item.problem) for item in items),
        "images_missing": sum(item.image is not None and not item.image.is_file() for item in items),
        "git": git_revision(), "versions": versions(),
        "seconds": round(asked + float(previous.get("seconds", 0)), 2),
        "summary": summary.round(6).to_dict("records"),
    }  # fmt: skip
    write_json(folder / "run.json", info)
    return Run(folder, info, rows, summary)


def save_run(
    name: str, version: str, model: str, revision: str, rows: pd.DataFrame, summary: pd.DataFrame, *,
    split: str, out: str | os.PathLike[str] = "runs/eval", seconds: float = 0.0, seed: int = 0,
    limit: int | None = None,
) -> Run:  # fmt: skip
    """Write the run folder of an evaluation that is not one prompt an item (embedding, segmentation, detection)."""
    images = [Path(p) for p in sorted({p for p in rows["image"] if isinstance(p, str)})]
    info: dict[str, Any] = {
        "task": name, "version": version, "split": split, "model": model, "revision": revision,
        "conditions": sorted(set(rows["condition"])), "seed": seed, "limit": limit, "prompt_hash": "",
        "data_hash": digest(p.read_bytes() for p in images if p.is_file()),
    }  # fmt: skip
    fingerprint = digest(str(value) for value in info.values())
    folder = Path(out) / f"{_plain(name)}-{split}-{_plain(model)}-{fingerprint[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    info |= {
        "fingerprint": fingerprint, "note": "", "n": int(rows["id"].nunique()), "problems": 0, "images_missing": 0,
        "errors": int((rows["status"] == "error").sum()), "git": git_revision(), "versions": versions(),
        "seconds": round(seconds, 2), "summary": summary.round(6).to_dict("records"),
    }  # fmt: skip
    _write(rows, folder / "items.parquet")
    write_json(folder / "run.json", info)
    return Run(folder, info, rows, summary)


def read_run(folder: str | os.PathLike[str]) -> Run:
    """A run from its folder.

    Raises:
        PathAssistError: The folder holds no finished run.
    """
    path = Path(folder)
    if not (path / "run.json").is_file() or not (path / "items.parquet").is_file():
        raise NotAvailable(f"no finished run in {path}; make one with: pathassist eval TASK --out DIR")
    info = read_json(path / "run.json")
    return Run(path, info, pd.read_parquet(path / "items.parquet"), pd.DataFrame(info["summary"]))


def _answer_all(
    task: Task, model: Model, items: list[Item], wanted: list[Condition], folder: Path, progress: Progress | None
) -> pd.DataFrame:
    kept = _stored(folder)
    settled = {(r["id"], r["condition"]) for r in kept if r["status"] == "ok" or r["permanent"]}
    todo = [(c, i) for c in wanted for i in range(len(items)) if (items[i].id, c.name) not in settled]
    total = len(wanted) * len(items)
    failures = 0
    with tqdm(total=total, initial=total - len(todo), desc=task.name, unit="item", disable=progress is not None) as bar:
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            rows = _batch(task, model, items, batch)
            _write(pd.DataFrame(rows), folder / "parts" / f"{time.time_ns()}.parquet")
            kept += rows
            bar.update(len(batch))
            if progress is not None:
                progress(total - len(todo) + start + len(batch), total, batch[-1][0].name)
            for row in rows:
                failures = 0 if row["status"] == "ok" or row["permanent"] else failures + 1
            if failures >= GIVE_UP_AFTER:
                raise NotAvailable(
                    f"{failures} items in a row failed, last: {rows[-1]['error']}; what was answered is kept in"
                    f" {folder}: run the same command to go on"
                )
    # The newest row of an item wins; then the published order, which the random fallback of PathMMU depends on.
    latest = {(r["id"], r["condition"]): r for r in kept}
    frame = pd.DataFrame([latest[item.id, c.name] for c in wanted for item in items])
    if todo or not (folder / "items.parquet").is_file():
        _write(frame, folder / "items.parquet")
    shutil.rmtree(folder / "parts", ignore_errors=True)
    return frame


def _batch(task: Task, model: Model, items: list[Item], batch: list[tuple[Condition, int]]) -> list[dict[str, Any]]:
    def one(entry: tuple[Condition, int]) -> dict[str, Any]:
        return _row(task, model, items, *entry)

    if model.parallel <= 1:
        return [one(entry) for entry in batch]
    with ThreadPoolExecutor(model.parallel) as pool:
        return list(pool.map(one, batch))


def _row(task: Task, model: Model, items: list[Item], condition: Condition, index: int) -> dict[str, Any]:
    """One item under one condition; whatever goes wrong becomes its ``error``."""
    item = items[index]
    row: dict[str, Any] = {
        "id": item.id, "condition": condition.name, "group": item.group, "part": item.part, "status": "error",
        "error": item.problem, "permanent": bool(item.problem), "response": None, "confidence": float("nan"),
        "seconds": 0.0, "image": str(item.image) if item.image else None,
    }  # fmt: skip
    if item.problem:
        return row
    if condition.name != "text":
        try:
            picture = condition.show(items, index)
            if picture is None:
                raise NoReply("this item has no image")
        except (PathAssistError, NoReply) as error:
            return row | {"error": str(error), "permanent": True}
    else:
        picture = None
    began = time.perf_counter()
    try:
        if task.kind == "ground":
            response = model.ground(picture, task.prompt(item))
        else:
            response = model.answer(picture, task.prompt(item), max_new_tokens=task.max_new_tokens)
        if not response.text.strip():
            raise NoReply("the reply is empty")
        scored = task.score(item, response)
    except Exception as error:  # a model is other people's code: one bad item must not end a run of thousands
        return row | {"error": f"{type(error).__name__}: {error}"[:300], "seconds": time.perf_counter() - began}
    row |= {
        "status": "ok", "error": "", "response": response.text, "seconds": time.perf_counter() - began,
        "confidence": float("nan") if response.confidence is None else response.confidence,
    }  # fmt: skip
    return row | scored


def _stored(folder: Path) -> list[dict[str, Any]]:
    """Rows of an earlier, perhaps interrupted, run: merged ones first, then batches in the order of writing."""
    paths: Iterator[Path] = iter([folder / "items.parquet", *sorted((folder / "parts").glob("*.parquet"))])
    return [row for path in paths if path.is_file() for row in pd.read_parquet(path).to_dict("records")]


def _write(frame: pd.DataFrame, path: Path) -> None:
    with whole(path) as partial:
        frame.to_parquet(partial)


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in name)[-60:]
