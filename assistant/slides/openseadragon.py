"""The viewer's script, OpenSeadragon (BSD-3-Clause): fetched once with npm, checked, kept in the user's cache.

Nothing of it is part of this project or loaded from another host by a browser. ``pathassist doctor --fix`` calls
:func:`install`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from assistant.errors import NotAvailable
from assistant.model.cache import FIX, atomic_folder, cache_root, locked

VERSION = "6.1.1"
#: As the registry states it for this version (``npm view openseadragon@6.1.1 dist.integrity``).
INTEGRITY = "sha512-g4iKe2q8B642SaBT3+x4ZF3/8b1TxPPydyjmtrOLgDrlYWMKd9ZXM+1Cb/xa9DVySkvs/7l6HR1nHKfD5F3Tsw=="
SCRIPT = "openseadragon.min.js"
_WANTED = {f"package/build/openseadragon/{SCRIPT}": SCRIPT, "package/LICENSE.txt": "LICENSE.txt"}
_MAX_FILE = 8 * 1024 * 1024
_TIMEOUT = 120


def script(cache_dir: Path | None = None) -> Path | None:
    """The script's path, None while it is not installed."""
    path = _folder(cache_dir) / SCRIPT
    return path if path.is_file() else None


def install(cache_dir: Path | None = None) -> Path:
    """Fetch the pinned package with ``npm pack``, check its SHA-512, and keep script and licence; returns the script.

    Raises:
        NotAvailable: npm is missing or cannot reach its registry, downloads are forbidden, or another package came.
    """
    if found := script(cache_dir):
        return found
    npm = shutil.which("npm")
    if os.environ.get("PATHASSIST_OFFLINE"):
        raise NotAvailable(f"the slide viewer needs OpenSeadragon and PATHASSIST_OFFLINE is set; unset it, then {FIX}")
    if npm is None:
        raise NotAvailable(
            f"the slide viewer needs OpenSeadragon {VERSION}, which npm fetches, and npm is not installed; install "
            f"Node.js, then {FIX}. Slides are shown as plain pictures until then"
        )
    folder = _folder(cache_dir)
    with locked(cache_root(cache_dir), folder.name):
        if found := script(cache_dir):
            return found
        with tempfile.TemporaryDirectory(prefix="pathassist-npm-") as place:
            archive = _pack(npm, Path(place))
            check(archive)
            with atomic_folder(folder) as partial:
                _unpack(archive, partial)
    return folder / SCRIPT


def check(archive: Path) -> None:
    """Compare a package with the pinned hash.

    Raises:
        NotAvailable: It is another file.
    """
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    found = "sha512-" + base64.b64encode(digest).decode()
    if found != INTEGRITY:
        raise NotAvailable(
            f"the package openseadragon {VERSION} that npm brought has {found[:23]}…, not {INTEGRITY[:23]}…; "
            "it was not used: check the registry that npm is set to"
        )


def _pack(npm: str, place: Path) -> Path:
    command = [
        npm,
        "pack",
        f"openseadragon@{VERSION}",
        "--silent",
        "--ignore-scripts",
        "--pack-destination",
        str(place),
    ]
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotAvailable(
            f"npm could not fetch openseadragon {VERSION}: {error}; check the network, then {FIX}"
        ) from error
    found = sorted(place.glob("*.tgz"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if "npm error" in line] or ["no package came"]
        raise NotAvailable(
            f"npm could not fetch openseadragon {VERSION}: {lines[0][:160]}; check the network, then {FIX}"
        )
    return found[0]


def _unpack(archive: Path, folder: Path) -> None:
    """Only the files wanted, under names of our own."""
    with tarfile.open(archive, "r:gz") as package:
        for member, name in _WANTED.items():
            entry = package.getmember(member)
            source = package.extractfile(entry)
            if source is None or entry.size > _MAX_FILE:
                raise NotAvailable(f"the package openseadragon {VERSION} holds no proper {name}; it was not used")
            (folder / name).write_bytes(source.read(_MAX_FILE))


def _folder(cache_dir: Path | None) -> Path:
    return cache_root(cache_dir) / "viewer" / f"openseadragon-{VERSION}"
