"""open_clip vision transformers as Hugging Face ``CLIPVisionModel``, exactly.

An open_clip ViT and a ``CLIPVisionModel`` are the same network under other names, except that open_clip keeps query,
key and value in one matrix. What has no counterpart (no ``ln_pre``, attentional pooling, layer scale, custom attention,
timm towers, ResNets) is refused by name, since dropping it would degrade answers without any sign.

Accepted sources: a folder in the hub's layout (``open_clip_config.json`` beside ``open_clip_model.safetensors`` or
``open_clip_pytorch_model.bin``), or one checkpoint file together with the name of an open_clip architecture.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assistant.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    import torch
    from transformers import CLIPVisionModel

CONFIG_NAME = "open_clip_config.json"
WEIGHT_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")

_REFUSED = {
    "trunk.": "it is a timm tower; wrap it with assistant.model.towers.TimmTower",
    "layer1.": "it is a ResNet; only vision transformers convert",
    "attn_pool": "it uses attentional pooling",
    ".ls_1.": "it uses layer scale (ls_init_value)",
}
_RENAMED = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.": "pre_layrnorm.",
    "ln_post.": "post_layernorm.",
}
_RENAMED_IN_BLOCK = {
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
}


@dataclass(frozen=True)
class Preprocess:
    """How images were prepared in training; the defaults are OpenAI CLIP's, as in open_clip.

    Attributes:
        image_size: Side of the square input in pixels.
        mean: Per channel, of values 0…1.
        std: Per channel.
        crop: True resizes the shorter side and crops the centre; False squashes to the square.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
    """

    image_size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    crop: bool = True
    interpolation: str = "bicubic"


def load_open_clip_vision(
    source: Path, architecture: str | None = None, *, quick_gelu: bool | None = None
) -> tuple[CLIPVisionModel, Preprocess]:
    """Read and convert the vision tower of an open_clip checkpoint.

    Args:
        source: Folder in the hub's layout, or a ``.safetensors``, ``.bin``, ``.pt`` or ``.pth`` file.
        architecture: open_clip name such as ``"ViT-B-16"``; needed where no ``open_clip_config.json`` says it.
        quick_gelu: Overrides the configuration; OpenAI's own weights and their fine-tunings need True.

    Raises:
        NotAvailable: A file is missing.
        BadInput: Unknown architecture, unreadable file, or a network that has no exact counterpart.
    """
    folder = source if source.is_dir() else source.parent
    config: dict[str, Any] = {}
    if architecture is None:
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise NotAvailable(f"no {CONFIG_NAME} in {folder}; name the architecture, for example ViT-B-16")
        config = json.loads(path.read_text(encoding="utf-8"))
        model_cfg = config.get("model_cfg", config)
    else:
        model_cfg = _known_architecture(architecture)
    if quick_gelu is not None:
        model_cfg = {**model_cfg, "quick_gelu": quick_gelu}
    model = clip_vision_from_open_clip(read_state(_weights_file(source)), model_cfg)
    size: Any = model.config.image_size
    return model, _preprocess(config.get("preprocess_cfg", {}), size)


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint file; pickles are read with ``weights_only=True``, so no code in them runs.

    Training checkpoints of open_clip (``{"state_dict": …}`` with keys under ``module.``) are unwrapped.

    Raises:
        BadInput: The file is damaged, a TorchScript archive, or holds more than tensors.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise BadInput(
            f"{path} cannot be read as plain tensors ({type(error).__name__}); TorchScript archives and pickles with "
            "code are refused, so save its state dict as .safetensors first"
        ) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise BadInput(f"{path} holds no state dict; expected named tensors, or {{'state_dict': …}} as open_clip saves")
    return {key.removeprefix("module."): value for key, value in state.items()}


def clip_vision_from_open_clip(
    source: torch.nn.Module | Mapping[str, torch.Tensor], model_cfg: Mapping[str, Any]
) -> CLIPVisionModel:
    """Convert an open_clip model, its vision tower, or the state dict of either.

    Args:
        source: Keys may start with ``visual.`` (a whole model); the text tower is ignored.
        model_cfg: open_clip's model configuration, with ``vision_cfg`` and optionally ``quick_gelu``.

    Returns:
        The tower in evaluation mode, in the source's dtype. ``pooler_output`` is open_clip's feature before its
        projection; hidden states are equal layer by layer.

    Raises:
        BadInput: The tower has parts that ``CLIPVisionModel`` lacks, or the configuration does not fit the weights.
    """
    from torch import nn
    from transformers import CLIPVisionModel
    from transformers.initialization import no_init_weights

    state = dict(source) if isinstance(source, Mapping) else source.state_dict()
    if any(key.startswith("visual.") for key in state):
        state = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    _refuse(state, model_cfg.get("vision_cfg", {}))
    converted = _rename(state)
    config = _config(state, model_cfg)
    with no_init_weights():
        model: CLIPVisionModel = CLIPVisionModel(config).eval()
    nn.Module.to(model, state["conv1.weight"].dtype)
    try:
        model.load_state_dict(converted)
    except RuntimeError as error:
        mismatch = " ".join(str(error).split())
        raise BadInput(f"the open_clip configuration does not fit the weights: {mismatch}") from error
    return model


def _refuse(state: Mapping[str, torch.Tensor], vision_cfg: Mapping[str, Any]) -> None:
    reasons = [reason for part, reason in _REFUSED.items() if any(part in f".{key}" for key in state)]
    if not reasons and "conv1.weight" not in state:
        reasons.append("it has no conv1.weight, so it is no open_clip vision transformer")
    if not reasons and "ln_pre.weight" not in state:
        reasons.append("it has no LayerNorm in front of the transformer (no_ln_pre)")
    if vision_cfg.get("pool_type", "tok") != "tok":
        reasons.append(f"it pools by {vision_cfg['pool_type']!r} instead of the class token (pool_type)")
    if reasons:
        raise BadInput(f"this open_clip tower cannot become a CLIPVisionModel: {'; '.join(reasons)}")


def _rename(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Hugging Face names; ``attn.in_proj`` is split into query, key and value."""
    converted: dict[str, torch.Tensor] = {}
    unknown = []
    for key, value in state.items():
        if key == "proj":  # CLIP's projection to the joint space, no part of CLIPVisionModel
            continue
        if key.startswith("transformer.resblocks."):
            number, _, rest = key.removeprefix("transformer.resblocks.").partition(".")
            prefix = f"encoder.layers.{number}."
            if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
                kind = rest.rpartition("_")[2]
                for name, piece in zip("qkv", value.chunk(3), strict=True):
                    converted[f"{prefix}self_attn.{name}_proj.{kind}"] = piece
                continue
            table = _RENAMED_IN_BLOCK
        else:
            rest, prefix, table = key, "", _RENAMED
        for old, new in table.items():
            if rest.startswith(old):
                converted[prefix + new + rest.removeprefix(old)] = value
                break
        else:
            unknown.append(key)
    if unknown:
        raise BadInput(
            "this open_clip tower cannot become a CLIPVisionModel: "
            f"it has parts without a counterpart, such as {', '.join(sorted(unknown)[:3])}"
        )
    return converted


