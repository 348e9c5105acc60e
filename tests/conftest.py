"""Shared fixtures: a tiny real LLaVA behind a real Assistant, and the data root where it is present."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# The same examples in every run: what a change passed, the next run of it passes too. To look for new ones, run
# `pytest --hypothesis-profile=default`.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

DATA = Path(os.environ.get("PATHASSIST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip ``data`` tests, with the reason, where there is no data."""
    if DATA.is_dir():
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=f"no data at {DATA}; set PATHASSIST_DATA"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    return DATA


@pytest.fixture
def field() -> Image.Image:
    """A pink-and-purple textured image: not tissue, but not blank either."""
    generator = np.random.default_rng(0)
    pixels = generator.normal((200, 140, 190), (30, 40, 25), (200, 240, 3)).clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def tiny_tokenizer() -> Any:
    """Byte-level tokenizer with ChatML tokens, made in memory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    vocab |= {c: i + 3 for i, c in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )


def make_tiny_llava(seed: int = 0) -> tuple[Any, Any]:
    """A LLaVA of about 0.4 M parameters with random weights: timm tower, mlp connector, two-layer Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from assistant.model.build import build_llava
    from assistant.model.towers import TimmTower, TimmTowerConfig

    torch.manual_seed(seed)
    tower = TimmTower(TimmTowerConfig(architecture="test_efficientnet", hidden_size=256, image_size=64, patch_size=32))
    tokenizer = tiny_tokenizer()
    language = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            initializer_range=0.2,  # logits wide enough to learn something with the head frozen
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=2,
        )
    )
    model, processor = build_llava(tower.eval(), language.eval(), tokenizer, connector="mlp")
    return model.eval(), processor


@pytest.fixture(scope="session")
def tiny_llava() -> tuple[Any, Any]:
    """Model and processor; tests must not change the weights."""
    return make_tiny_llava()


@pytest.fixture(scope="session")
def tiny_assistant(tiny_llava: tuple[Any, Any]) -> Any:
    """A real Assistant over the tiny LLaVA."""
    from assistant.assistant import Assistant
    from assistant.model.engine import make_engine

    model, processor = tiny_llava
    return Assistant(model, processor, make_engine(model), name="tiny", revision="test")
