"""What a tool is: a typed function with a card, whose result holds numbers, a text, overlays and GeoJSON.

    @tool(Card(task="…", training_data="none", licence="Apache-2.0", stains=("H&E",), magnifications="40x"))
    def count_dots(image: Image, minimum: int = 3) -> ToolResult:
        '''Count dark dots.

        Args:
            minimum: Smallest dot in pixels.
        '''

Parameters annotated with PIL's ``Image`` become "which image of the conversation" in the schema; one annotated with
:class:`Context` is filled in by the runner and never seen by a model. A tool refuses by raising a
:class:`~assistant.errors.PathAssistError`; the runner turns that, and any other exception, into a result.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL.Image import Image

#: Where fitted tools keep weights, and ``measured.json`` that ``python -m eval.tools --publish`` writes.
WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "tools"
MEASURED = WEIGHTS / "measured.json"


@dataclass(frozen=True)
class Measured:
    """One number that was measured: what, on which images, how many, and its 95 % interval."""

    metric: str
    data: str
    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.3f} [{self.low:.3f}, {self.high:.3f}] on {self.data}, n = {self.n}"


@dataclass(frozen=True)
class Card:
    """What a tool is for and how far to trust it.

    Attributes:
        task: What it does, in one sentence.
        training_data: What it was trained or tuned on; "none" for a fixed rule.
        licence: Of the weights or the method.
        stains: Stains it is meant for; empty for any.
        magnifications: Magnifications or pixel sizes it is meant for.
        research_only: Trained on data without an open licence; ``ToolState(research=False)`` switches it off.
        limits: What it is known to get wrong.
    """

    task: str
    training_data: str
    licence: str
    stains: tuple[str, ...] = ()
    magnifications: str = "any"
    research_only: bool = False
    limits: str = ""


@dataclass
class ToolResult:
    """What came of one call.

    Attributes:
        text: One or two sentences for a reader, with the numbers that matter.
        numbers: Everything measured, JSON values only.
        overlays: Name → RGB picture of the size of the field, or smaller where that is over 16 million pixels.
        geojson: A FeatureCollection in pixels of the image as sent, origin top left.
        warnings: What to keep in mind about this result.
        ok: False when the tool refused, failed, ran out of time or was stopped; ``text`` then says why.
    """

    text: str
    numbers: dict[str, Any] = field(default_factory=dict)
    overlays: dict[str, Image] = field(default_factory=dict)
    geojson: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    ok: bool = True

    def to_json(self) -> dict[str, Any]:
        """Without pictures and shapes: what a language model and the HTTP API are given."""
        return {"ok": self.ok, "text": self.text, "numbers": self.numbers, "warnings": list(self.warnings)}


@dataclass(frozen=True)
class Context:
    """What the program, never a model, tells a tool.

    Attributes:
        store: URL of the case library, empty when there is none.
        research: Parts trained on data without an open licence may be used.
    """

    store: str = ""
    research: bool = True


@dataclass(frozen=True)
class Tool:
    """A registered tool; call it like the function it wraps.

    Attributes:
        name: As models and users write it.
        function: The function itself.
        card: See :class:`Card`.
        timeout: Seconds after which it is ended.
        origin: ``module:attribute``, by which a worker process finds it again.
    """

    name: str
    function: Callable[..., ToolResult]
    card: Card
    timeout: float
    origin: str

    def __call__(self, *args: Any, **keywords: Any) -> ToolResult:
        return self.function(*args, **keywords)

    @property
    def measured(self) -> tuple[Measured, ...]:
        """What was measured of it; empty where nothing was."""
        return tuple(Measured(**row) for row in _measured().get(self.name, ()))


def tool(card: Card, *, timeout: float = 60.0) -> Callable[[Callable[..., ToolResult]], Tool]:
    """Decorator that turns a module-level function into a :class:`Tool` of the same name."""

    def wrap(function: Callable[..., ToolResult]) -> Tool:
        return Tool(function.__name__, function, card, timeout, f"{function.__module__}:{function.__name__}")

    return wrap


@functools.lru_cache(maxsize=1)
def _measured() -> Mapping[str, list[dict[str, Any]]]:
    if not MEASURED.is_file():
        return {}
    found: dict[str, list[dict[str, Any]]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found
