"""What the assistant returns: text together with the evidence it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

DISCLAIMER = "Research use only, not for diagnosis."


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of the image as given, origin top left; ``image`` is that image's number, from 1."""

    label: str
    xyxy: tuple[float, float, float, float]
    score: float
    image: int = 1

    def as_dict(self) -> dict[str, Any]:
        found = {"label": self.label, "xyxy": list(self.xyxy), "score": self.score}
        return found if self.image == 1 else found | {"image": self.image}


@dataclass(frozen=True)
class ToolCall:
    """One sub-model that was run and what it returned.

    Attributes:
        result: ``ok``, ``text``, ``numbers`` and ``warnings`` of the tool.
        status: ``"ok"``, ``"refused"``, ``"failed"``, ``"timeout"`` or ``"cancelled"``.
        overlay: The field with what the tool found; not part of the JSON.
    """

    name: str
    arguments: dict[str, Any]
    result: Any
    seconds: float
    status: str = "ok"
    overlay: Image | None = field(default=None, compare=False, repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "arguments": self.arguments,
            "result": self.result,
            "seconds": self.seconds,
            "status": self.status,
        }


@dataclass(frozen=True)
class Case:
    """A similar case from the archive."""

    id: str
    score: float
    title: str
    thumbnail: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "score": self.score, "title": self.title, "thumbnail": self.thumbnail}


@dataclass(frozen=True)
class Note:
    """A passage from the user's own notes; ``score`` is its cosine to question and answer."""

    id: str
    score: float
    title: str
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"id": self.id, "score": self.score, "title": self.title, "text": self.text}


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt (image tokens included) and of the reply."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


#: How a warning begins that says why an answer has no confidence.
NO_CONFIDENCE = "no confidence for"


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        text: What to show. When ``abstained`` it says so and names the best guess as a guess.
        confidence: Calibrated probability that the answer is right, 0…1.
        abstained: True when ``confidence`` is below the threshold in force.
        best_guess: The answer the model would have given, always filled.
        options: Probability of each option of a closed question, in the order given; empty for open questions.
        cases: Similar cases; cited in ``text`` as [1], [2] … in this order.
        notes: Passages from notes; their numbers go on after those of the cases.
        support: Whether a case has a label that the answer names: ``"supported"``, ``"unsupported"``, ``"unknown"``, or
            "" without cases; ``support_text`` says it in a sentence.
        warnings: Plain sentences about the input, for example "the image is nearly blank".
        mean_logprob: Mean log-probability of the tokens of an open answer; None for a closed question.
        finish_reason: ``"stop"``, ``"length"`` or ``"cancelled"``.
    """

    text: str
    confidence: float
    abstained: bool
    best_guess: str
    options: dict[str, float] = field(default_factory=dict)
    boxes: tuple[Box, ...] = ()
    tools: tuple[ToolCall, ...] = ()
    cases: tuple[Case, ...] = ()
    notes: tuple[Note, ...] = ()
    support: str = ""
    support_text: str = ""
    warnings: tuple[str, ...] = ()
    model: str = ""
    usage: Usage = Usage()
    seconds: float = 0.0
    mean_logprob: float | None = None
    finish_reason: str = "stop"
    disclaimer: str = DISCLAIMER

    def pathology(self) -> dict[str, Any]:
        """The ``pathology`` object of the HTTP API (also printed by ``--json``).

        ``support`` is there where a case library was searched, ``notes`` where passages were found.
        """
        evidence: dict[str, Any] = {"support": self.support} if self.support else {}
        if self.notes:
            evidence["notes"] = [n.as_dict() for n in self.notes]
        return {
            "confidence": round(self.confidence, 4),
            "abstained": self.abstained,
            "best_guess": self.best_guess,
            "options": {k: round(v, 4) for k, v in self.options.items()},
            "boxes": [b.as_dict() for b in self.boxes],
            "tools": [t.as_dict() for t in self.tools],
            "cases": [c.as_dict() for c in self.cases],
            **evidence,
            "warnings": list(self.warnings),
            "disclaimer": self.disclaimer,
        }

    @property
    def confidence_known(self) -> bool:
        """False where ``confidence`` is 0 because nothing was measured; a warning has the reason."""
        return self.confidence > 0 or not any(w.strip().casefold().startswith(NO_CONFIDENCE) for w in self.warnings)
