"""Every preset's loader on a tiny checkpoint in the true file format of its model, against that model's own code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from assistant.errors import BadInput, NotAvailable
from assistant.model.encoders import encoder_names, encoder_preset, load_encoder
from assistant.model.encoders.conch import TOKENIZER, tokenizer_path
from assistant.model.encoders.load import read_encoder, timm_network
from assistant.model.encoders.preset import EncoderPreset
from assistant.model.encoders.torch_encoder import GROUP, TorchEncoder
from tests.checkpoints import tiny_vit, tiny_vit_config, write_open_clip

TEXTS = ["a field of colon", "Adenocarcinoma, H&E", "lymph node"]


def shrunk(name: str, **changes: Any) -> EncoderPreset:
    """The preset with small numbers but the same names."""
    preset = encoder_preset(name)
    size = changes.pop("size", 32)
    return dataclasses.replace(preset, image=dataclasses.replace(preset.image, size=size), **changes)


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = [(32, 32), (50, 40), (20, 70)]
    return [Image.fromarray(generator.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]


def reference_pixels(preset: EncoderPreset) -> torch.Tensor:
    """By torchvision, as the models' own pages do it."""
    mode = transforms.InterpolationMode(preset.image.interpolation)
    transform = transforms.Compose([
        transforms.Resize(preset.image.size, mode),
        transforms.CenterCrop(preset.image.size),
        transforms.ToTensor(),
        transforms.Normalize(preset.image.mean, preset.image.std),
    ])  # fmt: skip
    return torch.stack([transform(image) for image in pictures()])


def agrees(encoder: TorchEncoder, image: torch.Tensor, text: torch.Tensor | None = None) -> None:
    """Vectors as the reference has them, of length 1."""
    vectors = encoder.embed_images(pictures())
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, encoder.info.dimension)
    assert np.abs(vectors - F.normalize(image.detach(), dim=-1).numpy()).max() < 1e-5
    if text is None:
        with pytest.raises(BadInput, match="embeds images only"):
            encoder.embed_texts(TEXTS)
    else:
        assert np.abs(encoder.embed_texts(TEXTS) - F.normalize(text.detach(), dim=-1).numpy()).max() < 1e-5


def test_every_card_reads_and_says_its_licence() -> None:
    names = encoder_names()
    assert names[0] == "pathclip-small"
    assert set(names) == {
        "pathclip-small", "pathclip-duo", "embedded-mllm", "pathclip", "plip", "quiltnet-b32", "conch", "uni", "uni2-h",
        "keep", "pluto",
    }  # fmt: skip
    for name in names:
        preset = encoder_preset(name)
        assert preset.name == name
        assert preset.licence
        assert preset.info.preprocessing.startswith(preset.image.resize)
        ours = preset.loader in ("pathclip_small", "pathclip_duo", "mllm", "closed")
        assert (preset.source is None) == ours
        assert bool(preset.weights) != ours
        free = ("pathclip-small", "pathclip-duo", "embedded-mllm", "quiltnet-b32")
        assert preset.research_only == (name not in free)


def test_unknown_closed_and_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BadInput, match="unknown encoder 'magic'; choose one of: pathclip-small, conch, embedded-mllm"):
        load_encoder("magic")
    with pytest.raises(BadInput, match="unknown weight source"):
        load_encoder("plip", source="ftp")
    with pytest.raises(NotAvailable, match="weights of pluto are not public"):
        load_encoder("pluto")
    with pytest.raises(NotAvailable, match=r"CC-BY-NC-ND-4.0.*--source hub"):
        load_encoder("uni")


def clip_config(**changes: Any) -> dict[str, Any]:
    config = tiny_vit_config()
    config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
    return {**config, **changes}


@pytest.mark.parametrize("name", ["pathclip", "quiltnet-b32"])
def test_open_clip(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    preset = shrunk(name, dimension=16)
    config = clip_config(**({"quick_gelu": True} if name == "pathclip" else {}))
    model = tiny_vit(config)
    folder = tmp_path / "model"
    if name == "pathclip":  # one training checkpoint, its keys under "module."
        folder.mkdir()
        state = {f"module.{key}": value.half() for key, value in model.state_dict().items()}
        torch.save({"epoch": 3, "name": "pathclip", "state_dict": state}, folder / "pathclip-base.pt")
        model.load_state_dict({key: value.half() for key, value in model.state_dict().items()})
        monkeypatch.setattr(open_clip, "get_model_config", {"ViT-B-16-quickgelu": config}.__getitem__)
    else:
        write_open_clip(folder, config, model, safetensors=False)
    encoder = read_encoder(folder, preset)
    tokens = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
    agrees(encoder, model.encode_image(reference_pixels(preset)), model.encode_text(tokens))
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-2)
    assert encoder.id.startswith(f"{name}-")
    assert encoder.too_long(["short", "word " * 10_000]) == [1]


