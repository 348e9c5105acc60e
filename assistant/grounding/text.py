"""Phrases and their knowledge as token vectors of MiniLM."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

PHRASE_TOKENS, KNOWLEDGE_TOKENS = 32, 80


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    from assistant.model.encoders.pathclip import minilm, minilm_tokenizer

    return minilm().eval(), minilm_tokenizer()


_kept: OrderedDict[tuple[str, int], torch.Tensor] = OrderedDict()
_REMEMBERED = 40_000  # tokens, of 1.5 KB each: texts of users must not fill the memory


def token_vectors(texts: Sequence[str], limit: int) -> list[torch.Tensor]:
    """[T, 384] of each text, without gradients; [0, 384] for an empty one. The last ones are remembered."""
    new = [t for t in dict.fromkeys(texts) if t.strip() and (t, limit) not in _kept]
    if new:
        model, tokenizer = _minilm()
        encoded = tokenizer(new, return_tensors="pt", truncation=True, max_length=limit, padding=True)
        with torch.inference_mode():
            vectors = model(**encoded).last_hidden_state
        for text, rows, there in zip(new, vectors, encoded["attention_mask"].bool(), strict=True):
            _kept[text, limit] = rows[there].clone()
    out = [_kept.get((t, limit), torch.zeros(0, 384)) for t in texts]
    held = sum(map(len, _kept.values())) if new else 0
    while held > _REMEMBERED:
        held -= len(_kept.popitem(last=False)[1])
    return out


def tokens(phrases: Sequence[str], knowledge: Sequence[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Vectors [T, 384] of each phrase and its knowledge, and which part each token is of [T]."""
    pairs = zip(token_vectors(phrases, PHRASE_TOKENS), token_vectors(knowledge, KNOWLEDGE_TOKENS), strict=True)
    return [
        (torch.cat(pair), torch.cat([torch.zeros(len(pair[0])), torch.ones(len(pair[1]))]).long()) for pair in pairs
    ]


def padded(rows: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch: vectors [B, T, 384], parts [B, T] and what is padding [B, T]."""
    longest = max(len(vectors) for vectors, _ in rows)
    text = torch.zeros(len(rows), longest, 384)
    parts = torch.zeros(len(rows), longest, dtype=torch.long)
    blind = torch.ones(len(rows), longest, dtype=torch.bool)
    for number, (vectors, which) in enumerate(rows):
        text[number, : len(vectors)], parts[number, : len(vectors)] = vectors, which
        blind[number, : len(vectors)] = False
    return text, parts, blind
