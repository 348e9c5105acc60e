"""What the HTTP API takes and gives back: settings, the request model, error and completion objects.

The request follows OpenAI's chat completions; unknown fields are ignored. Images come only as base64 data URIs: nothing
in a request is ever opened as a path or fetched as an address.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator

from assistant.answer import Answer, Usage
from assistant.chat.prompt import Turn
from assistant.errors import BadInput, PathAssistError, TooLarge
from assistant.images.intake import decode_data_uri

MAX_MESSAGES = 200
MAX_STOP_STRINGS = 4


@dataclass(frozen=True)
class ServerSettings:
    """Limits and options of the HTTP server.

    Attributes:
        max_body_bytes: Largest request body; more is refused with 413 while it is read.
        body_timeout_s: Time a client has to send its body.
        max_waiting: Requests that may wait while one is answered; more are refused with 429.
        max_text_chars: Characters of all messages together.
        default_new_tokens: Reply length when the request names none.
        max_new_tokens: Longest reply; larger requests are lowered to it, and the reply ends with ``"length"``.
        audit_log: JSONL file that gets one line per answer (hashes only), or None.
        audit_days: Days of audit log to keep, a file each; None keeps all in one file.
        max_per_client: Requests that one client may have in line; None for as many as fit.
        answer_timeout_s: Longest from joining the line to the last piece; then it is a 504.
        per_minute: Requests a minute for every client, None for no limit.
        token_file: Hashed tokens of several clients, see :mod:`assistant.api_auth`.
        trusted_proxies: Addresses or networks whose ``user_header`` is believed.
        user_header: Header with the user that a trusted proxy has signed in.
        cors_origins: Web origins that may call the API from a browser; none by default.
        drain_s: Time that requests under way have to finish when the server is told to end.
    """

    max_body_bytes: int = 72 * 2**20  # one image at the intake's cap of 50 MiB, as base64, and some text
    body_timeout_s: float = 60.0
    max_waiting: int = 8
    max_text_chars: int = 100_000
    default_new_tokens: int = 128
    max_new_tokens: int = 1024
    audit_log: Path | None = None
    audit_days: int | None = None
    max_per_client: int | None = None
    answer_timeout_s: float = 600.0
    per_minute: int | None = None
    token_file: Path | None = None
    trusted_proxies: tuple[str, ...] = ()
    user_header: str = "x-forwarded-user"
    cors_origins: tuple[str, ...] = ()
    drain_s: float = 5.0


class HttpError(PathAssistError):
    """A refusal that only HTTP knows: missing key, unknown model, full queue."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class ImageUrl(BaseModel):
    url: str


class ImagePart(BaseModel):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[Part] = []
    tool_calls: list[dict[str, Any]] | None = Field(None, max_length=64)
    tool_call_id: str | None = Field(None, max_length=200)

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        if value is None:
            return []
        if isinstance(value, str):
            return [{"type": "text", "text": value}]
        if not isinstance(value, list):
            raise ValueError("must be a string or a list of parts")
        return value

    @property
    def text(self) -> str:
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def image_uris(self) -> list[str]:
        return [part.image_url.url for part in self.content if isinstance(part, ImagePart)]


Coordinate = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class Extension(BaseModel):
    """Our own part of a chat request; unknown fields are ignored.

    Attributes:
        tools: ``"auto"`` lets the model call our tools, a list only those named; default none.
        region: Rectangle of the last image that the question is about, ``[x0, y0, x1, y1]`` in its pixels.
        ground: Phrase whose boxes on the last image come with the answer.
        options: Possible answers, of which one is chosen.
    """

    tools: Literal["auto", "none"] | list[Annotated[str, Field(max_length=64)]] | None = None
    region: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    ground: str | None = Field(None, min_length=1, max_length=400)
    options: list[Annotated[str, Field(max_length=400)]] | None = Field(None, max_length=10)


