"""Open slides of a server: opaque ids, tiles, layers of shapes, and limits on all of them."""

from __future__ import annotations

import io
import math
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from assistant.errors import BadInput, TooLarge
from assistant.geojson import MAX_FEATURES, Shape, moved
from assistant.slides.base import Slide
from assistant.slides.open import open_slide

TILE = 254
OVERLAP = 1
_QUALITY = 82
_MAX_LAYERS = 32
_TOLERANCE = 0.02  # a scanner's 4.0009 is as good as 4


@dataclass
class _Entry:
    slide: Slide
    session: str
    title: str
    on_close: Callable[[], None] | None
    layers: dict[str, list[Shape]] = field(default_factory=dict)
    users: int = 0
    gone: bool = False


class SlideStore:
    """Slides by random ids of 128 bits. An id is the right to see the slide: only the session that opened it knows it.

    All methods may be called from any thread; a slide that is closed or pushed out is closed after its last reader.

    Args:
        max_open: Slides open at once; the one unused for longest is closed for a new one.
        per_session: Likewise for one session.
        cache_bytes: Encoded tiles that are kept.
    """

    def __init__(self, *, max_open: int = 32, per_session: int = 4, cache_bytes: int = 64 << 20) -> None:
        self._max_open, self._per_session, self._cache_bytes = max_open, per_session, cache_bytes
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._tiles: OrderedDict[tuple[str, int, int, int], bytes] = OrderedDict()
        self._tile_bytes = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self, path: Path, *, session: str = "", title: str = "Slide", on_close: Callable[[], None] | None = None
    ) -> str:
        """Open a slide and return its id.

        Args:
            path: The file; never shown, not even in messages.
            session: Who opened it.
            title: How it is called on the page.
            on_close: Called once when it is closed, for example to delete an upload.

        Raises:
            BadInput, NotAvailable: As :func:`assistant.slides.open_slide`.
        """
        slide = open_slide(path, name=title)
        identifier = secrets.token_hex(16)
        with self._lock:
            own = [key for key, entry in self._entries.items() if entry.session == session]
            for key in own[: max(0, len(own) - self._per_session + 1)]:
                self.remove(key)
            while len(self._entries) >= self._max_open:
                self.remove(next(iter(self._entries)))
            self._entries[identifier] = _Entry(slide, session, title, on_close)
        return identifier

    @contextmanager
    def use(self, identifier: str) -> Iterator[Slide]:
        """The slide, which stays open at least as long as the block.

        Raises:
            BadInput: No such slide, or it was closed.
        """
        entry = self._enter(identifier)
        try:
            yield entry.slide
        finally:
            self._leave(entry)

    def title(self, identifier: str) -> str:
        """How the slide is called on the page."""
        return self._find(identifier).title

    def tile(self, identifier: str, level: int, column: int, row: int) -> bytes:
        """A Deep Zoom tile as JPEG: 254 pixels and one of overlap on each inner side.

        Raises:
            BadInput: No such slide or tile, or the file is damaged there.
        """
        key = (identifier, level, column, row)
        with self._lock:
            self._find(identifier)
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
        with self.use(identifier) as slide:
            data = encode(read_tile(slide, level, column, row))
        with self._lock:
            if identifier in self._entries and key not in self._tiles:
                self._tiles[key] = data
                self._tile_bytes += len(data)
                while self._tile_bytes > self._cache_bytes:
                    self._tile_bytes -= len(self._tiles.popitem(last=False)[1])
        return data

    def info(self, identifier: str) -> dict[str, Any]:
        """``Slide.info`` with title and layers."""
        with self.use(identifier) as slide:
            layers = {name: len(shapes) for name, shapes in self.layers(identifier).items()}
            return {"id": identifier, "title": self.title(identifier), **slide.info(), "layers": layers}

    def layers(self, identifier: str) -> dict[str, list[Shape]]:
        """Layers of shapes by name, in pixels of the full resolution."""
        with self._lock:
            return dict(self._find(identifier).layers)

    def put_layer(self, identifier: str, name: str, shapes: Iterable[Shape]) -> None:
        """Set a layer, or remove it when there are no shapes.

        Raises:
            BadInput: No such slide.
            TooLarge: More layers or shapes than the limits.
        """
        found, name = list(shapes), " ".join(name.split())[:80] or "layer"
        with self._lock:
            layers = self._find(identifier).layers
            if not found:
                layers.pop(name, None)
                return
            if name not in layers and len(layers) >= _MAX_LAYERS:
                raise TooLarge(f"the slide has {len(layers)} layers; the limit is {_MAX_LAYERS}: remove one first")
            total = len(found) + sum(len(own) for key, own in layers.items() if key != name)
            if total > MAX_FEATURES:
                raise TooLarge(f"the slide would have {total:,} shapes; the limit is {MAX_FEATURES:,}: remove a layer")
            layers[name] = found

    def import_shapes(self, identifier: str, name: str, shapes: Iterable[Shape]) -> int:
        """Set a layer from QuPath's coordinates, which begin at the bounds of the scan; returns how many there are."""
        with self.use(identifier) as slide:
            found = moved(shapes, slide.bounds.x, slide.bounds.y)
        self.put_layer(identifier, name, found)
        return len(found)

    def export_shapes(self, identifier: str, name: str | None = None) -> list[Shape]:
        """One layer or all, in QuPath's coordinates."""
        layers = self.layers(identifier)
        if name is not None and name not in layers:
            raise BadInput(f"the slide has no layer {name[:80]!r}; there are: {', '.join(layers) or 'none'}")
        with self.use(identifier) as slide:
            chosen = layers.values() if name is None else [layers[name]]
            return moved((shape for layer in chosen for shape in layer), -slide.bounds.x, -slide.bounds.y)

    def remove(self, identifier: str) -> None:
        """Close a slide; an unknown one is no error."""
        with self._lock:
            entry = self._entries.pop(identifier, None)
            for key in [key for key in self._tiles if key[0] == identifier]:
                self._tile_bytes -= len(self._tiles.pop(key))
            if entry is None:
                return
            entry.gone = True
            idle = entry.users == 0
        if idle:
            _close(entry)

    def close_session(self, session: str) -> None:
        """Close all slides of a session."""
        with self._lock:
            own = [key for key, entry in self._entries.items() if entry.session == session]
        for key in own:
            self.remove(key)

    def close(self) -> None:
        """Close all."""
        for key in list(self._entries):
            self.remove(key)

    def _find(self, identifier: str) -> _Entry:
        with self._lock:
            entry = self._entries.get(identifier)
            if entry is None:
                raise BadInput("this slide is not open any more; open it again")
            self._entries.move_to_end(identifier)
            return entry

    def _enter(self, identifier: str) -> _Entry:
        with self._lock:
            entry = self._find(identifier)
            entry.users += 1
            return entry

    def _leave(self, entry: _Entry) -> None:
        with self._lock:
            entry.users -= 1
            last = entry.gone and entry.users == 0
        if last:
            _close(entry)


