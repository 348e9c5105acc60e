"""An open_clip model as an encoder: a tiny one, made on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from assistant.errors import BadInput

pytestmark = pytest.mark.slow


@pytest.fixture
def tiny(tmp_path: Path) -> Any:
    open_clip = pytest.importorskip("open_clip")
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (tmp_path / "tiny-path.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    return open_clip


def test_a_local_checkpoint(tiny: Any, tmp_path: Path) -> None:
    import torch

    from eval.models import load_encoder

    model = tiny.create_model("tiny-path")
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    encoder = load_encoder(f"open_clip:tiny-path:{tmp_path / 'tiny.pt'}")
    images = [Image.new("RGB", (50, 40), colour) for colour in ("red", "blue")]
    vectors = encoder.embed_images(images, batch_size=1)
    assert vectors.shape == (2, 16)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert encoder.embed_texts(["a", "b", "c"], batch_size=2).shape == (3, 16)
    assert encoder.info.dimension == 16
    assert encoder.info.image_size == 32
    assert encoder.id.startswith("open_clip-tiny-path-")
    assert encoder.id != load_encoder("open_clip:tiny-path").id
    with pytest.raises(BadInput, match="empty text"):
        encoder.embed_texts([" "])


def test_bad_names(tiny: Any) -> None:
    from eval.models import load_encoder

    with pytest.raises(BadInput, match="open_clip has no model 'ViT-B-99'; near it: ViT-B-16"):
        load_encoder("open_clip:ViT-B-99")
    with pytest.raises(BadInput, match=r"no checkpoint at /nowhere\.pt"):
        load_encoder("open_clip:tiny-path:/nowhere.pt")
