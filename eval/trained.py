"""Models by name, also ``trained:FOLDER``: what a run of stage ``instruct`` made, before anything is published.

Connector and adapter are the run's; tower (unless the recipe named one), language model and calibration are those of
the embedded preset, so that a comparison with it is about the training alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from assistant.errors import NotAvailable
from eval.models import Model, PresetModel, load_model

SCHEME = "trained:"
_FILES = ("connector.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors")


def load_any(name: str, source: str = "wheels") -> Model:
    """As :func:`eval.models.load_model`, and ``trained:FOLDER``.

    Raises:
        BadInput: Malformed name or unknown preset. NotAvailable: Weights or packages are missing.
    """
    if name.startswith(SCHEME):
        return PresetModel(trained(Path(name.removeprefix(SCHEME)), name))
    return load_model(name, source)


def trained(folder: Path, name: str) -> Any:
    """An assistant around the connector and adapter of a training run.

    Raises:
        NotAvailable: The folder lacks one of them, or they are of another preset.
    """
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise NotAvailable(
            f"{str(folder)!r} has no {missing[0]}: it is not the result of stage instruct; "
            "make one with: pathassist train instruct --recipe RECIPE --out FOLDER"
        )
    from assistant import Assistant
    from assistant.chat.calibration import Calibration
    from assistant.model.load import engine_for
    from assistant.model.parts import part_named
    from assistant.model.store import language_folder
    from assistant.model.vlm import WEIGHTS, trained_llava, weights_hash

    recipe = json.loads(text.read_text(encoding="utf-8")) if (text := folder / "recipe.json").is_file() else {}
    preset = recipe.get("preset", "embedded")
    if preset != "embedded":
        raise NotAvailable(f"{str(folder)!r} was trained for the preset {preset!r}; allowed here: embedded")
    shipped = WEIGHTS / preset
    tower = Path(recipe.get("tower") or shipped / "tower.safetensors")
    with tempfile.TemporaryDirectory(prefix="pathassist-trained-") as made:
        weights = Path(made)
        (weights / "tower.safetensors").symlink_to(tower.resolve())
        (weights / "connector.safetensors").symlink_to((folder / "connector.safetensors").resolve())
        (weights / "adapter").symlink_to((folder / "adapter").resolve())
        revision = f"{preset}-{weights_hash(weights)}-trained"
        model, processor = trained_llava(language_folder(part_named("smollm2-135m-instruct")), weights)
    model.eval()
    calibration = Calibration.read(shipped / "calibration.json")
    return Assistant(model, processor, engine_for(model), name=name, revision=revision, calibration=calibration)
