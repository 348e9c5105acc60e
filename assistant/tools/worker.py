"""The process that tools run in: reads ``(origin, keywords)`` from stdin, writes ``(kind, value)`` to stdout.

Started by :mod:`assistant.tools.run`; it ends when its parent closes the pipe.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from assistant.errors import PathAssistError
from assistant.tools.registry import resolve


def answer(origin: str, keywords: dict[str, Any]) -> tuple[str, Any]:
    """What calling the tool gave: ``ok`` with its result, ``refused`` or ``failed`` with one line."""
    try:
        return "ok", resolve(origin)(**keywords)
    except PathAssistError as error:
        return "refused" if error.exit_code == 2 else "failed", str(error)
    except MemoryError:
        return "failed", "there is not enough memory for this image; crop or downsample it"
    except Exception as error:  # a tool may raise anything, and the chat goes on
        line = (str(error).strip() or "no message").splitlines()[0][:200]
        return "failed", f"{type(error).__name__}: {line}"


def main() -> None:
    """Answer until the pipe closes."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a tool prints must not end up among the replies
    while True:
        try:
            origin, keywords = pickle.load(requests)  # noqa: S301 (our own parent wrote it)
        except EOFError:
            return
        try:
            reply = pickle.dumps(answer(origin, keywords), pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # a result that cannot be pickled
            reply = pickle.dumps(("failed", f"its result cannot be passed on: {error}"))
        replies.write(reply)
        replies.flush()


if __name__ == "__main__":
    main()
