"""The line before the model: one worker thread, a bounded number of requests, and fair turns among clients.

Whoever waits is served round robin by client (an API key, a proxy's user, or an address): a client with eight requests
in line gets every second turn while another one waits.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from assistant.answer import Answer, ToolCall
from assistant.api_schema import HttpError

Piece = str | Answer | ToolCall
Produce = Callable[[threading.Event], Iterator[Piece]]


class Line:
    """Places for requests.

    Args:
        max_waiting: Requests that may wait beside the one being answered.
        max_per_client: Places that one client may hold; None for all of them.
        answer_timeout_s: Longest a request may take from joining the line to its last piece; then it is a 504.

    Attributes:
        refused: Requests turned away so far.
    """

    def __init__(self, max_waiting: int, *, max_per_client: int | None = None, answer_timeout_s: float = 600.0) -> None:
        self.places = max_waiting + 1
        self.max_per_client = max_per_client or self.places
        self.answer_timeout_s = answer_timeout_s
        self.taken = 0
        self.refused = 0
        self.last_seconds = 1.0
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="generate")
        self.running: set[Place] = set()
        self.lock = threading.RLock()  # places are taken on the event loop and given back by the worker
        self._held: dict[str, int] = {}
        self._waiting: OrderedDict[str, deque[Place]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests whose turn has not come."""
        with self.lock:
            return sum(map(len, self._waiting.values()))

    def enter(self, client: str = "") -> Place:
        """Take a place, or refuse at once when there is none.

        Raises:
            HttpError: 429 with ``Retry-After``, about the time after which the next place opens.
        """
        with self.lock:
            mine = self._held.get(client, 0)
            if self.taken < self.places and mine < self.max_per_client:
                self.taken += 1
                self._held[client] = mine + 1
                return Place(self, client)
            self.refused += 1
            whose, count = ("of yours ", mine) if self.taken < self.places else ("", self.places)
        wait = min(60, max(1, math.ceil(self.last_seconds)))
        raise HttpError(
            429,
            "rate_limit_exceeded",
            f"{count} requests {whose}are waiting or being answered already; try again in {wait} s",
            {"retry-after": str(wait)},
        )

    def close(self) -> None:
        """Stop everything under way and wait for the worker to end."""
        with self.lock:
            running = tuple(self.running)
        for place in running:
            place.cancel()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self, place: Place) -> None:
        with self.lock:
            self.taken -= 1
            self._held[place.client] -= 1
            if not self._held[place.client]:
                del self._held[place.client]
            self.running.discard(place)

    def _join(self, place: Place) -> None:
        with self.lock:
            self.running.add(place)
            self._waiting.setdefault(place.client, deque()).append(place)
            self.pool.submit(self._serve_next)

    def _drop(self, place: Place) -> bool:
        """Take a place out of those waiting; False when its turn has come already."""
        with self.lock:
            queue = self._waiting.get(place.client)
            if queue is None or place not in queue:
                return False
            queue.remove(place)
            if not queue:
                del self._waiting[place.client]
            return True

    def _serve_next(self) -> None:
        """In the worker: the oldest request of the client whose last turn is the longest ago."""
        with self.lock:
            if not self._waiting:
                return  # whoever it was has gone
            client, queue = next(iter(self._waiting.items()))
            place = queue.popleft()
            del self._waiting[client]
            if queue:
                self._waiting[client] = queue  # now the last
        place.work()


class Place:
    """One place in line: held until ``leave`` or, once the worker has it, until the worker is done with it."""

    def __init__(self, line: Line, client: str = "") -> None:
        self.stop = threading.Event()
        self.client = client
        self.work: Callable[[], None] = lambda: None
        self._done: Callable[[], None] = lambda: None
        self._line = line
        self._held = True

    def leave(self) -> None:
        """Give the place back; the second time does nothing."""
        with self._line.lock:
            if self._held:
                self._held = False
                self._line._leave(self)

    def cancel(self) -> None:
        """Stop the generation, or take it out of the line where it has not begun."""
        self.stop.set()
        if self._line._drop(self):
            self._done()

    async def run(self, produce: Produce) -> AsyncGenerator[Piece]:
        """What ``produce`` yields in the worker thread, in line; its exceptions are raised here.

        Raises:
            HttpError: 504 when the last piece has not come in time.
        """
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        limit = self._line.answer_timeout_s

        def tell(item: Piece | Exception | None) -> None:
            with suppress(RuntimeError):  # the loop is closed: the server has ended and nobody listens
                loop.call_soon_threadsafe(queue.put_nowait, item)

        def done() -> None:
            self.leave()
            tell(None)

        def work() -> None:
            started = time.monotonic()
            try:
                for item in () if self.stop.is_set() else produce(self.stop):
                    tell(item)
            except Exception as error:
                tell(error)
            finally:
                self._line.last_seconds = time.monotonic() - started
                done()

        self.work, self._done = work, done
        end = loop.time() + limit
        self._line._join(self)
        while True:
            try:
                async with asyncio.timeout_at(end):
                    item = await queue.get()
            except TimeoutError:
                self.cancel()
                message = f"there was no whole answer within {limit:g} s; ask for fewer tokens or try again later"
                raise HttpError(504, "timeout", message, {"retry-after": "5"}) from None
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            yield item
