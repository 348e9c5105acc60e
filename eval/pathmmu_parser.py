"""The prompt and the answer parser of PathMMU, as its code does it, faults included.

``eval/utils/data_utils.py``, ``eval/utils/eval_utils.py`` and ``eval/main.py`` of PathMMU-Benchmark/PathMMU at f1ca4d3.
What is easy to get wrong:

- The prompt stands in a folded YAML scalar (``eval/configs/llava1.5.yaml``), so each blank line of the file is *one*
  line break: question, options, an empty line, the instruction.
- An option is what stands between its first ``)`` and the next: ``B) p53 (TP53) loss`` is asked as ``p53 (TP53``. An
  option without ``)`` fails, and the item leaves the denominator.
- ``(A)`` anywhere wins over `` A ``, which wins over option texts, which count only in replies of more than five words;
  of several the last one counts.
- What cannot be read is drawn from one generator seeded with 42, in the order of the items; the draw also happens, and
  is then overruled, when the reply is the right option's text exactly.
- Right means that the *texts* are equal apart from case, so of two options cut to the same text both are right.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
INSTRUCTION = "Answer with the option's letter from the given choices directly."
SEED = 42


class Unreadable(ValueError):
    """The official code fails on this item before any model is asked."""


@dataclass(frozen=True)
class Parsed:
    """What the parser read.

    Attributes:
        index: Option chosen; None where the official code draws one.
        branch: ``bracket``, ``letter``, ``text`` or ``none``.
        several: More than one option was named.
    """

    index: int | None
    branch: str
    several: bool


def official_options(options: Sequence[str]) -> list[str]:
    """Option texts as the official code cuts them.

    Raises:
        Unreadable: An option without ``)``.
    """
    for option in options:
        if ")" not in option:
            raise Unreadable(f"the option {option!r} has no ')' after its letter")
    return [option.split(")")[1].strip() for option in options]


def official_prompt(question: str, options: Sequence[str]) -> str:
    """The text put to every model; ``options`` as :func:`official_options` returns them."""
    listed = "".join(f"({LETTERS[i]}) {option}\n" for i, option in enumerate(options))
    return f"{question}\n{listed}\n{INSTRUCTION}"


def parse(response: str, options: Sequence[str]) -> Parsed:
    """Which option a reply names.

    Args:
        options: Texts as cut by :func:`official_options`.
    """
    for mark in ",.!?;:'":
        response = response.strip(mark)
    text = f" {response} "
    letters = LETTERS[: len(options)]
    lower = text.lower()
    by_branch = {
        "bracket": [(text.rfind(f"({c})"), i) for i, c in enumerate(letters)],
        "letter": [(text.rfind(f" {c} "), i) for i, c in enumerate(letters)],
        "text": [(lower.rfind(o.lower()), i) for i, o in enumerate(options)] if len(text.split()) > 5 else [],
    }
    for branch, places in by_branch.items():
        named = [(place, i) for place, i in places if place >= 0]
        if named:
            last = max(place for place, _ in named)
            return Parsed(next(i for place, i in named if place == last), branch, len(named) > 1)
    return Parsed(None, "none", False)


def official_hits(rows: Iterable[tuple[int | None, str, Sequence[str], int]], seed: int = SEED) -> list[bool]:
    """Whether each reply is right by the official code, random fallback included.

    Args:
        rows: (index read or None, response, options as cut, index of the right option) in the order of the items. The
            order matters: every unread reply draws the next number. The official run starts one generator and goes
            through the subsets in the order named on its command line.
    """
    generator = random.Random(seed)  # noqa: S311 - reproduces the published protocol
    hits = []
    for index, response, options, right in rows:
        if index is None:
            index = LETTERS.index(generator.choice(LETTERS[: len(options)]))
        chosen = options[right] if response == options[right] else options[index]
        hits.append(chosen.lower() == options[right].lower())
    return hits
