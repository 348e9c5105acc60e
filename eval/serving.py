"""What the server stands: many conversations, hostile requests and files, kill -9, and no network at all.

    python -m eval.serving                                       # as the goals say: 10 minutes, 10,000 and 10,000
    python -m eval.serving --minutes 3 --requests 1000 --files 1000
    python -m eval.serving --parts hostile --limit-minutes 20 --resume      # goes on with what runs/ already holds

Everything runs in a network namespace of its own with nothing but loopback, where the system allows one (root, or
unprivileged user namespaces); the report says whether it did.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from assistant.files import write_text
from eval import serving_kill, serving_pieces
from eval.provenance import git_revision, versions, write_json
from eval.serving_hostile import CHAT
from eval.serving_load import converse, table

RESULTS = Path(__file__).parent / "results"
RUN = Path("runs/serving-hostile")
ROUNDS = 5
_SIOCSIFFLAGS, _UP_RUNNING = 0x8914, 0x41


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A real server in a process of its own; yields its address and the process."""
    command = [sys.executable, "-m", "eval.serving_server", str(folder / "watch.jsonl"), *options]
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603
    try:
        assert process.stdout is not None  # noqa: S101
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"the server did not start; see {folder / 'server.log'}")
        address = f"http://127.0.0.1:{int(line)}"
        for _ in range(600):
            try:
                httpx.get(f"{address}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield address, process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def isolate() -> bool:
    """Start again in a network namespace with loopback only; False where that is not allowed."""
    if os.environ.get("SERVING_ISOLATED"):
        with socket.socket() as link:
            fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _UP_RUNNING))
        return os.environ["SERVING_ISOLATED"] == "1"
    unshare = shutil.which("unshare")
    for flags in (["-n"], ["-rn"]):
        if unshare and subprocess.run([unshare, *flags, "true"], capture_output=True).returncode == 0:  # noqa: S603
            os.environ["SERVING_ISOLATED"] = "1"
            os.execv(unshare, [unshare, *flags, sys.executable, "-m", "eval.serving", *sys.argv[1:]])  # noqa: S606
    return False


def reachable() -> bool:
    """Whether anything beyond this machine can be connected to."""
    try:
        socket.create_connection(("192.0.2.1", 80), 1).close()
    except TimeoutError:
        return True  # packets do leave
    except OSError:
        return False
    return True


