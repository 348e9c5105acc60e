"""``GET /v1/tools``, ``POST /v1/tools/{name}`` and ``POST /v1/ground``: the parts beside the chat, one call each.

    curl -s 127.0.0.1:8000/v1/tools/check_quality -H 'content-type: application/json' \
      -d '{"images": ["data:image/png;base64,…"], "arguments": {}}'

They wait in the same line as the chat. A tool runs in a process of its own and is ended when the client goes away.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from assistant.answer import DISCLAIMER
from assistant.api_embeddings import ReadBody
from assistant.api_guard import client_name
from assistant.api_line import Line
from assistant.api_schema import HttpError, ServerSettings
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.images.intake import decode_data_uri

if TYPE_CHECKING:
    from PIL.Image import Image

    from assistant.answer import Box
    from assistant.tools import Tool

MAX_IMAGES = 8
M = TypeVar("M", bound=BaseModel)
_STATUS = {"refused": 400, "failed": 500, "timeout": 504, "cancelled": 499}


class ToolRequest(BaseModel):
    """Body of ``POST /v1/tools/{name}``: images as data URIs, numbered from 1 in ``arguments``."""

    images: list[str] = Field([], max_length=MAX_IMAGES)
    arguments: dict[str, Any] = {}
    overlays: bool = False
    geojson: bool = False


class GroundRequest(BaseModel):
    """Body of ``POST /v1/ground``."""

    image: str
    phrase: str = Field(min_length=1, max_length=400)
    threshold: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)


def parse(model: type[M], body: bytes) -> M:
    """A request body.

    Raises:
        BadInput: Not JSON, or a field is wrong; the first wrong field is named.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the body is not a JSON object"
        raise BadInput(f"{place}: {first['msg'].removeprefix('Value error, ')}") from None


def tools_router(
    line: Line,
    settings: ServerSettings,
    read_body: ReadBody,
    *,
    store: str = "",
    count: Callable[[str, str], None] = lambda name, status: None,
) -> APIRouter:
    """The routes, to be included in the application.

    Args:
        line: The line in front of the models.
        settings: Limits of the server.
        read_body: Reads the body of a request within its limits.
        store: URL of the case library for tools that search it.
        count: Told tool and outcome of every call.
    """
    router = APIRouter()

    @router.get("/v1/tools")
    async def tools() -> dict[str, Any]:
        from assistant.tools import find_tools

        registry = await run_in_threadpool(find_tools)
        rows = [card_object(tool) for tool in registry.tools.values()]
        return {"object": "list", "data": rows, "broken": sorted(registry.broken), "disclaimer": DISCLAIMER}

    @router.post("/v1/tools/{name}")
    async def run_tool(name: str, request: Request) -> Response:
        from assistant.tools import ToolState, find_tools, run_call

        registry = await run_in_threadpool(find_tools)
        if name not in registry.tools:
            raise HttpError(404, "tool_not_found", f"there is no tool {name[:60]!r}; see /v1/tools")

        def answer(asked: ToolRequest, stop: threading.Event) -> str:
            images = decoded(asked.images)
            with ToolState(images, store=store, timeout=settings.answer_timeout_s) as state:
                call = run_call(name, asked.arguments, state, stop=stop)
            count(name, call.status)
            if call.status != "ok":
                raise HttpError(_STATUS[call.status], f"tool_{call.status}", " ".join(call.result.text.split())[:400])
            out = call.to_json() | {"object": "tool.result", "disclaimer": DISCLAIMER}
            if asked.overlays:
                out["overlays"] = {key: png_uri(picture) for key, picture in call.result.overlays.items()}
            if asked.geojson:
                out["geojson"] = call.result.geojson
            return json.dumps(out, allow_nan=False, default=str)

        return await _in_line(request, ToolRequest, answer)

    @router.post("/v1/ground")
    async def ground(request: Request) -> Response:
        def answer(asked: GroundRequest, stop: threading.Event) -> str:
            boxes = ground_phrase(decoded([asked.image])[0], asked.phrase, asked.threshold)
            rows = [box.as_dict() for box in boxes]
            return json.dumps({"object": "list", "data": rows, "phrase": asked.phrase, "disclaimer": DISCLAIMER})

        return await _in_line(request, GroundRequest, answer)

    async def _in_line(request: Request, model: type[M], answer: Callable[[M, threading.Event], str]) -> Response:
        place = line.enter(client_name(request))
        try:
            asked = parse(model, await read_body(request, settings))
        except BaseException:
            place.leave()
            raise

        def produce(stop: threading.Event) -> Iterator[str]:
            yield answer(asked, stop)

        watcher = gone_watcher(request, place.cancel)
        try:
            async with aclosing(place.run(produce)) as pieces:
                async for piece in pieces:
                    return Response(str(piece), media_type="application/json")
            return JSONResponse({}, 499)  # taken out of the line: the client has gone or the server is ending
        finally:
            watcher.cancel()
            place.cancel()

    return router


def gone_watcher(request: Request, gone: Callable[[], None]) -> Any:
    """A task that calls ``gone`` when the client hangs up; cancel it at the end."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone()

    return asyncio.create_task(watch())


def card_object(tool: Tool) -> dict[str, Any]:
    """What a client needs to know of a tool: OpenAI's schema of it, its card, and what was measured."""
    from dataclasses import asdict

    from assistant.tools import openai_schema

    return {
        "name": tool.name,
        "object": "tool",
        **openai_schema(tool),
        "card": asdict(tool.card),
        "measured": [str(one) for one in tool.measured],
    }


def ground_phrase(image: Image, phrase: str, threshold: float | None = None) -> list[Box]:
    """Boxes of what a phrase names.

    Raises:
        BadInput: An empty or overlong phrase.
        NotAvailable: This version, or this machine, has no weights for it.
    """
    try:
        from assistant.grounding import load_grounder  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        raise NotAvailable("grounding is not part of this installation; ask without a phrase to find") from None
    boxes: list[Box] = load_grounder().ground(image, phrase, threshold=threshold)
    return boxes


def decoded(uris: list[str]) -> list[Image]:
    """Images of data URIs; the message of an error says which."""
    out = []
    for index, uri in enumerate(uris):
        try:
            out.append(decode_data_uri(uri))
        except PathAssistError as error:
            raise type(error)(f"images[{index}]: {error}") from None
    return out


def png_uri(picture: Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
