"""Numbers for Prometheus at ``/metrics``. Labels are routes, status codes and names of ours, never what a user sent."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.responses import Response

from assistant.answer import Answer

if TYPE_CHECKING:
    from assistant.api_line import Line

TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS"})


class Metrics:
    """Counters of one application, in a registry of its own."""

    def __init__(self, line: Line) -> None:
        self.registry = CollectorRegistry()
        keep: dict[str, Any] = {"registry": self.registry, "namespace": "pathassist"}
        self.requests = Counter("requests", "HTTP requests", ["route", "method", "status"], **keep)
        self.seconds = Histogram("request_seconds", "Time to the response's end", ["route"], buckets=_SECONDS, **keep)
        self.first = Histogram("first_token_seconds", "Arrival to first piece of text", buckets=_SECONDS, **keep)
        self.answers = Counter("answers", "Answers given", ["outcome"], **keep)
        self.tokens = Counter("tokens", "Tokens read and written", ["kind"], **keep)
        self.tools = Counter("tool_calls", "Calls of sub-models", ["tool", "status"], **keep)
        Gauge("line_taken", "Requests waiting or being answered", **keep).set_function(lambda: line.taken)
        Gauge("line_waiting", "Requests waiting", **keep).set_function(lambda: line.waiting)
        Gauge("line_places", "Requests that fit", **keep).set(line.places)
        Gauge("line_refused", "Requests refused since the start, for want of a place", **keep).set_function(
            lambda: line.refused
        )

    def finished(self, route: str, method: str, status: int, began: float) -> None:
        """Count a response; ``route`` is the template of a route of ours."""
        self.requests.labels(route, method if method in _METHODS else "other", str(status)).inc()
        self.seconds.labels(route).observe(time.monotonic() - began)

    def answered(self, answer: Answer) -> None:
        outcome = "cancelled" if answer.finish_reason == "cancelled" else "declined" if answer.abstained else "given"
        self.answers.labels(outcome).inc()
        self.tokens.labels("prompt").inc(answer.usage.prompt_tokens)
        self.tokens.labels("reply").inc(answer.usage.completion_tokens)

    def response(self) -> Response:
        return Response(generate_latest(self.registry), headers={"content-type": TYPE})