def violations(folder: Path) -> list[dict[str, Any]]:
    """What the audit hook of the server saw that it should not have."""
    file = folder / "watch.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def hostile(run: Path, requests: int, number: int, seed: int, minutes: float) -> dict[str, Any]:
    """Requests and files in pieces kept in ``run``; no piece is begun after ``minutes``, and a later call goes on."""
    wanted = {"generated_requests": requests // 2, "attacks": requests - requests // 2, "files": number}
    return serving_pieces.go_on(
        run, {kind: count for kind, count in wanted.items() if count}, seed=seed, minutes=minutes,
        revision=git_revision(), start=lambda folder: server(folder, "--tokens", "8"), memory=_rss, seen=violations,
    )  # fmt: skip


def killed(folder: Path, rounds: int) -> dict[str, Any]:
    """kill -9 during streaming and upload, index builds and report exports; what is left must be whole."""
    audit = folder / "audit.jsonl"
    torn, left, restarts = 0, 0, 0
    for number in range(rounds):
        with server(folder, "--audit", str(audit)) as (address, process):
            body = {"model": "embedded", "messages": [{"role": "user", "content": "Describe colon mucosa."}]}
            httpx.post(address + CHAT, json={**body, "max_tokens": 2}, timeout=120).raise_for_status()
            restarts += 1
            upload = threading.Thread(target=_upload, args=(address,), daemon=True)
            upload.start()
            with httpx.stream("POST", address + CHAT, json={**body, "stream": True}, timeout=60) as stream:
                try:
                    for index, _ in enumerate(stream.iter_lines()):
                        if index == 2 + number:
                            process.send_signal(signal.SIGKILL)
                except httpx.TransportError:
                    pass
            process.wait()
        for line in audit.read_text().splitlines():
            try:
                json.loads(line)
            except ValueError:
                torn += 1
        left += sum(1 for path in folder.iterdir() if "part" in path.name or path.name.endswith(".tmp"))
    return (
        {
            "rounds": rounds,
            "restarts": restarts,
            "torn_audit_lines": torn,
            "half_written_files": left,
        }
        | serving_kill.index(folder, rounds)
        | serving_kill.reports(folder, 4 * rounds)
    )


def _upload(address: str) -> None:
    try:
        httpx.post(
            address + CHAT, content=(b" " * 65536 for _ in range(1000)), headers={"content-type": "application/json"}
        )
    except httpx.TransportError:
        return


def silent(folder: Path) -> dict[str, Any]:
    """One answer of the command line where there is no network."""
    from PIL import Image

    field = folder / "field.png"
    Image.effect_noise((128, 128), 60).convert("RGB").save(field)
    command = [sys.executable, "-m", "assistant", "ask", str(field), "-q", "Is there a gland?", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return {
        "exit_code": done.returncode,
        "answered": '"text"' in done.stdout,
        "error": done.stderr[-300:] if done.returncode else "",
    }


def prefill(rounds: int = 9, batch: int = 4) -> dict[str, Any]:
    """Reading ``batch`` prompts together against one after the other, in turns; medians of seconds."""
    import torch
    from PIL import Image

    from assistant import Assistant
    from assistant.chat.prompt import Turn

    assistant = Assistant.load("embedded", progress=False)
    picture = Image.effect_noise((224, 224), 60).convert("RGB")
    ids = assistant.prompt_ids([Turn("user", "Which tissue is shown here, and is any of it malignant?", (picture,))])
    embeds = assistant.embed_prompt(ids, [picture])
    together = embeds.repeat(batch, 1, 1)
    seconds: dict[str, list[float]] = {"one_by_one": [], "together": []}
    for _ in range(rounds + 1):
        for name in seconds:
            began = time.perf_counter()
            with torch.inference_mode():
                for part in (together,) if name == "together" else (embeds,) * batch:
                    assistant.model(inputs_embeds=part, use_cache=True, logits_to_keep=1)
            seconds[name].append(time.perf_counter() - began)
    medians = {name: round(sorted(times[1:])[rounds // 2], 4) for name, times in seconds.items()}
    ratios = sorted(a / b for a, b in zip(seconds["one_by_one"][1:], seconds["together"][1:], strict=True))
    spread = [round(ratios[0], 2), round(ratios[rounds // 2], 2), round(ratios[-1], 2)]
    found: dict[str, Any] = {"prompts": batch, "tokens": len(ids), "rounds": rounds, "threads": torch.get_num_threads()}
    return found | medians | {"speedup_min_median_max": spread}


def _rss(pid: int) -> float:
    import psutil

    return float(psutil.Process(pid).memory_info().rss) / 2**20


def main() -> None:
    """Run all parts and write ``eval/results/serving.md`` and ``.json``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit-minutes", type=float, default=120.0, help="per hostile part")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", default="silent,prefill,load,hostile,kill")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--run", type=Path, default=RUN, help="pieces of the hostile part")
    parser.add_argument("--resume", action="store_true", help="go on with the pieces in --run instead of refusing them")
    given = parser.parse_args()
    parts, run = given.parts.split(","), given.run
    if "hostile" in parts and not given.resume and any(run.glob("*-*.json")):
        raise SystemExit(f"{run} holds pieces of an earlier run; go on with --resume, or give another --run folder")
    alone = isolate()
    given.out.mkdir(parents=True, exist_ok=True)
    target = given.out / "serving.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {}
    command = "python -m eval.serving " + " ".join(sys.argv[1:])
    result |= {"command": command.strip(), "revision": git_revision(), "versions": versions()}
    result["network"] = {"namespace": alone, "reachable": reachable()}
    for part in parts:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if part == "silent":
                result[part] = silent(folder)
            elif part == "load":
                seconds = 60 * given.minutes
                with server(folder) as (address, process):
                    load = asyncio.run(
                        converse(
                            address, process.pid, conversations=given.conversations, seconds=seconds, seed=given.seed
                        )
                    )
                result[part] = table(load, given.conversations, seconds) | {"violations": violations(folder)}
            elif part == "hostile":
                result[part] = hostile(run, given.requests, given.files, given.seed, given.limit_minutes)
            elif part == "prefill":
                result[part] = prefill()
            elif part == "kill":
                result[part] = killed(folder, given.rounds)
            result.setdefault("commands", {})[part] = f"{command.strip()}, code {git_revision()}"
        print(json.dumps({part: result[part]}), flush=True)
        _write(given.out, result)


def _write(out: Path, result: dict[str, Any]) -> None:
    from eval.serving_report import markdown

    write_json(out / "serving.json", result)
    write_text(out / "serving.md", markdown(result))


if __name__ == "__main__":
    main()
