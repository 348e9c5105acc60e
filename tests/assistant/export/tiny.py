"""Tiny LLaVAs with a CLIP ViT tower, as the ViT presets have them, saved as assembled folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image


def tokenizer_with_merges() -> Any:
    """A byte-level tokenizer with a few merges, since llama.cpp takes none without."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Wh", "at"]
    merges = [("W", "h"), ("a", "t")]
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )


def vit_llava(folder: Path, *, connector: str = "mlp", language: str = "llama", act: str = "quick_gelu") -> Any:
    """Model and processor with random weights, saved to ``folder``; images of 32 × 32 pixels are 16 tokens."""
    import torch
    from transformers import (
        CLIPVisionConfig,
        CLIPVisionModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    from assistant.model.build import build_llava

    torch.manual_seed(0)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4, image_size=32,
            patch_size=8, hidden_act=act,
        )
    )  # fmt: skip
    with torch.no_grad():
        for parameter in tower.parameters():  # the library's own draw is so even that all images look alike
            parameter.add_(0.2 * torch.randn_like(parameter))
    tokenizer = tokenizer_with_merges()
    kinds: Any = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config, model = kinds[language]
    causal = model(
        config(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.2,
            tie_word_embeddings=language == "llama", bos_token_id=1, eos_token_id=2, pad_token_id=2,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in causal.named_parameters():
            if name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    made, processor = build_llava(tower.eval(), causal.eval(), tokenizer, connector=connector)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in made.model.multi_modal_projector.named_parameters():
            if connector == "mlp" or "linear_1" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    made.save_pretrained(folder)
    processor.save_pretrained(folder)
    return made, processor


def picture(seed: int) -> Image.Image:
    """An image of the tower's own size, so that no resampling differs between programs."""
    import numpy as np

    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)


def hf_tokens(model: Any, processor: Any, prompt: str, image: Image.Image | None, count: int) -> list[int]:
    """Greedy tokens of transformers, over the same words as :func:`unprintable` leaves to llama.cpp."""
    import torch

    model.generation_config.suppress_tokens = unprintable(processor.tokenizer) or None
    inputs = processor(text=prompt, images=[image] if image else None, return_tensors="pt", add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return list(out[0, inputs["input_ids"].shape[1] :].tolist())


def unprintable(tokenizer: Any) -> list[int]:
    """Tokens of the tiny tokenizer that are not plain signs: llama.cpp tells nothing of tokens without whole text."""
    if len(tokenizer) > 1000:  # a real one; its words are whole
        return []
    return [i for i in range(len(tokenizer)) if not (w := tokenizer.decode([i])).isascii() or not w.isprintable()
            or i in tokenizer.all_special_ids]  # fmt: skip


def llama_server(model: Path, mmproj: Path | None = None) -> Any:
    """llama.cpp in this process."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(model)
    if mmproj:
        settings.mmproj.path = str(mmproj)
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.n_ctx, settings.n_parallel, settings.verbosity, settings.warmup = 512, 1, 0, False
    settings.use_jinja = True
    return xllamacpp.Server(settings)
