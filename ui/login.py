"""The page's login for routes that stand beside Gradio: slides and reports."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import FastAPI
from gradio.routes import App
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

_REFUSED = {"error": {"message": "log in on the page first", "type": "NotLoggedIn", "code": "login_required"}}


class PageLogin:
    """Answers guarded routes only to browsers that have logged in on the page; 401 to all others."""

    def __init__(self) -> None:
        self._page: App | None = None

    def guard(self, routes: Iterable[Route]) -> None:
        """Put the login before some routes. Until :meth:`follow` was called they refuse everybody."""
        for route in routes:
            route.app = _Guard(route.app, self)

    def follow(self, app: FastAPI) -> None:
        """Take over the logins of the Gradio page that was mounted into an application."""
        self._page = next(r.app for r in app.routes if isinstance(r, Mount) and isinstance(r.app, App))

    def known(self, request: Request) -> bool:
        """Whether the browser holds a cookie of a login, as Gradio itself looks for it."""
        if self._page is None:
            return False
        names = (f"access-token-{self._page.cookie_id}", f"access-token-unsecure-{self._page.cookie_id}")
        token = next((value for name in names if (value := request.cookies.get(name))), "")
        return self._page.tokens.get(token) is not None


class _Guard:
    def __init__(self, app: ASGIApp, login: PageLogin) -> None:
        self.app, self.login = app, login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.login.known(Request(scope)):
            await self.app(scope, receive, send)
            return
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        await JSONResponse(_REFUSED, 401, headers)(scope, receive, send)
