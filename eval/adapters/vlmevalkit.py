"""VLMEvalKit: a class with ``generate_inner(message, dataset)``.

Add one line to its ``supported_VLM``: ``"pathassist": partial(PathAssist, model="embedded")``.
"""

from __future__ import annotations

from typing import Any

from assistant.errors import BadInput, NotAvailable
from assistant.images.intake import load_image
from eval.models import Model, load_model

try:
    from vlmeval.vlm.base import BaseModel
except ModuleNotFoundError:  # the package is on no registry; the class works by its shape
    BaseModel = object

_NEW_TOKENS = 128


class PathAssist(BaseModel):  # type: ignore[misc]
    """A model of ours; a message is a list of ``{"type": "image" | "text", "value": path or text}``."""

    INTERLEAVE = False
    allowed_types = ("text", "image")

    def __init__(self, model: str | Model = "embedded", source: str = "wheels", **_: Any) -> None:
        super().__init__()
        self.model = load_model(model, source) if isinstance(model, str) else model

    def use_custom_prompt(self, dataset: str | None) -> bool:
        """The kit's own prompts are used, so that our numbers are its numbers."""
        return False

    def generate_inner(self, message: list[dict[str, str]], dataset: str | None = None) -> str:
        """Reply to one message.

        Raises:
            BadInput: Several images. NotAvailable: The reply is empty.
        """
        images = [load_image(part["value"]) for part in message if part["type"] == "image"]
        if len(images) > 1:
            raise BadInput(f"the message holds {len(images)} images; one is allowed")
        text = "\n".join(part["value"] for part in message if part["type"] == "text")
        said = self.model.answer(images[0] if images else None, text, max_new_tokens=_NEW_TOKENS)
        if not said.text.strip():
            raise NotAvailable("the reply is empty; an empty reply is not scored")
        return said.text