def test_plip(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": 49408}, vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    model = CLIPModel(config).eval()
    config.architectures = ["CLIPModel"]
    config.save_pretrained(tmp_path)
    state = dict(model.state_dict())  # the published file also holds the position buffers of its day
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    torch.save(state, tmp_path / "pytorch_model.bin")
    preset = shrunk("plip", dimension=16)
    encoder = read_encoder(tmp_path, preset)
    tokens = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
    image = model.get_image_features(pixel_values=reference_pixels(preset)).pooler_output
    text = model.get_text_features(input_ids=tokens).pooler_output
    agrees(encoder, image, text)
    # Padding after the end-of-text token is never seen: only the position of the first end counts.
    assert torch.equal(tokens.argmax(-1), (tokens == 49407).int().argmax(-1))


SMALL_VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32}


@pytest.mark.parametrize("name", ["uni", "uni2-h"])
def test_uni(name: str, tmp_path: Path) -> None:
    args = {**encoder_preset(name).model_args, **SMALL_VIT, "patch_size": 8}
    preset = shrunk(name, dimension=32, model_args=args)
    torch.manual_seed(0)
    model = timm_network(preset).eval()
    keys = set(model.state_dict())
    assert {"cls_token", "pos_embed", "blocks.0.ls1.gamma", "blocks.1.attn.qkv.weight", "norm.weight"} <= keys
    assert ("reg_token" in keys) == (name == "uni2-h")
    if name == "uni2-h":  # packed gate and value, halved after: 32 × 5.33334 rows in, half of them out
        assert model.blocks[0].mlp.fc1.weight.shape[0] == 2 * model.blocks[0].mlp.fc2.weight.shape[1]
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    agrees(read_encoder(tmp_path, preset), model(reference_pixels(preset)))


