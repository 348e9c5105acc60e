"""Many conversations at once against one server: does every answer belong to its question, how fast, how much memory.

A question carries a marker that nobody else has, as the options of a closed question: the marker with one ending or the
other. Whichever is chosen, the reply has to name this conversation's marker, and the first message of the conversation
(with an image of its own colour) is sent again each turn, as chat clients do. Every fourth question is open; some of
these are asked once more when the server is idle: the answer has to be the same, word for word.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

CHAT = "/v1/chat/completions"
#: Open questions, each conversation's in another order, and how many are asked again.
OPEN = (
    "Describe the tissue.", "Which colours do you see?", "What is the texture like?", "Is this a gland or stroma?",
    "Name what is in the picture.", "What does the upper half show?", "Describe the cells.", "Which organ could it be?",
)  # fmt: skip
AGAIN = 40


@dataclass
class Load:
    """What happened: seconds of every answer, and what went wrong."""

    answers: int = 0
    mixed: int = 0
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    first: list[float] = field(default_factory=list)
    open_tokens: int = 0
    open_seconds: float = 0.0
    memory: list[tuple[float, float]] = field(default_factory=list)  # second, MiB
    asked: list[tuple[dict[str, Any], str]] = field(default_factory=list)  # open requests and what was answered
    again: list[str] = field(default_factory=list)  # answers to the last of these, asked alone


async def converse(address: str, pid: int, *, conversations: int, seconds: float, seed: int = 0) -> Load:
    """Keep ``conversations`` going for ``seconds``."""
    load, began = Load(), time.monotonic()
    end = began + seconds
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=conversations + 4)) as client:
        watcher = asyncio.create_task(_watch(load, pid, began))
        await asyncio.gather(*[_one(client, address, load, seed * 1000 + n, end) for n in range(conversations)])
        watcher.cancel()
        load.asked = load.asked[-AGAIN:]
        for body, _ in load.asked:
            async with client.stream("POST", address + CHAT, json=body) as reply:
                load.again.append((await _heard(reply.raise_for_status(), load))[0])
    return load


async def _watch(load: Load, pid: int, began: float) -> None:
    process = psutil.Process(pid)
    while True:
        load.memory.append((time.monotonic() - began, process.memory_info().rss / 2**20))
        await asyncio.sleep(2)


async def _one(client: httpx.AsyncClient, address: str, load: Load, number: int, end: float) -> None:
    chance = random.Random(number)  # noqa: S311
    picture = _picture(number)
    history: list[dict[str, Any]] = []
    turn = 0
    while time.monotonic() < end:
        marker = f"M{number:04d}{chance.randrange(10**6):06d}"
        turn += 1
        open_question = turn % 4 == 0
        text = (
            OPEN[(number + turn // 4) % len(OPEN)] if open_question else f"Which code? A) {marker} one B) {marker} two"
        )
        parts = [picture, {"type": "text", "text": text}] if not history else [{"type": "text", "text": text}]
        messages = [*history[-4:], {"role": "user", "content": parts}]
        if history and picture not in messages[0]["content"]:
            messages = [history[0], history[1], *messages[-3:]]
        body = {"model": "embedded", "messages": messages, "stream": True, "max_tokens": 24}
        streamed = body | {"stream_options": {"include_usage": True}}
        began = time.monotonic()
        try:
            async with client.stream("POST", address + CHAT, json=streamed) as reply:
                if reply.status_code == 429:
                    load.refused += 1
                    await asyncio.sleep(float(reply.headers["retry-after"]))
                    continue
                if reply.status_code != 200:
                    load.errors.append(f"{reply.status_code}: {(await reply.aread())[:200]!r}")
                    continue
                said, first, tokens = await _heard(reply, load)
        except httpx.HTTPError as error:
            load.errors.append(type(error).__name__)
            continue
        now = time.monotonic()
        load.answers += 1
        load.first.append((first or now) - began)
        if open_question:
            load.open_tokens += tokens
            load.open_seconds += now - (first or began)
            load.asked.append((body, said))
        elif marker not in said:
            load.mixed += 1
        history = [*history, messages[-1], {"role": "assistant", "content": said}]


async def _heard(reply: httpx.Response, load: Load) -> tuple[str, float | None, int]:
    """The text of a streamed answer, when its first piece came, and its tokens where they are told."""
    said, first, tokens = "", None, 0
    async for line in reply.aiter_lines():
        if not line.startswith("data: {"):
            continue
        data = json.loads(line[6:])
        if "error" in data:
            load.errors.append(str(data["error"]))
        for choice in data.get("choices", ()):
            if piece := choice["delta"].get("content"):
                first = first or time.monotonic()
                said += piece
        tokens = (data.get("usage") or {}).get("completion_tokens", tokens)
    return said, first, tokens


def _picture(number: int) -> dict[str, Any]:
    generator = np.random.default_rng(number)
    base = generator.integers(120, 220, 3)
    pixels = generator.normal(base, 30, (160, 160, 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


def table(load: Load, conversations: int, seconds: float) -> dict[str, Any]:
    """The numbers that the report shows; memory after the first third of the time, which is warm-up."""
    steady = [mib for when, mib in load.memory if when > seconds / 3]
    fifths = [part for part in np.array_split(steady, 5) if len(part)]  # a short run has fewer than five samples
    said = [answer for _, answer in load.asked]
    same = sum(a == b for a, b in zip(said, load.again, strict=True))
    others = sum(a == b for i, a in enumerate(load.again) for j, b in enumerate(said) if i != j)
    first = np.percentile(load.first, [50, 99]) if load.first else [float("nan")] * 2
    return {
        "conversations": conversations,
        "seconds": round(seconds),
        "answers": load.answers,
        "mixed_up": load.mixed,
        "asked_again": len(said),
        "same_alone": same,
        "same_as_others": round(others / max(1, len(said) * (len(said) - 1)), 4),
        "errors": len(load.errors),
        "error_examples": load.errors[:3],
        "refused_429": load.refused,
        "first_token_p50_s": round(float(first[0]), 2),
        "first_token_p99_s": round(float(first[1]), 2),
        "answers_per_s": round(load.answers / seconds, 2),
        "open_tokens_per_s": round(load.open_tokens / load.open_seconds, 1) if load.open_seconds else None,
        "memory_mib": [round(min(steady)), round(max(steady))] if steady else [],
        "memory_fifths_mib": [round(float(np.median(part))) for part in fifths],
        "memory_growth": round(steady[-1] / steady[0] - 1, 4) if len(steady) > 1 else None,
    }
