"""Running tools: one call in, one record out, whatever the tool does.

Tools run in a worker *process*, one a conversation, started at its first call and kept warm. A thread cannot be ended
from outside: a hanging tool would hold a core and its memory for ever, and a crash in native code would take the chat
with it. A process can be ended, and the next call starts a new one. The price is one import of the libraries per
conversation, and copying the image through a pipe (some milliseconds for a field).
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from PIL.Image import Image

from assistant.errors import BadInput, PathAssistError
from assistant.tools.base import Context, Tool, ToolResult
from assistant.tools.registry import Registry, find_tools
from assistant.tools.schema import check_arguments, context_parameter, image_parameters

Status = Literal["ok", "refused", "failed", "timeout", "cancelled"]
_POLL = 0.05  # seconds between looks at a cancellation


@dataclass(frozen=True)
class ToolCall:
    """The record of one call.

    Attributes:
        name: Tool that was asked for.
        arguments: As checked, or as given where they were wrong.
        result: Never missing; ``result.ok`` is False unless ``status`` is ``"ok"``.
        seconds: Wall-clock time.
        status: ``"refused"`` is bad input or a tool that does not apply, ``"failed"`` an error inside the tool.
    """

    name: str
    arguments: dict[str, Any]
    result: ToolResult
    seconds: float
    status: Status

    def to_json(self) -> dict[str, Any]:
        """As in the HTTP API's ``pathology.tools``."""
        return {
            "name": self.name,
            "arguments": self.arguments,
            "result": self.result.to_json(),
            "seconds": round(self.seconds, 3),
            "status": self.status,
        }


@dataclass
class ToolState:
    """What belongs to one conversation: its images, settings, past calls and worker process. Close it at the end.

    Attributes:
        images: Decoded images in the order sent; calls number them from 1.
        store: URL of the case library for tools that search it.
        research: Tools trained on data without an open licence may run.
        timeout: Longest a call may take in seconds; a tool's own limit counts where that is shorter.
        calls: Past calls, oldest first.
    """

    images: list[Image] = field(default_factory=list)
    store: str = ""
    research: bool = True
    timeout: float = 120.0
    calls: list[ToolCall] = field(default_factory=list)
    _worker: _Worker | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker process; a later call starts another."""
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def answer(self, origin: str, keywords: dict[str, Any], limit: float, stop: threading.Event | None) -> _Reply:
        """Run one tool in the worker; calls of one conversation wait for each other."""
        with self._lock:
            if self._worker is None or not self._worker.alive:
                self._worker = _Worker()
            reply = self._worker.ask((origin, keywords), limit, stop)
            if reply[0] in ("timeout", "cancelled", "died"):
                self.close()
            return reply


def run_call(
    name: str,
    arguments: Mapping[str, Any] | str,
    state: ToolState,
    *,
    stop: threading.Event | None = None,
    registry: Registry | None = None,
) -> ToolCall:
    """Run one call. Never raises for anything a model, a user or a tool does: it comes back as a result that says so.

    Args:
        name: Tool to run.
        arguments: A mapping, or JSON text of one, as models write it.
        state: The conversation; the call is added to ``state.calls``.
        stop: Set it to end the call; the worker process ends with it.
        registry: Tools to choose from, by default all.
    """
    began = time.perf_counter()
    shown: dict[str, Any] = dict(arguments) if isinstance(arguments, Mapping) else {"text": arguments[:200]}
    try:
        tool = (find_tools() if registry is None else registry)[name]
        shown = check_arguments(tool, arguments)
        keywords = _keywords(tool, shown, state)
    except PathAssistError as error:
        return _record(state, ToolCall(name, shown, ToolResult(str(error), ok=False), 0.0, "refused"))
    limit = min(tool.timeout, state.timeout)
    kind, value = state.answer(tool.origin, keywords, limit, stop)
    seconds = time.perf_counter() - began
    status: Status = "failed"
    if kind == "ok" and isinstance(value, ToolResult):
        status, result = ("ok" if value.ok else "refused"), value
    elif kind == "refused":
        status, result = "refused", ToolResult(f"{name}: {value}", ok=False)
    elif kind == "timeout":
        status, result = "timeout", ToolResult(f"{name} was ended after {limit:g} s without a result", ok=False)
    elif kind == "cancelled":
        status, result = "cancelled", ToolResult(f"{name} was stopped", ok=False)
    else:
        result = ToolResult(f"{name} failed: {value}", ok=False)
    return _record(state, ToolCall(name, shown, result, seconds, status))


def _keywords(tool: Tool, arguments: dict[str, Any], state: ToolState) -> dict[str, Any]:
    """Arguments with images in place of their numbers, and the context."""
    if tool.card.research_only and not state.research:
        raise BadInput(f"{tool.name} is for research only and switched off here; allow research tools to use it")
    keywords = dict(arguments)
    for name in image_parameters(tool):
        number = keywords[name]
        if number > len(state.images):
            count = len(state.images)
            have = "there is no image in this conversation" if not count else f"there are {count} images"
            raise BadInput(f"{tool.name} was asked about image {number}; {have}")
        keywords[name] = state.images[number - 1]
    if hidden := context_parameter(tool):
        keywords[hidden] = Context(state.store, state.research)
    return keywords


def _record(state: ToolState, call: ToolCall) -> ToolCall:
    state.calls.append(call)
    return call


_Reply = tuple[str, Any]


class _Worker:
    """``assistant.tools.worker`` in a process of its own; pickles go both ways, all of them of our own making."""

    def __init__(self) -> None:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "assistant.tools.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env,
        )
        self._replies: queue.Queue[_Reply] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="tool-replies", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: tuple[str, dict[str, Any]], limit: float, stop: threading.Event | None) -> _Reply:
        """``(kind, value)``; kinds are ok, refused, failed, timeout, cancelled and died."""
        # Written by a thread: a worker that never reads would block a large image in the pipe.
        threading.Thread(target=self._write, args=(message,), name="tool-request", daemon=True).start()
        deadline = time.monotonic() + limit
        while True:
            if stop is not None and stop.is_set():
                return "cancelled", None
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout", None
            try:
                return self._replies.get(timeout=min(_POLL, left))
            except queue.Empty:
                continue

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue

    def _write(self, message: Sequence[Any]) -> None:
        assert self._process.stdin is not None  # noqa: S101
        try:
            pickle.dump(message, self._process.stdin, pickle.HIGHEST_PROTOCOL)
            self._process.stdin.flush()
        except (OSError, ValueError):
            return  # the worker is gone: the reader reports that

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        while True:
            try:
                self._replies.put(pickle.load(self._process.stdout))  # noqa: S301 (our own process wrote it)
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                code = self._process.wait()
                self._replies.put(("died", f"its process ended with code {code}"))
                return
