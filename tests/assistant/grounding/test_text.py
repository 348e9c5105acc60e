"""Vectors of phrases: remembered, but never more of them than memory allows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from assistant.grounding import text


class Tokenizer:
    """A token a word."""

    def __call__(self, texts: list[str], **_: Any) -> Any:
        there = torch.zeros(len(texts), max(len(t.split()) for t in texts), dtype=torch.long)
        for row, one in enumerate(texts):
            there[row, : len(one.split())] = 1
        return {"input_ids": there, "attention_mask": there}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []

    def model(input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        counted.append(len(input_ids))
        return SimpleNamespace(last_hidden_state=torch.ones(*input_ids.shape, 384))

    monkeypatch.setattr(text, "_minilm", lambda: (model, Tokenizer()))
    monkeypatch.setattr(text, "_kept", type(text._kept)())
    return counted


def test_a_text_is_read_once(calls: list[int]) -> None:
    assert [len(v) for v in text.token_vectors(["a gland", "", "a gland"], 32)] == [2, 0, 2]
    text.token_vectors(["a gland", "the stroma"], 32)
    assert calls == [1, 1]


def test_texts_of_users_do_not_fill_the_memory(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_REMEMBERED", 20)
    for number in range(30):
        assert len(text.token_vectors([f"phrase number {number}"], 32)[0]) == 3
    assert sum(map(len, text._kept.values())) <= 20
    assert ("phrase number 29", 32) in text._kept
    assert len(text.token_vectors([f"long {'word ' * 40}"], 64)[0]) == 41  # longer than all that is remembered
    assert len(text._kept) <= 1
