"""From a preset to a model that can answer: parts → one Hugging Face folder in the cache → ``from_pretrained``.

The embedded preset is put together once from the dequantised language model, the shipped tower, connector and LoRA
adapter (merged into the copy, since an adapter costs time at every token), and then loaded like any LLaVA.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import NotAvailable

if TYPE_CHECKING:
    import torch

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"
#: Changing how parts are put together changes this, so that stale assembled copies are not used.
ASSEMBLY = 1


def tower_from_state(state: dict[str, torch.Tensor], architecture: str = "tf_efficientnet_lite0", **config: Any) -> Any:
    """A :class:`~assistant.model.towers.TimmTower` in float32 holding timm weights (no classifier)."""
    from assistant.model.towers import TimmTower, TimmTowerConfig

    tower = TimmTower(TimmTowerConfig(architecture=architecture, **config))
    tower.backbone.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return tower.eval()


def embedded_base(tower_file: Path, language_dir: Path) -> tuple[Any, Any]:
    """Tower and language model joined by a fresh ``mlp`` connector: what training starts from.

    Returns:
        (LLaVA model, processor), float32.
    """
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from assistant.model.build import build_llava

    language = AutoModelForCausalLM.from_pretrained(language_dir)
    tokenizer = AutoTokenizer.from_pretrained(language_dir)
    return build_llava(tower_from_state(load_file(tower_file)), language, tokenizer, connector="mlp")


def embedded_folder(language_dir: Path, weights: Path, cache: Path) -> Path:
    """The assembled embedded model, built on first use and then reused.

    Args:
        language_dir: Dequantised language model.
        weights: Folder with ``tower.safetensors``, ``connector.safetensors`` and ``adapter/``.
        cache: Cache root.

    Raises:
        NotAvailable: A shipped file is missing.
    """
    from assistant.model.cache import atomic_folder, explained, locked

    final = cache / "assembled" / f"{weights.name}-{weights_hash(weights)}-{ASSEMBLY}"
    with explained(cache):
        if final.is_dir():
            return final
        with locked(cache, final.name):
            if not final.is_dir():
                model, processor = trained_llava(language_dir, weights)
                with atomic_folder(final) as folder:
                    model.save_pretrained(folder)
                    processor.save_pretrained(folder)
    return final


def trained_llava(language_dir: Path, weights: Path, *, merge: bool = True) -> tuple[Any, Any]:
    """The embedded model with trained connector and adapter; ``merge=False`` keeps the PEFT wrapper."""
    from peft import PeftModel
    from safetensors.torch import load_file

    model, processor = embedded_base(weights / "tower.safetensors", language_dir)
    connector = {k: v.float() for k, v in load_file(weights / "connector.safetensors").items()}
    model.model.multi_modal_projector.load_state_dict(connector)
    wrapped = PeftModel.from_pretrained(model, str(weights / "adapter"))
    return (wrapped.merge_and_unload() if merge else wrapped), processor


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
