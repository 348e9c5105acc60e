"""The canonical training example: TRL messages with image files, and how it is checked, written and split.

One line of a messages file::

    {"images": ["a.png"], "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "…"}]},
     {"role": "assistant", "content": [{"type": "text", "text": "…"}]}], "group": "slide-7"}

The n-th ``{"type": "image"}`` part stands for the n-th path. ``training.data.readers`` reads it back.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assistant.files import whole
from training.data.records import DataError


@dataclass(frozen=True)
class Conversation:
    """One conversation to learn from.

    Attributes:
        images: Image files in the order of the image parts.
        messages: ``{"role", "content"}`` with content as a list of parts, never a bare string.
        group: Patient or slide: the unit that a split must not cut. ``None`` when the source names none.
    """

    images: tuple[Path, ...]
    messages: list[dict[str, Any]]
    group: str | None = None

    def check(self) -> None:
        """Refuse what cannot be trained on.

        Raises:
            DataError: Roles do not alternate from user to assistant (after an optional leading system turn), the last
                turn is not the assistant's, a turn has no text, an image part stands outside a user turn, or the
                number of image parts is not the number of images. The message names the turn, counted from 1.
        """
        if self.group is not None:
            _check_unicode(self.group, "group")
        places = 0
        turns = [str(m.get("role")) for m in self.messages]
        offset = 1 if turns[:1] == ["system"] else 0
        for number, message in enumerate(self.messages, 1):
            role = turns[number - 1]
            expected = "system" if number <= offset else ("user", "assistant")[(number - 1 - offset) % 2]
            if role != expected:
                raise DataError(
                    f"turn {number} is {role!r} where {expected!r} is due; roles alternate user, assistant, "
                    "after at most one leading system turn"
                )
            places += _check_content(message.get("content"), f"turn {number} ({role})", role)
        if not turns or turns[-1] != "assistant":
            last = repr(turns[-1]) if turns else "nothing"
            raise DataError(f"the conversation ends with {last}; it must end with an assistant turn to learn from")
        if places != len(self.images):
            raise DataError(f"{places} image placeholder(s) for {len(self.images)} image(s); the numbers must agree")


def _check_content(content: object, where: str, role: str) -> int:
    """Check the parts of one turn and return how many are images."""
    if not isinstance(content, list):
        raise DataError(f"{where}: content is {type(content).__name__}; expected a list of parts")
    places, text = 0, ""
    for part in content:
        match part:
            case {"type": "image"}:
                places += 1
            case {"type": "text", "text": str(words)}:
                text += words
            case _:
                raise DataError(
                    f'{where}: a part reads {str(part)[:80]!r}; allowed: {{"type": "image"}} and '
                    '{"type": "text", "text": "…"}'
                )
    if not text.strip():
        raise DataError(f"{where}: no text; every turn needs some")
    _check_unicode(text, where)
    if places and role != "user":
        raise DataError(f"{where}: holds an image; only user turns may")
    return places


def _check_unicode(text: str, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half a surrogate pair at character {error.start}; save the text as UTF-8") from error


def write_messages(
    path: str | os.PathLike[str],
    conversations: Iterable[Conversation],
    image_root: str | os.PathLike[str] | None = None,
) -> int:
    """Write conversations as JSONL, one a line; the file appears whole or not at all.

    Args:
        path: Target; its folder is made when missing.
        conversations: Each is checked before it is written.
        image_root: When given, image paths are written relative to it, so that the file can move with the images.

    Returns:
        Number of conversations written.

    Raises:
        DataError: A conversation fails :meth:`Conversation.check`, or has an image outside ``image_root``.
    """
    path = Path(path)
    number = 0
    with whole(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as handle:
        for number, conversation in enumerate(conversations, 1):
            try:
                conversation.check()
                images = [_written(image, image_root) for image in conversation.images]
            except DataError as error:
                raise DataError(f"cannot write {path}: conversation {number}: {error}") from error
            row = {"images": images, "messages": conversation.messages, "group": conversation.group}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")
    return number


def _written(image: Path, root: str | os.PathLike[str] | None) -> str:
    if root is None:
        return image.as_posix()
    try:
        return image.absolute().relative_to(Path(root).absolute()).as_posix()
    except ValueError as error:
        raise DataError(f"image {image} is not under the image root {root}") from error


def split_by_group(
    conversations: Sequence[Conversation], val_share: float = 0.1, seed: int = 0
) -> tuple[list[Conversation], list[Conversation]]:
    """Divide by patient or slide, never by conversation. Returns ``(train, val)`` in the order given.

    Groups are ranked by a hash of seed and name, so a split does not depend on the order of the file.

    Args:
        conversations: Every one needs a group.
        val_share: Share of the *groups* to hold back, 0…1; at least one group falls on either side.
        seed: Another seed holds back other groups.

    Raises:
        DataError: A conversation without a group, fewer than two groups, or one image in both parts.
    """
    if not 0 < val_share < 1:
        raise DataError(f"val_share is {val_share}; allowed: a number between 0 and 1")
    for number, conversation in enumerate(conversations, 1):
        if conversation.group is None:
            raise DataError(
                f"conversation {number} has no group; name the record's patient or slide field with group_field, "
                "since a split by conversation would leak a patient into val"
            )
    names = {c.group for c in conversations}
    groups = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    if len(groups) < 2:
        raise DataError(f"{len(groups)} group(s) found; a split needs at least two patients or slides")
    held = set(groups[: min(len(groups) - 1, math.ceil(val_share * len(groups)))])
    train = [c for c in conversations if c.group not in held]
    val = [c for c in conversations if c.group in held]
    seen = {image: c.group for c in train for image in c.images}
    for conversation in val:
        for image in conversation.images:
            if image in seen:
                raise DataError(
                    f"image {image} belongs to group {seen[image]!r} and to group {conversation.group!r}; "
                    "an image must have one group, or it leaks from train into val"
                )
    return train, val
