"""Any open_clip model as one of our encoders; its weights must be on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from assistant.errors import BadInput
from assistant.model.cache import sha256
from assistant.model.encoders.base import EncoderInfo


class OpenClipEncoder:
    """An open_clip architecture with a local checkpoint (``""``: untrained, for tests).

    Raises:
        BadInput: Unknown architecture or no such file.
    """

    info: EncoderInfo
    id: str

    def __init__(self, architecture: str, checkpoint: str = "") -> None:
        import open_clip
        import torch

        if architecture not in open_clip.list_models():
            near = [m for m in open_clip.list_models() if m[:6].lower() == architecture[:6].lower()]
            raise BadInput(f"open_clip has no model {architecture!r}; near it: {', '.join(near[:8]) or 'none'}")
        if checkpoint and not Path(checkpoint).is_file():
            raise BadInput(f"no checkpoint at {checkpoint}; write open_clip:{architecture}:FILE")
        torch.manual_seed(0)
        model, _, self._transform = open_clip.create_model_and_transforms(architecture, pretrained=checkpoint or None)
        self._model = model.eval()
        self._tokenize = open_clip.get_tokenizer(architecture)
        size = model.visual.image_size
        side = int(size[0] if isinstance(size, tuple) else size)
        digest = sha256(Path(checkpoint))[:12] if checkpoint else "untrained"
        self.info = EncoderInfo(
            name=f"open_clip-{architecture}",
            licence="as stated by the owner of the checkpoint",
            dimension=int(self.embed_texts(["a"]).shape[1]),
            image_size=side,
            pooling="as trained",
            has_text=True,
            preprocessing=" ".join(str(self._transform).split()),
        )
        self.id = f"{self.info.name}-{digest}"

    def embed_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1."""
        import torch

        out = []
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                pixels = torch.stack([self._transform(image) for image in images[start : start + batch_size]])
                out.append(self._model.encode_image(pixels, normalize=True).float().numpy())
        return np.concatenate(out).astype(np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1."""
        import torch

        if not all(text.strip() for text in texts):
            raise BadInput("an empty text cannot be embedded; leave it out")
        out = []
        with torch.inference_mode():
            for start in range(0, len(texts), batch_size):
                tokens = self._tokenize(list(texts[start : start + batch_size]))
                out.append(self._model.encode_text(tokens, normalize=True).float().numpy())
        return np.concatenate(out).astype(np.float32)
