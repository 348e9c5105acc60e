"""Task name → benchmark: what ``pathassist eval`` calls."""

from __future__ import annotations

import os
from pathlib import Path

from assistant.errors import BadInput

TASKS = ("vqa", "free")


def run(
    task: str,
    model: str = "embedded",
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
) -> Path:
    """Run one benchmark and return the path of its report.

    Raises:
        BadInput: Unknown task.
        DataError: Data missing or malformed.
    """
    if task not in TASKS:
        raise BadInput(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    from eval import free, vqa

    benchmark = {"vqa": vqa.run, "free": free.run}[task]
    return benchmark(model, data, out or "eval/results")
