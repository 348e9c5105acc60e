"""Embeddings of the chat model itself: it sums the input up in one word, and the state that word comes from is taken.

After MLLM4PUE (arXiv 2502.07221). Images, texts and both together go through the same model, so a composed query ("like
this, but in the liver") needs no rule for mixing vectors. A LoRA adapter of its own, trained with InfoNCE
(``training.mllm``), makes the states comparable; the chat model is not changed by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from assistant.chat.prompt import Turn
from assistant.errors import BadInput, NotAvailable
from assistant.model.encoders.base import EncoderInfo

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from assistant.assistant import Assistant

NAME = "embedded-mllm"
#: One over the temperature of training (``training/recipes/mllm.yaml``).
LOGIT_SCALE = 20.0
#: Longest text in tokens; the rest is cut.
MAX_TEXT_TOKENS = 512
_ASK = "Summarise {} in one word:"


@dataclass(frozen=True)
class Composed:
    """What is to be embedded: images, a text, or both."""

    images: tuple[Image, ...] = ()
    text: str = ""

    def turn(self) -> Turn:
        """The chat turn that asks for one word.

        Raises:
            BadInput: Neither image nor text.
        """
        return one_word(len(self.images), self.text, self.images)


def one_word(count: int, text: str, images: tuple[Image, ...] = ()) -> Turn:
    """The prompt for ``count`` images and a text; training builds it without the images themselves."""
    text = text.strip()
    if not count and not text:
        raise BadInput("nothing to embed: the text is empty and there is no image; give at least one of them")
    what = {(False, True): "the text above", (True, False): "the image above", (True, True): "the image and text above"}
    ask = _ASK.format(what[bool(count), bool(text)])
    return Turn("user", f"{text}\n{ask}" if text else ask, images)


def last_states(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, features: torch.Tensor
) -> torch.Tensor:
    """Unit vectors [B, H]: the last hidden state at the last token of each row.

    Args:
        model: A LLaVA, bare or wrapped by PEFT.
        input_ids: [B, L], padded on the right, ``<image>`` expanded. attention_mask: [B, L].
        features: Tower tokens [I, T, D] of all images in order; I may be 0.
    """
    import torch.nn.functional as F

    llava = model.get_base_model() if hasattr(model, "get_base_model") else model
    embeds = llava.get_input_embeddings()(input_ids)
    if len(features):
        visual = llava.model.multi_modal_projector(features).to(embeds.dtype)
        place = (input_ids == llava.config.image_token_id).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(place, visual)
    states = llava.model.language_model(
        inputs_embeds=embeds, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state  # [B, L, H]
    last = attention_mask.sum(1) - 1
    return F.normalize(states[range(len(states)), last].float(), dim=-1)


class MllmEncoder:
    """The chat model as an encoder; fits :class:`assistant.model.encoders.base.Encoder`.

    Args:
        assistant: Its model is wrapped, so use one that chats nowhere else.
        adapter: Folder of the trained adapter; None embeds with the chat model as it is.
    """

    def __init__(self, assistant: Assistant, adapter: Path | None, licence: str = "Apache-2.0") -> None:
        self._assistant = assistant
        self.logit_scale: float | None = LOGIT_SCALE
        model: Any = assistant.model
        self.id = f"{NAME}-{assistant.revision.removeprefix('embedded-')}"
        if adapter is not None:
            from peft import PeftModel

            from assistant.model.cache import sha256

            self.id += f"-{sha256(adapter / 'adapter_model.safetensors')[:12]}"
            model = PeftModel.from_pretrained(model, str(adapter))
        self._model = model.eval()
        size = int(model.config.vision_config.image_size)
        self.info = EncoderInfo(
            name=NAME, licence=licence, dimension=int(model.config.text_config.hidden_size), image_size=size,
            pooling="last token", has_text=True, preprocessing=f"squash to {size}, processor of the chat model",
        )  # fmt: skip

    def embed(self, inputs: Sequence[Composed], batch_size: int = 16) -> NDArray[np.float32]:
        """Unit vectors [N, H] of any mixture of images and texts.

        Raises:
            BadInput: An input with neither image nor text.
        """
        turns = [item.turn() for item in inputs]
        parts = [self._batch(turns[s : s + batch_size]) for s in range(0, len(turns), batch_size)]
        return np.concatenate(parts) if parts else np.zeros((0, self.info.dimension), dtype=np.float32)

    def embed_images(self, images: Sequence[Image], batch_size: int = 16) -> NDArray[np.float32]:
        """Unit vectors [N, H]."""
        return self.embed([Composed((image,)) for image in images], batch_size)

    def embed_texts(self, texts: Sequence[str], batch_size: int = 16) -> NDArray[np.float32]:
        """Unit vectors [N, H]."""
        return self.embed([Composed(text=self._cut(text)) for text in texts], batch_size)

    def embed_composed(self, images: Sequence[Image], text: str, batch_size: int = 16) -> NDArray[np.float32]:
        """Unit vectors [N, H] of each image together with one text, such as "like this, but in the liver"."""
        return self.embed([Composed((image,), self._cut(text)) for image in images], batch_size)

    def prepare(self, image: Image) -> Image:
        """Nothing to do ahead: the processor works on whole batches."""
        return image

    def embed_prepared(self, prepared: Sequence[Any]) -> NDArray[np.float32]:
        """As :meth:`embed_images`."""
        return self.embed_images(prepared)

    def too_long(self, texts: Sequence[str]) -> list[int]:
        """Indices of the texts that are cut."""
        return [i for i, text in enumerate(texts) if self._cut(text) != text]

    def _cut(self, text: str) -> str:
        tokenizer = self._assistant.processor.tokenizer
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= MAX_TEXT_TOKENS else str(tokenizer.decode(ids[:MAX_TEXT_TOKENS]))

    def _batch(self, turns: Sequence[Turn]) -> NDArray[np.float32]:
        import torch

        ids = [self._assistant.prompt_ids([turn]) for turn in turns]
        length = max(map(len, ids))
        pad = self._assistant.processor.tokenizer.pad_token_id
        pictures = [image for turn in turns for image in turn.images]
        device = self._assistant.model.device
        with torch.inference_mode():
            features = self._tower(pictures) if pictures else torch.zeros(0, 1, 1)
            states = last_states(
                self._model,
                torch.tensor([row + [pad] * (length - len(row)) for row in ids], device=device),
                torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ids], device=device),
                features.to(device),
            )
        return np.asarray(states.cpu().numpy(), dtype=np.float32)

    def _tower(self, images: Sequence[Image]) -> torch.Tensor:
        """Tower tokens [I, T, D], before the connector."""
        model = self._assistant.model
        pixels = self._assistant.processor.image_processor(list(images), return_tensors="pt")["pixel_values"]
        out = model.model.vision_tower(pixels.to(model.device, model.dtype), output_hidden_states=True)
        states: torch.Tensor = out.hidden_states[model.config.vision_feature_layer]
        return states if model.config.vision_feature_select_strategy == "full" else states[:, 1:]


def load_mllm_encoder(source: str = "wheels") -> MllmEncoder:
    """The embedded chat model with its shipped embedding adapter.

    Raises:
        NotAvailable: The adapter is missing.
    """
    from assistant.assistant import Assistant
    from assistant.model.vlm import WEIGHTS

    folder = WEIGHTS / NAME
    if not (folder / "adapter_model.safetensors").is_file():
        raise NotAvailable(
            f"no trained adapter in {folder}; train it with `pathassist train mllm --recipe training/recipes/mllm.yaml`"
        )
    return MllmEncoder(Assistant.load("embedded", source=source, progress=False), folder)
