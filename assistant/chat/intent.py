"""Which tools a question is about: a linear classifier over its words and its meaning.

Hashed words, word pairs and letter groups (Weinberger et al. 2009) beside the sentence vector of the packaged MiniLM,
one logistic output a tool, trained by ``training.tool_intent`` on generated requests. Most questions need no tool; for
them no language model is read.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assistant.errors import NotAvailable

DIMENSIONS = 1 << 14
SENTENCE = 384
FILE = "intent.safetensors"
_WORD = re.compile(r"[a-z0-9µ+-]+")
_SENTENCE = re.compile(r"(?<=[.?!:;\n])\s+")
_IMAGE = re.compile(r"\b(?:image|picture|photo|field|view|tile|slide|micrograph|section|patch)\b")


def tokens(text: str) -> list[str]:
    """Features of a text by name: words, neighbouring words, and groups of 4 letters within words."""
    words = _WORD.findall(_IMAGE.sub("image", text.casefold()))
    pairs = [f"{a}_{b}" for a, b in zip(["^", *words], [*words, "$"], strict=True)]
    letters = [f"#{w[i : i + 4]}" for word in words if len(w := f"<{word}>") > 4 for i in range(len(w) - 3)]
    return [*words, *pairs, *letters]


def vector(text: str) -> NDArray[np.float32]:
    """Unit vector [DIMENSIONS] of a text."""
    out = np.zeros(DIMENSIONS, dtype=np.float32)
    for token in tokens(text):
        value = zlib.crc32(token.encode())
        out[value % DIMENSIONS] += 1.0 if value & (1 << 31) else -1.0
    length = float(np.linalg.norm(out))
    return out / length if length else out


def sentence_vectors(texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
    """Unit vectors [N, 384] of texts by MiniLM, mean-pooled."""
    import torch

    bert, tokenizer = _minilm()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    out = np.zeros((len(texts), SENTENCE), dtype=np.float32)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True, max_length=96, return_tensors="pt")
        with torch.inference_mode():
            states = bert(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1).float()
        mean = (states * mask).sum(1) / mask.sum(1)
        out[rows] = torch.nn.functional.normalize(mean, dim=-1).numpy()
    return out


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    from transformers import AutoTokenizer

    from assistant.model.encoders.pathclip import minilm
    from assistant.model.store import minilm_folder

    return minilm().eval(), AutoTokenizer.from_pretrained(minilm_folder())


def features(texts: Sequence[str], scale: float) -> NDArray[np.float32]:
    """[N, DIMENSIONS + 384]: hashed words, and the sentence vector times ``scale``."""
    return np.concatenate([np.stack([vector(t) for t in texts]), scale * sentence_vectors(texts)], axis=1)


def sentences(text: str) -> list[str]:
    """A text in sentences."""
    return [part for part in _SENTENCE.split(text) if part.strip()]


@dataclass(frozen=True, eq=False)
class Intent:
    """The classifier: weights [tools, DIMENSIONS + 384], bias [tools]; ``scale`` as in :func:`features`."""

    names: tuple[str, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    threshold: float = 0.5
    scale: float = 1.0

    def probabilities(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """For each text, the probability of each tool that the text asks for it."""
        odds = features(texts, self.scale) @ self.weights.T + self.bias
        return [dict(zip(self.names, row, strict=True)) for row in (1 / (1 + np.exp(-odds))).tolist()]

    def wanted(self, text: str) -> list[tuple[str, float]]:
        """Tools the text asks for with their probability, in the order in which its sentences do."""
        split = sentences(text)
        whole, *parts = self.probabilities([text, *(split if len(split) > 1 else ())])
        found = [name for name, p in whole.items() if p >= self.threshold]
        order = {
            name: next((i for i, p in enumerate(parts) if p[name] >= self.threshold), len(parts)) for name in found
        }
        return [(name, whole[name]) for name in sorted(found, key=lambda n: (order[n], -whole[n]))]


@lru_cache(maxsize=2)
def load_intent(folder: Path) -> Intent:
    """The trained classifier.

    Raises:
        NotAvailable: It is missing.
    """
    from safetensors import safe_open

    path = folder / FILE
    if not path.is_file():
        raise NotAvailable(
            f"no trained {FILE} in {folder.name}; train it with `python -m training.tool_intent`, "
            "or ask without tools (--tools none)"
        )
    with safe_open(path, framework="numpy") as file:
        meta = file.metadata()
        weights, bias = (np.asarray(file.get_tensor(k), dtype=np.float32) for k in ("weights", "bias"))
    return Intent(tuple(meta["names"].split(",")), weights, bias, float(meta["threshold"]), float(meta["scale"]))
