"""Whole requests for training, each as somebody would type it: one JSON object a line of ``tool_requests_*.jsonl``.

    {"images": 1, "stain": "H&E", "tools": ["segment_nuclei"], "q": "…"}

Patterns repeat their author's syntax, however many choices they have; these do not. What is, or is near to, a request
to measure by is left out.
"""

from __future__ import annotations

import json
from pathlib import Path

from assistant.chat.planner import SUMMARIES, Facts
from training.data.records import DataError
from training.data.tool_calls import Expected, Request
from training.data.tool_phrases_wide import HELD, near, plain

FOLDER = Path(__file__).parent


def natural_requests(folder: Path = FOLDER) -> list[Request]:
    """All of them, without arguments of the calls.

    Raises:
        DataError: A line that cannot be read, or an unknown tool; file and line are named.
    """
    out = []
    for file in sorted(folder.glob("tool_requests_*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                question, tools = str(row["q"]), list(row["tools"])
                facts = Facts(int(row["images"]), str(row["stain"]))
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file.name}:{number}: cannot be read: {error!r}") from None
            if unknown := [name for name in tools if name not in SUMMARIES]:
                raise DataError(f"{file.name}:{number}: no tool {unknown[0]!r}; known: {', '.join(SUMMARIES)}")
            if plain(question) not in HELD and not near(question):
                calls = tuple(Expected(name, {}) for name in tools)
                out.append(Request(question, facts, calls, "call" if calls else "none", wording=question))
    return out
