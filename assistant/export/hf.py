"""A preset as a Hugging Face folder that others load without this project, where its tower allows it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from assistant.export.card import check_target, write_card, write_sums
from assistant.model.cache import atomic_folder

if TYPE_CHECKING:
    from assistant.model.preset import Preset

#: Tower types that plain transformers knows.
PLAIN = ("clip_vision_model", "siglip_vision_model")
_LOAD = """```python
{first}from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
```
"""
NEEDS_US = (
    "The tower is a timm network, which plain transformers cannot build: with pathassist installed, "
    "`import assistant.model.towers` first; that registers the type `pathassist_timm`. No remote code is used."
)
SAME_PIXELS = (
    'The numbers were measured with `AutoImageProcessor.from_pretrained(FOLDER, backend="pil")`; the torchvision '
    "backend differs by a grey level."
)


def export_hf(folder: Path, preset: Preset, out: Path) -> Path:
    """Copy an assembled model, with card, calibration and checksums; ``out`` appears whole or not at all.

    Args:
        folder: From :func:`assistant.model.load.assembled_folder`.
        preset: What it was made from.
        out: A new or empty folder.

    Raises:
        BadInput: ``out`` holds something already.
    """
    check_target(out)
    plain = loads_plainly(folder)
    if out.is_dir():
        out.rmdir()
    with atomic_folder(out.absolute()) as partial:
        for path in sorted(folder.iterdir()):
            if path.is_file():
                shutil.copyfile(path, partial / path.name)
        _forget_paths(partial / "config.json")
        if preset.weights_folder and (preset.weights_folder / "calibration.json").is_file():
            shutil.copyfile(preset.weights_folder / "calibration.json", partial / "calibration.json")
        use = _LOAD.format(first="" if plain else "import assistant.model.towers  # registers the tower's type\n")
        notes = ["It is no source of medical facts; read the numbers before you trust an answer.", SAME_PIXELS]
        write_card(partial, preset, f"pathassist {preset.name}", use, notes if plain else [NEEDS_US, *notes])
        write_sums(partial)
    return out


def loads_plainly(folder: Path) -> bool:
    """Whether transformers alone can load the folder, with ``trust_remote_code=False``."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config["model_type"] == "llava" and config["vision_config"]["model_type"] in PLAIN


def _forget_paths(config_path: Path) -> None:
    """Where the parts lay on this machine is nobody's business."""
    config = json.loads(config_path.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("_name_or_path", "name_or_path"):
            if Path(str(part.get(key, ""))).is_absolute():
                del part[key]
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
