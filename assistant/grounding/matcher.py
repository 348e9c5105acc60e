"""Which of the proposals a phrase means: a small transformer over boxes that reads the phrase and what is known of it.

Boxes look at each other with a bias from their relative geometry, and at the tokens of the phrase and of its knowledge
(MiniLM, frozen), which is PKNet's knowledge fusion by attention (PathVG, Zhong et al. 2025). They say of each box
whether it is one of the things named; the phrase is read as an operation and a place, and ``program.py`` carries those
out. A residual per box, and one for "nothing is meant", has the last word.
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
from assistant.files import whole
from assistant.grounding.detector import CLASSES, Detector, Proposals
from assistant.grounding.program import GROUPS, OPS, PLACES, execute

#: Where the families of ``CLASSES`` begin: blood cells, glands, nuclei, tissue.
_FAMILIES = (3, 4, 8)
_KEYS = 6
GEOMETRY = 22 + 5 * _KEYS
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


@dataclass(frozen=True)
class Read:
    """What the matcher makes of phrases about boxes.

    Attributes:
        match: [B, N] logits to be meant.
        delta: [B, N, 4] corrections of the boxes.
        answer: [B, 2] logits: something is meant; one box around all is.
        subject, anchor: [B, N] logits to be one of the things named, and what a relation is to.
        op, place: [B, len(OPS)] and [B, len(PLACES)] logits.
    """

    match: torch.Tensor
    delta: torch.Tensor
    answer: torch.Tensor
    subject: torch.Tensor
    anchor: torch.Tensor
    op: torch.Tensor
    place: torch.Tensor


class Parser(nn.Module):
    """Operation and place from the tokens of a phrase: a few learned queries pool them, then two layers."""

    def __init__(self, width: int, queries: int = 6) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Sequential(
            nn.Linear((queries + 1) * width, 192), nn.GELU(), nn.Dropout(0.2), nn.Linear(192, len(OPS) + len(PLACES))
        )

    def forward(self, text: torch.Tensor, said: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of ``OPS`` and ``PLACES`` from tokens [B, T, D]; ``said`` [B, T] is True on those of the phrase."""
        if self.training:  # words are left out now and then
            said = said & ((torch.rand(said.shape, device=said.device) > 0.08) | (said.sum(1, keepdim=True) < 5))
        weight = (torch.einsum("btd,qd->bqt", text, self.queries)).masked_fill(~said[:, None], -1e4).softmax(dim=-1)
        mean = said.float() / said.sum(1, keepdim=True).clamp(min=1)
        pooled = torch.einsum("bqt,btd->bqd", torch.cat([weight, mean[:, None]], dim=1), text)
        found = self.out(self.drop(pooled.flatten(1)))
        return found[:, : len(OPS)], found[:, len(OPS) :]


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
        self.pair = nn.Sequential(nn.Linear(_PAIR, 32), nn.GELU(), nn.Linear(32, c.heads * c.layers))
        self.layers = nn.ModuleList(Layer(c.width, c.heads) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        self.parser = Parser(c.text_width)
        self.role = nn.Linear(c.width, 2)  # one of the things named; what a relation is to
        self.match = nn.Linear(c.width, 1)
        self.refine = nn.Linear(c.width, 4)
        self.answer = nn.Linear(c.width, 1)
        self.trust = nn.Parameter(torch.ones(2))  # in what was carried out, for each box and for the answer
        for layer in (self.refine, self.match, self.answer):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.role.bias, -1.0)

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
    ) -> Read:
        """What phrases mean among boxes.

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
        hidden = F.pad(~there, (1, 0))[:, None, None]
        biases = F.pad(self.pair(pairs_of(boxes)).permute(0, 3, 1, 2), (1, 0, 1, 0))
        for layer, bias in zip(self.layers, biases.chunk(len(self.layers), dim=1), strict=True):
            x = layer(x, bias.masked_fill(hidden, -1e4), words, blind)
        x = self.norm(x)
        subject, anchor = self.role(x[:, 1:]).unbind(-1)
        op, place = self.parser(text, (parts == 0) & ~blind)
        ops = op.softmax(dim=1)
        meant = execute(
            ops, place.softmax(dim=1), torch.sigmoid(subject) * there, torch.sigmoid(anchor) * there, geometry
        )
        match = self.match(x[:, 1:])[..., 0] + self.trust[0] * _logit(meant)
        something = self.answer(x[:, 0])[:, 0] + self.trust[1] * _logit(meant.amax(dim=1))
        answer = torch.stack([something, _logit(ops[:, list(GROUPS)].sum(dim=1))], dim=1)
        return Read(match, self.refine(x[:, 1:]), answer, subject, anchor, op, place)

    def save(self, path: Path) -> None:
        """fp16 tensors with the configuration as metadata; whole or not at all."""
        from safetensors.torch import save_file

        tensors = {k: v.half().contiguous() for k, v in self.state_dict().items()}
        metadata = {"config": json.dumps(asdict(self.config)), "classes": json.dumps(CLASSES)}
        with whole(path) as partial:
            save_file(tensors, partial, metadata=metadata)

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


def _logit(chance: torch.Tensor) -> torch.Tensor:
    return torch.logit(chance.clamp(2e-3, 1 - 2e-3))


def pairs_of(boxes: torch.Tensor) -> torch.Tensor:
    """Relative geometry [B, N, N, 7]: offset of centres, distance and its nearness, size ratio, overlap of axes."""
    centre, size = (boxes[..., :2] + boxes[..., 2:]) / 2, (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-4)
    offset = centre[:, None, :, :] - centre[:, :, None, :]
    far = offset.norm(dim=-1, keepdim=True)
    ratio = (size[:, None, :, :].log() - size[:, :, None, :].log()).clamp(-3, 3) / 3
    return torch.cat([offset, far, torch.exp(-8 * far), torch.exp(-30 * far), ratio], dim=-1)


def geometry_of(found: Proposals) -> NDArray[np.float32]:
    """What a box is among the others, [N, GEOMETRY]: place, size, shape, ranks among boxes of its class, 0…1, outline.

    Areas are those of outlines where there are any, as sizes are meant by those who label them.
    """
    count = len(found.boxes)
    if not count:
        return np.zeros((0, GEOMETRY), np.float32)
    width, height = found.size
    boxes = found.boxes / np.array([width, height, width, height], np.float32)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-4)
    area = np.log(np.maximum(found.outlines[:, 0], 1e-8))
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
    edge = np.minimum(found.boxes[:, :2], [width, height] - found.boxes[:, 2:]).min(axis=1) < 2
    shaped = [found.outlines[:, 1:], edge[:, None].astype(np.float32)]
    out: NDArray[np.float32] = np.concatenate([*table, *rest, family, *ends, *shaped], axis=1).astype(np.float32)
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
