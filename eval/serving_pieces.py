"""Hostile requests and files in pieces: each piece is kept as a file when it is whole, so that a stopped run goes on.

A piece has a kind, a number and a seed made of both; it is written once, with the revision of the code that sent it.
Kinds take turns, so that memory over time is not memory over kinds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import httpx

from assistant.files import write_text
from eval.serving_hostile import TIMEOUT_S, Judged, attacks, file_request, files, generated, send

KINDS = ("generated_requests", "attacks", "files")
PIECE = 250
_EVERY = 50  # sent between two looks at memory
_COUNTS = ("sent", "crashes", "hangs", "internal_errors", "not_our_format")
_EXAMPLES = 10


class Process(Protocol):
    """What is asked of the server's process."""

    pid: int

    def poll(self) -> int | None: ...


Start = Callable[[Path], AbstractContextManager[tuple[str, Process]]]


def requests_of(kind: str, count: int, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Method, path and keywords of one piece.

    Raises:
        ValueError: An unknown kind.
    """
    if kind == "generated_requests":
        made: list[tuple[str, str, dict[str, Any]]] = []
        generated(count, lambda method, path, keywords: made.append((method, path, keywords)), seed)
        yield from made[:count]  # each kind of request may come once more often than its share
    elif kind == "attacks":
        yield from attacks(count, seed)
    elif kind == "files":
        for index, data in enumerate(files(count, seed)):
            yield file_request(data, index)
    else:
        raise ValueError(f"no kind {kind!r}; allowed: {', '.join(KINDS)}")


def kept(run: Path, seed: int) -> list[dict[str, Any]]:
    """The pieces in a run folder, in the order of their names.

    Raises:
        SystemExit: They were made from another seed or in another size.
    """
    pieces = [json.loads(file.read_text()) for file in sorted(run.glob("*-*.json"))]
    for piece in pieces:
        if (piece["base_seed"], piece["size"]) != (seed, PIECE):
            raise SystemExit(
                f"{run} holds pieces of {piece['size']} from seed {piece['base_seed']}, asked were {PIECE} from "
                f"{seed}; give another --run folder"
            )
    return pieces


def go_on(
    run: Path, wanted: dict[str, int], *, seed: int, minutes: float, revision: str, start: Start,
    memory: Callable[[int], float], seen: Callable[[Path], list[dict[str, Any]]],
) -> dict[str, Any]:  # fmt: skip
    """Send pieces until each kind has been sent as often as wanted or time is up; pieces kept before count.

    Args:
        run: Folder of the pieces, made where it is not there.
        minutes: No piece is begun after this.
        start: A fresh server, given a folder for its own files; a new one after a crash.
        memory: MiB that a process holds. seen: Forbidden events that the server's watch wrote into its folder.
    """
    run.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end and _open(kept(run, seed), wanted):
        session = 1 + max((piece["session"] for piece in kept(run, seed)), default=-1)
        place = run / f"server{session}"
        place.mkdir(exist_ok=True)
        with start(place) as (address, process), httpx.Client(base_url=address, timeout=TIMEOUT_S) as client:
            total, events = 0, 0
            while time.monotonic() < end and process.poll() is None and (open_ := _open(kept(run, seed), wanted)):
                kind, number = open_[0]
                method, path = "", ""
                judged, trace = Judged(), [(total, round(memory(process.pid)))]
                for method, path, keywords in requests_of(kind, PIECE, 1_000_003 * seed + number):
                    send(client, judged, lambda: process.poll() is None, method, path, **keywords)
                    total += 1
                    if process.poll() is not None:
                        break
                    if total % _EVERY == 0:
                        trace.append((total, round(memory(process.pid))))
                if process.poll() is not None and not judged.crashes:  # it answered, and then it died
                    judged.crashes = 1
                    judged.examples.append(f"crash after: {method} {path[:80]}")
                found = seen(place)
                piece = {
                    "kind": kind, "number": number, "base_seed": seed, "size": PIECE, "session": session,
                    "revision": revision, "table": judged.table(), "violations": found[events:], "memory": trace,
                }  # fmt: skip
                events = len(found)
                write_text(run / f"{kind}-{number:04d}.json", json.dumps(piece))
            if process.poll() is None:
                (run / "ready.txt").write_text(json.dumps(client.get("/ready").json()))
    return summary(run, seed)


def _open(pieces: list[dict[str, Any]], wanted: dict[str, int]) -> list[tuple[str, int]]:
    """Kinds not yet sent often enough, with the number of their next piece; furthest behind first."""
    behind = []
    for kind, count in wanted.items():
        own = [piece for piece in pieces if piece["kind"] == kind]
        sent = sum(piece["table"]["sent"] for piece in own)
        empty = any(piece["table"]["sent"] == 0 for piece in own)  # nothing can be made of this kind here
        if sent < count and not empty:
            behind.append((sent / count, kind, len(own)))
    return [(kind, number) for _, kind, number in sorted(behind)]


def summary(run: Path, seed: int) -> dict[str, Any]:
    """All pieces of a folder as one result; memory is that of the server that was sent most."""
    pieces = kept(run, seed)
    result: dict[str, Any] = {}
    for kind in KINDS:
        tables = [piece["table"] for piece in pieces if piece["kind"] == kind]
        status: dict[str, int] = {}
        for table in tables:
            for code, count in table["status"].items():
                status[code] = status.get(code, 0) + count
        result[kind] = {name: sum(table[name] for table in tables) for name in _COUNTS}
        result[kind] |= {"status": dict(sorted(status.items())), "pieces": len(tables)}
        result[kind]["examples"] = [example for table in tables for example in table["examples"]][:_EXAMPLES]
    traces: dict[int, list[tuple[int, int]]] = {}
    for piece in pieces:
        traces.setdefault(piece["session"], []).extend((count, mib) for count, mib in piece["memory"])
    longest = sorted(max(traces.values(), key=len, default=[]))
    revisions: dict[str, int] = {}
    for piece in pieces:
        revisions[piece["revision"]] = revisions.get(piece["revision"], 0) + 1
    ready = run / "ready.txt"
    return result | {
        "violations": [event for piece in pieces for event in piece["violations"]],
        "ready_after": json.loads(ready.read_text()) if ready.exists() else None,
        "memory_mib": [longest[0][1], longest[-1][1]] if longest else [0, 0],
        "memory_trace_mib": longest,
        "servers": len(traces),
        "pieces_of_revision": dict(sorted(revisions.items())),
    }
