"""The language model of an assembled LLaVA as a GGUF file, with the tokenizer that llama.cpp needs.

llama.cpp knows tokenizers by name, so the name is read off the tokenizer itself; one that fits no name is refused
rather than written wrongly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assistant.errors import BadInput, NotAvailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from assistant.export.gguf_files import Kind

#: Model type of transformers → llama.cpp's architecture.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
_NORMAL, _UNKNOWN, _CONTROL, _USER, _BYTE = 1, 2, 3, 4, 6


def write_language(folder: Path, state: Mapping[str, NDArray[np.float32]], path: Path, kind: Kind, name: str) -> None:
    """Write the language model.

    Args:
        folder: Assembled Hugging Face folder.
        state: Its tensors by name, float32.
        path: File to write.
        kind: Format of the matrices.
        name: Shown by programs that load the file.

    Raises:
        BadInput: An architecture, tokenizer or rope scaling that this export does not know.
    """
    from gguf import MODEL_ARCH, GGUFWriter
    from gguf.tensor_mapping import get_tensor_name_map

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))["text_config"]
    architecture = _architecture(config)
    layers = int(config["num_hidden_layers"])
    names = get_tensor_name_map(MODEL_ARCH[architecture.upper()], layers)
    writer = GGUFWriter(path, architecture)
    _hyperparameters(writer, config, name, kind)
    _tokenizer(writer, folder, rows=state["model.language_model.embed_tokens.weight"].shape[0])
    for key, tensor in _tensors(state, config, architecture):
        target = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise BadInput(f"the tensor {key} has no place in a GGUF file of the architecture {architecture}")
        add_tensor(writer, target, tensor, kind)
    close(writer)


def add_tensor(writer: Any, name: str, tensor: NDArray[np.float32], kind: Kind) -> None:
    """Matrices in the wanted format (16 bits where 8 do not fit), vectors in full."""
    from gguf import GGMLQuantizationType, quants

    if tensor.ndim < 2:
        writer.add_tensor(name, tensor.astype(np.float32))
    elif kind == "q8_0" and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
        packed = quants.quantize(np.ascontiguousarray(tensor, np.float32), GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    elif kind == "f32":
        writer.add_tensor(name, tensor.astype(np.float32))
    else:
        writer.add_tensor(name, tensor.astype(np.float16))


def close(writer: Any) -> None:
    """Write everything out."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _architecture(config: Mapping[str, Any]) -> str:
    kind = str(config["model_type"])
    if kind not in ARCHITECTURES:
        allowed = ", ".join(ARCHITECTURES)
        raise BadInput(f"the language model is a {kind}; `pathassist export gguf` writes: {allowed}")
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default" or config.get("attention_bias") or config.get("mlp_bias"):
        raise BadInput(
            f"this {kind} has rope scaling {rope.get('rope_type')!r} or biases that the export does not write; "
            "use `pathassist export hf` and llama.cpp's own converter"
        )
    return ARCHITECTURES[kind]


def _hyperparameters(writer: Any, config: Mapping[str, Any], name: str, kind: Kind) -> None:
    from gguf import LlamaFileType

    heads = int(config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(int(config["hidden_size"]))
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config["num_key_value_heads"]))
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(float((config.get("rope_parameters") or {}).get("rope_theta", 10000.0)))
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(int(config["vocab_size"]))
    types = {
        "f32": LlamaFileType.ALL_F32,
        "f16": LlamaFileType.MOSTLY_F16,
        "q8_0": LlamaFileType.MOSTLY_Q8_0,
    }
    writer.add_file_type(types[kind])


