"""The cache folder on disk: where it is, and how files and folders get into it whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assistant.errors import NotAvailable

#: The command that repairs most of what can be wrong with the cache; ends an error message.
FIX = "run `pathassist doctor --fix`"
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def cache_root(explicit: str | os.PathLike[str] | None = None) -> Path:
    """The cache folder: the argument, else ``PATHASSIST_CACHE``, else the user cache. It need not exist."""
    import platformdirs

    chosen = explicit or os.environ.get("PATHASSIST_CACHE")
    return Path(chosen).expanduser().absolute() if chosen else Path(platformdirs.user_cache_dir("pathassist"))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """A new folder to fill, renamed to ``final`` when the block ends well and removed when it does not.

    Every file is on the disk before the rename, so a folder that exists is complete even after a power cut. For one
    writer at a time, see :func:`locked`; what a killed writer left behind is removed first.
    """
    partial = final.with_name(f".{final.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        mode = partial.stat().st_mode & 0o666  # some writers make files private; a shared cache follows the umask
        for path in partial.rglob("*"):
            if path.is_file():
                path.chmod(mode)
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def locked(root: Path, name: str) -> Iterator[None]:
    """Hold the cache's lock ``name``; a process that has to wait says so once. The lock dies with its process."""
    import filelock

    folder = root / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        print(f"waiting for another process that is preparing {name}", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def explained(root: Path) -> Iterator[None]:
    """Turn an error of the file system into one line with a remedy (:class:`NotAvailable`)."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # raised by a library for reasons of its own
            raise
        elsewhere = "or set PATHASSIST_CACHE to another folder"
        if error.errno in _NO_ROOM:
            raise NotAvailable(
                f"no room in the cache {root} ({error.strerror}); free about 2 GB there {elsewhere}, then {FIX}"
            ) from error
        raise NotAvailable(
            f"cannot use the cache {root} ({error.strerror}); make it readable and writable {elsewhere}"
        ) from error
