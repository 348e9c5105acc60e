"""MTEB and clip_benchmark on any of our encoders.

mteb.evaluate(MtebEncoder(load_encoder("pathclip-small")), tasks)
clip_benchmark.models.TYPE2FUNC["pathassist"] = load_pathassist
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from assistant.errors import BadInput
from assistant.images.intake import load_image
from assistant.model.encoders.base import Encoder
from eval.models import load_encoder

#: Longest prompt in bytes that clip_benchmark can send.
_BYTES = 512


class MtebEncoder:
    """MTEB's ``EncoderProtocol``. An input with image and text becomes the normalised sum of both vectors."""

    def __init__(self, encoder: str | Encoder, revision: str | None = None, **_: Any) -> None:
        self.encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
        self._revision = revision or self.encoder.id.rpartition("-")[2]

    @property
    def mteb_model_meta(self) -> Any:
        """The card MTEB stores beside results."""
        from mteb.models.model_meta import ModelMeta

        info = self.encoder.info
        known: dict[str, Any] = {
            "name": f"pathassist/{info.name}", "revision": self._revision, "embed_dim": info.dimension,
            "similarity_fn_name": "cosine", "modalities": ["image", "text"] if info.has_text else ["image"],
            "framework": ["PyTorch"], "open_weights": True,
        }  # fmt: skip
        required = dict.fromkeys((k for k, f in ModelMeta.model_fields.items() if f.is_required()))
        return ModelMeta(**(required | known))

    def encode(self, inputs: Iterable[dict[str, Any]], **_: Any) -> NDArray[np.float32]:
        """Vectors [N, D] of a loader of batches with ``image``, ``text`` or both."""
        out = []
        for batch in inputs:
            parts = []
            if "image" in batch:
                parts.append(self.encoder.embed_images([load_image(image) for image in batch["image"]]))
            if "text" in batch:
                parts.append(self.encoder.embed_texts([text if text.strip() else "." for text in batch["text"]]))
            if not parts:
                raise BadInput(f"a batch of MTEB holds {', '.join(batch) or 'nothing'}; needs image or text")
            total = np.sum(parts, axis=0)
            out.append(total / np.linalg.norm(total, axis=1, keepdims=True))
        return np.concatenate(out).astype(np.float32)

    def similarity(self, first: Any, second: Any) -> torch.Tensor:
        """Cosine of every pair [N, M]; the vectors are of length 1."""
        return torch.atleast_2d(torch.as_tensor(first)) @ torch.atleast_2d(torch.as_tensor(second)).T

    def similarity_pairwise(self, first: Any, second: Any) -> torch.Tensor:
        """Cosine of each vector with its partner [N]."""
        return (torch.as_tensor(first) * torch.as_tensor(second)).sum(dim=-1)


class _ClipModel(torch.nn.Module):
    """``encode_image`` and ``encode_text`` as clip_benchmark calls them."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Bytes [N, 3, S, S] to vectors [N, D]."""
        arrays = pixels.to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        vectors = self.encoder.embed_images([Image.fromarray(array) for array in arrays])
        return torch.from_numpy(vectors).to(pixels.device)

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """UTF-8 bytes [N, 512], zero-padded, to vectors [N, D]."""
        texts = [bytes(row[row > 0].tolist()).decode() for row in tokens.cpu()]
        return torch.from_numpy(self.encoder.embed_texts(texts)).to(tokens.device)


class _Square:
    """Shorter side to the encoder's size, centre crop: what its own preprocessing then leaves as it is."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Image.Image) -> torch.Tensor:
        image = image.convert("RGB")
        scale = self.size / min(image.size)
        width, height = (max(self.size, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        left, top = (width - self.size) // 2, (height - self.size) // 2
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def as_bytes(texts: str | Sequence[str]) -> torch.Tensor:
    """Texts as zero-padded UTF-8, the "tokens" of :class:`_ClipModel`.

    Raises:
        BadInput: A text longer than 512 bytes.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    out = torch.zeros(len(texts), _BYTES, dtype=torch.long)
    for i, text in enumerate(texts):
        data = text.encode()
        if len(data) > _BYTES:
            raise BadInput(f"a prompt has {len(data)} bytes; at most {_BYTES} are allowed")
        out[i, : len(data)] = torch.tensor(list(data), dtype=torch.long)
    return out


def load_pathassist(
    model_name: str, pretrained: str = "", cache_dir: str = "", device: str = "cpu"
) -> tuple[Any, Any, Any]:
    """clip_benchmark's loader: (model, transform, tokenizer) of one of our encoders."""
    encoder = load_encoder(f"{model_name}:{pretrained}" if pretrained else model_name)
    return clip_parts(encoder, device)


def clip_parts(encoder: Encoder, device: str = "cpu") -> tuple[Any, Any, Any]:
    """(model, transform, tokenizer) of an encoder that is already there."""
    return _ClipModel(encoder).to(device).eval(), _Square(encoder.info.image_size), as_bytes
