"""Readers of the two published training formats, checked record by record.

LLaVA JSON::

    {"image": "a.png", "conversations": [{"from": "human", "value": "<image>\\nWhat is this?"},
     {"from": "gpt", "value": "A gland."}], "slide": "7"}

TRL messages: see ``training.data.conversation``. Either may be a JSON array or JSONL; the format is told by each
record's keys, and both become a :class:`Conversation`. Every error names the file and the line or record.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.data.conversation import Conversation
from training.data.records import DataError

#: Fields that name the unit to split by, the coarsest first.
GROUP_FIELDS = ("group", "patient", "patient_id", "case", "case_id", "slide", "slide_id")

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOKEN = re.compile(r"<image>")
_OWN_LINE = r"^(?:[ \t]*<image>)+[ \t]*$"
#: Runs of ``<image>`` that may be placeholders, the strictest rule first; each rule finds all that the last one found.
_RULES = (
    re.compile(_OWN_LINE, re.MULTILINE),
    re.compile(rf"\A(?:\s*<image>)+|(?:<image>\s*)+\Z|{_OWN_LINE}", re.MULTILINE),
    _TOKEN,
)
_BLANK = re.compile(r"[ \t\r\n]*")
_URL = re.compile(r"(?:[a-z][a-z0-9+.-]*://|data:)", re.IGNORECASE)


def read_conversations(
    path: str | os.PathLike[str],
    *,
    image_root: str | os.PathLike[str] | None = None,
    group_field: str | None = None,
    split: str | None = None,
    allow_outside: bool = False,
) -> list[Conversation]:
    """Read and check a whole file of LLaVA or TRL records.

    Args:
        path: JSON array or JSONL.
        image_root: Folder that image paths are relative to and must stay in; default: the file's folder.
        group_field: Field that holds the patient or slide; default: the first of ``GROUP_FIELDS`` that a record has.
        split: Keep only the records whose ``split`` field says so.
        allow_outside: Accept image files outside ``image_root``.

    Returns:
        The conversations in file order, image paths absolute.

    Raises:
        DataError: No such file, not JSON, a malformed record, a missing or outside image, a group in two splits.
    """
    path = Path(path)
    images = _Images(Path(image_root) if image_root is not None else path.parent, allow_outside)
    conversations = []
    split_of: dict[str, object] = {}
    for where, row in _records(path):
        try:
            conversation = _conversation(row, images, group_field)
            own = row.get("split")
            if split is not None and own is None:
                raise DataError(f"no 'split' field, but only {split!r} is wanted; give every record one")
            if own is not None and conversation.group is not None:
                first = split_of.setdefault(conversation.group, own)
                if first != own:
                    raise DataError(
                        f"group {conversation.group!r} is in split {own!r} here and in {first!r} further up; "
                        "a patient or slide belongs to one split"
                    )
        except DataError as error:
            raise DataError(f"{where}: {error}") from error
        if split is None or own == split:
            conversations.append(conversation)
    if not conversations:
        raise DataError(f"{path}: no records" + (f" of split {split!r}" if split is not None else ""))
    return conversations


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each record with its place, for example ``data.json, record 3 (line 57)``."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"no file {path}; expected LLaVA JSON or TRL messages, as a JSON array or JSONL") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start:,}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for where, row in _array(path, text) if text.lstrip()[:1] == "[" else _lines(path, text):
        if not isinstance(row, dict):
            raise DataError(f"{where}: expected an object, saw {type(row).__name__}")
        yield where, row


def _lines(path: Path, text: str) -> Iterator[tuple[str, object]]:
    decoder = json.JSONDecoder()
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(): U+2028 may stand inside a JSON string
        if line.strip():
            where = f"{path}, line {number}"
            row, end = _decode(decoder, line, _skip_blank(line, 0), where)
            if line[end:].strip():
                raise DataError(f"{where}: text after the object; a file is one object a line, or one array")
            yield where, row


def _array(path: Path, text: str) -> Iterator[tuple[str, object]]:
    """Decode an array element by element, so that an error can name the record and its line."""
    decoder = json.JSONDecoder()
    position = _skip_blank(text, text.index("[") + 1)
    number, line, counted = 0, 1, 0
    mark = "]" if text[position : position + 1] == "]" else ","
    while mark == ",":
        number += 1
        line += text.count("\n", counted, position)
        counted = position
        where = f"{path}, record {number} (line {line})"
        row, position = _decode(decoder, text, position, where)
        yield where, row
        position = _skip_blank(text, position)
        mark = text[position : position + 1]
        if mark not in (",", "]") or not mark:
            raise DataError(f"{where}: followed by {mark!r} where ',' or ']' is due; is the file cut off?")
        if mark == ",":
            position = _skip_blank(text, position + 1)
    if text[position + 1 :].strip():
        raise DataError(f"{path}: text after the closing ']'; a file is one array, or one object a line")


def _decode(decoder: json.JSONDecoder, text: str, position: int, where: str) -> tuple[object, int]:
    try:
        return decoder.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deeply to read") from error


def _skip_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return found.end() if found else position


def _conversation(row: dict[str, Any], images: _Images, group_field: str | None) -> Conversation:
    if ("conversations" in row) == ("messages" in row):
        keys = ", ".join(map(repr, row)) or "no keys"
        raise DataError(f"needs either 'conversations' (LLaVA) or 'messages' (TRL); the record has {keys}")
    llava = "conversations" in row
    names = _image_names(row)
    messages = [
        _turn(turn, number, *(("from", "value") if llava else ("role", "content")))
        for number, turn in enumerate(_list(row, "conversations" if llava else "messages"), 1)
    ]
    _place_images(messages, len(names), at_front=not llava)
    conversation = Conversation(
        images=tuple(images.find(name) for name in names), messages=messages, group=_group(row, group_field)
    )
    conversation.check()
    return conversation


def _list(row: dict[str, Any], key: str) -> list[object]:
    if not isinstance(row[key], list):
        raise DataError(f"{key!r} is {type(row[key]).__name__}; expected a list of turns")
    return list(row[key])


def _turn(turn: object, number: int, role_key: str, text_key: str) -> dict[str, Any]:
    """One turn with its role in TRL's words; string content stays a string until images are placed."""
    if not isinstance(turn, dict):
        raise DataError(f"turn {number}: expected an object, saw {type(turn).__name__}")
    role, content = turn.get(role_key), turn.get(text_key)
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(f"turn {number}: {role_key!r} is {role!r}; allowed: {', '.join(_ROLES)}")
    if isinstance(content, list) and text_key == "content":
        # A table column gives every part every key, so an absent one may be there as null.
        parts = [{k: v for k, v in p.items() if v is not None} if isinstance(p, dict) else p for p in content]
        for part in parts:
            if isinstance(part, dict) and part.get("type") == "image" and len(part) > 1:
                raise DataError(
                    f"turn {number}: an image part carries {', '.join(repr(k) for k in part if k != 'type')}; "
                    "list the files under 'images' and leave the part bare"
                )
        return {"role": _ROLES[role], "content": parts}
    if not isinstance(content, str):
        raise DataError(f"turn {number}: {text_key!r} is {type(content).__name__}; expected text")
    return {"role": _ROLES[role], "content": content}


