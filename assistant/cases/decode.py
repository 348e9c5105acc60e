"""Reading images ahead of the encoder, in other processes: decoded pixels, their hash and a thumbnail."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from assistant.cases.slides import read_tile
from assistant.errors import BadInput, NotAvailable, PathAssistError
from assistant.images.intake import load_image
from retrieval.records import Region

T = TypeVar("T")

THUMBNAIL_SIDE = 256


@dataclass(frozen=True)
class Decoded:
    """An image that was read, or why it could not be.

    Attributes:
        image: RGB; None after an error, and where the vector is there already.
        hash: SHA-256 of size and pixels: the same picture in another file format has the same one.
        thumbnail: JPEG, longest side at most 256, no metadata.
        error: One line, "" if there was none.
        vector: [D], where the engine that read the image has embedded it too.
    """

    image: Image.Image | None
    hash: str = ""
    thumbnail: bytes = b""
    error: str = ""
    vector: NDArray[np.float32] | None = None


def decode(source: Path | bytes, region: Region | None = None, tile_pixels: int = 0) -> Decoded:
    """Read one image; errors come back as text, so that one bad file does not end a build.

    Args:
        tile_pixels: Above 0, ``source`` is a slide, and its ``region`` is scaled to this size.
    """
    try:
        if tile_pixels and region is not None and isinstance(source, Path):
            image = read_tile(source, region, tile_pixels)
        else:
            image = load_image(source)
            image = image if region is None else crop(image, region)
    except PathAssistError as error:
        return Decoded(None, error=str(error))
    return Decoded(image, pixel_hash(image), thumbnail(image))


def crop(image: Image.Image, region: Region) -> Image.Image:
    """A region of an image.

    Raises:
        BadInput: It reaches over the edge.
    """
    x, y, width, height = region
    if x + width > image.width or y + height > image.height:
        raise BadInput(f"region {region} reaches over the edge of the image, {image.width} x {image.height} pixels")
    return image.crop((x, y, x + width, y + height))


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of an RGB image's size and pixels."""
    return hashlib.sha256(f"{image.width}x{image.height}:".encode() + image.tobytes()).hexdigest()


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG of an image without metadata."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), reducing_gap=2.0)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=85)
    return file.getvalue()


def decode_all(
    work: Iterable[tuple[T, Path | bytes, Region | None, int]], workers: int, ahead: int = 128
) -> Iterator[tuple[T, Decoded]]:
    """``decode`` for every item, in order, at most ``ahead`` items before they are asked for.

    Args:
        work: (anything, and the arguments of ``decode``).
        workers: Processes; 0 decodes in this one.

    Raises:
        NotAvailable: A process was killed, most likely for memory.
    """
    if workers == 0:
        for tag, source, region, pixels in work:
            yield tag, decode(source, region, pixels)
        return
    # Not by fork: the encoder's library has threads, which a forked process would lack.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[tuple[T, Future[Decoded]]] = deque()
        try:
            for tag, source, region, pixels in work:
                waiting.append((tag, pool.submit(decode, source, region, pixels)))
                if len(waiting) >= ahead:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool as error:
            raise NotAvailable(
                "a process that reads images was killed, most likely for memory; what was committed is safe:"
                " close other programs, then run the same command again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """One core is left to the encoder."""
    return max(1, len(os.sched_getaffinity(0)) - 1)
