"""``POST /v1/embeddings``: OpenAI's request and reply, for texts and for images as data URIs.

    curl -s 127.0.0.1:8000/v1/embeddings -H 'content-type: application/json' \
      -d '{"model": "pathclip-small", "input": ["colonic mucosa", "lymph node"]}'

One input is a string, or a part as in chat messages (``{"type": "text", …}`` or ``{"type": "image_url", …}``); several
are a list of them. The encoder is loaded when the first request's turn has come, in the line that chat waits in too.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError, field_validator
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from assistant.answer import DISCLAIMER
from assistant.api_guard import client_name
from assistant.api_line import Line
from assistant.api_schema import HttpError, ImagePart, Part, ServerSettings, TextPart
from assistant.errors import BadInput, PathAssistError, TooLarge
from assistant.images.intake import decode_data_uri

if TYPE_CHECKING:
    from assistant.model.encoders.base import Encoder

MAX_INPUTS, MAX_IMAGES = 2048, 64

ReadBody = Callable[[Request, ServerSettings], Awaitable[bytes]]


class EmbeddingRequest(BaseModel):
    """Body of ``POST /v1/embeddings``; fields of OpenAI's that are not named here are ignored."""

    model: str
    input: list[Part] = Field(min_length=1, max_length=MAX_INPUTS)
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)

    @field_validator("input", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, int) or (isinstance(item, list) and item) for item in items):
            raise ValueError("token ids and nested lists are not taken; send texts, or parts with an image")
        return [{"type": "text", "text": item} if isinstance(item, str) else item for item in items]

    @classmethod
    def parse(cls, body: bytes) -> EmbeddingRequest:
        """Parse a request body.

        Raises:
            BadInput: Not JSON, or a field is wrong; the first wrong field is named.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            message, place = first["msg"].removeprefix("Value error, "), ".".join(map(str, first["loc"]))
            raise BadInput(f"{place or 'the body is not a JSON object of an embeddings request'}: {message}") from None

    def check(self, settings: ServerSettings) -> None:
        """Refuse what can be told without the encoder.

        Raises:
            BadInput: An empty text, or too many images.
            TooLarge: Too much text.
        """
        texts = [part.text for part in self.input if isinstance(part, TextPart)]
        empty = next((i for i, p in enumerate(self.input) if isinstance(p, TextPart) and not p.text.strip()), None)
        if empty is not None:
            raise BadInput(f"input[{empty}] is an empty text; give a word or a sentence")
        if len(self.input) - len(texts) > MAX_IMAGES:
            raise BadInput(f"{len(self.input) - len(texts)} images; a request may hold {MAX_IMAGES}: send several")
        if (letters := sum(map(len, texts))) > settings.max_text_chars:
            raise TooLarge(f"the texts hold {letters:,} characters; at most {settings.max_text_chars:,} may be sent")


def embeddings_router(
    name: str,
    line: Line,
    settings: ServerSettings,
    read_body: ReadBody,
    load: Callable[[str], Encoder] | None = None,
) -> APIRouter:
    """The route, to be included in the application.

    Args:
        name: The encoder served, which is also the ``model`` of a request.
        line: The line in front of the models.
        settings: Limits of the server.
        read_body: Reads the body of a request within its limits.
        load: Name to encoder; default :func:`assistant.model.encoders.load_encoder`.
    """
    router = APIRouter()
    loaded: list[Encoder] = []  # filled and read by the line's one worker thread only

    def encoder() -> Encoder:
        if not loaded:
            from assistant.model.encoders import load_encoder

            loaded.append((load or load_encoder)(name))
        return loaded[0]

    @router.post("/v1/embeddings")
    async def embeddings(request: Request) -> Response:
        place = line.enter(client_name(request))
        try:
            asked = await run_in_threadpool(_understand, await read_body(request, settings), name, settings)
        except BaseException:
            place.leave()
            raise

        def produce(stop: threading.Event) -> Iterator[str]:
            yield json.dumps(reply(asked, encoder()), allow_nan=False)

        async with aclosing(place.run(produce)) as pieces:
            async for piece in pieces:
                return Response(str(piece), media_type="application/json")
        return Response(status_code=499)  # taken out of the line: the server is ending

    return router


def reply(asked: EmbeddingRequest, encoder: Encoder) -> dict[str, Any]:
    """The response body: OpenAI's, and ours under ``pathology``.

    Raises:
        BadInput: An image that cannot be read, texts for an encoder without them, or other ``dimensions``.
    """
    info = encoder.info
    if asked.dimensions not in (None, info.dimension):
        raise BadInput(f"dimensions is {asked.dimensions}; {info.name} has {info.dimension}: leave it out")
    texts = [(i, part.text) for i, part in enumerate(asked.input) if isinstance(part, TextPart)]
    images = [(i, _prepared(i, part, encoder)) for i, part in enumerate(asked.input) if isinstance(part, ImagePart)]
    vectors = np.zeros((len(asked.input), info.dimension), np.float32)
    warnings = []
    if texts:
        words = [text for _, text in texts]
        cut = {texts[i][0] for i in encoder.too_long(words)}
        warnings = [f"input[{i}] is longer than {info.name} reads; the rest is cut off" for i in sorted(cut)]
        vectors[[i for i, _ in texts]] = encoder.embed_texts(words)
    if images:
        vectors[[i for i, _ in images]] = encoder.embed_prepared([prepared for _, prepared in images])
    data = [
        {"object": "embedding", "index": i, "embedding": _encoded(row, asked.encoding_format)}
        for i, row in enumerate(vectors)
    ]
    # What OpenAI counts are tokens; words are near enough for a number that nobody is billed for.
    words_read = sum(len(text.split()) for _, text in texts)
    return {
        "object": "list",
        "data": data,
        "model": info.name,
        "usage": {"prompt_tokens": words_read, "total_tokens": words_read},
        "pathology": {"encoder": encoder.id, "warnings": warnings, "disclaimer": DISCLAIMER},
    }


def _understand(body: bytes, name: str, settings: ServerSettings) -> EmbeddingRequest:
    asked = EmbeddingRequest.parse(body)
    if asked.model != name:
        raise HttpError(404, "model_not_found", f"no encoder {asked.model[:100]!r} is served here; available: {name!r}")
    asked.check(settings)
    return asked


def _prepared(index: int, part: ImagePart, encoder: Encoder) -> Any:
    """Decoded one at a time, and only the small square is kept."""
    try:
        return encoder.prepare(decode_data_uri(part.image_url.url))
    except PathAssistError as error:
        raise type(error)(f"input[{index}]: {error}") from None


def _encoded(row: np.ndarray[Any, np.dtype[np.float32]], form: str | None) -> list[float] | str:
    if form == "base64":  # little-endian float32, as the openai client reads it
        return base64.b64encode(row.astype("<f4").tobytes()).decode()
    return [float(value) for value in row]
