"""Logistic heads on PathCLIP-small's pooled features: one small safetensors file each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from assistant.errors import NotAvailable
from assistant.files import whole
from assistant.model.cache import sha256
from assistant.tools.base import WEIGHTS
from assistant.tools.features import PATHCLIP


@dataclass(frozen=True)
class Head:
    """Softmax regression.

    Attributes:
        classes: Names, in the order of the rows of ``weight``.
        weight: [C, F].
        bias: [C].
        threshold: Probability of the best class below which the answer is "other".
        encoder: First 12 characters of the SHA-256 of the encoder's weights.
    """

    classes: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    threshold: float
    encoder: str

    def probabilities(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """[N, F] to [N, C], rows sum to 1."""
        logits = features.astype(np.float64) @ self.weight.T + self.bias
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return shares

    def save(self, path: Path) -> None:
        """Write fp16 tensors with everything else as metadata; whole or not at all."""
        from safetensors.numpy import save_file

        meta = {"classes": json.dumps(self.classes), "threshold": repr(self.threshold), "encoder": self.encoder}
        # safetensors writes memory as it lies: scikit-learn's coefficients may lie column by column.
        tensors = {"weight": self.weight, "bias": self.bias}
        with whole(path) as partial:
            save_file({k: np.ascontiguousarray(v, np.float16) for k, v in tensors.items()}, partial, metadata=meta)

    @classmethod
    def read(cls, path: Path) -> Head:
        """Read a head.

        Raises:
            NotAvailable: No such file, or not a head.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise NotAvailable(f"no weights {path.name}; run `python -m training.tools.heads` to fit them")
        try:
            with safe_open(path, "np") as file:
                meta = file.metadata() or {}
                weight, bias = (file.get_tensor(name).astype(np.float32) for name in ("weight", "bias"))
            return cls(tuple(json.loads(meta["classes"])), weight, bias, float(meta["threshold"]), meta["encoder"])
        except (SafetensorError, KeyError, ValueError) as error:
            raise NotAvailable(f"{path.name} is not a head: {error}; copy it again") from error


@lru_cache(maxsize=16)
def load_head(name: str) -> Head:
    """A shipped head by the stem of its file, checked to be of the shipped encoder.

    Raises:
        NotAvailable: As :meth:`Head.read`, or it was fitted on another encoder.
    """
    head = Head.read(WEIGHTS / f"{name}.safetensors")
    here = sha256(PATHCLIP / "model.safetensors")[:12]
    if head.encoder != here:
        raise NotAvailable(
            f"the head {name!r} belongs to encoder {head.encoder}, not {here}; run `python -m training.tools.heads`"
        )
    return head