def test_keep_runs_no_remote_code(tmp_path: Path) -> None:
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    preset = shrunk(
        "keep", dimension=24, model_args={**encoder_preset("keep").model_args, **SMALL_VIT, "patch_size": 8},
        context_tokens=32,
    )  # fmt: skip
    torch.manual_seed(0)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "field", "of", "colon", "lymph", "node", "h", "&", "e"]
    bert = {
        "vocab_size": len(words), "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    visual, text = timm_network(preset).eval(), BertModel(BertConfig(**bert)).eval()
    head = torch.nn.Sequential(torch.nn.Linear(32, 24), torch.nn.GELU(), torch.nn.Linear(24, 24))
    state = {f"visual.{key}": value for key, value in visual.state_dict().items()}
    state |= {f"visual_head.{key}": value for key, value in head.state_dict().items()}
    state |= {f"text.{key}": value for key, value in text.state_dict().items()}
    state["logit_scale"] = torch.tensor(np.log(1 / 0.04))
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    files: dict[str, Any] = {
        "config.json": {
            "model_type": "keep", "architectures": ["KEEPModel"], "projection_dim": 24, "text_config": bert,
            "vision_config": None, "auto_map": {"AutoModel": "modeling_keep.KEEPModel"},
        },
        "tokenizer_config.json": {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512},
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "modeling_keep.py").write_text("raise SystemExit('remote code ran')\n")
    ids = [[2, 5, 6, 7, 8, 3], [2, 1, 1, 11, 12, 13, 3], [2, 9, 10, 3]]  # the comma is unknown, as is the long word
    tokens = torch.tensor([row + [0] * (32 - len(row)) for row in ids])
    with torch.no_grad():
        image = head(visual(reference_pixels(preset)))
        wanted = text(input_ids=tokens, attention_mask=(tokens > 0).long()).pooler_output
    encoder = read_encoder(tmp_path, preset)
    agrees(encoder, image, wanted)
    assert encoder.logit_scale == pytest.approx(25, rel=1e-4)


def conch_state(preset: EncoderPreset, width: int, layers: int, dimension: int, words: int) -> dict[str, torch.Tensor]:
    """Tensors under the names, and with the shapes, of the published ``pytorch_model.bin``."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    trunk = timm_network(preset)
    channels = trunk.num_features
    state = {f"visual.trunk.{key}": draw(*value.shape) for key, value in trunk.state_dict().items()}
    for name, size, queries in (("contrast", dimension, 1), ("caption", channels, 4)):
        pool = f"visual.attn_pool_{name}."
        state[pool + "query"] = draw(queries, size)
        if size == channels:  # torch keeps one matrix where all widths agree
            state[pool + "attn.in_proj_weight"] = draw(3 * size, size)
        else:
            state[pool + "attn.q_proj_weight"] = draw(size, size)
            state |= {pool + f"attn.{x}_proj_weight": draw(size, channels) for x in "kv"}
        state |= {pool + "attn.in_proj_bias": draw(3 * size), pool + "attn.out_proj.weight": draw(size, size)}
        state |= {pool + "attn.out_proj.bias": draw(size), f"visual.ln_{name}.weight": 1 + draw(size)}
        state |= {
            f"visual.ln_{name}.bias": draw(size),
            pool + "ln_q.weight": 1 + draw(size),
            pool + "ln_q.bias": draw(size),
        }
        state |= {pool + "ln_k.weight": 1 + draw(channels), pool + "ln_k.bias": draw(channels)}
    state["visual.proj_contrast"] = draw(dimension, dimension)
    state |= {
        "text.cls_emb": draw(width), "text.token_embedding.weight": draw(words, width),
        "logit_scale": torch.tensor(4.0),
        "text.positional_embedding": draw(preset.context_tokens + 1, width), "text.ln_final.weight": 1 + draw(width),
        "text.ln_final.bias": draw(width), "text.text_projection": draw(width, dimension),
    }  # fmt: skip
    for block in range(layers):
        name = f"text.transformer.resblocks.{block}."
        state |= {name + f"ln_{i}.weight": 1 + draw(width) for i in (1, 2)} | {
            name + f"ln_{i}.bias": draw(width) for i in (1, 2)
        }
        state |= {name + "attn.in_proj_weight": draw(3 * width, width), name + "attn.in_proj_bias": draw(3 * width)}
        state |= {name + "attn.out_proj.weight": draw(width, width), name + "attn.out_proj.bias": draw(width)}
        state |= {name + "mlp.c_fc.weight": draw(4 * width, width), name + "mlp.c_fc.bias": draw(4 * width)}
        state |= {name + "mlp.c_proj.weight": draw(width, 4 * width), name + "mlp.c_proj.bias": draw(width)}
    return state


def conch_text_by_hand(state: dict[str, torch.Tensor], ids: list[int], context: int) -> torch.Tensor:
    """One text through the tower, equation by equation, one head; the mask of the class token is CoCa's first one."""
    width = state["text.cls_emb"].shape[0]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, (width,), state[f"text.{name}.weight"], state[f"text.{name}.bias"])

    tokens = torch.tensor(ids + [0] * (context - len(ids)))
    x = torch.cat([state["text.token_embedding.weight"][tokens], state["text.cls_emb"][None]])
    x = x + state["text.positional_embedding"]
    length = context + 1
    mask = torch.full((length, length), float("-inf")).triu(1)
    mask[-1, 1:][tokens == 0] = float("-inf")  # one place too far left: hides the class token, shows one padding
    for block in range(len({key.split(".")[3] for key in state if "resblocks" in key and key.startswith("text.")})):
        name = f"transformer.resblocks.{block}"
        weight, bias = (state[f"text.{name}.attn.in_proj_{kind}"] for kind in ("weight", "bias"))
        q, k, v = (norm(x, f"{name}.ln_1") @ weight.T + bias).chunk(3, -1)
        mixed = (q @ k.T / width**0.5 + mask).softmax(-1) @ v
        x = x + F.linear(mixed, state[f"text.{name}.attn.out_proj.weight"], state[f"text.{name}.attn.out_proj.bias"])
        hidden = F.linear(
            norm(x, f"{name}.ln_2"), state[f"text.{name}.mlp.c_fc.weight"], state[f"text.{name}.mlp.c_fc.bias"]
        )
        x = x + F.linear(F.gelu(hidden), state[f"text.{name}.mlp.c_proj.weight"], state[f"text.{name}.mlp.c_proj.bias"])
    return norm(x[-1], "ln_final") @ state["text.text_projection"]


