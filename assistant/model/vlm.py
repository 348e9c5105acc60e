"""From a preset to a model that can answer: parts → one Hugging Face folder in the cache → ``from_pretrained``.

The embedded preset is put together once from the dequantised language model, the shipped tower, connector and LoRA
adapter (merged into the copy, since an adapter costs time at every token), and then loaded like any LLaVA.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import NotAvailable
from assistant.model.cache import atomic_folder, explained, locked, sha256

if TYPE_CHECKING:
    from assistant.chat.calibration import Calibration
    from assistant.model.preset import Preset

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
#: Changing how parts are put together changes this, so that stale assembled copies are not used.
ASSEMBLY = 1


def embedded_folder(language_dir: Path, weights: Path, cache: Path) -> Path:
    """The assembled embedded model, built on first use and then reused.

    Args:
        language_dir: Dequantised language model.
        weights: Folder with ``tower.safetensors``, ``connector.safetensors`` and ``adapter/``.
        cache: Cache root.

    Raises:
        NotAvailable: A shipped file is missing.
    """
    name = f"{weights.name}-{weights_hash(weights)}-{ASSEMBLY}"
    return _assembled(cache, name, lambda: trained_llava(language_dir, weights))


def _assembled(cache: Path, name: str, build: Callable[[], tuple[Any, Any]]) -> Path:
    """The saved result of ``build``, kept in the cache under ``name``."""
    final = cache / "assembled" / name
    with explained(cache):
        if final.is_dir():
            return final
        with locked(cache, final.name):
            if not final.is_dir():
                model, processor = build()
                with atomic_folder(final) as folder:
                    model.save_pretrained(folder)
                    processor.save_pretrained(folder)
    return final


def hub_folder(preset: Preset, *, source: str, cache: Path, progress: bool = True) -> Path:
    """A preset made of hub parts and of the connector (and adapter) that was trained for them, assembled once.

    Nobody publishes a connector in this format, so it is looked for in ``CACHE/weights/PRESET``, laid out like the
    shipped ``assistant/weights/embedded``.

    Raises:
        NotAvailable: No trained connector, or the parts are not on this machine and ``source`` is not ``"hub"``.
    """
    if preset.vision is None or preset.language is None:
        raise NotAvailable(f"the preset {preset.name} has no local parts; choose one with vision and language")
    weights = cache / "weights" / preset.name
    if not (weights / "connector.safetensors").is_file():
        raise NotAvailable(
            f"the preset {preset.name} has no trained connector in {weights}, and without one it cannot see: put "
            "connector.safetensors (and adapter/) there, or use the preset embedded, which is trained"
        )
    tower = preset.vision.source.local(source=source, progress=progress)
    language = preset.language.source.local(source=source, progress=progress)
    name = f"{preset.name}-{sha256(weights / 'connector.safetensors')[:12]}-{ASSEMBLY}"
    return _assembled(cache, name, lambda: _joined(preset, tower, language, weights))


def trained_llava(language_dir: Path, weights: Path, *, merge: bool = True, adapter: bool = True) -> tuple[Any, Any]:
    """The embedded model with trained connector and adapter.

    Args:
        merge: False keeps the PEFT wrapper.
        adapter: False leaves the adapter out, for measuring what it does.
    """
    from assistant.model.preset import load_preset

    preset = load_preset("embedded")
    return _joined(preset, weights / "tower.safetensors", language_dir, weights, merge=merge, adapter=adapter)


def _joined(
    preset: Preset, tower: Path, language: Path, weights: Path, *, merge: bool = True, adapter: bool = True
) -> tuple[Any, Any]:
    """Parts with the connector and, where there is one, the adapter of ``weights``."""
    from safetensors.torch import load_file

    from assistant.model.build import build_from_preset

    model, processor = build_from_preset(preset, tower, language)
    connector = {k: v.float() for k, v in load_file(weights / "connector.safetensors").items()}
    try:
        model.model.multi_modal_projector.load_state_dict(connector)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise NotAvailable(f"{weights / 'connector.safetensors'} does not fit {preset.name}: {reason}") from error
    if not adapter or not (weights / "adapter").is_dir():
        return model, processor
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(model, str(weights / "adapter"))
    return (wrapped.merge_and_unload() if merge else wrapped), processor


def write_sums(weights: Path) -> None:
    """Write ``SHA256SUMS`` over every shipped file of ``weights``; ``pathassist doctor`` compares with it."""
    files = sorted(p for p in weights.rglob("*") if p.is_file() and p.suffix != ".md" and p.name != "SHA256SUMS")
    lines = [f"{sha256(path)}  {path.relative_to(weights).as_posix()}" for path in files]
    temporary = weights / "SHA256SUMS.tmp"
    temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    temporary.replace(weights / "SHA256SUMS")


def write_calibration(weights: Path, calibration: Calibration) -> None:
    """Ship a fitted calibration with ``weights``."""
    temporary = weights / "calibration.tmp"
    temporary.write_text(json.dumps(calibration.as_dict(), indent=1) + "\n", encoding="utf-8")
    temporary.replace(weights / "calibration.json")
    write_sums(weights)


def weights_hash(weights: Path) -> str:
    """Short SHA-256 over the shipped files that make the model.

    Raises:
        NotAvailable: A file is missing.
    """
    digest = hashlib.sha256()
    for name in ("tower.safetensors", "connector.safetensors", "adapter/adapter_config.json",
                 "adapter/adapter_model.safetensors"):  # fmt: skip
        path = weights / name
        if not path.is_file():
            raise NotAvailable(
                f"the trained weights lack {name} in {weights}; restore it with `git checkout -- assistant/weights`, "
                "or train it with `make train`"
            )
        digest.update(name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
