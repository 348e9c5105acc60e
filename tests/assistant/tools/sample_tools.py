"""Tools that misbehave, for the tests of the runner."""

from __future__ import annotations

import os
import time
from typing import Literal

from PIL.Image import Image

from assistant.errors import BadInput
from assistant.tools.base import Card, Context, ToolResult, tool

CARD = Card(task="test", training_data="none", licence="Apache-2.0")


@tool(CARD)
def brightness(
    image: Image, context: Context, factor: float = 1.0, mode: Literal["mean", "max"] = "mean"
) -> ToolResult:
    """Measure brightness.

    Args:
        image: Field to measure.
        factor: Times this.
    """
    print("noise on stdout")
    value = float(image.convert("L").getextrema()[1]) * factor
    return ToolResult(f"{value:g}", {"value": value, "store": context.store, "process": os.getpid(), "mode": mode})


@tool(CARD, timeout=1.0)
def hang() -> ToolResult:
    """Never end."""
    time.sleep(60)
    return ToolResult("never")


@tool(CARD)
def crash() -> ToolResult:
    """End the process, as native code does."""
    os._exit(3)


@tool(CARD)
def fail() -> ToolResult:
    """Raise."""
    raise RuntimeError("the tool broke\nwith details")


@tool(CARD)
def refuse() -> ToolResult:
    """Refuse."""
    raise BadInput("not for this stain")


@tool(Card(task="test", training_data="closed", licence="research-only", research_only=True))
def closed() -> ToolResult:
    """Run on closed data."""
    return ToolResult("ran")
