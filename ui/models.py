"""The models of one page: the one it was started with, and those that conversations have changed to.

Each conversation has its own choice, so a change in one is not seen by any other, and an answer that is under way ends
with the model it was begun with. The model of the start stays in memory, since the HTTP API answers from it; another is
loaded beside it where there is room, and let go when no conversation uses it and the room is needed.
"""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.model.preset import Preset, load_preset, preset_names

if TYPE_CHECKING:
    from assistant.assistant import Assistant

log = logging.getLogger(__name__)

_GIB = 1 << 30


@dataclass(frozen=True)
class Offer:
    """A preset as the page lists it; ``why_not`` is "" where it can be loaded on this machine."""

    name: str
    description: str
    why_not: str = ""


class Models:
    """Loaded assistants by preset name, and which conversation uses which.

    Args:
        first: The assistant the server was started with.
        load: Loads a preset; default: with the library and the notes of ``first``.
        offers: What could be loaded here; default: all shipped presets.
        room: Why a preset has no room now, "" where it has; default: its memory against what is free.
    """

    def __init__(
        self,
        first: Assistant,
        *,
        load: Callable[[str], Any] | None = None,
        offers: Callable[[], list[Offer]] | None = None,
        room: Callable[[str], str] | None = None,
    ) -> None:
        self.first = first
        self._load = load or (lambda name: load_beside(first, name))
        self._offers = offers or shipped_offers
        self._room = room or no_room
        self._loaded: dict[str, Any] = {first.name: first}
        self._without: dict[str, Any] = {}  # the same without their case library
        self._chosen: dict[str, str] = {}  # conversation → preset, where it is not the first
        self._busy: dict[str, int] = {}  # preset → answers under way
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def offers(self) -> list[Offer]:
        """The preset of the start, then the others, with the reason of those that cannot be loaded."""
        others = [offer for offer in self._offers() if offer.name != self.first.name]
        return [Offer(self.first.name, description_of(self.first.name)), *others]

    def name_of(self, session: str) -> str:
        """The preset that a conversation uses."""
        with self._lock:
            return self._chosen.get(session, self.first.name)

    def of(self, session: str) -> Any:
        """The assistant that a conversation uses."""
        with self._lock:
            return self._loaded[self._chosen.get(session, self.first.name)]

    @contextmanager
    def answering(self, session: str, *, cases: bool = True) -> Iterator[Any]:
        """The assistant for one answer; it is not let go before the answer has ended.

        Args:
            cases: False gives it without its case library.
        """
        with self._lock:
            name = self._chosen.get(session, self.first.name)
            found = self._loaded[name]
            if not cases and getattr(found, "library", None) is not None:
                if name not in self._without:
                    self._without[name] = copy.copy(found)  # shares the model and the lock of its generations
                    self._without[name].library = None
                found = self._without[name]
            self._busy[name] = self._busy.get(name, 0) + 1
        try:
            yield found
        finally:
            with self._lock:
                self._busy[name] -= 1

    def choose(self, session: str, name: str) -> Any:
        """Let a conversation use a preset, loading it first where it is not; the old one is used until then.

        Raises:
            BadInput: It is not offered. NotAvailable: It cannot be loaded here, or there is no room for it now.
        """
        with self._loading:
            if name not in self._loaded:
                offer = next((one for one in self.offers() if one.name == name), None)
                if offer is None:
                    raise BadInput(f"the preset {name[:60]!r} is not offered here")
                if offer.why_not:
                    raise NotAvailable(offer.why_not)
                self._make_room(name)
                made = self._load(name)
                with self._lock:
                    self._loaded[name] = made
            with self._lock:
                self._chosen[session] = name
                return self._loaded[name]

    def forget(self, session: str) -> None:
        """The conversation's page was closed."""
        with self._lock:
            self._chosen.pop(session, None)

    def _make_room(self, name: str) -> None:
        """Let models go that nobody uses, where that is needed.

        Raises:
            NotAvailable: There is no room all the same.
        """
        if not self._room(name):
            return
        with self._lock:
            used = {self.first.name, *self._chosen.values(), *(one for one, count in self._busy.items() if count)}
            for unused in set(self._loaded) - used:
                del self._loaded[unused]
                self._without.pop(unused, None)
        gc.collect()
        if why := self._room(name):
            raise NotAvailable(f"{why}; start the server with --model {name} to use it alone")


def load_beside(first: Assistant, name: str) -> Assistant:
    """A preset with the library and the notes of a loaded assistant; in 4-bit where a GPU is too small for the whole.

    Raises:
        NotAvailable: Weights or hardware are missing.
    """
    from assistant.assistant import Assistant

    made = Assistant.load(name, quantization=_quantization(load_preset(name)), progress=False)
    made.library, made.notes = first.library, first.notes
    return made


def shipped_offers() -> list[Offer]:
    """All shipped presets. Nothing is loaded or fetched to find out."""
    return [Offer(name, description_of(name), why_not(load_preset(name))) for name in preset_names()]


def description_of(name: str) -> str:
    """A preset in a sentence or two; "" for one that is no shipped preset."""
    try:
        return load_preset(name).description
    except PathAssistError:
        return ""


def why_not(preset: Preset) -> str:
    """Why a preset cannot be loaded on this machine, in a sentence; "" where nothing is known against it."""
    from assistant.doctor import check_endpoint, check_weights
    from assistant.model.cache import cache_root

    if preset.remote is None and preset.weights is None:
        trained = cache_root() / "weights" / preset.name / "connector.safetensors"
        if not trained.is_file():
            return "it ships no trained weights; train its connector first (pathassist train --help)"
    checks = (*check_endpoint(preset), *check_weights(preset, fix=False, source="wheels"))
    failed = next((check for check in checks if check.status == "FAIL"), None)
    return "" if failed is None else f"{failed.name}: {failed.detail}"


def no_room(name: str) -> str:
    """Why a preset does not fit beside what is loaded, in a sentence; "" where it does."""
    generation = load_preset(name).generation
    if generation is None:
        return ""
    free, place = _free_gib()
    small = generation.memory_4bit_gib if place == "GPU memory" else None
    needed = generation.memory_gib if small is None else min(small, generation.memory_gib)
    if needed <= free:
        return ""
    return f"{name} needs {needed:g} GiB beside the model in use, and {free:.1f} GiB of {place} are free"


def takes(assistant: Any, keyword: str) -> bool:
    """Whether an assistant's ``stream`` has a keyword."""
    return keyword in inspect.signature(assistant.stream).parameters


def _free_gib() -> tuple[float, str]:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0] / _GIB, "GPU memory"
    import psutil

    return psutil.virtual_memory().available / _GIB, "memory"


def _quantization(preset: Preset) -> str | None:
    generation = preset.generation
    if generation is None or "4bit" not in generation.quantization:
        return None
    free, place = _free_gib()
    return "4bit" if place == "GPU memory" and free < generation.memory_gib else None