class ChatRequest(BaseModel):
    """Body of ``POST /v1/chat/completions``; fields of OpenAI's that are not named here are ignored."""

    model: str
    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    n: Literal[1] | None = None
    tools: list[dict[str, Any]] | None = Field(None, max_length=64)
    tool_choice: str | dict[str, Any] | None = None
    pathology: Extension | None = None
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field((), max_length=MAX_STOP_STRINGS)

    @field_validator("stop", mode="before")
    @classmethod
    def _as_tuple(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @classmethod
    def parse(cls, body: bytes) -> ChatRequest:
        """Parse a request body.

        Raises:
            BadInput: Not JSON, or a field is wrong; the first wrong field is named.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first, more = error.errors(include_url=False, include_input=False)[0], error.error_count() - 1
            message = first["msg"].removeprefix("Value error, ")
            place = _dotted(first["loc"])
            if not place:  # the body as a whole
                raise BadInput(f"the body is not a JSON object of a chat request: {message}") from None
            raise BadInput(f"{place}: {message}" + (f" (and {more} more)" if more else "")) from None

    @property
    def usage_wanted(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def extension(self) -> Extension:
        return self.pathology or Extension(ground=None, options=None)

    @property
    def functions_wanted(self) -> bool:
        """Whether the client brought functions of its own that the model may call."""
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def image_uris(self) -> list[str]:
        return [uri for message in self.messages for uri in message.image_uris]

    def new_tokens(self, settings: ServerSettings) -> int:
        """Reply length in tokens, within the server's limit."""
        asked = self.max_completion_tokens or self.max_tokens or settings.default_new_tokens
        return min(asked, settings.max_new_tokens)

    def check(self, max_images: int, settings: ServerSettings) -> None:
        """Refuse what can be told without decoding an image.

        Raises:
            BadInput: Last message not from the user or without text, an image outside a user message, too many images.
            TooLarge: Too much text.
        """
        last = self.messages[-1]
        if last.role not in ("user", "tool"):
            raise BadInput(f"the last message is from {last.role!r}; it must be from 'user' and ask the question")
        if last.role == "user" and not last.text.strip():
            raise BadInput("the last user message has no text; ask a question about the image")
        characters = sum(len(message.text) for message in self.messages)
        if characters > settings.max_text_chars:
            raise TooLarge(
                f"the messages hold {characters:,} characters; at most {settings.max_text_chars:,} may be sent"
            )
        for index, message in enumerate(self.messages):
            if message.image_uris and message.role != "user":
                raise BadInput(f"messages[{index}]: a {message.role!r} message holds an image; only 'user' ones may")
        if len(self.image_uris) > max_images:
            raise BadInput(f"{len(self.image_uris)} images in the conversation; this model takes at most {max_images}")

    def turns(self) -> list[Turn]:
        """The messages with their images decoded; slow and large, so only for the request whose turn it is.

        Raises:
            BadInput: An image is no data URI or cannot be read.
            TooLarge: An image is over a cap.
        """
        # Results of a client's functions were quoted in the reply that followed them.
        said = [(i, m) for i, m in enumerate(self.messages) if m.role != "tool" and (m.text or not m.tool_calls)]
        return [_turn(index, message) for index, message in said]

    def tool_result_reply(self) -> str | None:
        """The reply to messages that end with results of the client's functions; None where they do not.

        Raises:
            BadInput: A result that belongs to no call.
        """
        if self.messages[-1].role != "tool":
            return None
        from assistant.chat.openai_tools import answer_from_results

        rows = [
            {"role": m.role, "content": m.text, "tool_calls": m.tool_calls, "tool_call_id": m.tool_call_id}
            for m in self.messages
        ]
        return answer_from_results(rows)

    def image_hashes(self) -> list[str]:
        """SHA-256 of every image file as sent, as ``sha256sum`` of the file gives it; valid once ``turns`` passed."""
        return [hashlib.sha256(base64.b64decode(uri.partition(",")[2])).hexdigest() for uri in self.image_uris]

    def prompt_hash(self) -> str:
        """SHA-256 of the JSON list of ``[role, text]`` pairs."""
        return hashlib.sha256(json.dumps([(m.role, m.text) for m in self.messages]).encode()).hexdigest()


def _turn(index: int, message: Message) -> Turn:
    images = []
    for uri in message.image_uris:
        try:
            images.append(decode_data_uri(uri))
        except PathAssistError as error:
            raise type(error)(f"messages[{index}]: {error}") from None
    role = message.role if message.role in ("user", "assistant") else "system"
    return Turn(role, message.text, tuple(images))


def _dotted(location: tuple[int | str, ...]) -> str:
    """``("messages", 0, "content", 1, "text", "text")`` as ``messages[0].content[1].text.text``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def error_object(error: PathAssistError) -> dict[str, Any]:
    """OpenAI's error object, ``{"error": {"message", "type", "code"}}``."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = "server_error" if error.status >= 500 else kinds.get(error.status, "invalid_request_error")
    return {"error": {"message": str(error), "type": kind, "code": error.code}}


def usage_object(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def completion_object(
    head: dict[str, Any], answer: Answer, calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """The body of an unstreamed reply; ``head`` holds id, created and model, ``calls`` are for the client to run."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if calls:
        message |= {"content": None, "tool_calls": calls}
    reason = "tool_calls" if calls else answer.finish_reason
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {
        **head,
        "object": "chat.completion",
        "choices": [choice],
        "usage": usage_object(answer.usage),
        "pathology": answer.pathology(),
    }


class StopFilter:
    """Cuts a stream of text at the first stop string, also when it arrives in pieces.

    Attributes:
        hit: True once a stop string was met; everything after it is dropped.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.hit = False

    def feed(self, piece: str) -> str:
        """Add text; returns what can be shown, holding back what may be the start of a stop string."""
        if self.hit:
            return ""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:  # the one that is complete first, as when the text comes letter by letter
            self.hit, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, once no more text follows."""
        held, self._held = self._held, ""
        return held

    @classmethod
    def cut(cls, text: str, stops: tuple[str, ...]) -> str:
        """``text`` up to the first stop string."""
        whole = cls(stops)
        return whole.feed(text) + whole.flush()
