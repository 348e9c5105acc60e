"""Text arguments are copied: token by token, only what goes on as a passage of the question does."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def continuations(tokenizer: Any, source: str, written: str, longest: int) -> dict[int, str]:
    """Tokens that keep ``written`` a passage of ``source`` (whole words at its start), with their text."""
    pieces = _pieces(tokenizer)
    folded, start = source.casefold(), written.casefold()
    if len(folded) != len(source):  # casefolding that changes lengths: compare as written
        folded, start = source, written
    room = min(longest - len(written), 24)
    found: dict[int, str] = {}
    place = folded.find(start)
    while place >= 0:
        begin = place + len(start)
        whole = place == 0 or not source[place - 1].isalnum()
        if whole and (written or (begin < len(source) and source[begin] != " ")):
            for length in range(1, min(room, len(source) - begin) + 1):
                text = source[begin : begin + length]
                for token in pieces.get(text.casefold(), ()):
                    found[token] = text
        place = folded.find(start, place + 1)
    return found


def ends_a_word(source: str, written: str) -> bool:
    """Whether ``written`` ends where a word of ``source`` does."""
    folded, text = source.casefold(), written.rstrip().casefold()
    place = folded.find(text)
    while place >= 0:
        end = place + len(text)
        if end >= len(folded) or not folded[end].isalnum():
            return True
        place = folded.find(text, place + 1)
    return False


@lru_cache(maxsize=4)
def _pieces(tokenizer: Any) -> dict[str, tuple[int, ...]]:
    """Folded text → tokens that write it, without special tokens and parts of characters."""
    special = set(tokenizer.all_special_ids)
    found: dict[str, list[int]] = {}
    for token, text in enumerate(tokenizer.batch_decode([[i] for i in range(len(tokenizer))])):
        if token not in special and text and "\ufffd" not in text and not {'"', "\\", "\n"} & set(text):
            found.setdefault(text.casefold(), []).append(token)
    return {text: tuple(tokens) for text, tokens in found.items()}
