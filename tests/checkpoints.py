"""Tiny checkpoints in the hub's own file formats, as the presets' repositories have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

LLAMA3_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def write_vicuna(folder: Path) -> Path:
    """Llama-2 style: byte-fallback BPE on "▁", no chat template, weights as sharded pickles, sampling by default."""
    from transformers import LlamaConfig, LlamaForCausalLM

    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(words[:3])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _json(folder / "special_tokens_map.json", specials)
    _json(
        folder / "tokenizer_config.json",
        {**specials, "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False},
    )
    config = LlamaConfig(vocab_size=len(words), bos_token_id=1, eos_token_id=2, pad_token_id=0, **TINY)
    config.architectures = ["LlamaForCausalLM"]
    config.dtype = "float16"
    config.save_pretrained(folder)
    _json(
        folder / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.9, "top_p": 0.6},
    )
    state = {k: v.half() for k, v in LlamaForCausalLM(config).state_dict().items()}
    shards = [dict(list(state.items())[:9]), dict(list(state.items())[9:])]
    weight_map = {}
    for i, shard in enumerate(shards, 1):
        name = f"pytorch_model-{i:05d}-of-{len(shards):05d}.bin"
        torch.save(shard, folder / name)
        weight_map |= dict.fromkeys(shard, name)
    _json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


def write_llama3(folder: Path) -> Path:
    """Llama-3-Instruct style: byte-level BPE, no pad token, two end tokens, every embedding row in use."""
    from transformers import LlamaConfig, LlamaForCausalLM

    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer, size = _byte_level(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", size - len(specials))]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|begin_of_text|>",
            "eos_token": "<|eot_id|>",
            "chat_template": LLAMA3_TEMPLATE,
        },
    )
    config = LlamaConfig(vocab_size=size, bos_token_id=size - 5, eos_token_id=size - 4, dtype="bfloat16", **TINY)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="30KB")
    _json(
        folder / "generation_config.json",
        {"bos_token_id": size - 5, "eos_token_id": [size - 4, size - 1], "do_sample": True, "temperature": 0.6},
    )
    return folder


def write_qwen2(folder: Path) -> Path:
    """Qwen2.5-Instruct style: ChatML, no beginning-of-text token, spare embedding rows."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer, size = _byte_level(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    written = json.loads(tokenizer.to_str())["model"]
    _json(folder / "vocab.json", written["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    _json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "Qwen2Tokenizer",
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "chat_template": QWEN2_TEMPLATE,
        },
    )
    config = Qwen2Config(vocab_size=size + 21, bos_token_id=size - 3, eos_token_id=size - 1, dtype="bfloat16", **TINY)
    Qwen2ForCausalLM(config).bfloat16().save_pretrained(folder)
    _json(
        folder / "generation_config.json",
        {"bos_token_id": size - 3, "eos_token_id": [size - 1, size - 3], "pad_token_id": size - 3, "do_sample": True},
    )
    return folder


def tiny_vit_config(**vision: Any) -> dict[str, Any]:
    """open_clip configuration of a ViT with 16 patches of 8 pixels; ``quick_gelu`` goes beside ``vision_cfg``."""
    quick_gelu = vision.pop("quick_gelu", None)
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8, "mlp_ratio": 2.0, **vision
        },
        "text_cfg": {"context_length": 8, "vocab_size": 32, "width": 16, "heads": 2, "layers": 1},
    }  # fmt: skip
    return config if quick_gelu is None else {**config, "quick_gelu": quick_gelu}


def tiny_vit(config: dict[str, Any]) -> Any:
    """An open_clip model with random weights; norms and biases too, so that a swapped pair shows."""
    import open_clip

    model = open_clip.CLIP(**config).eval()
    with torch.no_grad():
        for parameter in model.visual.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def write_open_clip(folder: Path, config: dict[str, Any], model: Any, *, safetensors: bool = True) -> Path:
    """``open_clip_config.json`` and weights, written as ``open_clip.push_to_hf_hub`` does."""
    from open_clip.push_to_hf_hub import save_config_for_hf
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model.visual.image_mean, model.visual.image_std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=config)
    if safetensors:
        save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    else:
        torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return folder


def realigned(model: Any) -> Any:
    """Move weights to fresh memory: loaded ones lie as in the file, and unaligned they take other, equally good, CPU
    kernels, which round differently in the last digit."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _byte_level(specials: list[str]) -> tuple[Tokenizer, int]:
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(specials)
    return tokenizer, len(words) + len(specials)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
