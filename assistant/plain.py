"""Text from anywhere, as models take it and as it may be shown."""

from __future__ import annotations

import re

#: Everything XML 1.0 forbids, what a terminal obeys, and signs that reorder or hide text.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    """Text without what is in :data:`UNSEEN`: a reader sees what is written, and a terminal obeys none of it."""
    return UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))


def whole_characters(text: str) -> str:
    """Text in which halves of characters, which JSON can hold and UTF-8 cannot, are question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
