"""pathassist: answers questions about pathology images with evidence. Research use only, not for diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assistant.answer import DISCLAIMER, Answer, Box
from assistant.errors import BadInput, NotAvailable, PathAssistError, TooLarge

if TYPE_CHECKING:
    from assistant.assistant import Assistant

__version__ = "0.1.0"
__all__ = ["DISCLAIMER", "Answer", "Assistant", "BadInput", "Box", "NotAvailable", "PathAssistError", "TooLarge"]


def __getattr__(name: str) -> Any:
    """Import the model code only when it is asked for: ``import assistant`` stays fast and needs no torch."""
    if name == "Assistant":
        from assistant.assistant import Assistant

        return Assistant
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
