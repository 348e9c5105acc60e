"""Task name → benchmark: what ``pathassist eval`` calls."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.errors import BadInput

if TYPE_CHECKING:
    from eval.runner import Progress, Run
    from eval.task import Task

#: Tasks with tables of their own, which also fit the calibration.
TASKS = ("vqa", "free")
#: Tasks of the common runner → the split they are tuned on.
RUNNER_TASKS = {
    "local-vqa": "val",
    "pathmmu": "val",
    "pathmmu-rotated": "val",
    "refpath": "testA",
    "pathvqa": "val",
    "pmeb-style": "val",
}


def run(
    task: str,
    model: str = "embedded",
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Run one benchmark and return the path of its report (``vqa``, ``free``) or of its run folder.

    Raises:
        BadInput: Unknown task.
        DataError: Data missing or malformed.
    """
    if task in RUNNER_TASKS:
        return run_one(task, model, data, out).folder
    if task not in TASKS:
        raise BadInput(f"unknown task {task!r}; allowed: {', '.join((*TASKS, *RUNNER_TASKS))}")
    from eval import free, vqa

    benchmark = {"vqa": vqa.run, "free": free.run}[task]
    return benchmark(model, data, out or "eval/results")


def run_one(
    task: str,
    model: str = "embedded",
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    shown: Sequence[str] | None = None,
    limit: int | None = None,
    seed: int = 0,
    source: str = "wheels",
    progress: Progress | None = None,
) -> Run:
    """Run one task of the common runner; an interrupted run goes on where it stopped.

    Args:
        model: A preset, ``openai:URL#NAME``, ``hf:FOLDER``, ``trained:FOLDER``; for ``pmeb-style`` an encoder, also
        ``open_clip:NAME:FILE``. out: Folder in which the run's own folder is made; default ``runs/eval``.
        split: Default as in ``RUNNER_TASKS``.
        shown: Conditions (``eval.conditions``); default: the image and all controls.
        limit: The first so many items only (``pmeb-style``: so many images of each set).

    Raises:
        BadInput: Unknown task, split or condition. DataError: Data missing. NotAvailable: The model does not answer.
    """
    if task not in RUNNER_TASKS:
        raise BadInput(f"unknown task {task!r}; allowed: {', '.join((*TASKS, *RUNNER_TASKS))}")
    from eval.conditions import CONTROLS
    from eval.models import load_encoder
    from eval.runner import run_task, save_run
    from eval.trained import load_any

    split, folder = split or RUNNER_TASKS[task], out or "runs/eval"
    if task == "pmeb-style":
        from eval.pmeb import VERSION, run_pmeb

        encoder = load_encoder(model, source)
        began = time.perf_counter()
        rows, summary = run_pmeb(encoder, data, split, limit=limit, seed=seed)
        return save_run(
            task, VERSION, encoder.info.name, encoder.id, rows, summary, split=split, out=folder, seed=seed,
            limit=limit, seconds=time.perf_counter() - began,
        )  # fmt: skip
    made = _makers()[task]()
    if shown is None:
        shown = ("image", "blank", "shuffled") if made.kind == "ground" else ("image", *CONTROLS)
    return run_task(
        made, load_any(model, source), root=data, split=split, out=folder, shown=shown, limit=limit, seed=seed,
        called=model, progress=progress,
    )  # fmt: skip


def _makers() -> dict[str, Callable[[], Task]]:
    from eval.local_vqa import LocalVQA
    from eval.pathmmu import PathMMU
    from eval.pathvqa import PathVQA
    from eval.refpath import RefPath

    return {
        "local-vqa": LocalVQA,
        "pathmmu": PathMMU,
        "pathmmu-rotated": lambda: PathMMU(rotations=5),
        "refpath": RefPath,
        "pathvqa": PathVQA,
    }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark module takes as ``python -m eval.NAME``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", help="data root (default: PATHASSIST_DATA or ../shared/data)")
    parser.add_argument("--out", default="eval/results")
    parser.add_argument("--fit", action="store_true", help="fit the calibration on val and ship it")
    return parser
