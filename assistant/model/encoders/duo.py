"""Two towers, one space: the vector of pathclip-small, moved by what the untouched ImageNet tower sees.

Tuning a tower on few slides makes it forget some of what it could tell apart before (a metastasis in a lymph node is
seen better by the ImageNet tower than by ours). Here one linear map of the ImageNet tower's features is added to the
vector before it is brought to length 1; texts stay where they were, so the vectors lie in pathclip-small's space. Both
towers take the same pixels. Learned by ``training/clip/duo.py``.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from assistant.errors import NotAvailable
from assistant.model.cache import sha256
from assistant.model.encoders.pathclip import WEIGHTS, PathClipModel, central
from assistant.model.encoders.preset import EncoderPreset
from assistant.model.encoders.torch_encoder import TorchEncoder


class DuoModel(nn.Module):
    """pathclip-small and the ImageNet tower.

    Args:
        first: Makes the vector and embeds texts.
        second: timm network of F features; pixels as those of ``first``.

    Attributes:
        moved: Linear map [D, 2 F] with a bias; as made it moves nothing.
    """

    def __init__(self, first: PathClipModel, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.moved = nn.Linear(2 * int(cast(Any, second).num_features), first.config.dimension)
        nn.init.zeros_(self.moved.weight)
        nn.init.zeros_(self.moved.bias)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """What the ImageNet tower sees: the mean of its last map, then that of its central 3 × 3 cells, [B, 2 F]."""
        cells = cast(Any, self.second).forward_features(pixels).float()
        return torch.cat([cells.mean(dim=(-2, -1)), central(cells)], dim=-1)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Unit vectors [B, D] of pixels [B, 3, S, S] in -1…1."""
        return F.normalize(self.first.encode_image(pixels) + self.moved(self.features(pixels)), dim=-1)


def read_pathclip_duo(folder: Path, preset: EncoderPreset, first: TorchEncoder) -> TorchEncoder:
    """Our map from ``folder`` over ``first``, the encoder that it was learned for.

    Raises:
        NotAvailable: No weights, damaged ones, or they were learned for another ``first``.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / WEIGHTS
    again = "restore it: git checkout -- assistant/weights"
    if not path.is_file():
        raise NotAvailable(f"no {path.name} in {folder}; {again}, or train it: pathassist train duo")
    try:
        with safe_open(path, framework="pt") as opened:
            state = {name: opened.get_tensor(name).float() for name in ("moved.weight", "moved.bias")}
            learned_for = (opened.metadata() or {}).get("first", "")
    except SafetensorError as error:
        raise NotAvailable(f"{path} is damaged ({error}); {again}") from error
    if learned_for != first.id:
        raise NotAvailable(
            f"{path} was learned for {learned_for or 'an unknown encoder'}, here is {first.id}; "
            "learn it again: pathassist train duo"
        )
    model = joined(first)
    model.moved.load_state_dict({name.removeprefix("moved."): value for name, value in state.items()})
    pixels = dataclasses.replace(preset.image, size=first.pixels.size)
    info = dataclasses.replace(preset, image=pixels, dimension=first.info.dimension).info
    identity = f"{preset.name}-{sha256(path)[:12]}"
    return TorchEncoder(info, identity, model, pixels, model.encode_image, first.text, first.logit_scale)


def joined(first: TorchEncoder) -> DuoModel:
    """``first`` and the ImageNet tower, nothing learned yet."""
    from assistant.model.familiar import imagenet_tower

    second = imagenet_tower().to(memory_format=torch.channels_last)
    return DuoModel(cast(PathClipModel, first.model), second).eval()
