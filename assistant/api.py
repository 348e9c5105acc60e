"""OpenAI-compatible HTTP API: ``/v1/models``, ``/v1/chat/completions``, ``/v1/embeddings``, ``/health``, ``/ready``.

Beside it ``/v1/tools`` and ``/v1/ground`` (``api_tools.py``), ``/metrics``, and on demand MCP at ``/mcp``.

One request is answered at a time, in a worker thread, since the model fills the machine anyway; a few wait in line, and
the rest are refused with 429 at once. A place in line is taken before the body is read and images are decoded when the
request's turn has come, so memory is bounded too. A client that goes away stops its generation.

    pathassist serve
    curl -s 127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \
      -d '{"model": "embedded", "messages": [{"role": "user", "content": "What is H&E?"}]}'
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import json
import logging
import re
import socket
import threading
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response, StreamingResponse

from assistant.answer import Answer, ToolCall
from assistant.api_audit import AuditLog
from assistant.api_auth import Authenticator
from assistant.api_chat import Calls, answer_pieces
from assistant.api_embeddings import embeddings_router
from assistant.api_guard import Guard, check_host, client_name, error_response
from assistant.api_line import Line, Piece, Place, Produce
from assistant.api_metrics import Metrics
from assistant.api_schema import (
    ChatRequest,
    HttpError,
    ServerSettings,
    StopFilter,
    completion_object,
    error_object,
    usage_object,
)
from assistant.api_tools import gone_watcher, tools_router
from assistant.errors import BadInput, PathAssistError
from assistant.model.encoders.preset import DEFAULT as ENCODER

if TYPE_CHECKING:
    from assistant.assistant import Assistant

log = logging.getLogger(__name__)

_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(?::\d{1,5})?")
_STATUS_CODES = {404: "not_found", 405: "method_not_allowed"}


def create_app(
    assistant: Assistant, *, api_key: str | None = None, settings: ServerSettings | None = None, mcp: bool = False
) -> FastAPI:
    """Build the API around a loaded assistant.

    Args:
        assistant: Answers the questions; ``assistant.name`` is the one model served.
        api_key: Bearer key asked of every path but ``/health`` and ``/ready``. Without one, only loopback host names
            are answered.
        settings: Limits; the defaults suit one machine.
        mcp: Serve the Model Context Protocol at ``/mcp``, behind the same guard.

    Raises:
        BadInput: The audit log cannot be written, a token file or proxy address is wrong.
        NotAvailable: MCP is wanted and its package is missing.
    """
    settings = settings or ServerSettings()
    line = Line(
        settings.max_waiting,
        max_per_client=settings.max_per_client,
        answer_timeout_s=settings.answer_timeout_s,
    )
    who = Authenticator(api_key, settings.token_file, settings.trusted_proxies, settings.user_header)
    metrics = Metrics(line)
    library = getattr(assistant, "library", None)
    audit = AuditLog(settings.audit_log, settings.audit_days) if settings.audit_log else None
    born = int(time.time())
    protocol = None
    if mcp:
        from assistant.mcp_server import mounted

        protocol = mounted(assistant, line, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            if protocol is not None:
                await stack.enter_async_context(protocol.run())
            yield
            await run_in_threadpool(line.close)
        if audit:
            audit.close()

    # No /docs: its page loads scripts from elsewhere, and nothing here reaches the network.
    app = FastAPI(
        title="pathassist",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.add_middleware(Guard, settings=settings, who=who, metrics=metrics)
    if settings.cors_origins:
        _allow_origins(app, settings.cors_origins)
    served = {
        name: {"id": name, "object": "model", "created": born, "owned_by": "pathassist"}
        for name in (assistant.name, ENCODER)
    }

    @app.exception_handler(PathAssistError)
    async def on_error(request: Request, error: PathAssistError) -> JSONResponse:
        return error_response(error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{error.detail}: {request.method} {request.url.path[:200]}; see /v1/models and /v1/chat/completions"
        code = _STATUS_CODES.get(error.status_code, "invalid_input")
        return error_response(HttpError(error.status_code, code, message, error.headers))

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> JSONResponse:
        """200 while a request would be accepted, 503 while the line is full."""
        free = line.places - line.taken
        state = {"status": "ready" if free else "busy", "model": assistant.name, "under_way": line.taken, "free": free}
        return JSONResponse(state, 200 if free else 503)

    @app.get("/metrics")
    async def numbers() -> Response:
        return metrics.response()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": list(served.values())}

    @app.get("/v1/models/{name}")
    async def one_model(name: str) -> dict[str, Any]:
        if name not in served:
            raise HttpError(404, "model_not_found", f"model {name[:100]!r} is not served here; see /v1/models")
        return served[name]

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        began = time.monotonic()
        place = line.enter(client_name(request))
        try:
            body = await _read_body(request, settings)
            asked = await run_in_threadpool(_understand, body, assistant, settings)
        except BaseException:
            place.leave()
            raise

        def produce(stop: threading.Event) -> Iterator[Piece]:
            for item in answer_pieces(assistant, asked, settings, stop):
                if isinstance(item, ToolCall):
                    metrics.tools.labels(item.name, getattr(item, "status", "ok")).inc()
                if isinstance(item, Answer):
                    metrics.answered(item)
                    if audit:
                        client = getattr(request.state, "client", None)
                        audit.write(
                            request_id=request.state.request_id,
                            image_sha256=asked.image_hashes(),
                            prompt_sha256=asked.prompt_hash(),
                            model=assistant.name,
                            seconds=item.seconds,
                            confidence=item.confidence,
                            abstained=item.abstained,
                            client=client.hashed if client and who.required else "",
                            tools=[call.name for call in item.tools],
                        )
                yield item

        reply = _reply(request, place, produce, asked.stop)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": assistant.name}
        if not asked.stream:
            async with aclosing(reply):
                async for item in reply:
                    if isinstance(item, Answer):
                        metrics.first.observe(time.monotonic() - began)
                        return JSONResponse(completion_object(head, item, getattr(item, "calls", None)))
            return Response(status_code=499)  # the client has gone, nobody reads this
        # The first piece is awaited before the status goes out, so that bad input is a 400 and not a broken stream.
        first = await anext(reply, None)
        metrics.first.observe(time.monotonic() - began)
        events = _events(head, first, reply, asked.usage_wanted)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    app.include_router(embeddings_router(ENCODER, line, settings, _read_body))
    store = library.url if library is not None else ""
    app.include_router(
        tools_router(
            line,
            settings,
            _read_body,
            store=store,
            count=lambda name, status: metrics.tools.labels(name, status).inc(),
        )
    )
    if protocol is not None:
        app.router.routes.append(protocol.route)
    return app


def _allow_origins(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let pages of these origins, and of no others, call the API.

    Raises:
        BadInput: One of them is no origin; ``*`` is none either.
    """
    for origin in origins:
        if not _ORIGIN.fullmatch(origin):
            raise BadInput(f"{origin[:100]!r} is no web origin; write for example https://lab.example.org")
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["authorization", "content-type", "x-request-id"],
        expose_headers=["x-request-id", "retry-after"],
        max_age=600,
    )


