"""A chat model as a grounder: it writes boxes in its answer, and they come back as from the small default.

    load_chat_grounder("qwen-7b").ground(image, "the largest gland")

A model on this machine chooses among what can be written (``boxes_text``): nothing or a box, each number among those
possible at its place, another box or the end; so its answer can always be read. An endpoint (``remote``) is asked in
the same words and its answer is parsed. The score of a box is how likely the model found what it wrote; it is not
calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from assistant.answer import Box
from assistant.chat.prompt import Turn, parse_question
from assistant.errors import BadInput
from assistant.grounding.boxes_text import CLOSE, NOTHING, OPEN, SIDE, NotBoxes, Thousandths, parse_boxes, to_pixels
from assistant.grounding.ground import check_phrase, load_grounder
from assistant.images.quality import blankness

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from PIL.Image import Image

    from assistant.assistant import Assistant

#: Boxes that a model here writes at most; one is about 25 tokens.
LIMIT = 40
_EMPTY = 0.98
_START, _NEXT, _MIDDLE, _END = f"{OPEN}(", f" {OPEN}(", "),(", f"){CLOSE}"


class Grounds(Protocol):
    """What every grounder offers."""

    def ground(self, image: Image, phrase: str, *, threshold: float | None = None) -> list[Box]: ...


def grounding_prompt(phrase: str) -> str:
    """What a chat model is asked; training data is written with it too."""
    return (
        f"Point at this in the image: {phrase}\n"
        f"Write one {OPEN}(x0,y0),(x1,y1){CLOSE} for each, in thousandths of the image's width and height, "
        f"top left corner first. If there is none, write: {NOTHING}"
    )


class ChatGrounder:
    """Boxes by a loaded assistant, one on this machine or one behind an endpoint.

    Args:
        limit: Boxes it may write at most.
    """

    def __init__(self, assistant: Assistant, *, limit: int = LIMIT) -> None:
        self.assistant, self.limit = assistant, limit

    def ground(self, image: Image, phrase: str, *, threshold: float | None = None) -> list[Box]:
        """Boxes of what a phrase means in pixels of the image, the likeliest first; empty for nothing like that.

        Args:
            threshold: Score from which a box is returned, 0…1; default 0, for the scores are not calibrated.

        Raises:
            BadInput: An empty or overlong phrase, a threshold outside 0…1.
            NotBoxes: An endpoint's answer cannot be read as boxes.
            NotAvailable: The endpoint cannot be reached.
        """
        from assistant.chat.planner import neutral

        phrase = check_phrase(phrase)
        asked = grounding_prompt(check_phrase(neutral(phrase)))
        if parse_question(asked).closed:
            raise BadInput(f"the phrase {phrase[:60]!r} reads like a list of options; name one thing to point at")
        limit = 0.0 if threshold is None else threshold
        if not 0 <= limit <= 1:
            raise BadInput(f"threshold is {threshold}; allowed: 0 to 1")
        if blankness(image) >= _EMPTY:
            return []
        image = image.convert("RGB")
        found = self._replied(image, asked) if self.assistant.engine is None else self._written(image, asked)
        boxes = [Box(phrase, to_pixels(box, image.size), round(score, 4)) for box, score in found if score >= limit]
        return sorted(boxes, key=lambda box: -box.score)

    def _replied(self, image: Image, asked: str) -> list[tuple[Thousandths, float]]:
        """Of an endpoint: all boxes of a reply have its confidence."""
        said = self.assistant.ask(image, asked, max_new_tokens=1024, threshold=0.0)
        if said.finish_reason == "length":
            raise NotBoxes("the model's answer was cut off at 1,024 tokens; name fewer things at a time")
        return [(box, said.confidence) for box in parse_boxes(said.best_guess)]

    def _written(self, image: Image, asked: str) -> list[tuple[Thousandths, float]]:
        """Of a model here, written under the grammar."""
        a = self.assistant
        with a._lock:
            ids, kept = a._fit([Turn("user", asked, (image,))])
            seen = [one for turn in kept for one in turn.images]
            prefix = a.engine.prefill(a.embed_prompt(ids, seen))
            writer = _Writer(a.processor.tokenizer, sorted(a._end_ids()), prefix.logits)
            writer.step = a.engine.stepper(prefix, self.limit * 48 + 16)
            return writer.boxes(self.limit)


class _Writer:
    """An answer being written. ``logits`` [V] are those of the next token, ``step`` reads one token."""

    step: Callable[[int], torch.Tensor]

    def __init__(self, tokenizer: Any, ends: Sequence[int], logits: torch.Tensor) -> None:
        self.tokenizer, self.ends, self.logits = tokenizer, list(ends), logits
        self.tokens: list[int] = []

    def boxes(self, limit: int) -> list[tuple[Thousandths, float]]:
        """Boxes with the mean probability of their numbers; none written twice, at most ``limit``."""
        found: dict[Thousandths, float] = {}
        chosen, _ = self.choose([_START, NOTHING])
        while chosen == 0:
            (x0, y0), first = self.corner((0, 0), _MIDDLE)
            self.read(_MIDDLE)
            (x1, y1), second = self.corner((x0 + 1, y0 + 1), _END)
            box = x0, y0, x1, y1
            if box in found:  # it repeats itself: the rest would be the same again
                break
            found[box] = math.exp((first + second) / 4)
            self.read(_END)
            if len(found) == limit:
                break
            chosen, _ = self.choose([_NEXT, ""])
        return list(found.items())

    def corner(self, least: tuple[int, int], after: str) -> tuple[tuple[int, int], float]:
        """Two numbers with a comma between them, and the sum of their log-probabilities."""
        highest = SIDE - 1 if after == _MIDDLE else SIDE
        x, a = self.number(least[0], highest, ",")
        self.read(",")
        y, b = self.number(least[1], highest, after)
        return (x, y), a + b

    def number(self, low: int, high: int, after: str) -> tuple[int, float]:
        """A whole number from ``low`` to ``high``, digit by digit; ``after`` is the text behind it."""
        rows = [self.ids(str(value)) for value in range(low, high + 1)]
        left, place, total = list(range(len(rows))), 0, 0.0
        end = self.ids(after)[0]
        while True:
            done = [i for i in left if len(rows[i]) == place]
            allowed = {rows[i][place] for i in left if len(rows[i]) > place}
            options = sorted(allowed) + ([end] if done else [])
            best, logprob = self.best(options)
            total += logprob
            if best == end and done:
                return low + done[0], total
            left = [i for i in left if len(rows[i]) > place and rows[i][place] == best]
            self.token(best)
            place += 1
            if len(left) == 1 and len(rows[left[0]]) == place:
                return low + left[0], total

    def choose(self, options: Sequence[str]) -> tuple[int, float]:
        """One of two texts, of which "" is the end of the answer, by its first token; the text is read."""
        firsts = [list(self.ids(text)[:1]) if text else self.ends for text in options]
        best, logprob = self.best([token for row in firsts for token in row])
        number = next(i for i, row in enumerate(firsts) if best in row)
        if options[number]:
            self.read(options[number])
        return number, logprob

    def best(self, options: Sequence[int]) -> tuple[int, float]:
        """The likeliest of some tokens and its log-probability among them."""
        scores = [float(self.logits[token]) for token in options]
        top = max(range(len(options)), key=scores.__getitem__)
        total = math.log(sum(math.exp(s - scores[top]) for s in scores))
        return options[top], -total

    def read(self, text: str) -> None:
        for token in self.ids(text):
            self.token(token)

    def token(self, token: int) -> None:
        self.tokens.append(token)
        self.logits = self.step(token)

    def ids(self, text: str) -> tuple[int, ...]:
        return _ids(self.tokenizer, text)


@lru_cache(maxsize=4096)
def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokens of a text as it stands after other text: tokenizers that mark the start of a word do not here."""
    before = tokenizer("\n", add_special_tokens=False)["input_ids"]
    both = tokenizer("\n" + text, add_special_tokens=False)["input_ids"]
    if both[: len(before)] == before and len(both) > len(before):
        return tuple(both[len(before) :])
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def load_chat_grounder(preset: str, *, quantization: str | None = None, source: str = "wheels") -> Grounds:
    """The grounder of a preset: the small one for ``embedded``, which does not write boxes, else the chat model.

    Raises:
        BadInput: Unknown preset. NotAvailable: Its weights, the hardware or its endpoint are missing.
    """
    from assistant.assistant import Assistant

    if preset == "embedded":
        return load_grounder()
    return ChatGrounder(Assistant.load(preset, quantization=quantization, source=source, progress=False))
