"""lmms-eval: ``python -m lmms_eval --model pathassist --model_args model=embedded --tasks …``.

Found through the entry-point group ``lmms_eval.models``. ``model`` is any name that ``pathassist eval --model`` takes.
A request that fails raises: it never becomes an empty answer that would be scored as wrong or, worse, as right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from assistant.errors import BadInput, NotAvailable
from assistant.images.intake import load_image
from eval.models import Model, load_model

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest

try:
    from lmms_eval.api.model import lmms
except ModuleNotFoundError:  # then nothing can ask for the class either
    lmms = object

_NEW_TOKENS = 128


def manifest() -> ModelManifest:
    """What the entry point hands to lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="pathassist", chat_class_path="eval.adapters.lmms.PathAssist")


class PathAssist(lmms):  # type: ignore[misc]
    """A model of ours behind lmms-eval's interface for chat requests."""

    is_simple = False

    def __init__(self, model: str | Model = "embedded", source: str = "wheels", **_: Any) -> None:
        super().__init__()
        self.model = load_model(model, source) if isinstance(model, str) else model

    def generate_until(self, requests: list[Any]) -> list[str]:
        return [self._reply(request) for request in requests]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        raise NotAvailable("tasks of several rounds are not supported; choose a task of the type generate_until")

    def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
        raise NotAvailable("tasks that compare likelihoods are not supported; choose a task of the type generate_until")

    def _reply(self, request: Any) -> str:
        _, doc_to_messages, settings, doc_id, task, split = request.args
        messages = doc_to_messages(self.task_dict[task][split][doc_id])
        images, text = read_messages(messages)
        said = self.model.answer(
            images[0] if images else None, text, max_new_tokens=int(settings.get("max_new_tokens", _NEW_TOKENS))
        )
        if not said.text.strip():
            raise NotAvailable(f"the reply to item {doc_id} of {task} is empty; an empty reply is not scored")
        return said.text


def read_messages(messages: list[dict[str, Any]]) -> tuple[list[Image], str]:
    """Images and text of a one-turn conversation.

    Raises:
        BadInput: More than one image, or video or audio.
    """
    images: list[Image] = []
    texts: list[str] = []
    for message in messages:
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            match part["type"]:
                case "text":
                    texts.append(str(part["text"]))
                case "image":
                    images.append(load_image(part.get("url", part.get("image"))))
                case other:
                    raise BadInput(f"the task sends {other}; allowed: text, image")
    if len(images) > 1:
        raise BadInput(f"the task sends {len(images)} images in one request; one is allowed")
    return images, "\n".join(texts)
