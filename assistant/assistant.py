"""The assistant: images and a question in, an :class:`~assistant.answer.Answer` with its evidence out.

A closed question (lettered options, or yes/no) is answered by the likelihood of each option after the same prompt, and
lettered options by a second look of an image-text encoder as well, so its confidence is a probability over the options.
An open question is answered by decoding token by token. Both pass through one calibration, and a confidence below the
threshold becomes "not enough evidence". With ``tools`` the question is first given to the tools that it asks for, and
what they measure is the answer (``assistant.chat.tool_loop``).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from assistant.answer import Answer, Box, ToolCall, Usage
from assistant.chat.calibration import Calibration
from assistant.chat.evidence import with_evidence, without_evidence
from assistant.chat.prompt import Question, Turn, parse_question, to_messages
from assistant.chat.second_look import comparable, cosines
from assistant.chat.tool_answer import Toolbox, answer_with_tools
from assistant.errors import BadInput
from assistant.images.intake import image_warnings, load_images
from assistant.model.encoders.preset import DEFAULT
from assistant.model.familiar import unfit

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from PIL.Image import Image

    from assistant.cases.library import Library
    from assistant.cases.notes import Notes
    from assistant.chat.tool_loop import Plans, Tools
    from assistant.model.encoders.base import Encoder
    from assistant.model.encoders.classify import Classified
    from assistant.model.familiar import Familiar
    from assistant.tools.run import ToolState

NOT_ENOUGH = "Not enough evidence in this image."
NO_IMAGE = "No image was given, so the answer rests on text alone."
_FEATURE_CACHE = 32


@dataclass(frozen=True)
class _Prepared:
    """A question ready to be answered.

    Attributes:
        images: All of the conversation that fit the prompt; ``shown`` are those of the newest turn with any.
        empty: Every image of the question shows nothing, or nothing like a microscope field.
    """

    asked: Question
    ids: list[int]
    images: list[Image]
    shown: tuple[Image, ...]
    calibration: Calibration
    warnings: tuple[str, ...]
    empty: bool
    began: float


class Assistant:
    """A loaded model that answers. Safe to call from several threads: one generation runs at a time.

    Attributes:
        name: Preset name.
        revision: Short hash of the weights, for provenance.
        max_images: Images allowed in one conversation.
        context_tokens: Prompt tokens allowed; older turns are dropped to fit.
        second_look: Name of the encoder that judges lettered options too, or None.
        familiar: Tells images that are unlike all training fields; None takes every image.
    """

    max_images = 8

    def __init__(
        self,
        model: Any,
        processor: Any,
        engine: Any,
        *,
        name: str,
        revision: str = "",
        calibration: Calibration | None = None,
        context_tokens: int = 2048,
        library: Library | None = None,
        notes: Notes | None = None,
        second_look: str | None = None,
        familiar: Familiar | None = None,
    ) -> None:
        self.model, self.processor, self.engine = model, processor, engine
        self.name, self.revision = name, revision
        self.calibration = calibration or Calibration()
        self.context_tokens = context_tokens
        self.library, self.notes = library, notes
        self.second_look, self.familiar = second_look, familiar
        self._lock = threading.Lock()
        self._features: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._encoders: dict[str, Encoder] = {}

    @classmethod
    def load(
        cls,
        preset: str = "embedded",
        *,
        source: str = "wheels",
        quantization: str | None = None,
        threshold: float | None = None,
        progress: bool = True,
        library: str | None = None,
        notes: str | Path | None = None,
    ) -> Assistant:
        """Load a preset.

        Args:
            preset: Name of a file in ``assistant/model/presets``.
            source: ``"wheels"`` (default, works offline once set up) or ``"hub"``.
            quantization: ``"4bit"`` or ``"8bit"`` (needs CUDA), else None.
            threshold: Confidence below which the answer is "not enough evidence"; default as calibrated.
            progress: Show progress bars for downloads.
            library: URL of a case library (``faiss:DIR``, ``postgresql://…``): similar cases come with every answer
                about an image.
            notes: Folder of ``pathassist notes``: fitting passages come with every answer.

        Raises:
            BadInput: Unknown preset or option; no library or notes there.
            NotAvailable: Weights or hardware are missing; the message says what to do.
        """
        from assistant.model.load import load_assistant_parts
        from assistant.model.preset import load_preset

        # Before the model: what is wrong here is known at once.
        opened_notes = _open_notes(notes) if notes is not None else None
        opened_library = _open_library(library) if library is not None else None
        if load_preset(preset).remote is not None:
            from assistant.model.remote import RemoteAssistant

            return RemoteAssistant.connect(preset, threshold=threshold, library=opened_library, notes=opened_notes)
        parts = load_assistant_parts(preset, source=source, quantization=quantization, progress=progress)
        made = cls(**parts)
        made.library, made.notes = opened_library, opened_notes
        if opened_library is not None:
            made._encoders[opened_library.encoder.info.name] = opened_library.encoder
        if threshold is not None:
            made.calibration = _with_threshold(made.calibration, threshold)
        if made.second_look is not None:
            made._encoder(made.second_look)  # a tenth of a second; what is missing is said now
        return made

    def ask(self, images: Any, question: str, **options: Any) -> Answer:
        """Answer one question; the keywords are those of :meth:`stream`."""
        final = None
        for piece in self.stream(images, question, **options):
            final = piece
        if not isinstance(final, Answer):  # pragma: no cover - stream always ends with an Answer
            raise RuntimeError("the stream ended without an answer")
        return final

    def stream(
        self,
        images: Any,
        question: str,
        *,
        history: Sequence[Turn] = (),
        options: Sequence[str] | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        threshold: float | None = None,
        stop: threading.Event | None = None,
        tools: Tools = "none",
        tool_state: ToolState | None = None,
        planner: Plans | None = None,
    ) -> Iterator[str | ToolCall | Answer]:
        """Answer piece by piece: tool calls as they end, text, then exactly one final :class:`Answer`.

        Args:
            images: One image or a sequence: PIL image, path or bytes. Pixels only; metadata is dropped.
            question: What to ask. Lettered options and yes/no questions are recognised.
            history: Earlier turns, oldest first; they may hold images.
            options: Options given apart from the text.
            max_new_tokens: Longest open answer, 1…1024 tokens.
            temperature: 0 takes the likeliest token; above it samples. Closed questions never sample.
            top_p: Nucleus of sampling, above 0 up to 1.
            seed: Makes sampling repeatable.
            threshold: Overrides the calibrated abstention threshold, 0…1.
            stop: Set it from another thread to end early; the answer then says ``"cancelled"``.
            tools: ``"auto"`` lets the model call tools before it answers, names allow only those. It plans on
                ``question`` alone; images are numbered in the newest turn that has any.
            tool_state: The conversation's, so that its tool process stays warm; its images are set here.
            planner: Plans the calls; by default the shipped one.

        Raises:
            BadInput: Bad image, question or setting. TooLarge: an image or the whole prompt is over a cap.
            NotAvailable: Tools are wanted and no planner is there.
        """
        import torch

        began = time.perf_counter()
        asked = parse_question(question, options)
        calibration = self.calibration if threshold is None else _with_threshold(self.calibration, threshold)
        _check(max_new_tokens, temperature, top_p)
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview)
        total = sum(len(t.images) for t in history) + (len(images) if several else int(images is not None))
        if total > self.max_images:  # before any of them is decoded
            raise BadInput(f"{total} images in this conversation; at most {self.max_images} are allowed")
        pictures = tuple(load_images(images)) if images is not None else ()
        turns = [*map(without_evidence, history), Turn("user", asked.prompt(), pictures)]
        warnings = [w for picture in pictures for w in image_warnings(picture)]
        if total == 0:
            warnings.append(NO_IMAGE)
        strange, empty = unfit(pictures, self.familiar)
        warnings += strange
        box = Toolbox(tools, tool_state, planner, self.library)
        shown = next((turn.images for turn in reversed(turns) if turn.images), ())
        yield from box.run(question, shown, stop)
        warnings += box.warnings
        with self._lock:
            ids, kept = self._fit(turns)
            seen = [image for turn in kept for image in turn.images]
            prepared = _Prepared(asked, ids, seen, tuple(shown), calibration, tuple(warnings), empty, began)
            if box.calls and not (stop is not None and stop.is_set()):
                pieces = answer_with_tools(self, prepared, box, stop)
            elif asked.closed:
                pieces = self._closed(prepared)
            else:
                generator = torch.Generator().manual_seed(seed) if seed is not None else None
                settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
                pieces = self._open(prepared, stop, generator=generator, **settings)
            for piece in pieces:
                if isinstance(piece, Answer):
                    piece = replace(piece, tools=box.calls, seconds=time.perf_counter() - began)
                    yield from self._with_evidence(piece, prepared, turns)
                else:
                    yield piece

    def embed(
        self, images: Any = None, *, texts: Sequence[str] | None = None, encoder: str = DEFAULT
    ) -> NDArray[np.float32]:
        """Unit vectors [N, D] of images (as :meth:`ask` takes them) or of texts, in one space.

        Args:
            encoder: Name of an encoder, see ``pathassist embed --help``.

        Raises:
            BadInput: Neither or both given, a bad image, an empty text.
            NotAvailable: The encoder's weights are missing.
        """
        if (images is None) == (texts is None):
            raise BadInput("give either images or texts to embed, and only one of them")
        found = self._encoder(encoder)
        return found.embed_texts(list(texts)) if texts is not None else found.embed_images(load_images(images))

    def classify(self, images: Any, labels: Sequence[str], *, encoder: str = DEFAULT) -> list[Classified]:
        """The best of some labels for each image, with calibrated probabilities, or "none of these".

        Raises:
            BadInput: Fewer than two labels, an empty or repeated one, a bad image.
        """
        from assistant.model.encoders.classify import check_labels, classify
        from assistant.model.encoders.views import embed_views

        wanted, found = check_labels(labels), self._encoder(encoder)
        return classify(found, embed_views(found, load_images(images)), wanted)

    def ground(self, image: Any, phrase: str, *, threshold: float | None = None) -> list[Box]:
        """Boxes of what a phrase means, best first, in pixels of the image as given; empty for nothing like that.

        Raises:
            BadInput: A bad image, an empty or overlong phrase. NotAvailable: The grounding weights are missing.
        """
        from assistant.grounding import load_grounder

        return load_grounder().ground(load_images(image)[0], phrase, threshold=threshold)

    def _encoder(self, name: str) -> Encoder:
        with self._lock:
            return self._encoder_unlocked(name)

    def _encoder_unlocked(self, name: str) -> Encoder:
        if name not in self._encoders:
            from assistant.model.encoders.load import load_encoder

            self._encoders[name] = load_encoder(name)
        return self._encoders[name]

    def _with_evidence(self, answer: Answer, p: _Prepared, turns: Sequence[Turn]) -> Iterator[str | Answer]:
        """The citations as a last piece of text, unless the answer is an abstention, and the answer with them."""
        if answer.finish_reason == "cancelled" or (self.library is None and self.notes is None):
            yield answer
            return
        shown = next((turn.images for turn in reversed(turns) if turn.images), ())
        library = None if answer.cases else self.library  # a tool has searched it already
        cited = with_evidence(answer, p.asked, () if p.empty else shown, library, self.notes)
        if not cited.abstained and cited.text != answer.text:
            yield cited.text[len(answer.text.rstrip()) :]
        yield replace(cited, seconds=time.perf_counter() - p.began)

    # -- the two ways to answer ------------------------------------------------------------------------------------

    def _closed(self, p: _Prepared) -> Iterator[str | Answer]:
        scores = self.option_scores(p.ids, p.images, p.asked.options)
        prior = None
        if p.images and p.calibration.prior_weight:
            prior = self.option_scores(p.ids, [empty_field(image.size) for image in p.images], p.asked.options)
        near = None
        if p.shown and p.calibration.encoder_weight:
            near = self.option_cosines(p.shown, p.asked.options)
        chances = [float(c) for c in p.calibration.options(scores, prior, near)]
        best = max(range(len(chances)), key=chances.__getitem__)
        tokens = len(self._option_ids(p.asked.options[best]))
        answer = self._answer(p, p.asked.labels[best], chances[best], tokens)
        yield answer.text
        yield replace(answer, options=dict(zip(p.asked.labels, chances, strict=True)))

    def _open(self, p: _Prepared, stop: threading.Event | None, **settings: Any) -> Iterator[str | Answer]:
        decode = partial(self.processor.tokenizer.decode, skip_special_tokens=True)
        produced: list[int] = []
        logprobs: list[float] = []
        shown, reason = "", "length"
        ends = self._end_ids()
        embeds = self.embed_prompt(p.ids, p.images)
        for token, logprob in self.engine.generate(embeds, eos_ids=ends, stop=stop, **settings):
            logprobs.append(logprob)
            if token in ends:
                reason = "stop"
                break
            produced.append(token)
            text = decode(produced)
            if not text.endswith("\ufffd"):  # half a character: wait for its other bytes
                yield text[len(shown) :]
                shown = text
        if reason != "stop" and stop is not None and stop.is_set():
            reason = "cancelled"
        mean = sum(logprobs) / len(logprobs) if logprobs else None
        confidence = p.calibration.open_answer(mean) if mean is not None else 0.0
        answer = self._answer(p, decode(produced).strip(), confidence, len(logprobs), reason)
        yield replace(answer, mean_logprob=mean)

    def _answer(self, p: _Prepared, guess: str, confidence: float, tokens: int, reason: str = "stop") -> Answer:
        """The answer, or "not enough evidence" below the threshold and for an image that shows nothing."""
        if p.empty:
            confidence = 0.0
        abstained = reason != "cancelled" and (p.empty or confidence < p.calibration.threshold)
        return Answer(
            text=f"{NOT_ENOUGH} Best guess: {guess}" if abstained else guess,
            confidence=confidence,
            abstained=abstained,
            best_guess=guess,
            warnings=p.warnings,
            model=self.name,
            usage=Usage(len(p.ids), tokens),
            seconds=time.perf_counter() - p.began,
            finish_reason=reason,
        )

    # -- pieces that evaluation uses too ---------------------------------------------------------------------------

    def prompt_ids(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a prompt with every ``<image>`` expanded to its visual tokens."""
        encoded = self.processor.tokenizer.apply_chat_template(
            to_messages(turns),
            chat_template=self.processor.chat_template,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            sanitize_control_tokens=True,
        )
        image_id, count = self.model.config.image_token_id, self._tokens_per_image()
        out: list[int] = []
        for token in encoded["input_ids"]:
            out.extend([token] * count if token == image_id else [token])
        return out

    def option_scores(self, ids: list[int], images: Sequence[Image], options: Sequence[str]) -> list[float]:
        """Mean log-probability of each option's tokens (end of turn included) after the prompt."""
        continuations = [self._option_ids(option) for option in options]
        scored = self.engine.score(self.embed_prompt(ids, images), continuations)
        return [sum(row) / len(row) for row in scored]

    def option_cosines(self, images: Sequence[Image], options: Sequence[str]) -> list[float] | None:
        """How near each option lies to the images for the second encoder, [K]; None where it has nothing to say."""
        if self.second_look is None or not comparable(options):
            return None
        return cosines(self._encoder_unlocked(self.second_look), images, options)

    def embed_prompt(self, ids: list[int], images: Sequence[Image]) -> torch.Tensor:
        """Input embeddings [1, L, H] with the visual tokens in their places."""
        import torch

        with torch.inference_mode():
            tokens = torch.tensor([ids], device=self.model.device)
            embeds = self.model.get_input_embeddings()(tokens)
            if images:
                visual = torch.cat([self._visual_tokens(image) for image in images]).to(embeds.dtype)
                place = (tokens == self.model.config.image_token_id).unsqueeze(-1).expand_as(embeds)
                embeds = embeds.masked_scatter(place, visual)
        return embeds  # type: ignore[no-any-return]

    def _visual_tokens(self, image: Image) -> torch.Tensor:
        """Connector output [T, H] of one image; the last few images are remembered."""
        key = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
        if key not in self._features:
            pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"]
            config = self.model.config
            out = self.model.get_image_features(
                pixel_values=pixels.to(self.model.device, self.model.dtype),
                vision_feature_layer=config.vision_feature_layer,
                vision_feature_select_strategy=config.vision_feature_select_strategy,
            )
            self._features[key] = out.pooler_output[0]
            while len(self._features) > _FEATURE_CACHE:
                self._features.popitem(last=False)
        self._features.move_to_end(key)
        return self._features[key]

    def _tokens_per_image(self) -> int:
        return int(self.model.config.image_seq_length)

    def _option_ids(self, option: str) -> list[int]:
        # Control tokens in a user's option are words.
        encoded = self.processor.tokenizer(option, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [*encoded, self._end_of_turn]

    @cached_property
    def _end_of_turn(self) -> int:
        """The token the chat template puts after an assistant's words, read off the template itself."""
        turns = [Turn("user", "a"), Turn("assistant", "b")]
        whole = self.prompt_ids(turns)
        tail = whole[len(self.prompt_ids(turns[:1])) :]
        return next(token for token in tail if token in self._end_ids())

    def _end_ids(self) -> set[int]:
        eos = self.model.generation_config.eos_token_id
        if eos is None:
            eos = self.processor.tokenizer.eos_token_id
        return set(eos) if isinstance(eos, list) else {int(eos)}

    def _fit(self, turns: list[Turn]) -> tuple[list[int], list[Turn]]:
        """Drop the oldest exchanges (never a leading system turn or the question) until the prompt fits."""
        lead = [t for t in turns[:1] if t.role == "system"]
        rest = turns[len(lead) :]
        ids = self.prompt_ids([*lead, *rest])
        while len(ids) > self.context_tokens and len(rest) > 1:
            rest = rest[2:] if len(rest) > 2 else rest[1:]
            ids = self.prompt_ids([*lead, *rest])
        if len(ids) > self.context_tokens:
            raise BadInput(
                f"the question takes {len(ids):,} tokens; at most {self.context_tokens:,} are allowed, so shorten it"
            )
        return ids, [*lead, *rest]


def empty_field(size: tuple[int, int]) -> Image:
    """The empty field whose option scores are the prior: the plain near-white of a slide without tissue."""
    from PIL import Image as Pil

    return Pil.new("RGB", size, (244, 240, 246))


def _open_library(url: str) -> Library:
    from assistant.cases.library import Library

    return Library.open(url)


def _open_notes(folder: str | Path) -> Notes:
    from assistant.cases.notes import Notes

    return Notes(folder)


def _check(max_new_tokens: int, temperature: float, top_p: float) -> None:
    if not 1 <= max_new_tokens <= 1024:
        raise BadInput(f"max_new_tokens is {max_new_tokens}; allowed: 1 to 1024")
    if not 0 <= temperature <= 2:
        raise BadInput(f"temperature is {temperature}; allowed: 0 to 2")
    if not 0 < top_p <= 1:
        raise BadInput(f"top_p is {top_p}; allowed: above 0, up to 1")


def _with_threshold(calibration: Calibration, threshold: float) -> Calibration:
    if not 0 <= threshold <= 1:
        raise BadInput(f"threshold is {threshold}; allowed: 0 to 1")
    return replace(calibration, threshold=threshold)
