"""Two towers in one space: what is learned moves images only, and only over the encoder it was learned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image

from assistant.errors import NotAvailable
from assistant.model import familiar
from assistant.model.encoders import load, pathclip
from assistant.model.encoders.duo import read_pathclip_duo
from assistant.model.encoders.load import load_encoder
from assistant.model.encoders.preset import encoder_preset
from assistant.model.encoders.torch_encoder import TorchEncoder
from tests.assistant.model.encoders.test_pathclip import tiny, tiny_bert
from training.clip.duo import DuoRecipe, learn, save
from training.data.records import Record

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "colon", "lymph", "node"]


def second() -> Any:
    torch.manual_seed(1)
    return timm.create_model("test_efficientnet", pretrained=False, num_classes=0).eval()


@pytest.fixture
def first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchEncoder:
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    monkeypatch.setattr(load, "WEIGHTS_FOLDER", tmp_path)
    monkeypatch.setattr(pathclip, "minilm", tiny_bert)
    monkeypatch.setattr(pathclip, "minilm_tokenizer", lambda: BertTokenizer.from_pretrained(tmp_path))
    monkeypatch.setattr(pathclip, "MAX_TOKENS", 8)
    monkeypatch.setattr(familiar, "imagenet_tower", second)
    tiny().eval().save(tmp_path / "pathclip-small", text_origin=tiny_bert().state_dict())
    found = load_encoder()
    assert isinstance(found, TorchEncoder)
    return found


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (80, 70, 3), dtype=np.uint8)) for _ in range(3)]


def test_image_vectors_are_moved_by_the_other_tower(first: TorchEncoder, tmp_path: Path) -> None:
    weight, bias = torch.randn(24, 512) / 50, torch.randn(24) / 10
    (tmp_path / "pathclip-duo").mkdir()
    save(weight, bias, first.id, tmp_path / "pathclip-duo")
    duo = load_encoder("pathclip-duo")
    assert isinstance(duo, TorchEncoder)
    assert duo.id.startswith("pathclip-duo-")
    assert duo.logit_scale == first.logit_scale
    pixels = duo.pixels.normalise(torch.stack([duo.prepare(p) for p in pictures()]))
    with torch.no_grad():
        cells = second().forward_features(pixels)  # 2 × 2 cells: all of them are central
        seen = torch.cat([cells.mean((2, 3)), cells.mean((2, 3))], dim=1)
        plain = duo.model.first.encode_image(pixels)
        wanted = F.normalize(plain + seen @ weight.T + bias, dim=1).numpy()
    found = duo.embed_images(pictures())
    assert np.abs(found - wanted).max() < 2e-3  # the map is stored in fp16
    assert np.abs(found - plain.numpy()).max() > 0.05
    assert np.array_equal(duo.embed_texts(["colon"]), first.embed_texts(["colon"]))


def test_what_does_not_belong_together_is_refused(first: TorchEncoder, tmp_path: Path) -> None:
    folder, preset = tmp_path / "pathclip-duo", encoder_preset("pathclip-duo")
    with pytest.raises(NotAvailable, match=r"no model\.safetensors in .*pathassist train duo"):
        read_pathclip_duo(folder, preset, first)
    folder.mkdir()
    save(torch.zeros(24, 512), torch.zeros(24), "pathclip-small-000000000000", folder)
    with pytest.raises(NotAvailable, match="was learned for pathclip-small-000000000000, here is pathclip-small-"):
        read_pathclip_duo(folder, preset, first)
    (folder / "model.safetensors").write_bytes(b"none")
    with pytest.raises(NotAvailable, match="is damaged"):
        read_pathclip_duo(folder, preset, first)


def test_the_map_learns_what_only_the_other_tower_sees(tmp_path: Path) -> None:
    """Vectors that tell nothing and features that tell the organ: afterwards images lie at their organ's name."""
    from training.clip.duo import Seen

    torch.manual_seed(0)
    organs = [i % 2 for i in range(40)]
    records = [Record("atlas", tmp_path, "train", f"atlas:{i}", {"organ": f"organ {o}"}) for i, o in enumerate(organs)]
    blind = F.normalize(torch.ones(40, 8), dim=1)
    features = torch.randn(40, 16) * 0.1
    features[:, 0] += torch.tensor(organs) * 2.0 + 5
    names = {"organ": (["organ 0", "organ 1"], F.normalize(torch.randn(2, 8), dim=1))}
    recipe = DuoRecipe(runs=2, steps=60, batch_size=32, lr=0.05)
    weight, bias, loss = learn(Seen(torch.arange(40), blind, features), records, names, recipe, tmp_path)
    found = F.normalize(blind + features @ weight.T + bias, dim=1) @ names["organ"][1].T
    assert found.argmax(1).tolist() == organs
    assert loss < 0.5
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
