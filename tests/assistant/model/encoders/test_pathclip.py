"""Our own encoder: what is saved is what is loaded, pooling is what it says, MiniLM's changes travel along."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from assistant.errors import NotAvailable
from assistant.model.encoders.pathclip import PathClipConfig, PathClipModel, pixels_of

CONFIG = PathClipConfig(architecture="test_efficientnet", image_size=64, dimension=24)


def tiny_bert(seed: int = 0) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    shape = BertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertModel(shape, add_pooling_layer=False)


def tiny(config: PathClipConfig = CONFIG) -> PathClipModel:
    return PathClipModel(config, text=tiny_bert())


def texts() -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([[1, 2, 3, 0], [4, 5, 6, 7]]),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1] * 4]),
    }


@pytest.mark.parametrize("centre", [False, True])
def test_saved_and_loaded_alike(tmp_path: Path, centre: bool) -> None:
    model = tiny(PathClipConfig(architecture="test_efficientnet", image_size=64, dimension=24, centre=centre)).eval()
    with torch.no_grad():
        model.text.model.encoder.layer[0].output.dense.weight += 0.1
        model.logit_scale.fill_(3.5)
    model.save(tmp_path / "out", text_origin=tiny_bert().state_dict())
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert [key for key in stored if key.startswith("text.delta.")] == [
        "text.delta.encoder.layer.0.output.dense.weight"
    ]
    assert {str(v.dtype) for v in stored.values() if v.is_floating_point()} == {"torch.float16"}
    assert stored["visual.proj.weight"].shape == (24, 512 if centre else 256)
    again = PathClipModel.load(tmp_path / "out", text=tiny_bert())
    assert again.config == model.config
    assert not again.training
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        for one, other in (
            (model.encode_image(pixels), again.encode_image(pixels)),
            (model.encode_text(**texts()), again.encode_text(**texts())),
        ):
            assert one.shape == (2, 24)
            assert torch.allclose(other.norm(dim=1), torch.ones(2), atol=1e-5)
            assert (one * other).sum(1).min() > 0.9999
    assert again.logit_scale.item() == 3.5


def test_adapters_are_merged_when_saved(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny().eval()
    model.text.model = get_peft_model(model.text.model, LoraConfig(r=2, target_modules=["query"]))
    with torch.no_grad():
        for name, value in model.text.model.named_parameters():
            if "lora_B" in name:
                value.normal_()
        wanted = model.encode_text(**texts())
    model.save(tmp_path / "out", text_origin=tiny_bert().state_dict())
    with torch.no_grad():
        got = PathClipModel.load(tmp_path / "out", text=tiny_bert()).encode_text(**texts())
    assert (wanted * got).sum(1).min() > 0.9999


def test_padding_does_not_count() -> None:
    model = tiny().eval()
    with torch.no_grad():
        both = model.encode_text(**texts())
        alone = model.encode_text(torch.tensor([[1, 2, 3]]), torch.ones(1, 3, dtype=torch.long))
    assert torch.allclose(both[:1], alone, atol=1e-5)


def test_the_centre_is_the_middle_of_the_map() -> None:
    config = PathClipConfig(architecture="test_efficientnet", image_size=224, dimension=24, centre=True)
    tower = tiny(config).eval().visual
    with torch.no_grad():
        cells = tower.backbone.forward_features(pixels := torch.randn(1, 3, 224, 224))
        both = tower.features(pixels)
    assert cells.shape[-2:] == (7, 7)
    assert torch.allclose(both[:, 256:], cells[:, :, 2:5, 2:5].mean((2, 3)), atol=1e-6)
    assert torch.allclose(both[:, :256], cells.mean((2, 3)), atol=1e-5)


def test_batch_norm_statistics_stay(tmp_path: Path) -> None:
    model = tiny().train()
    before = {k: v.clone() for k, v in model.visual.backbone.state_dict().items() if "running" in k}
    model.encode_image(torch.randn(4, 3, 64, 64))
    after = model.visual.backbone.state_dict()
    assert before
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_pixels_of_mixed_sizes() -> None:
    pixels = pixels_of([Image.new("RGB", (300, 100), "white"), Image.new("RGB", (10, 40), "black")], 64)
    assert pixels.shape == (2, 3, 64, 64)
    assert np.allclose(pixels[0], 1.0)
    assert np.allclose(pixels[1], -1.0)


def test_missing_and_damaged_artefacts(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="pathassist train clip"):
        PathClipModel.load(tmp_path, text=tiny_bert())
    model = tiny()
    model.save(tmp_path / "out", text_origin=tiny_bert().state_dict())
    config = tmp_path / "out" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "dimension": 25}))
    with pytest.raises(NotAvailable, match="does not fit"):
        PathClipModel.load(tmp_path / "out", text=tiny_bert())
    config.write_text(json.dumps({**values, "text_model": "other"}))
    with pytest.raises(NotAvailable, match="text tower 'other'"):
        PathClipModel.load(tmp_path / "out", text=tiny_bert())


def test_loaded_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertTokenizer

    from assistant.model.encoders import load, load_encoder, pathclip

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "colon", "lymph", "node"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    monkeypatch.setattr(load, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(pathclip, "minilm", tiny_bert)
    monkeypatch.setattr(pathclip, "minilm_tokenizer", lambda: BertTokenizer.from_pretrained(tmp_path))
    monkeypatch.setattr(pathclip, "MAX_TOKENS", 8)
    with pytest.raises(NotAvailable, match=r"no trained weights in .*pathclip-small"):
        load_encoder()
    model = tiny().eval()
    model.save(tmp_path / "pathclip-small", text_origin=tiny_bert().state_dict())
    encoder = load_encoder()
    assert encoder.id.startswith("pathclip-small-")
    assert (encoder.info.dimension, encoder.info.image_size) == (24, 64)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)
    images = [Image.new("RGB", (70, 50), colour) for colour in ("red", "white", "navy")]
    texts = ["colon", "lymph node"]
    ids = torch.tensor([[2, 5, 3, 0], [2, 6, 7, 3]])
    with torch.no_grad():
        wanted = model.encode_image(pixels_of(images, 64)).numpy(), model.encode_text(ids, (ids > 0).long()).numpy()
    assert np.abs(encoder.embed_images(images) - wanted[0]).max() < 2e-3  # the stored weights are fp16
    assert np.abs(encoder.embed_texts(texts) - wanted[1]).max() < 2e-3
    assert encoder.too_long(["colon", "colon " * 7]) == [1]


def test_taps_append_mean_and_deviation_of_earlier_stages(tmp_path: Path) -> None:
    config = PathClipConfig(architecture="test_efficientnet", image_size=64, dimension=24, centre=True, taps=(1, 3))
    model = tiny(config).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        found = model.visual.features(pixels)
        last, maps = model.visual.backbone.forward_intermediates(pixels, indices=[1, 3])
    wanted = [part for stage in maps for part in (stage.mean((2, 3)), stage.flatten(2).std(-1))]
    assert found.shape[1] == model.visual.width == 512 + sum(part.shape[1] for part in wanted)
    assert torch.allclose(found[:, :256], model.visual.backbone.forward_head(last), atol=1e-5)
    assert torch.allclose(found[:, 512:], torch.cat(wanted, 1), atol=1e-4)
    model.visual.shift.copy_(found[0])
    model.visual.spread.fill_(2.0)
    with torch.no_grad():
        assert torch.allclose(model.visual.features(pixels)[1], (found[1] - found[0]) / 2, atol=1e-5)
    model.save(tmp_path / "out", text_origin=tiny_bert().state_dict())
    again = PathClipModel.load(tmp_path / "out", text=tiny_bert())
    assert again.config.taps == (1, 3)
    with torch.no_grad():
        assert torch.allclose(again.encode_image(pixels)[1], model.encode_image(pixels)[1], atol=5e-3)
