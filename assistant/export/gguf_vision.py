"""Tower and connector as llama.cpp's ``mmproj`` file, for CLIP ViT towers with the connectors mlp and linear."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assistant.errors import BadInput
from assistant.export.gguf_language import close

if TYPE_CHECKING:
    from numpy.typing import NDArray

NO_MMPROJ = {
    "pathassist_timm": "its tower is a timm network and llama.cpp runs ViT towers only",
    "pathassist_tiled": "its scale-invariant connector has no counterpart in llama.cpp",
}
_BLOCK = {
    "layer_norm1": "ln1",
    "layer_norm2": "ln2",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_out",
    "mlp.fc1": "ffn_up",
    "mlp.fc2": "ffn_down",
}


def why_not(folder: Path) -> str:
    """Why a model has no mmproj file, as the end of a sentence; "" where it has one."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tower = str(config["vision_config"]["model_type"])
    if tower != "clip_vision_model":
        return NO_MMPROJ.get(tower, f"its tower is a {tower} and llama.cpp’s llava layout takes CLIP ViT towers")
    act = config["vision_config"].get("hidden_act", "quick_gelu")
    if act not in ("quick_gelu", "gelu"):
        return f"its tower’s activation is {act!r} and the layout has quick_gelu and gelu"
    if (config.get("vision_feature_layer"), config.get("vision_feature_select_strategy")) != (-2, "default"):
        return "it does not read the patches of the tower’s second-last layer, as the layout does"
    if config.get("projector_hidden_act") not in ("gelu", "linear"):
        return f"its connector’s activation is {config.get('projector_hidden_act')!r} and the layout has gelu"
    return ""


def write_mmproj(folder: Path, state: Mapping[str, NDArray[np.float32]], path: Path, *, half: bool = True) -> None:
    """Write tower and connector.

    llama.cpp leaves out the last layer of such a tower by itself, as LLaVA does. A linear connector is written as an
    exact two-layer one: gelu(x) - gelu(-x) = x.

    Args:
        folder: Assembled Hugging Face folder.
        state: Its tensors by name, float32.
        path: File to write.
        half: Matrices in 16 bits, else in 32.

    Raises:
        BadInput: See :func:`why_not`.
    """
    from gguf import GGUFWriter, LlamaFileType

    if reason := why_not(folder):
        raise BadInput(f"this model has no mmproj file: {reason}")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    vision = config["vision_config"]
    layers = int(vision["num_hidden_layers"])
    writer = GGUFWriter(path, "clip")
    writer.add_type("mmproj")
    writer.add_file_type(LlamaFileType.MOSTLY_F16 if half else LlamaFileType.ALL_F32)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("mlp")
    writer.add_vision_image_size(int(vision["image_size"]))
    writer.add_vision_patch_size(int(vision["patch_size"]))
    writer.add_vision_embedding_length(int(vision["hidden_size"]))
    writer.add_vision_feed_forward_length(int(vision["intermediate_size"]))
    writer.add_vision_head_count(int(vision["num_attention_heads"]))
    writer.add_vision_block_count(layers)
    writer.add_vision_projection_dim(int(config["text_config"]["hidden_size"]))
    writer.add_vision_attention_layernorm_eps(float(vision.get("layer_norm_eps", 1e-5)))
    writer.add_vision_use_gelu(vision.get("hidden_act", "quick_gelu") == "gelu")
    pixels = _image_processor(folder)
    writer.add_vision_image_mean([float(v) for v in pixels["image_mean"]])
    writer.add_vision_image_std([float(v) for v in pixels["image_std"]])
    for name, tensor in {**_tower(state), **_connector(state, config)}.items():
        # Convolutions, positions and vectors stay exact; llama.cpp's kernels expect the large matrices as given here.
        matrix = tensor.ndim == 2 and name.startswith(("v.blk", "mm.")) and half
        convolution = tensor.ndim == 4 and half
        writer.add_tensor(name, np.ascontiguousarray(tensor, np.float16 if matrix or convolution else np.float32))
    close(writer)


def _tower(state: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    prefix = next(k for k in state if k.endswith("embeddings.class_embedding")).removesuffix(
        "embeddings.class_embedding"
    )
    found = {
        "v.class_embd": state[f"{prefix}embeddings.class_embedding"],
        "v.patch_embd.weight": state[f"{prefix}embeddings.patch_embedding.weight"],
        "v.position_embd.weight": state[f"{prefix}embeddings.position_embedding.weight"],
        "v.pre_ln.weight": state[f"{prefix}pre_layrnorm.weight"],
        "v.pre_ln.bias": state[f"{prefix}pre_layrnorm.bias"],
    }
    block = re.compile(re.escape(prefix) + r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
    for key, tensor in state.items():
        if match := block.fullmatch(key):
            found[f"v.blk.{match[1]}.{_BLOCK[match[2]]}.{match[3]}"] = tensor
    return found


def _connector(state: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    prefix = "model.multi_modal_projector."
    first, bias = state[f"{prefix}linear_1.weight"], state[f"{prefix}linear_1.bias"]
    second, bias2 = state[f"{prefix}linear_2.weight"], state[f"{prefix}linear_2.bias"]
    if config["projector_hidden_act"] == "linear":
        first, bias = np.concatenate([first, -first]), np.concatenate([bias, -bias])
        second = np.concatenate([second, -second], axis=1)
    return {"mm.0.weight": first, "mm.0.bias": bias, "mm.2.weight": second, "mm.2.bias": bias2}


def _image_processor(folder: Path) -> dict[str, Any]:
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            found: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return dict(found.get("image_processor", found))
    raise BadInput(f"{folder} has no image processor")