async def _read_body(request: Request, settings: ServerSettings) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # anything else could be sent by a web page without the browser asking us first
        raise HttpError(415, "unsupported_media_type", f"content type is {kind[:100]!r}; send application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for chunk in request.stream():
                body += chunk
    except TimeoutError:
        message = f"the request body did not arrive within {settings.body_timeout_s:g} s; send it again"
        raise HttpError(408, "request_timeout", message) from None
    return bytes(body)


def _understand(body: bytes, assistant: Assistant, settings: ServerSettings) -> ChatRequest:
    asked = ChatRequest.parse(body)
    _check_model(asked.model, assistant.name)
    asked.check(assistant.max_images, settings)
    return asked


def _check_model(asked: str, served: str) -> None:
    if asked != served:
        raise HttpError(404, "model_not_found", f"model {asked[:100]!r} is not served here; available: {served!r}")


async def _reply(
    request: Request, place: Place, produce: Produce, stops: tuple[str, ...]
) -> AsyncGenerator[str | Answer | ToolCall]:
    """Tool calls, text pieces cut at the stop strings, then one ``Answer`` with the text that a client is meant to get.

    No ``Answer`` follows when the client has gone.
    """
    cutter, shown, gone = StopFilter(stops), "", False

    def hung_up() -> None:
        nonlocal gone
        gone = True
        place.cancel()

    watcher = gone_watcher(request, hung_up)
    try:
        async for item in place.run(produce):
            if isinstance(item, str):
                # Generation goes on after a stop string: only a whole reply is weighed and, where need be, declined.
                piece = cutter.feed(item)
            elif isinstance(item, ToolCall):
                yield item
                continue
            elif gone:
                return
            else:
                answer = _finished(item, cutter.hit, stops)
                piece = cutter.flush()
                # The text of an abstention, or of a reply that was not streamed, is more than the pieces shown.
                if answer.text.startswith(shown + piece):
                    piece = answer.text[len(shown) :]
                elif answer.abstained:
                    piece += "\n\n" + answer.text
            if piece:
                shown += piece
                yield piece
            if isinstance(item, Answer):
                yield answer
    finally:
        watcher.cancel()
        place.cancel()


def _finished(answer: Answer, hit: bool, stops: tuple[str, ...]) -> Answer:
    """The answer with the stop strings applied to what the model wrote, not to the sentence of an abstention."""
    guess = StopFilter.cut(answer.best_guess, stops)
    text = answer.text.replace(answer.best_guess, guess) if answer.abstained else StopFilter.cut(answer.text, stops)
    return dataclasses.replace(
        answer, text=text, best_guess=guess, finish_reason="stop" if hit else answer.finish_reason
    )


async def _events(
    head: dict[str, Any], first: Piece | None, rest: AsyncGenerator[Piece], usage_wanted: bool
) -> AsyncIterator[str]:
    """Server-sent events: role, content pieces, finish reason, usage when wanted, ``[DONE]``.

    The last chunk, whichever it is, carries ``pathology``; one that carries ``pathology.tools`` alone comes as each of
    our tools ends.
    """

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        usage = {"usage": None} if usage_wanted else {}
        return _event({**head, "object": "chat.completion.chunk", "choices": choices, **usage, **more})

    def choice(delta: dict[str, Any], reason: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]

    async with aclosing(rest):
        yield chunk(choice({"role": "assistant", "content": ""}))
        try:
            item = first
            while item is not None:
                if isinstance(item, str):
                    yield chunk(choice({"content": item}))
                    item = await anext(rest, None)
                    continue
                if isinstance(item, ToolCall):
                    yield chunk(choice({"content": ""}), pathology={"tools": [item.as_dict()]})
                    item = await anext(rest, None)
                    continue
                if isinstance(item, Calls):
                    calls = [{"index": i, **call} for i, call in enumerate(item.calls)]
                    yield chunk(choice({"tool_calls": calls}))
                    item = dataclasses.replace(item, finish_reason="tool_calls")
                if usage_wanted:
                    yield chunk(choice({}, item.finish_reason))
                    yield chunk([], usage=usage_object(item.usage), pathology=item.pathology())
                else:
                    yield chunk(choice({}, item.finish_reason), pathology=item.pathology())
                item = await anext(rest, None)
        except PathAssistError as error:  # too late for a status code
            yield _event(error_object(error))
        except Exception:
            log.exception("a reply broke off after it had begun")
            yield _event(error_object(PathAssistError("the reply broke off: internal error, see the server log")))
    yield "data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> str:
    # ASCII only: some clients take Unicode's own line separators for the end of the event.
    return f"data: {json.dumps(data, allow_nan=False)}\n\n"


def bind(host: str, port: int, api_key: str | bool | None) -> socket.socket:
    """Reserve the address before the model is loaded, so that a wrong one is known at once.

    Args:
        host: Loopback, unless there is a key.
        api_key: The key, or whether there is another way to tell who asks (token file, trusted proxy).
        port: 0 takes any free port.

    Raises:
        BadInput: ``host`` needs a key, is unknown, or the port is taken or not allowed.
    """
    check_host(host, api_key)
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit it. asyncio sets it only where the socket names its protocol, and without it a small
        # answer in two parts waits some 40 ms for the other side's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        if listener:
            listener.close()
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"cannot listen on {host}:{port}: {reason}; choose another --host or --port") from None
    return listener


def http_server(app: FastAPI, *, drain_s: float = 5.0) -> uvicorn.Server:
    """The server with our settings; ``run(sockets=[bind(...)])`` serves until interrupted or told to end (SIGTERM).

    No new connection is then taken, and requests under way get ``drain_s`` seconds to finish.
    """
    logs = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    logs["handlers"]["access"]["stream"] = "ext://sys.stderr"  # stdout belongs to the command line's own output
    return uvicorn.Server(
        uvicorn.Config(
            app,
            server_header=False,
            proxy_headers=False,  # or anybody could name the address that a trusted proxy has
            timeout_graceful_shutdown=max(1, round(drain_s)),
            log_config=logs,
        )
    )
