"""From user text to model messages: turns, lettered options, yes/no questions.

A question with options is recognised however it is typed, ``A) liver``, ``(A) liver``, ``A. liver``, one a line or all
on one line, and is put to the model in one canonical form, so that the answer does not depend on punctuation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from assistant.errors import BadInput
from assistant.plain import whole_characters

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS = "ABCDEFGHIJ"
MAX_QUESTION_CHARS = 8_000
YES_NO = ("Yes", "No")

_MARK = re.compile(r"(?:(?<=\s)|^)\(?([A-J])(?:\)|\.|:)(?=\s)\s+")
_YES_NO_START = re.compile(
    r"^(?:is|are|was|were|does|do|did|has|have|can|could|would|will|should)\b(?! you\b)[^?]*\?$", re.IGNORECASE
)
_EITHER_OR = re.compile(r"\bor\b", re.IGNORECASE)
_TRAILING_HINT = re.compile(r"\n+\s*(?:answer|choose|pick|select|reply)\b[^\n]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; images belong to user turns and precede their text."""

    role: Literal["user", "assistant", "system"]
    text: str
    images: tuple[Image, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", whole_characters(self.text))


@dataclass(frozen=True)
class Question:
    """A question as the model gets it.

    Attributes:
        stem: The question without its options.
        options: Option texts in the order given; empty for an open question; ``("Yes", "No")`` for a yes/no question.
        labels: How each option is shown in the answer (``"B) liver"``); same length as ``options``.
    """

    stem: str
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def closed(self) -> bool:
        return bool(self.options)

    def prompt(self) -> str:
        """Canonical text: the stem, then one lettered option a line (yes/no questions are left as they are)."""
        if not self.options or self.options == YES_NO:
            return self.stem
        return "\n".join([self.stem, *(f"{LETTERS[i]}) {o}" for i, o in enumerate(self.options))])


def parse_question(text: str, options: Sequence[str] | None = None) -> Question:
    """Split a typed question into stem and options.

    Args:
        text: What the user typed.
        options: Options given apart from the text; they win over any found in it.

    Raises:
        BadInput: Empty or overlong text, fewer than two, more than ten, empty or repeated options.
    """
    text = whole_characters(text.strip())
    if not text:
        raise BadInput("the question is empty; type what you want to know about the image")
    if len(text) > MAX_QUESTION_CHARS:
        raise BadInput(f"the question has {len(text):,} characters; at most {MAX_QUESTION_CHARS:,} are allowed")
    if options is not None:
        return _closed(text, [whole_characters(str(o)) for o in options])
    found = _find_options(text)
    if found is not None:
        return _closed(*found)
    if _YES_NO_START.match(text) and not _EITHER_OR.search(text):
        return Question(text, YES_NO, YES_NO)
    return Question(text)


def _closed(stem: str, options: list[str]) -> Question:
    cleaned = tuple(o.strip() for o in options)
    if not 2 <= len(cleaned) <= len(LETTERS):
        raise BadInput(f"{len(cleaned)} options given; a closed question takes 2 to {len(LETTERS)}")
    if not all(cleaned):
        raise BadInput(f"option {LETTERS[cleaned.index('')]} is empty; give every option a text")
    if len({o.casefold() for o in cleaned}) < len(cleaned):
        raise BadInput(f"the options {', '.join(cleaned)} repeat one another; each must be different")
    if tuple(o.casefold() for o in cleaned) == ("yes", "no"):
        return Question(stem, YES_NO, YES_NO)
    return Question(stem, cleaned, tuple(f"{LETTERS[i]}) {o}" for i, o in enumerate(cleaned)))


def _find_options(text: str) -> tuple[str, list[str]] | None:
    """Lettered options in running order from A; None when there are fewer than two or one would be empty."""
    marks: list[re.Match[str]] = []
    for match in _MARK.finditer(text):
        if match.group(1) == LETTERS[len(marks)]:
            marks.append(match)
        if len(marks) == len(LETTERS):
            break
    if len(marks) < 2:
        return None
    ends = [m.start() for m in marks[1:]] + [len(text)]
    options = [text[m.end() : end] for m, end in zip(marks, ends, strict=True)]
    options[-1] = _TRAILING_HINT.sub("", options[-1]).split("\n\n")[0]
    options = [" ".join(o.split()).rstrip(",;") for o in options]
    stem = text[: marks[0].start()].strip().removesuffix("Options:").strip()
    if not all(options) or not stem or len({o.casefold() for o in options}) < len(options):
        return None
    return stem, options


def to_messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Turns as chat-template messages: each image a ``{"type": "image"}`` part in front of its turn's text."""
    return [
        {
            "role": turn.role,
            "content": [{"type": "image"} for _ in turn.images] + [{"type": "text", "text": turn.text}],
        }
        for turn in turns
    ]
