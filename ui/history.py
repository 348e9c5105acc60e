"""Between Gradio's conversation and ours: plain text kept plain, every shape of history turned into turns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from assistant.chat.prompt import Turn
from assistant.errors import BadInput, PathAssistError
from assistant.images.intake import DEFAULT_LIMITS, load_image

# The conversation is shown as HTML even with Markdown off. Only what a parser would take for a tag or an entity is
# changed, so that "H&E" and "Ki-67 < 14 %" are also copied out of the page as they were written.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_ENCODED = re.compile(r"&(lt|amp);")
# Our own copies are lossless, so they may be larger than the upload they were made from; pixels stay capped.
_STORED = replace(DEFAULT_LIMITS, max_bytes=1 << 30)


def show(text: str) -> str:
    """Text that the chat component shows literally; :func:`unshow` gives it back."""
    return _TAG.sub("&lt;", _ENTITY.sub("&amp;", text))


def unshow(text: str) -> str:
    """Inverse of :func:`show`."""
    return _ENCODED.sub(lambda m: "<" if m.group(1) == "lt" else "&", text)


def history_to_turns(history: Iterable[Any] | None) -> list[Turn]:
    """A Gradio conversation as turns, whatever shape it came in.

    Gradio gives messages as dictionaries or objects; their content is a text, a file, or a list that mixes texts,
    files (``{"path": …}``, ``{"file": {"path": …}}``, objects with a ``path``, one-tuples) and typed parts. Images and
    text of one turn may come as separate messages: neighbours of one role are joined. Messages with a ``title`` in
    their metadata are notes about an answer, not part of it, and components cannot be read by a model: both are left
    out.

    Raises:
        BadInput: A file that is no longer there, cannot be read as an image, or a message without a role.
    """
    turns: list[Turn] = []
    for message in history or ():
        role, content, metadata = (_field(message, key) for key in ("role", "content", "metadata"))
        if role not in ("user", "assistant", "system"):
            raise BadInput(
                f"a message has the role {role!r}; allowed: user, assistant, system. Start a new conversation"
            )
        if metadata and _field(metadata, "title"):
            continue
        texts: list[str] = []
        paths: list[str] = []
        for part in content if isinstance(content, list) else [content]:
            _read_part(part, texts, paths)
        turn = Turn(role, "\n".join(texts), tuple(_stored_image(path) for path in paths))
        if turns and turns[-1].role == role:
            before = turns.pop()
            text = "\n".join(t for t in (before.text, turn.text) if t)
            turn = Turn(role, text, before.images + turn.images)
        if turn.text or turn.images:
            turns.append(turn)
    return turns


def last_question(history: list[Any]) -> tuple[list[Any], str, list[str]]:
    """What came before the last question, its text and its files; without a question, the whole, "" and []."""
    end = len(history)
    while end and _field(history[end - 1], "role") == "assistant":
        end -= 1
    begin = end
    while begin and _field(history[begin - 1], "role") == "user":
        begin -= 1
    texts: list[str] = []
    paths: list[str] = []
    for message in history[begin:end]:
        content = _field(message, "content")
        for part in content if isinstance(content, list) else [content]:
            _read_part(part, texts, paths)
    return (history[:begin], "\n".join(texts), paths) if end > begin else (history, "", [])


def _field(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)


def _read_part(part: Any, texts: list[str], paths: list[str]) -> None:
    """Add a part of a message's content to ``texts`` or ``paths``; a component is neither."""
    if isinstance(part, str):
        texts.append(unshow(part))
    elif isinstance(part, tuple):
        paths.append(str(part[0]))
    elif isinstance(_field(part, "text"), str):
        texts.append(unshow(_field(part, "text")))
    elif (file := _field(part, "file")) is not None or _field(part, "path") is not None:
        paths.append(str(_field(file, "path") if file is not None else _field(part, "path")))


def _stored_image(path: str) -> Any:
    try:
        return load_image(path, limits=_STORED)
    except PathAssistError:
        raise BadInput(
            "an image of this conversation is no longer kept; start a new conversation and add it again"
        ) from None
