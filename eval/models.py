"""What can be measured: our presets, OpenAI-compatible endpoints, Hugging Face folders, open_clip models.

Names as on the command line::

    embedded                         a preset of ours
    lora-off:embedded                the same without its LoRA adapter: what the tuning did, and what it cost
    openai:http://host:8000/v1#name  an endpoint; the key is taken from OPENAI_API_KEY
    hf:FOLDER                        an image-text model saved with save_pretrained
    open_clip:NAME:CHECKPOINT        an encoder, for the embedding tasks
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from assistant.errors import BadInput, NotAvailable
from eval.provenance import digest
from eval.task import Response

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.model.encoders.base import Encoder

SECONDS = 120.0
_LETTERED = re.compile(r"^([A-J])\) (.*)$", re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_GROUNDING = (
    "Where in the image is this: {phrase}? Answer with one box as [x0, y0, x1, y1] in pixels, origin top left; the"
    " image is {width} pixels wide and {height} pixels high."
)


class NoReply(Exception):
    """The model gave nothing that can be scored; the item becomes an error with this message."""


class Model(Protocol):
    """Something that answers about an image.

    Attributes:
        name: As on the command line.
        revision: Which weights; part of a run's identity.
        parallel: Requests that may be under way at once.
    """

    name: str
    revision: str
    parallel: int

    def answer(self, image: Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        """Reply to one prompt, greedily. Whatever is raised becomes the item's error."""

    def ground(self, image: Image | None, phrase: str) -> Response:
        """The box of a phrase."""