def _config(state: Mapping[str, torch.Tensor], model_cfg: Mapping[str, Any]) -> Any:
    """Sizes come from the weights; what weights do not show (heads, activation, epsilon) from the configuration."""
    from transformers import CLIPVisionConfig

    vision = model_cfg.get("vision_cfg", {})
    width, _, patch, _ = state["conv1.weight"].shape
    positions = len(state["positional_embedding"])
    grid = math.isqrt(positions - 1)
    if grid * grid + 1 != positions:
        raise BadInput(f"the tower has {positions} positions; only square images are supported")
    head_width = int(vision.get("head_width", 64))
    if width % head_width:
        raise BadInput(f"head_width {head_width} does not divide the width {width} of the weights; check vision_cfg")
    approximate = (vision.get("act_kwargs") or {}).get("approximate", "none")
    act = "quick_gelu" if model_cfg.get("quick_gelu") else {"none": "gelu", "tanh": "gelu_pytorch_tanh"}[approximate]
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}),
        num_attention_heads=width // head_width,
        image_size=grid * patch,
        patch_size=patch,
        hidden_act=act,
        layer_norm_eps=float((vision.get("norm_kwargs") or {}).get("eps", 1e-5)),
        projection_dim=int(model_cfg.get("embed_dim", 512)),
    )


def _preprocess(cfg: Mapping[str, Any], image_size: int) -> Preprocess:
    default = Preprocess()
    mode = cfg.get("resize_mode") or "shortest"
    interpolation = cfg.get("interpolation") or "bicubic"
    if interpolation == "random":  # an augmentation; open_clip itself takes bicubic outside training
        interpolation = "bicubic"
    if mode not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise BadInput(
            f"preprocess_cfg asks for resize_mode {mode!r}, interpolation {interpolation!r}; "
            "allowed: shortest or squash, bicubic or bilinear"
        )
    return Preprocess(
        image_size=image_size,
        mean=tuple(cfg.get("mean", default.mean)),
        std=tuple(cfg.get("std", default.std)),
        crop=mode == "shortest",
        interpolation=interpolation,
    )


def _known_architecture(name: str) -> dict[str, Any]:
    import open_clip

    found = open_clip.get_model_config(name)
    if found is None:
        raise BadInput(f"open_clip knows no architecture {name!r}; ViT-B-16 and ViT-B-32 are typical")
    return dict(found)


def _weights_file(source: Path) -> Path:
    """The checkpoint itself, the hub's own name in a folder, or the only checkpoint there."""
    if not source.is_dir():
        if not source.is_file():
            raise NotAvailable(f"no checkpoint at {source}; fetch it first or correct the path")
        return source
    for name in WEIGHT_NAMES:
        if (source / name).is_file():
            return source / name
    others = [path for path in sorted(source.iterdir()) if path.suffix in (".safetensors", ".bin", ".pt", ".pth")]
    if len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise NotAvailable(f"expected {WEIGHT_NAMES[0]} or exactly one checkpoint in {source}; found {found}")
    return others[0]
