"""Files that are there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to, renamed to ``path`` when the block ends well and removed when it does not.

    The folder is made where it is missing. The name is that of ``path``, for writers that go by the ending, in a hidden
    folder beside it: what a killed writer leaves matches no pattern for finished files (pathlib's ``*`` matches hidden
    ones). The file may then be read by whoever may read its folder (safetensors writes files for their owner only).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".part-", dir=path.parent))
    try:
        partial = staging / path.name
        yield partial
        partial.chmod(path.parent.stat().st_mode & 0o666)
        partial.replace(path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """``text`` in UTF-8 as a file that is there whole or not at all."""
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
