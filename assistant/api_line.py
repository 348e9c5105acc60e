"""The line before the model: one worker thread, and a bounded number of requests under way or waiting for it."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from assistant.answer import Answer
from assistant.api_schema import HttpError

Produce = Callable[[threading.Event], Iterator[str | Answer]]


class Line:
    """Places for requests.

    Args:
        max_waiting: Requests that may wait beside the one being answered.
    """

    def __init__(self, max_waiting: int) -> None:
        self.places = max_waiting + 1
        self.taken = 0
        self.last_seconds = 1.0
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self.running: set[Place] = set()
        self.lock = threading.Lock()  # places are taken on the event loop and given back by the worker

    def enter(self) -> Place:
        """Take a place, or refuse at once when there is none.

        Raises:
            HttpError: 429 with ``Retry-After``, about the time after which the next place opens.
        """
        with self.lock:
            if self.taken < self.places:
                self.taken += 1
                return Place(self)
        wait = min(60, max(1, math.ceil(self.last_seconds)))
        raise HttpError(
            429,
            "rate_limit_exceeded",
            f"{self.places} requests are waiting or being answered already; try again in {wait} s",
            {"retry-after": str(wait)},
        )

    def close(self) -> None:
        """Stop everything under way and wait for the worker to end."""
        with self.lock:
            running = tuple(self.running)
        for place in running:
            place.cancel()
        self.pool.shutdown(wait=True, cancel_futures=True)


class Place:
    """One place in line: held until ``leave`` or, once the worker has it, until the worker is done with it."""

    def __init__(self, line: Line) -> None:
        self.stop = threading.Event()
        self._line = line
        self._held = True
        self._future: Future[None] | None = None

    def leave(self) -> None:
        """Give the place back; the second time does nothing."""
        with self._line.lock:
            self._line.taken -= self._held
            self._held = False
            self._line.running.discard(self)

    def cancel(self) -> None:
        """Stop the generation, or take it out of the line where it has not begun."""
        self.stop.set()
        if self._future:
            self._future.cancel()

    async def run(self, produce: Produce) -> AsyncGenerator[str | Answer]:
        """What ``produce`` yields in the worker thread, in line; its exceptions are raised here."""
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | Answer | Exception | None] = asyncio.Queue()

        def tell(item: str | Answer | Exception | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended and nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            started = time.monotonic()
            try:
                for item in () if self.stop.is_set() else produce(self.stop):
                    tell(item)
            except Exception as error:
                tell(error)
            self._line.last_seconds = time.monotonic() - started

        def done(_: Future[None]) -> None:
            self.leave()
            tell(None)

        with self._line.lock:
            self._line.running.add(self)
        self._future = self._line.pool.submit(work)
        self._future.add_done_callback(done)
        while (item := await queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