def top_level(size: tuple[int, int]) -> int:
    """Number of the Deep Zoom level of the full resolution; level 0 is one pixel."""
    return max(0, math.ceil(math.log2(max(size))))


def read_tile(slide: Slide, level: int, column: int, row: int) -> Image.Image:
    """One Deep Zoom tile.

    Raises:
        BadInput: There is no such tile.
    """
    width, height = slide.size
    top = top_level(slide.size)
    if not 0 <= level <= top:
        raise BadInput(f"there is no level {level}; allowed: 0 to {top}")
    factor = 2 ** (top - level)
    own = math.ceil(width / factor), math.ceil(height / factor)
    if not (0 <= column < math.ceil(own[0] / TILE) and 0 <= row < math.ceil(own[1] / TILE)):
        raise BadInput(f"level {level} has no tile {column}_{row}")
    left, upper = max(0, column * TILE - OVERLAP), max(0, row * TILE - OVERLAP)
    right, lower = min(own[0], (column + 1) * TILE + OVERLAP), min(own[1], (row + 1) * TILE + OVERLAP)
    x, y = left * factor, upper * factor
    size = min(right * factor, width) - x, min(lower * factor, height) - y
    out = right - left, lower - upper
    picture = slide.read(x, y, *size, out=out, tolerance=_TOLERANCE)
    return picture if picture.size == out else picture.resize(out, Image.Resampling.BOX)


def encode(picture: Image.Image, quality: int = _QUALITY) -> bytes:
    """JPEG without metadata."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=quality)
    return target.getvalue()


def _close(entry: _Entry) -> None:
    entry.slide.close()
    if entry.on_close is not None:
        entry.on_close()
