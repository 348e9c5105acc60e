"""What a number rests on: hashes of prompts and data, revision of the model and of the code, seed, versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from assistant.files import write_text
from eval.task import Item, Task

_PACKAGES = ("torch", "transformers", "numpy", "pandas", "pillow", "open_clip_torch")


def digest(parts: Iterable[str | bytes]) -> str:
    """First 16 hexadecimal digits of the SHA-256 of some parts, each with its length in front."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(f"{len(data)}:".encode() + data)
    return state.hexdigest()[:16]


def prompt_hash(task: Task, items: Iterable[Item]) -> str:
    """Hash of every prompt in order."""
    return digest(task.prompt(item) for item in items if not item.problem)


def data_hash(items: Iterable[Item]) -> str:
    """Hash of ids, answers, and the bytes of every image."""
    return digest(part for item in items for part in _item_parts(item))


def _item_parts(item: Item) -> Iterable[str | bytes]:
    yield item.id
    yield json.dumps(item.answer, sort_keys=True, default=str)
    yield item.image.read_bytes() if item.image is not None and item.image.is_file() else b""


def git_revision() -> str:
    """Commit of the code, with ``+`` when there are changes; ``unknown`` outside a repository."""
    folder = Path(__file__).resolve().parent
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.strip()  # noqa: S603

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that can change a number."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def write_json(path: Path, value: Any) -> None:
    """The file appears whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
