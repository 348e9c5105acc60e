"""Boxes as text: how a chat model that points writes them, and how they are read back.

    The gland: <box>(105,220),(431,640)</box> <box>(500,12),(690,200)</box>

Numbers are thousandths of the image's width and height, whole, 0 to 1000, top left corner before bottom right, as in
Qwen-VL's ``<box>`` (Qwen2-VL and Qwen3-VL count in thousandths too). "Nothing like that here." is the empty answer.
Read as well are Qwen2-VL's ``<|box_start|>(x,y),(x,y)<|box_end|>``, InternVL's ``<box>[[x,y,x,y], …]</box>`` and a JSON
list of ``{"bbox_2d": [x, y, x, y]}``; pixels, as Qwen2.5-VL writes them, are not told apart and must not be asked for.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from assistant.errors import BadInput, PathAssistError

SIDE = 1000
MOST = 100  # boxes in one answer
NOTHING = "Nothing like that here."
OPEN, CLOSE = "<box>", "</box>"
_OPENERS = {OPEN: CLOSE, "<|box_start|>": "<|box_end|>"}
_LONGEST = 4096  # characters between a tag and its end
_NUMBER = re.compile(r"[^\s,;()\[\]]+")
_WHOLE = re.compile(r"-?\d{1,9}\Z")
_NONE = re.compile(
    r"\W*(?:nothing|none|no (?:such|matching|box|boxes|object|objects)|there (?:is|are) (?:no|none))\b", re.I
)
_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL | re.IGNORECASE)

Thousandths = tuple[int, int, int, int]
Pixels = tuple[float, float, float, float]


class NotBoxes(PathAssistError):
    """A model's answer that should hold boxes and cannot be read as such (HTTP 502)."""

    status = 502
    code = "bad_model_output"


def to_thousandths(box: Sequence[float], size: tuple[int, int]) -> Thousandths:
    """A box x0, y0, x1, y1 in pixels of an image, in thousandths; at least one wide and high.

    Args:
        box: May reach over the edge of the image; what is outside is cut off.
        size: Width and height of the image.

    Raises:
        BadInput: Not four finite numbers, corners the wrong way round, or nothing of it inside the image.
    """
    width, height = size
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise BadInput(f"the box {list(box)} has to be four finite numbers x0, y0, x1, y1")
    x0, y0, x1, y1 = (float(v) for v in box)
    if not (x0 < x1 and y0 < y1):
        raise BadInput(f"the box {list(box)} has no area; it has to be x0 < x1 and y0 < y1")
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise BadInput(f"the box {list(box)} lies outside the image, {width} x {height} pixels")
    left, right = _span(x0 / width, x1 / width)
    top, bottom = _span(y0 / height, y1 / height)
    return left, top, right, bottom


def _span(low: float, high: float) -> tuple[int, int]:
    first, last = max(0, round(low * SIDE)), min(SIDE, round(high * SIDE))
    if first < last:
        return first, last
    first = min(SIDE - 1, max(0, math.floor(low * SIDE)))
    return first, first + 1


def to_pixels(box: Thousandths, size: tuple[int, int]) -> Pixels:
    """A box in thousandths in pixels of an image of that size, to a tenth."""
    x0, y0, x1, y1 = checked(box)
    width, height = size
    return (
        round(x0 * width / SIDE, 1),
        round(y0 * height / SIDE, 1),
        round(x1 * width / SIDE, 1),
        round(y1 * height / SIDE, 1),
    )


def checked(box: Sequence[int]) -> Thousandths:
    """The box, where it is one.

    Raises:
        NotBoxes: Not four whole numbers 0…1000, or corners the wrong way round.
    """
    if len(box) != 4:
        raise NotBoxes(f"the model wrote a box of {len(box)} numbers, {str(list(box))[:60]}; four are needed")
    if not all(0 <= v <= SIDE for v in box):
        raise NotBoxes(
            f"the model wrote the box {list(box)};"
            f" allowed are thousandths of the image, 0 to {SIDE}: it may write pixels"
        )
    x0, y0, x1, y1 = box
    if not (x0 < x1 and y0 < y1):
        raise NotBoxes(f"the model wrote the box {list(box)}; its corners are the wrong way round")
    return x0, y0, x1, y1


def box_text(box: Thousandths) -> str:
    """One box as it is written."""
    return "{}({},{}),({},{}){}".format(OPEN, *box, CLOSE)


def write_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> str:
    """The answer for boxes in pixels of an image, from top to bottom and left to right, or the empty answer.

    Boxes that are the same in thousandths are written once.

    Raises:
        BadInput: A box that is none, see :func:`to_thousandths`, or more than ``MOST``.
    """
    if len(boxes) > MOST:
        raise BadInput(f"{len(boxes):,} boxes are too many for one answer; at most {MOST} are written")
    rows = sorted({to_thousandths(box, size) for box in boxes}, key=lambda b: (b[1], b[0], b[3], b[2]))
    return " ".join(map(box_text, rows)) or NOTHING