def _place_images(messages: list[dict[str, Any]], count: int, at_front: bool) -> None:
    """Turn string contents into parts, in place.

    ``<image>`` in a user's string is a placeholder or just typed text. The strictest rule that finds as many as there
    are images decides: alone on its line, at either end of the turn, anywhere. What it leaves is text, and the chat
    template is told to neutralise it. With ``at_front``, strings without any ``<image>`` get all images before the
    first question, as TRL does.
    """
    strings = [m for m in messages if isinstance(m["content"], str)]
    asked = [m for m in strings if m["role"] == "user"]
    missing = count - sum(
        isinstance(p, dict) and p.get("type") == "image"
        for m in messages
        if isinstance(m["content"], list)
        for p in m["content"]
    )
    texts = [str(m["content"]) for m in asked]
    for rule in _RULES:
        spans = [
            [t.span() for run in rule.finditer(text) for t in _TOKEN.finditer(text, run.start(), run.end())]
            for text in texts
        ]
        if sum(map(len, spans)) == missing:
            break
    else:
        typed = sum(len(_TOKEN.findall(text)) for text in texts)
        if typed or not at_front or len(strings) < len(messages) or not asked:
            raise DataError(f"{count - missing + typed} image placeholder(s) for {count} image(s); make them agree")
        spans = [[(0, 0)] * missing, *([] for _ in asked[1:])]
    for message in strings:
        message["content"] = _parts(message["content"], spans.pop(0) if message["role"] == "user" else [])


def _parts(text: str, spans: list[tuple[int, int]]) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    position = 0
    for start, end in spans:
        parts += [*_text(text[position:start]), {"type": "image"}]
        position = end
    return parts + _text(text[position:])


def _text(words: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": words.strip()}] if words.strip() else []


def _image_names(row: dict[str, Any]) -> list[str]:
    if row.get("image") is not None and row.get("images") is not None:
        raise DataError("both 'image' and 'images' are given; keep one")
    value = row.get("image") if row.get("image") is not None else row.get("images")
    names = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(n, str) and n for n in names):
        raise DataError(f"'image' or 'images' reads {str(value)[:80]!r}; expected a file name or a list of file names")
    return names


def _group(row: dict[str, Any], field: str | None) -> str | None:
    if field is not None and row.get(field) is None:
        raise DataError(f"no {field!r} field; every record must name its patient or slide there")
    key = field or next((k for k in GROUP_FIELDS if row.get(k) is not None), None)
    if key is None:
        return None
    if isinstance(row[key], bool) or not isinstance(row[key], str | int) or not str(row[key]).strip():
        raise DataError(f"{key!r} reads {row[key]!r}; expected the name or number of a patient or slide")
    return str(row[key])


class _Images:
    """Finds image files under one folder; each name is looked up once."""

    def __init__(self, root: Path, allow_outside: bool) -> None:
        if not root.is_dir():
            raise DataError(f"no image folder {root}; set image_root to the folder that image paths are relative to")
        self.root = root.absolute()
        self.resolved = root.resolve()
        self.allow_outside = allow_outside
        self.found: dict[str, Path] = {}

    def find(self, name: str) -> Path:
        if name not in self.found:
            self.found[name] = self._find(name)
        return self.found[name]

    def _find(self, name: str) -> Path:
        if _URL.match(name):
            raise DataError(f"image {name[:80]!r} is a URL; download it and name the file")
        path = Path(os.path.normpath(self.root / name))
        try:
            inside = path.resolve().is_relative_to(self.resolved)  # follows links, so that none leads out
            exists = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise DataError(f"image {name[:80]!r} is not a usable path ({error})") from error
        if not (inside or self.allow_outside):
            raise DataError(f"image {name!r} lies outside {self.root}; move it there or pass allow_outside=True")
        if not exists:
            raise DataError(f"no image file {str(path)!r}; image paths are relative to {self.root}")
        return path
