"""Task name → benchmark: what ``pathassist eval`` calls."""

from __future__ import annotations

import argparse
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


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark module takes as ``python -m eval.NAME``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--data", help="data root (default: PATHASSIST_DATA or ../shared/data)")
    parser.add_argument("--out", default="eval/results")
    parser.add_argument("--fit", action="store_true", help="fit the calibration on val and ship it")
    return parser