def load_model(name: str, source: str = "wheels") -> Model:
    """A model by name.

    Raises:
        BadInput: Malformed name or unknown preset.
        NotAvailable: Weights or packages are missing.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "openai" and rest:
        return OpenAIModel(rest)
    if scheme == "hf" and rest:
        return HFModel(rest)
    if scheme == "lora-off":
        return PresetModel(_without_adapter(rest))
    if scheme == "open_clip":
        raise BadInput(f"{name!r} is an encoder; it can run the embedding tasks only: pathassist eval pmeb")
    from assistant import Assistant

    return PresetModel(Assistant.load(name, source=source))


def _without_adapter(preset: str) -> Any:
    """The embedded preset with tower and connector as shipped and the language model as it was; uncalibrated."""
    from assistant import Assistant
    from assistant.model.load import engine_for
    from assistant.model.parts import part_named
    from assistant.model.store import language_folder
    from assistant.model.vlm import WEIGHTS, trained_llava, weights_hash

    if preset != "embedded":
        raise BadInput(f"the adapter of {preset!r} cannot be switched off; allowed: lora-off:embedded")
    weights = WEIGHTS / preset
    model, processor = trained_llava(language_folder(part_named("smollm2-135m-instruct")), weights, adapter=False)
    model.eval()
    revision = f"{preset}-{weights_hash(weights)}-lora-off"
    return Assistant(model, processor, engine_for(model), name=f"lora-off:{preset}", revision=revision)


def load_encoder(name: str, source: str = "wheels") -> Encoder:
    """An encoder by name: ``open_clip:NAME:CHECKPOINT`` or one of our presets.

    Raises:
        BadInput: Unknown name. NotAvailable: The weights are missing.
    """
    scheme, _, rest = name.partition(":")
    if scheme == "open_clip" and rest:
        from eval.open_clip_encoder import OpenClipEncoder

        architecture, _, checkpoint = rest.partition(":")
        return OpenClipEncoder(architecture, checkpoint)
    from assistant.model.encoders import load_encoder as load_preset

    return load_preset(name, source)


class PresetModel:
    """One of our presets through :class:`assistant.Assistant`.

    A closed question comes back as ``B) liver``; benchmarks that read letters in brackets get ``(B) liver``. Abstention
    is switched off: what is scored is the best guess, and the confidence is scored apart.
    """

    parallel = 1

    def __init__(self, assistant: Any) -> None:
        self.assistant = assistant
        self.name = assistant.name
        # A new calibration or second encoder changes answers and confidences: a run must not go on with another one.
        looked = getattr(assistant, "second_look", None)
        calibration = digest([repr(getattr(assistant, "calibration", None)), looked or ""])[:6]
        self.revision = f"{getattr(assistant, 'revision', '')}-{calibration}"

    def answer(self, image: Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        images = [] if image is None else [image]
        said = self.assistant.ask(images, prompt, max_new_tokens=max_new_tokens, threshold=0.0)
        return Response(_LETTERED.sub(r"(\1) \2", said.best_guess), said.confidence)

    def ground(self, image: Image | None, phrase: str) -> Response:
        if not hasattr(self.assistant, "ground"):
            raise NotAvailable(f"the preset {self.name!r} cannot ground phrases")
        if image is None:
            raise NoReply("a phrase cannot be grounded without an image")
        boxes = self.assistant.ground(image, phrase)
        if not boxes:
            return Response("no box")
        best = max(boxes, key=lambda box: box.score)
        return Response(f"{[round(v, 1) for v in best.xyxy]}", best.score, tuple(best.xyxy))


class _Chat:
    """Grounding by words, for models that only write text."""

    def answer(self, image: Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        raise NotImplementedError

    def ground(self, image: Image | None, phrase: str) -> Response:
        if image is None:
            raise NoReply("a phrase cannot be grounded without an image")
        prompt = _GROUNDING.format(phrase=phrase, width=image.width, height=image.height)
        said = self.answer(image, prompt, max_new_tokens=64)
        return Response(said.text, box=written_box(said.text))


class OpenAIModel(_Chat):
    """An OpenAI-compatible endpoint, written ``URL#model``; without a model name, the only one it lists."""

    parallel = 4

    def __init__(self, address: str, *, seconds: float = SECONDS) -> None:
        import openai

        url, _, wanted = address.partition("#")
        if not url.startswith(("http://", "https://")):
            raise BadInput(f"the address {url!r} is not a URL; write openai:http://HOST:PORT/v1#MODEL")
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self._client = openai.OpenAI(base_url=url, api_key=key, timeout=seconds, max_retries=1)
        try:
            listed = [m.id for m in self._client.models.list().data] if not wanted else [wanted]
        except openai.OpenAIError as error:
            raise NotAvailable(f"the endpoint {url} lists no models ({error}); is it running?") from error
        if len(listed) != 1:
            raise BadInput(
                f"the endpoint {url} offers {', '.join(listed) or 'nothing'}; choose one: openai:{url}#MODEL"
            )
        self._model = listed[0]
        self.name = f"openai-{self._model}"
        self.revision = f"{url}#{self._model}"

    def answer(self, image: Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        content: list[Any] = [{"type": "text", "text": prompt}]
        if image is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": data_uri(image)}})
        messages: list[Any] = [{"role": "user", "content": content}]
        try:
            reply = self._client.chat.completions.create(
                model=self._model, messages=messages, temperature=0, max_tokens=max_new_tokens
            )
        except ValueError as error:  # a body that is not JSON
            raise NoReply(f"the endpoint's reply cannot be read: {error}") from error
        try:
            text = reply.choices[0].message.content
        except (AttributeError, IndexError, TypeError) as error:
            raise NoReply("the endpoint's reply is not a chat completion") from error
        if not isinstance(text, str):
            raise NoReply("the endpoint's reply holds no text")
        ours = getattr(reply, "pathology", None)  # our own servers say how sure they are
        if not isinstance(ours, dict) or "best_guess" not in ours:
            return Response(text)
        return Response(_LETTERED.sub(r"(\1) \2", str(ours["best_guess"])), float(ours["confidence"]))


class HFModel(_Chat):
    """A folder with an image-text model, its processor and chat template; never a name that would be downloaded."""

    parallel = 1

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise BadInput(f"no config.json in {path}; hf:FOLDER takes a folder written by save_pretrained")
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        self._processor = AutoProcessor.from_pretrained(path, local_files_only=True, backend="pil")
        model = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, dtype=dtype)
        self._model = model.to(device).eval()
        self.name = f"hf-{path.resolve().name}"
        self.revision = folder_hash(path)

    def answer(self, image: Image | None, prompt: str, *, max_new_tokens: int) -> Response:
        import torch

        parts: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            parts.insert(0, {"type": "image", "image": image})
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            sanitize_control_tokens=True,
        ).to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            out = self._model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
        return Response(self._processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def written_box(text: str) -> tuple[float, float, float, float] | None:
    """The last four numbers of the last ``[…]`` in a reply as a box; None unless there are exactly four."""
    found = re.findall(r"\[([^\[\]]*)\]", text)
    numbers = [float(n) for n in _NUMBER.findall(found[-1])] if found else []
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]


def data_uri(image: Image) -> str:
    """PNG as a data URI."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def folder_hash(folder: Path) -> str:
    """Short SHA-256 over the names and bytes of a model folder's files."""
    state = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        state.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                state.update(block)
    return state.hexdigest()[:12]
