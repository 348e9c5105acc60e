"""Which of the proposals a phrase means: a small transformer over boxes that reads the phrase and what is known of it.

Boxes look at each other with a bias from their relative geometry, so that "largest", "leftmost" and "nearest to" can be
told, and at the tokens of the phrase and of its knowledge (MiniLM, frozen), which is PKNet's knowledge fusion by
attention (PathVG, Zhong et al. 2025). Each box gets a logit, and one token answers whether anything is meant at all and
whether one box around all of them is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from assistant.errors import NotAvailable
from assistant.grounding.detector import CLASSES, Detector, Proposals

#: Where the families of ``CLASSES`` begin: blood cells, glands, nuclei, tissue.
_FAMILIES = (3, 4, 8)
_KEYS = 6
GEOMETRY = 18 + 5 * _KEYS
_PAIR = 7


@dataclass(frozen=True)
class MatcherConfig:
    """Sizes of the network and its calibration.

    Attributes:
        threshold: Score from which a box is returned.
        scale, shift: Platt calibration of the logit of a box: probability = sigmoid(scale · logit + shift).
        research: Trained on sources without an open licence.
    """

    width: int = 128
    heads: int = 4
    layers: int = 3
    text_width: int = 384
    threshold: float = 0.5
    scale: float = 1.0
    shift: float = 0.0
    research: bool = True


class Layer(nn.Module):
    """Self-attention with a bias, attention to the text, feed-forward; each after a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.text = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, bias: torch.Tensor, text: torch.Tensor, blind: torch.Tensor) -> torch.Tensor:
        b, n, width = x.shape
        q, k, v = (
            part.view(b, n, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        x = x + self.out(seen.transpose(1, 2).reshape(b, n, width))
        y = self.norms[1](x)
        x = x + self.text(y, text, text, key_padding_mask=blind, need_weights=False)[0]
        return cast(torch.Tensor, x + self.feed(self.norms[2](x)))


class Matcher(nn.Module):
    """See the module. Its first token stands for the image as a whole."""

    mean: torch.Tensor
    spread: torch.Tensor

    def __init__(self, config: MatcherConfig | None = None) -> None:
        super().__init__()
        self.config = config or MatcherConfig()
        c, inside = self.config, Detector.feature_size + len(CLASSES)
        self.register_buffer("mean", torch.zeros(inside))
        self.register_buffer("spread", torch.ones(inside))
        self.box = nn.Sequential(nn.Linear(inside + GEOMETRY, c.width), nn.GELU(), nn.Linear(c.width, c.width))
        self.whole = nn.Linear(Detector.context_size, c.width)
        self.word = nn.Linear(c.text_width, c.width)
        self.part = nn.Embedding(2, c.width)  # phrase, knowledge
        self.pair = nn.ModuleList(
            nn.Sequential(nn.Linear(_PAIR, 32), nn.GELU(), nn.Linear(32, c.heads)) for _ in range(c.layers)
        )
        self.layers = nn.ModuleList(Layer(c.width, c.heads) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.match = nn.Linear(c.width, 1)
        self.refine = nn.Linear(c.width, 4)
        self.answer = nn.Linear(c.width, 2)  # something is meant; one box around all
        # What a superlative means is a linear matter: words choose ranks.
        self.ranks = nn.ModuleList(nn.Linear(c.text_width, GEOMETRY) for _ in range(2))
        for choice in self.ranks:
            nn.init.zeros_(choice.weight)  # type: ignore[arg-type]
            nn.init.zeros_(choice.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.refine.weight)
        nn.init.zeros_(self.refine.bias)
        nn.init.constant_(self.match.bias, -2.0)

    def forward(
        self,
        boxes: torch.Tensor,
        features: torch.Tensor,
        geometry: torch.Tensor,
        context: torch.Tensor,
        there: torch.Tensor,
        text: torch.Tensor,
        parts: torch.Tensor,
        blind: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of a match [B, N], corrections of the boxes [B, N, 4] and the answer [B, 2].

        Args:
            boxes: [B, N, 4] xyxy in 0…1 of the image.
            features: [B, N, D + K] features and class scores.
            geometry: [B, N, GEOMETRY] from :func:`geometry_of`.
            context: [B, C].
            there: [B, N] bool, False for padding.
            text: [B, T, 384] token vectors; parts: [B, T] 0 phrase, 1 knowledge; blind: [B, T] True for padding.
        """
        standard = ((features - self.mean) / self.spread).clamp(-5, 5)
        x = self.box(torch.cat([standard, geometry], dim=-1))
        x = torch.cat([self.whole(context)[:, None], x], dim=1)
        words = self.word(text) + self.part(parts)
        pairs, hidden = pairs_of(boxes), F.pad(~there, (1, 0))
        for layer, to_bias in zip(self.layers, self.pair, strict=True):
            bias = F.pad(to_bias(pairs).permute(0, 3, 1, 2), (1, 0, 1, 0))
            x = layer(x, bias.masked_fill(hidden[:, None, None], -1e4), words, blind)
        x = self.norm(x)
        logits = self.match(x[:, 1:])[..., 0]
        for part, choice in enumerate(self.ranks):
            said = ((parts == part) & ~blind)[..., None].float()
            mean = (text * said).sum(1) / said.sum(1).clamp(min=1)
            logits = logits + torch.einsum("bg,bng->bn", choice(mean) * (said.sum(1) > 0), geometry)
        return logits, self.refine(x[:, 1:]), self.answer(x[:, 0])

    def save(self, path: Path) -> None:
        """fp16 tensors with the configuration as metadata; whole or not at all."""
        from safetensors.torch import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".tmp")
        tensors = {k: v.half().contiguous() for k, v in self.state_dict().items()}
        save_file(
            tensors, partial, metadata={"config": json.dumps(asdict(self.config)), "classes": json.dumps(CLASSES)}
        )
        partial.chmod(0o644)
        partial.replace(path)

    @classmethod
    def read(cls, path: Path) -> Matcher:
        """From a file.

        Raises:
            NotAvailable: No such file, or it is not a matcher for this detector.
        """
        from safetensors import SafetensorError, safe_open

        if not path.is_file():
            raise NotAvailable(
                f"no weights {path.name} for grounding; restore them with `git checkout -- assistant/weights`, or "
                "train them: pathassist train grounding"
            )
        try:
            with safe_open(path, "pt") as file:
                meta = file.metadata() or {}
                state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118 (not a mapping)
            if json.loads(meta["classes"]) != list(CLASSES):
                raise KeyError("its classes are others than the detector's")
            made = cls(MatcherConfig(**json.loads(meta["config"])))
            made.load_state_dict(state)
        except (SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise NotAvailable(f"{path.name} is not this matcher's: {reason}; restore it with git checkout") from error
        return made.eval()


def pairs_of(boxes: torch.Tensor) -> torch.Tensor:
    """Relative geometry [B, N, N, 7]: offset of centres, distance and its nearness, size ratio, overlap of axes."""
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
    offset = centre[:, None, :, :] - centre[:, :, None, :]
    far = offset.norm(dim=-1, keepdim=True)
    ratio = (size[:, None, :, :].log() - size[:, :, None, :].log()).clamp(-3, 3) / 3
    return torch.cat([offset, far, torch.exp(-8 * far), torch.exp(-30 * far), ratio], dim=-1)


def geometry_of(found: Proposals) -> NDArray[np.float32]:
    """What a box is among the others, [N, GEOMETRY]: place, size, shape, and ranks among boxes of its class, 0…1."""
    count = len(found.boxes)
    if not count:
        return np.zeros((0, GEOMETRY), np.float32)
    width, height = found.size
    boxes = found.boxes / np.array([width, height, width, height], np.float32)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-4)
    area = np.log(size.prod(axis=1))
    pixels = size * np.array([width, height])
    shape = np.log(pixels[:, 0] / pixels[:, 1])
    middle = np.hypot(*(centre - 0.5).T)
    grey = found.features[:, -6:-3].mean(axis=1)
    kind = found.scores.argmax(axis=1)
    sure = found.scores.max(axis=1) >= 0.3
    keys = (area, centre[:, 0], centre[:, 1], grey, np.abs(shape), middle)
    own, crowd = _ranks(keys, kind, sure)
    family, _ = _ranks(keys, np.searchsorted(_FAMILIES, kind, side="right"), sure)
    table = [centre, size, area[:, None] / 5, shape[:, None], middle[:, None], grey[:, None]]
    rest = [np.abs(shape)[:, None], np.exp(-8 * middle)[:, None], own, crowd]
    ends = [np.exp(-(((r - end) * 12) ** 2)) for r in (own, family) for end in (0, 1)]
    out: NDArray[np.float32] = np.concatenate([*table, *rest, family, *ends], axis=1).astype(np.float32)
    return out


def _ranks(
    keys: tuple[Any, ...], kind: NDArray[np.int64], sure: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Ranks [N, K] in 0…1 among the sure boxes of a kind, and how many those are, [N, 2]."""
    ranks, crowd = np.zeros((len(kind), len(keys)), np.float32), np.zeros((len(kind), 2), np.float32)
    for one in np.unique(kind):
        rows = np.flatnonzero(kind == one)
        good = rows[sure[rows]] if sure[rows].any() else rows
        for column, key in enumerate(keys):
            order = np.searchsorted(np.sort(key[good]), key[rows])
            ranks[rows, column] = order / max(1, len(good) - 1)
        crowd[rows] = 1 / max(1, len(good)), min(len(good), 30) / 30
    return ranks, crowd
