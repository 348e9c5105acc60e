"""What stands before the HTTP API: request ids, security headers, who asks, host names, rates, body size, counting.

Starlette's own body limit answers in plain text and without our headers, hence the small ASGI middleware here. The rest
of a refused body is read and dropped by uvicorn, so a client that is still sending gets to see the refusal.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assistant.api_auth import Authenticator, Client, RateLimit
from assistant.api_metrics import Metrics
from assistant.api_schema import HttpError, ServerSettings, error_object
from assistant.errors import BadInput, PathAssistError, TooLarge

log = logging.getLogger(__name__)

OPEN_PATHS = ("/health", "/ready")
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or address without a port, can only mean this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def check_host(host: str, api_key: str | bool | None) -> None:
    """Refuse to listen beyond this machine without a key, or another way to tell who asks.

    Raises:
        BadInput: ``host`` is not loopback and there is no key.
    """
    if not api_key and not is_loopback(host):
        raise BadInput(
            f"--host {host} can be reached from other machines and no API key is set; "
            "set PATHASSIST_API_KEY (or --api-key), or use --host 127.0.0.1"
        )


def error_response(error: PathAssistError) -> JSONResponse:
    """The JSON response of an error, with the headers it asks for."""
    return JSONResponse(error_object(error), error.status, headers=getattr(error, "headers", None))


def client_name(request: Request) -> str:
    """Whose turn a request takes in line, as the guard found out."""
    found: Client | None = getattr(request.state, "client", None)
    return found.name if found else ""


class Guard:
    """ASGI middleware around the whole API."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServerSettings,
        api_key: str | None = None,
        who: Authenticator | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.who = who or Authenticator(api_key)
        self.metrics = metrics
        self.rate = RateLimit(settings.per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given_id = headers.get("x-request-id", "")
        request_id = given_id if _REQUEST_ID.fullmatch(given_id) else f"req_{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = request_id
        size, started, status, began = 0, False, 499, time.monotonic()

        async def respond(message: Message) -> None:
            nonlocal started, status
            if message["type"] == "http.response.start":
                started, status = True, message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.settings.max_body_bytes:
                raise _too_large(self.settings.max_body_bytes)
            return message

        try:
            scope["state"]["client"] = self._check(scope, headers)
            await self.app(scope, counted, respond)
        except ClientDisconnect:
            return
        except PathAssistError as error:
            await error_response(error)(scope, receive, respond)
        except asyncio.CancelledError:  # the server ends and has waited long enough
            if started:
                raise
            ending = HttpError(503, "shutting_down", "the server is shutting down; try again later")
            await error_response(ending)(scope, receive, respond)
        except Exception:
            log.exception("request %s failed", request_id)
            if started:
                raise
            failure = PathAssistError(f"internal error; the server log has the details under request id {request_id}")
            await error_response(failure)(scope, receive, respond)
        finally:
            if self.metrics:
                route = getattr(scope.get("route"), "path", "other")
                self.metrics.finished(route, scope["method"], status, began)

    def _check(self, scope: Scope, headers: Headers) -> Client:
        """Who asks; raises what can be told from the headers alone, before anything of the body is read."""
        path, address = scope["path"], (scope.get("client") or ("", 0))[0]
        client = Client(address)
        if not self.who.required:
            # A web page elsewhere could otherwise reach a keyless server by pointing its own name at 127.0.0.1.
            name = _host_name(headers.get("host", ""))
            if not is_loopback(name):
                raise HttpError(
                    403, "host_not_allowed", f"host {name[:100]!r} is not served without an API key; use 127.0.0.1"
                )
        elif path not in OPEN_PATHS:
            client = self.who.client(scope["headers"], address)
        if path not in OPEN_PATHS:
            self.rate.spend(client)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.settings.max_body_bytes:
            raise _too_large(self.settings.max_body_bytes)
        return client


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the request body is over {limit:,} bytes; send fewer or smaller images")


def _host_name(host: str) -> str:
    """The name in a ``Host`` header: ``localhost:8000`` → ``localhost``, ``[::1]:8000`` → ``[::1]``."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]
