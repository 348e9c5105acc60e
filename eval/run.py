"""Task name → benchmark: what ``pathassist eval`` calls."""

from __future__ import annotations

import os
from pathlib import Path

from assistant.errors import BadInput

TASKS = ("vqa",)


def run(
    task: str,
    model: str = "embedded",
    data: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "eval/results",
) -> Path:
    """Run one benchmark and return the path of its report.

    Raises:
        BadInput: Unknown task.
        DataError: Data missing or malformed.
    """
    if task not in TASKS:
        raise BadInput(f"unknown task {task!r}; allowed: {', '.join(TASKS)}")
    from eval import vqa

    return vqa.run(model, data, out)