def conch_image_by_hand(state: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Attentional pooling with eight heads, written out: tokens [B, N, C] to [B, D]."""
    pool = {key.removeprefix("visual.attn_pool_contrast."): value for key, value in state.items()}
    size = pool["query"].shape[1]
    query = F.layer_norm(pool["query"], (size,), pool["ln_q.weight"], pool["ln_q.bias"])
    context = F.layer_norm(tokens, tokens.shape[-1:], pool["ln_k.weight"], pool["ln_k.bias"])
    biases = pool["attn.in_proj_bias"].chunk(3)
    q, k, v = (
        F.linear(x, pool[f"attn.{n}_proj_weight"], b).unflatten(-1, (8, -1)).transpose(-3, -2)
        for x, n, b in zip((query, context, context), "qkv", biases, strict=True)
    )
    mixed = ((q / (size // 8) ** 0.5) @ k.transpose(-1, -2)).softmax(-1) @ v
    pooled = F.linear(mixed.transpose(-3, -2).flatten(-2), pool["attn.out_proj.weight"], pool["attn.out_proj.bias"])[
        :, 0
    ]
    normed = F.layer_norm(pooled, (size,), state["visual.ln_contrast.weight"], state["visual.ln_contrast.bias"])
    return normed @ state["visual.proj_contrast"]


def test_conch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    monkeypatch.setenv("PATHASSIST_CACHE", str(tmp_path / "cache"))
    args = {**encoder_preset("conch").model_args, **SMALL_VIT, "patch_size": 8}
    preset = shrunk("conch", dimension=16, model_args=args, context_tokens=12)
    state = conch_state(preset, width=24, layers=2, dimension=16, words=20)
    folder = tmp_path / "model"
    folder.mkdir()
    torch.save(state, folder / "pytorch_model.bin")
    encoder = read_encoder(folder, preset)
    trunk = timm_network(preset).eval()
    prefix = "visual.trunk."
    trunk.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    with torch.no_grad():
        image = conch_image_by_hand(state, trunk.forward_features(reference_pixels(preset)))
        with pytest.raises(NotAvailable, match=r"CONCH's tokenizer is not in .*mahmoodlab/CONCH"):
            encoder.embed_texts(TEXTS)
        words = ["<pad>", "<start_of_text>", "<end_of_text>", "a", "field", "of", "colon", "lymph", "node", "x"]
        tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="x"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<start_of_text> $A <end_of_text>", special_tokens=[("<start_of_text>", 1), ("<end_of_text>", 2)]
        )
        tokenizer_path().parent.mkdir(parents=True)
        tokenizer.save(str(tokenizer_path()))
        assert tokenizer_path().name == TOKENIZER
        ids = [[1, 3, 4, 5, 6, 2], [1, 9, 9, 9, 9, 9, 2], [1, 7, 8, 2]]
        text = torch.stack([conch_text_by_hand(state, row, 12) for row in ids])
    agrees(encoder, image, text)
    assert encoder.logit_scale == pytest.approx(np.exp(4.0))
    assert encoder.too_long(["a field", "a " * 11]) == [1]


def test_damaged_files(tmp_path: Path) -> None:
    args = {**encoder_preset("uni").model_args, **SMALL_VIT, "patch_size": 8}
    preset = shrunk("uni", dimension=32, model_args=args)
    with pytest.raises(NotAvailable, match=r"none of pytorch_model.bin is in .*--encoder uni --source hub"):
        read_encoder(tmp_path, preset)
    state = timm_network(preset).state_dict()
    del state["norm.weight"]
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        NotAvailable, match=r"does not fit its architecture \(1 problems, first: Missing key.*norm.weight"
    ):
        read_encoder(tmp_path, preset)
    torch.save({"x": Path("runs code when loaded")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BadInput, match="cannot be read as plain tensors"):
        read_encoder(tmp_path, preset)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TorchEncoder:
    folder = tmp_path_factory.mktemp("quiltnet")
    torch.manual_seed(0)
    config = clip_config()
    return read_encoder(
        write_open_clip(folder / "model", config, tiny_vit(config)), shrunk("quiltnet-b32", dimension=16)
    )


def test_the_same_whatever_the_batch_size(encoder: TorchEncoder) -> None:
    generator = np.random.default_rng(0)
    images = [Image.fromarray(generator.integers(0, 255, (40, 36, 3), np.uint8)) for _ in range(GROUP * 2 + 3)]
    wanted = encoder.embed_images(images)
    for size in (1, 7, 100):
        assert np.array_equal(encoder.embed_images(images, batch_size=size), wanted)
    assert np.abs(encoder.embed_images(images[5:6]) - wanted[5:6]).max() < 1e-5
    texts = [f"field {i}" for i in range(GROUP + 2)]
    assert np.array_equal(encoder.embed_texts(texts, batch_size=3), encoder.embed_texts(texts))
    assert encoder.embed_images([]).shape == (0, 16)


def test_empty_and_long_texts(encoder: TorchEncoder) -> None:
    with pytest.raises(BadInput, match="text 2 of 2 is empty"):
        encoder.embed_texts(["colon", " \n"])
    assert encoder.embed_texts(["word " * 10_000]).shape == (1, 16)
