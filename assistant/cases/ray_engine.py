"""Reading and embedding with Ray Data: the way to build a library with many cores or several machines.

Rows stream through tasks that decode (``assistant.cases.decode``) into actors that hold the encoder; the machine that
started the build receives vectors, hashes and thumbnails in the order of the source and alone writes the store, so the
result is that of the local engine. ``RAY_ADDRESS`` names a running cluster, whose machines must see the same files;
without it Ray starts on this machine.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from assistant.cases.decode import Decoded, decode
from assistant.errors import NotAvailable, PathAssistError
from retrieval.records import Region

T = TypeVar("T")
Work = tuple[T, Path | bytes, Region | None, int]

#: Rows handed to Ray at a time: what the driver holds of them, and what is lost when it is killed.
WINDOW = 4096
BATCH = 64


class Embed:
    """An actor: decoded pixels in, vectors out. Every actor loads the encoder once."""

    def __init__(self, encoder: str, expected: str) -> None:
        from assistant.model.encoders.load import load_encoder

        self.encoder = load_encoder(encoder)
        if self.encoder.id != expected:
            raise NotAvailable(
                f"a worker loaded {self.encoder.id}, this machine {expected}; install the same weights on every machine"
            )

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        found: list[Decoded] = [pickle.loads(row) for row in batch["decoded"]]  # noqa: S301 (written by _decode)
        images = [d.image for d in found if d.image is not None]
        vectors = iter(self.encoder.embed_images(images)) if images else iter(())
        rows = [
            pickle.dumps(Decoded(None, d.hash, d.thumbnail, d.error, None if d.image is None else next(vectors)))
            for d in found
        ]
        return {"number": batch["number"], "decoded": np.array(rows, dtype=object)}


def _decode(row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "decoded": pickle.dumps(decode(*pickle.loads(row["work"])))}  # noqa: S301 (ours)


def embed_all(work: Iterable[Work[T]], encoder: str, identity: str, actors: int = 1) -> Iterator[tuple[T, Decoded]]:
    """As ``decode_all``, with the vectors in place of the pixels.

    Args:
        work: (anything, and the arguments of ``decode``).
        encoder: Name of the encoder preset that the actors load.
        identity: The id it must have.
        actors: Copies of the encoder.

    Raises:
        NotAvailable: Ray is not installed or its cluster failed; what was committed is safe.
    """
    data = _start()
    waiting = iter(work)
    try:
        while window := list(islice(waiting, WINDOW)):
            rows = [{"number": n, "work": pickle.dumps(args)} for n, (_, *args) in enumerate(window)]
            found = (
                data.from_items(rows)
                .map(_decode)
                .map_batches(
                    Embed,
                    fn_constructor_args=(encoder, identity),
                    batch_size=BATCH,
                    compute=data.ActorPoolStrategy(size=actors),
                )
            )
            for row in found.iter_rows():
                decoded: Decoded = pickle.loads(row["decoded"])  # noqa: S301 (written by Embed)
                yield window[row["number"]][0], decoded
    except PathAssistError:
        raise
    except Exception as error:
        import ray

        if not isinstance(error, ray.exceptions.RayError):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
        raise NotAvailable(
            f"the Ray engine failed ({reason}); what was committed is safe: run the same command again,"
            " or use --engine local"
        ) from error


def _start() -> Any:
    """``ray.data``, connected, quiet, and without usage reports."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would call home
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise NotAvailable(
            "--engine ray needs Ray Data, which is not installed; run: pip install 'pathassist[ray]',"
            " or use --engine local"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data
