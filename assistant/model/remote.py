"""The ``remote`` preset: any OpenAI-compatible model (vLLM, SGLang, llama.cpp) inside our evidence.

The model behind the endpoint answers; abstention, tools, similar cases, notes and boxes around it are ours. Only the
configured address is contacted: no proxy of the environment, no redirect. Where a confidence comes from is said:

1. an endpoint that is a pathassist sends its own calibrated one;
2. log-probabilities of the reply's tokens, where the endpoint gives them (of the option letters for a closed question);
3. else the share of three more replies, sampled, that agree with the first, with a warning that it is that.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from assistant.answer import Answer, ToolCall, Usage
from assistant.assistant import NO_IMAGE, NOT_ENOUGH, Assistant
from assistant.chat.calibration import Calibration
from assistant.chat.evidence import with_evidence, without_evidence
from assistant.chat.prompt import LETTERS, YES_NO, Question, Turn, parse_question
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.images.intake import blankness, image_warnings, load_images
from assistant.model.preset import Remote, load_preset

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.tools.run import ToolState

MAX_STEPS = 4
SAMPLES = 3
SAMPLED = "the endpoint gives no log-probabilities: the confidence is how often sampled replies agree"
_EMPTY = 0.98
_MAX_SIDE = 1536  # pixels: more is scaled down by the models behind such endpoints
_ONE_LETTER = "Answer with the letter of one option only."
_YES_OR_NO = "Answer with Yes or No only."


@dataclass
class _Reply:
    """What one request brought."""

    text: str = ""
    logprobs: list[float] = field(default_factory=list)
    first: dict[str, float] = field(default_factory=dict)  # likeliest first tokens and their log-probabilities
    calls: list[dict[str, Any]] = field(default_factory=list)
    evidence: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish: str = "stop"


class RemoteAssistant(Assistant):
    """The same interface as :class:`~assistant.assistant.Assistant`, over an endpoint.

    Args:
        remote: Address, key and model of the endpoint, as the preset names them.
        timeout: Seconds to wait for a connection or for the next bytes.

    Raises:
        NotAvailable: No address is set, or the ``openai`` package is missing.
        BadInput: The address is no http(s) URL.
    """

    def __init__(
        self,
        remote: Remote,
        *,
        name: str = "remote",
        calibration: Calibration | None = None,
        timeout: float = 120.0,
    ) -> None:
        super().__init__(None, None, None, name=name, calibration=calibration, context_tokens=remote.context_tokens)
        self.max_images = remote.max_images
        self.remote_model = remote.model_name()
        self.revision = self.remote_model
        url = remote.base_url()
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise BadInput(
                f"{remote.base_url_env} is {url[:100]!r}; it must be an address such as http://127.0.0.1:8001/v1"
            )
        try:
            import openai
        except ModuleNotFoundError:
            message = "the preset `remote` needs the package 'openai'; install it with: pip install 'pathassist[eval]'"
            raise NotAvailable(message) from None
        self._errors = openai
        self._place = f"{urlsplit(url).hostname}:{urlsplit(url).port or urlsplit(url).scheme}"
        self._client = openai.OpenAI(
            base_url=url,
            api_key=os.environ.get(remote.api_key_env) or "none",
            timeout=timeout,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(trust_env=False, follow_redirects=False, timeout=timeout),
        )
        self._can: dict[str, bool] = {}  # what the endpoint has been found to take: logprobs, tools

    @classmethod
    def connect(
        cls, preset: str = "remote", *, threshold: float | None = None, library: Any = None, notes: Any = None
    ) -> RemoteAssistant:
        """From a preset with a ``remote`` part, and an open library and notes.

        Raises:
            BadInput: Unknown preset, one without an endpoint, a threshold outside 0…1. NotAvailable: No address is set.
        """
        found = load_preset(preset)
        if found.remote is None:
            raise BadInput(f"the preset {preset} answers on this machine and has no endpoint; use `remote`")
        if threshold is not None and not 0 <= threshold <= 1:
            raise BadInput(f"the threshold is {threshold}; allowed: 0 to 1")
        calibration = Calibration() if threshold is None else replace(Calibration(), threshold=threshold)
        made = cls(found.remote, name=found.name, calibration=calibration)
        made.library, made.notes = library, notes
        if library is not None:
            made._encoders[library.encoder.info.name] = library.encoder
        return made

    def stream(  # type: ignore[override,unused-ignore]
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
        tools: str | Sequence[str] = "none",
        tool_state: ToolState | None = None,
        planner: Any = None,
    ) -> Iterator[str | ToolCall | Answer]:
        """See :meth:`assistant.assistant.Assistant.stream`; the endpoint's model plans its tool calls itself."""
        began = time.perf_counter()
        asked = parse_question(question, options)
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview)
        total = sum(len(t.images) for t in history) + (len(images) if several else int(images is not None))
        if total > self.max_images:
            raise BadInput(f"{total} images in this conversation; at most {self.max_images} are allowed")
        if threshold is not None and not 0 <= threshold <= 1:
            raise BadInput(f"the threshold is {threshold}; allowed: 0 to 1")
        pictures = tuple(load_images(images)) if images is not None else ()
        turns = [*map(without_evidence, history), Turn("user", _prompt(asked), pictures)]
        warnings = [w for picture in pictures for w in image_warnings(picture)]
        warnings += [NO_IMAGE] if not total else []
        messages = [_message(turn) for turn in self._shortened(turns)]
        keywords: dict[str, Any] = {"temperature": temperature, "top_p": top_p, "max_tokens": max_new_tokens}
        if seed is not None:
            keywords["seed"] = seed
        calls: list[ToolCall] = []
        shown = next((turn.images for turn in reversed(turns) if turn.images), ())
        for call in self._call_tools(messages, shown, tools, tool_state, stop, keywords):
            calls.append(call)
            yield call
        reply = _Reply()
        if asked.closed:
            reply = self._ask(messages, {**keywords, "temperature": 0.0}, stop)
            chances, guess = self._choose(asked, reply, messages, keywords, warnings, stop)
        else:
            for item in self._stream_text(messages, keywords, stop):
                if isinstance(item, str):
                    yield item
                else:
                    reply = item
            guess, chances = reply.text.strip(), {}
        confidence = chances[guess] if chances else self._open_confidence(reply, messages, keywords, warnings, stop)
        empty = bool(pictures) and all(blankness(picture) >= _EMPTY for picture in pictures)
        confidence = 0.0 if empty else confidence
        limit = self.calibration.threshold if threshold is None else threshold
        abstained = reply.finish != "cancelled" and (empty or confidence < limit)
        answer = Answer(
            text=f"{NOT_ENOUGH} Best guess: {guess}" if abstained else guess,
            confidence=confidence,
            abstained=abstained,
            best_guess=guess,
            options=chances,
            tools=tuple(calls),
            warnings=tuple(warnings),
            model=f"{self.name}:{self.remote_model}",
            usage=Usage(reply.prompt_tokens, reply.completion_tokens),
            seconds=time.perf_counter() - began,
            mean_logprob=sum(reply.logprobs) / len(reply.logprobs) if reply.logprobs and not chances else None,
            finish_reason=reply.finish,
        )
        if chances:
            yield answer.text
        if answer.finish_reason != "cancelled" and (self.library is not None or self.notes is not None):
            cited = with_evidence(answer, asked, () if empty else shown, self.library, self.notes)
            if not cited.abstained and cited.text != answer.text:
                yield cited.text[len(answer.text.rstrip()) :]
            answer = replace(cited, seconds=time.perf_counter() - began)
        yield answer

    def _call_tools(
        self,
        messages: list[dict[str, Any]],
        images: Sequence[Image],
        tools: str | Sequence[str],
        given: ToolState | None,
        stop: threading.Event | None,
        keywords: dict[str, Any],
    ) -> Iterator[ToolCall]:
        """Let the model call our tools, at most :data:`MAX_STEPS` times; results are added to ``messages``."""
        if isinstance(tools, str) and tools == "none":
            return
        from assistant.tools import ToolState, find_tools, openai_schema, run_call

        registry = find_tools()
        names = list(registry.tools) if tools == "auto" else [tools] if isinstance(tools, str) else list(tools)
        offered = [openai_schema(registry[name]) for name in names]
        state = given if given is not None else ToolState()
        state.images = list(images)
        state.store = state.store or (self.library.url if self.library is not None else "")
        done = 0
        try:
            while done < MAX_STEPS and not (stop is not None and stop.is_set()):
                reply = self._ask(messages, {**keywords, "temperature": 0.0, "tools": offered}, stop, quiet="tools")
                if not reply.calls:
                    return
                messages.append({"role": "assistant", "content": reply.text or None, "tool_calls": reply.calls})
                for wanted in reply.calls:
                    function, result = wanted["function"], "not run: too many calls"
                    if done < MAX_STEPS:
                        ran = run_call(str(function["name"]), function["arguments"] or "{}", state, stop=stop)
                        result = json.dumps(ran.result.to_json(), default=str)
                        done += 1
                        overlay = next(iter(ran.result.overlays.values()), None)
                        yield ToolCall(ran.name, ran.arguments, ran.result.to_json(), ran.seconds, ran.status, overlay)
                    messages.append({"role": "tool", "tool_call_id": wanted["id"], "content": result[:8000]})
        finally:
            if given is None:
                state.close()

    def _choose(
        self,
        asked: Question,
        reply: _Reply,
        messages: list[dict[str, Any]],
        keywords: dict[str, Any],
        warnings: list[str],
        stop: threading.Event | None,
    ) -> tuple[dict[str, float], str]:
        """Probability of every option, and the likeliest."""
        labels = list(asked.labels)
        given = reply.evidence.get("options")
        if isinstance(given, dict) and set(given) == set(labels):
            chances = {label: float(given[label]) for label in labels}
        else:
            heads = [option.lower() for option in asked.options] if asked.options == YES_NO else LETTERS.lower()
            mass = [0.0] * len(labels)
            for token, logprob in reply.first.items():
                word = token.strip().strip("().:*").lower()
                for i in range(len(labels)):
                    if word == heads[i] or (asked.options == YES_NO and word and heads[i].startswith(word)):
                        mass[i] += math.exp(logprob)
            if sum(mass) > 0.05:  # less: the model has not answered with an option at all
                chances = {label: m / sum(mass) for label, m in zip(labels, mass, strict=True)}
            else:
                texts = [reply.text, *self._samples(messages, keywords, stop)]
                votes = [found for text in texts if (found := _option_in(text, asked)) is not None]
                count = [votes.count(i) + 1 / len(labels) for i in range(len(labels))]
                chances = {label: c / sum(count) for label, c in zip(labels, count, strict=True)}
                warnings.append(SAMPLED)
        return chances, max(chances, key=chances.__getitem__)

    def _open_confidence(
        self,
        reply: _Reply,
        messages: list[dict[str, Any]],
        keywords: dict[str, Any],
        warnings: list[str],
        stop: threading.Event | None,
    ) -> float:
        given = reply.evidence.get("confidence")
        if isinstance(given, int | float) and 0 <= given <= 1:
            return float(given)
        if reply.finish == "cancelled" or not reply.text.strip():
            return 0.0
        if reply.logprobs:
            return self.calibration.open_answer(sum(reply.logprobs) / len(reply.logprobs))
        warnings.append(SAMPLED)
        words = set(_words(reply.text))
        shares = []
        for text in self._samples(messages, keywords, stop):
            other = set(_words(text))
            shares.append(len(words & other) / max(1, len(words | other)))
        return sum(shares) / len(shares) if shares else 0.0

    def _samples(
        self, messages: list[dict[str, Any]], keywords: dict[str, Any], stop: threading.Event | None
    ) -> list[str]:
        texts = []
        for number in range(SAMPLES):
            if stop is not None and stop.is_set():
                break
            options = {**keywords, "temperature": 0.7, "top_p": 1.0, "seed": number}
            texts.append(self._ask(messages, options, stop).text)
        return texts

    # -- the endpoint ----------------------------------------------------------------------------------------------

    def _ask(
        self,
        messages: list[dict[str, Any]],
        keywords: dict[str, Any],
        stop: threading.Event | None,
        quiet: str = "",
    ) -> _Reply:
        reply = _Reply()
        for item in self._stream_text(messages, keywords, stop, quiet):
            if isinstance(item, _Reply):
                reply = item
        return reply

    def _stream_text(
        self,
        messages: list[dict[str, Any]],
        keywords: dict[str, Any],
        stop: threading.Event | None,
        quiet: str = "",
    ) -> Iterator[str | _Reply]:
        """Pieces of text, then the whole reply. ``quiet`` names a feature whose refusal only means "not there"."""
        if quiet and self._can.get(quiet) is False:
            yield _Reply()
            return
        request = {"model": self.remote_model, "messages": messages, "stream": True, **keywords}
        request["stream_options"] = {"include_usage": True}
        if self._can.get("logprobs", True):
            request |= {"logprobs": True, "top_logprobs": 20}
        try:
            yield from self._read(self._client.chat.completions.create(**request), stop)
        except self._errors.BadRequestError as error:
            if request.pop("logprobs", None) and "logprob" in str(error).lower():
                self._can["logprobs"] = False
                yield from self._stream_text(messages, keywords, stop, quiet)
            elif quiet:
                self._can[quiet] = False
                yield _Reply()
            else:
                raise BadInput(f"{self._place} refused the request: {_line(error)}") from None
        except self._errors.APITimeoutError:
            raise NotAvailable(f"{self._place} did not answer in time; try again or ask for fewer tokens") from None
        except self._errors.APIConnectionError as error:
            reason = _line(error.__cause__ or error)
            raise NotAvailable(f"cannot reach the model at {self._place} ({reason}); start it and retry") from None
        except self._errors.APIStatusError as error:
            raise NotAvailable(f"{self._place} answered {error.status_code}: {_line(error)}") from None
        except self._errors.APIError as error:
            raise NotAvailable(f"{self._place} broke off: {_line(error)}") from None
        except PathAssistError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # no OpenAI reply at all
            raise NotAvailable(f"{self._place} sent no chat completion: {type(error).__name__}") from None

    def _read(self, stream: Any, stop: threading.Event | None) -> Iterator[str | _Reply]:
        reply, calls = _Reply(), dict[int, dict[str, Any]]()
        with stream:
            for chunk in stream:
                if stop is not None and stop.is_set():
                    reply.finish = "cancelled"
                    break
                if chunk.usage is not None:
                    reply.prompt_tokens = chunk.usage.prompt_tokens or 0
                    reply.completion_tokens = chunk.usage.completion_tokens or 0
                extra = (chunk.model_extra or {}).get("pathology")
                if isinstance(extra, dict):
                    reply.evidence |= extra
                for choice in chunk.choices[:1]:
                    reply.finish = choice.finish_reason if choice.finish_reason in ("stop", "length") else reply.finish
                    for one in (choice.logprobs.content if choice.logprobs else None) or ():
                        if not reply.logprobs:
                            reply.first = {top.token: top.logprob for top in one.top_logprobs} or {
                                one.token: one.logprob
                            }
                        reply.logprobs.append(one.logprob)
                    for part in choice.delta.tool_calls or ():
                        call = calls.setdefault(
                            part.index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
                        )
                        call["id"] = call["id"] or part.id or f"call_{part.index}"
                        if part.function is not None:
                            call["function"]["name"] += part.function.name or ""
                            call["function"]["arguments"] += part.function.arguments or ""
                    if choice.delta.content:
                        reply.text += choice.delta.content
                        yield choice.delta.content
        reply.calls = [calls[i] for i in sorted(calls)]
        # A pathassist puts its own sentence around a guess that it does not trust; ours goes around the guess alone.
        if reply.evidence.get("abstained") and isinstance(reply.evidence.get("best_guess"), str):
            reply.text = reply.evidence["best_guess"]
        yield reply

    def _shortened(self, turns: list[Turn]) -> list[Turn]:
        """Without the oldest exchanges where the text cannot fit; about three characters a token."""
        lead, rest = [t for t in turns[:1] if t.role == "system"], [*turns]
        rest = rest[len(lead) :]
        while len(rest) > 2 and sum(len(t.text) for t in (*lead, *rest)) > 3 * self.context_tokens:
            rest = rest[2:]
        return [*lead, *rest]


def _prompt(asked: Question) -> str:
    hint = "" if not asked.closed else f"\n{_YES_OR_NO if asked.options == YES_NO else _ONE_LETTER}"
    return asked.prompt() + hint


def _message(turn: Turn) -> dict[str, Any]:
    if not turn.images:
        return {"role": turn.role, "content": turn.text}
    pictures = [{"type": "image_url", "image_url": {"url": _uri(image)}} for image in turn.images]
    return {"role": turn.role, "content": [*pictures, {"type": "text", "text": turn.text}]}


def _uri(image: Image) -> str:
    small = image.copy()
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    file = io.BytesIO()
    small.save(file, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _option_in(text: str, asked: Question) -> int | None:
    """The option that a reply names: by its letter at the start, by its whole text, or by Yes and No."""
    said = text.strip().lower()
    for i, option in enumerate(asked.options):
        if asked.options == YES_NO:
            if re.match(rf"{option.lower()}\b", said):
                return i
        elif re.match(rf"\(?{LETTERS[i].lower()}(?:[).:]|\s|$)", said) or said.rstrip(".") == option.lower():
            return i
    return None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
