"""The one implementation of :class:`~assistant.model.encoders.base.Encoder`: a PyTorch model behind four functions.

Rows are computed in groups of :data:`GROUP`, in the order given and whatever the batch size asked for, so the same
list gives bit-equal vectors on the same machine however it is cut. A row's neighbours in its group can change its last
digits (other kernels, other padding of texts): alone and among others the same image agrees to about 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assistant.errors import BadInput
from assistant.model.encoders.base import EncoderInfo
from assistant.model.encoders.pixels import Pixels
from assistant.plain import whole_characters

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

GROUP = 16  # rows that go through the model together


@dataclass(frozen=True)
class TextSide:
    """How texts are embedded.

    Attributes:
        tokenise: Texts to the keywords of ``encode``, cut to the context.
        count: Tokens of one text, uncut.
        encode: Tokens to vectors [B, D], any length.
        context: Most tokens that are read.
    """

    tokenise: Callable[[list[str]], dict[str, torch.Tensor]]
    count: Callable[[str], int]
    encode: Callable[..., torch.Tensor]
    context: int


class TorchEncoder:
    """See :class:`~assistant.model.encoders.base.Encoder`.

    Args:
        info: The card.
        identity: Becomes ``id``.
        model: Moved to CUDA where there is one, in evaluation mode.
        pixels: How images are prepared.
        encode_image: Pixels [B, 3, S, S] to vectors [B, D], any length.
        text: None for encoders of images only.
        logit_scale: Factor on cosines, as trained.
    """

    def __init__(
        self,
        info: EncoderInfo,
        identity: str,
        model: torch.nn.Module,
        pixels: Pixels,
        encode_image: Callable[[torch.Tensor], torch.Tensor],
        text: TextSide | None = None,
        logit_scale: float | None = None,
    ) -> None:
        import torch

        self.info, self.id, self.pixels, self.logit_scale = info, identity, pixels, logit_scale
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.eval().requires_grad_(False).to(self.device)
        self._encode_image, self.text = encode_image, text

    def prepare(self, image: Image) -> torch.Tensor:
        """uint8 [3, S, S]."""
        return self.pixels.square(image)

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1 of what :meth:`prepare` returned."""
        import torch

        parts = []
        with torch.inference_mode():
            for start in range(0, len(prepared), GROUP):
                squares = torch.stack(list(prepared[start : start + GROUP])).to(self.device, non_blocking=True)
                parts.append(self._encode_image(self.pixels.normalise(squares)))
        return _unit(parts, self.info.dimension)

    def embed_images(self, images: Sequence[Image], batch_size: int = 32) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1; ``batch_size`` bounds how many prepared images are held, nothing else."""
        step = max(1, -(-batch_size // GROUP)) * GROUP
        parts = [
            self.embed_prepared([self.prepare(image) for image in images[start : start + step]])
            for start in range(0, len(images), step)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.info.dimension), np.float32)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Vectors [N, D] of length 1. Texts longer than the context are cut, see :meth:`too_long`.

        Raises:
            BadInput: An empty text, or an encoder without a text tower.
        """
        import torch

        side, texts = self._text_side(texts), [whole_characters(text) for text in texts]
        parts = []
        with torch.inference_mode():
            for start in range(0, len(texts), GROUP):
                tokens = side.tokenise(list(texts[start : start + GROUP]))
                parts.append(side.encode(**{key: value.to(self.device) for key, value in tokens.items()}))
        return _unit(parts, self.info.dimension)

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts that are cut."""
        side, texts = self._text_side(texts), [whole_characters(text) for text in texts]
        # A token is at least a byte: counting is only needed for texts that could be too long.
        could = [i for i, text in enumerate(texts) if len(text.encode()) + 2 > side.context]
        return [i for i in could if side.count(texts[i]) > side.context]

    def _text_side(self, texts: Sequence[str]) -> TextSide:
        if self.text is None:
            raise BadInput(f"the encoder {self.info.name} embeds images only; for texts use --encoder pathclip-small")
        for index, text in enumerate(texts, 1):
            if not isinstance(text, str) or not text.strip():
                raise BadInput(f"text {index} of {len(texts)} is empty; give a word or a sentence")
        return self.text


def _unit(parts: list[torch.Tensor], dimension: int) -> NDArray[np.float32]:
    import torch
    import torch.nn.functional as F

    if not parts:
        return np.empty((0, dimension), np.float32)
    vectors: NDArray[np.float32] = F.normalize(torch.cat(parts).float(), dim=-1).cpu().numpy()
    return vectors