class BoxReader:
    """Reads an answer that comes in pieces: text goes on at once, boxes when they are complete.

    A tag may be split anywhere; its beginning is held back until it is clear what it is.
    """

    def __init__(self) -> None:
        self.count = 0
        self._held, self._until = "", ""

    def feed(self, piece: str) -> list[str | Thousandths]:
        """What is complete by now, in its order.

        Raises:
            NotBoxes: A box that is none, or more than ``MOST``.
        """
        self._held += piece
        out: list[str | Thousandths] = []
        while self._held:
            if self._until:
                body, found, rest = self._held.partition(self._until)
                if not found:
                    if len(self._held) > _LONGEST:
                        raise NotBoxes(f"the model opened a box and did not close it within {_LONGEST:,} characters")
                    break
                boxes = _boxes_in(body)
                self.count += len(boxes)
                if self.count > MOST:
                    raise NotBoxes(f"the model wrote more than {MOST} boxes; name one thing at a time")
                out += boxes
                self._held, self._until = rest, ""
                continue
            places = [(at, tag) for tag in _OPENERS if (at := self._held.find(tag)) >= 0]
            if places:
                at, tag = min(places)
                out += [self._held[:at]] if at else []
                self._held, self._until = self._held[at + len(tag) :], _OPENERS[tag]
                continue
            kept = _beginning(self._held)
            out += [self._held[: len(self._held) - kept]] if kept < len(self._held) else []
            self._held = self._held[len(self._held) - kept :]
            break
        return out

    def close(self) -> list[str | Thousandths]:
        """What was held back, when nothing more comes.

        Raises:
            NotBoxes: The answer ends inside a box.
        """
        if self._until:
            raise NotBoxes("the model's answer ends inside a box; allow it more tokens or name one thing at a time")
        held, self._held = self._held, ""
        return [held] if held else []


def _beginning(text: str) -> int:
    """Length of the end of a text that may become a tag."""
    for length in range(min(len(text), max(map(len, _OPENERS)) - 1), 0, -1):
        if any(tag.startswith(text[-length:]) for tag in _OPENERS):
            return length
    return 0


def _boxes_in(body: str) -> list[Thousandths]:
    words = _NUMBER.findall(body)
    for word in words:
        if not _WHOLE.match(word):
            raise NotBoxes(f"the model wrote {word[:20]!r} in a box; numbers are whole, 0 to {SIDE}")
    if not words or len(words) % 4:
        raise NotBoxes(f"the model wrote a box of {len(words)} numbers, {body.strip()[:60]!r}; four are needed")
    numbers = [int(word) for word in words]
    return [checked(numbers[i : i + 4]) for i in range(0, len(numbers), 4)]


def parse_boxes(text: str) -> list[Thousandths]:
    """Boxes of a whole answer in their order, each once; empty where it says that nothing is there.

    Raises:
        NotBoxes: A box that is none, too many, or neither boxes nor words for nothing.
    """
    if any(tag in text for tag in _OPENERS):
        reader = BoxReader()
        pieces = [*reader.feed(text), *reader.close()]
        return list(dict.fromkeys(p for p in pieces if not isinstance(p, str)))
    found = _from_json(text)
    if found is not None:
        return list(dict.fromkeys(found))
    if _NONE.match(text):
        return []
    raise NotBoxes(
        f"the model answered without a box: {' '.join(text.split())[:80]!r}; it may not be trained to point: "
        "leave out --model for the small grounder"
    )


def _from_json(text: str) -> list[Thousandths] | None:
    """Boxes of a JSON list of objects with ``bbox_2d`` (or ``bbox``), bare or fenced; None where there is no list."""
    fenced = _FENCE.search(text)
    plain = (fenced.group(1) if fenced else text).strip()
    if not plain.startswith(("[", "{")):
        return None
    try:
        value: Any = json.loads(plain, parse_constant=_refused)
    except (ValueError, RecursionError):
        raise NotBoxes(f"the model's answer is broken JSON: {plain[:60]!r}") from None
    rows = value if isinstance(value, list) else [value]
    if len(rows) > MOST:
        raise NotBoxes(f"the model wrote {len(rows):,} boxes, more than {MOST}; name one thing at a time")
    out = []
    for row in rows:
        box = row.get("bbox_2d", row.get("bbox")) if isinstance(row, dict) else row
        if not isinstance(box, list) or not all(isinstance(v, int) and not isinstance(v, bool) for v in box):
            raise NotBoxes(f"the model wrote {str(box)[:60]!r} for a box; four whole numbers are needed, 0 to {SIDE}")
        out.append(checked(box))
    return out


def _refused(name: str) -> None:
    raise ValueError(name)
