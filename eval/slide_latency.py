"""How long tiles take over HTTP, cold and from the cache, on this machine.

python -m eval.slide_latency FILE... [--n 300]
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from assistant.slides.deepzoom import slide_routes
from assistant.slides.store import TILE, SlideStore, top_level


def measure(path: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Seconds of ``count`` random tiles of all levels, asked for one after the other, then once more from the cache."""
    import uvicorn
    from starlette.applications import Starlette

    from assistant.api import bind

    store = SlideStore(cache_bytes=1 << 30)
    identifier = store.add(path)
    with store.use(identifier) as slide:
        width, height = slide.size
        reader = slide.kind
    top = top_level((width, height))
    rng = random.Random(seed)  # noqa: S311
    tiles = []
    for _ in range(count):
        level = rng.randint(max(0, top - 4), top)
        factor = 2 ** (top - level)
        columns, rows = -(-width // factor // TILE), -(-height // factor // TILE)
        tiles.append((level, rng.randrange(columns), rng.randrange(rows)))
    tiles = list(dict.fromkeys(tiles))
    listener = bind("127.0.0.1", 0, None)
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=list(slide_routes(store))), log_level="warning", access_log=False)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}/slides/{identifier}_files"

    def run() -> list[float]:
        seconds = []
        for level, column, row in tiles:
            began = time.perf_counter()
            with urllib.request.urlopen(f"{base}/{level}/{column}_{row}.jpeg") as answer:  # noqa: S310
                answer.read()
            seconds.append(time.perf_counter() - began)
        return sorted(seconds)

    cold, warm = run(), run()
    server.should_exit = True
    thread.join(10)
    listener.close()
    store.close()
    return {
        "reader": reader,
        "size": [width, height],
        "n": len(tiles),
        "cold_ms": _points(cold),
        "warm_ms": _points(warm),
    }


def _points(seconds: list[float]) -> dict[str, float]:
    last = len(seconds) - 1
    return {f"p{share}": round(1000 * seconds[round(last * share / 100)], 2) for share in (50, 95, 99)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--n", type=int, default=300)
    given = parser.parse_args()
    for number, one in enumerate(given.files, start=1):
        print(json.dumps({"slide": number, **measure(one, given.n)}))
