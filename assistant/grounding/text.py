"""Phrases and their knowledge as token vectors of MiniLM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch

PHRASE_TOKENS, KNOWLEDGE_TOKENS = 32, 80


@lru_cache(maxsize=1)
def _minilm() -> tuple[Any, Any]:
    from assistant.model.encoders.pathclip import minilm, minilm_tokenizer

    return minilm().eval(), minilm_tokenizer()


@lru_cache(maxsize=4096)
def token_vectors(text: str, limit: int) -> torch.Tensor:
    """[T, 384] of one text, without gradients; [0, 384] for an empty one."""
    if not text.strip():
        return torch.zeros(0, 384)
    model, tokenizer = _minilm()
    encoded = tokenizer([text], return_tensors="pt", truncation=True, max_length=limit)
    with torch.inference_mode():
        vectors: torch.Tensor = model(**encoded).last_hidden_state[0]
    return vectors.clone()


def tokens(phrase: str, knowledge: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [T, 384] of phrase and knowledge, and which part each token is of [T]."""
    first, second = token_vectors(phrase, PHRASE_TOKENS), token_vectors(knowledge, KNOWLEDGE_TOKENS)
    parts = torch.cat([torch.zeros(len(first)), torch.ones(len(second))]).long()
    return torch.cat([first, second]), parts


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