def _tensors(
    state: Mapping[str, NDArray[np.float32]], config: Mapping[str, Any], architecture: str
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The language model's tensors under transformers' usual names; llama.cpp's llama pairs rotary channels its way."""
    heads, kv = int(config["num_attention_heads"]), int(config["num_key_value_heads"])
    for key, tensor in state.items():
        if key.startswith("model.language_model."):
            plain = "model." + key.removeprefix("model.language_model.")
            if architecture == "llama" and plain.endswith(("q_proj.weight", "k_proj.weight")):
                tensor = _paired(tensor, heads if "q_proj" in plain else kv)
            yield plain, tensor
        elif key == "lm_head.weight" and not config.get("tie_word_embeddings"):
            yield key, tensor


def _paired(tensor: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """From halves [a…, b…] of each head to pairs [a, b, a, b …]."""
    rows, columns = tensor.shape
    return tensor.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(writer: Any, folder: Path, rows: int) -> None:
    from assistant.model.build import load_processor

    tokenizer: Any = load_processor(folder).tokenizer
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    model = described["model"]
    if model["type"] != "BPE":
        raise BadInput(f"the tokenizer is a {model['type']}; `pathassist export gguf` writes BPE tokenizers")
    merges = [m.split(" ", 1) if isinstance(m, str) else list(m) for m in model["merges"]]
    if not merges:
        raise BadInput("the tokenizer has no merges and llama.cpp does not read such a one; use `pathassist export hf`")
    special = {t["id"]: t for t in described["added_tokens"]}
    words: list[str] = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    types = [(_CONTROL if special[i]["special"] else _USER) if i in special else _NORMAL for i in range(len(words))]
    spare = rows - len(words)  # rows of the embedding that no word uses
    words += [f"[PAD{i}]" for i in range(spare)]
    types += [5] * spare  # unused
    if model.get("byte_fallback"):
        types = [_BYTE if re.fullmatch("<0x[0-9A-F]{2}>", w) else t for w, t in zip(words, types, strict=True)]
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(words)
        ranks = {"".join(merge): -float(rank + 1) for rank, merge in reversed(list(enumerate(merges)))}
        writer.add_token_scores([ranks.get(word, 0.0) for word in words])
        writer.add_add_space_prefix("Prepend" in json.dumps(described.get("normalizer")))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(described))
        writer.add_token_list(words)
        writer.add_token_merges([" ".join(merge) for merge in merges])
        writer.add_add_space_prefix(False)
    writer.add_token_types(types)
    _special_tokens(writer, tokenizer)
    writer.add_chat_template(chat_template(tokenizer.chat_template))


def _special_tokens(writer: Any, tokenizer: Any) -> None:
    for add, value in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):
        if value is not None:
            add(int(value))
    encoded = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(encoded) and encoded[0] == tokenizer.bos_token_id)


def pre_tokenizer(described: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a byte-level tokenizer cuts text before merging.

    Raises:
        BadInput: None that is known.
    """
    found = described.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True) and not described.get("normalizer"):
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits"):
        return "smollm"
    pattern = str(next((s["pattern"].get("Regex", "") for s in steps if s.get("type") == "Split"), ""))
    if kinds == ["Split", "ByteLevel"] and pattern.startswith("(?i:'s|'t|'re|'ve|'m|'ll|'d)|"):
        if r"\p{N}{1,3}" in pattern:
            return "llama-bpe"
        if r"|\p{N}|" in pattern:
            return "qwen2"
    raise BadInput(
        f"the tokenizer cuts text by {kinds} in a way that has no name in llama.cpp; use `pathassist export hf` and "
        "llama.cpp's own converter"
    )


def chat_template(template: str) -> str:
    """The template for llama.cpp: no marks for training, and contents are plain text (images are marked there)."""
    text = re.sub(r"\{%- macro render.*?endmacro -%\}\n?", "", template, flags=re.DOTALL)
    text = text.replace("render(message['content'])", "message['content']")
    text = re.sub(r"\s*\{%-? (end)?generation -?%\}", "", re.sub(r"\{%-\s*(end)?generation\s*-%\}", "", text))
    if "render(" in text:
        raise NotAvailable("the chat template is none of ours and cannot be written; use `pathassist export hf`")
    return text
