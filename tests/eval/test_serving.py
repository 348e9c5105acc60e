"""The attacks and the load of ``eval.serving``: repeatable, really hostile, and able to see what they look for."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from assistant.answer import Answer
from assistant.errors import PathAssistError
from assistant.images.intake import load_image
from eval import serving_kill
from eval.serving_hostile import Judged, attacks, file_request, files, generated, openapi, send
from eval.serving_load import Load, converse, table
from eval.serving_report import _growth, markdown
from tests.fakes import EchoAssistant
from tests.serving import serving


class Named(EchoAssistant):
    """An echo under the name that the load asks for."""

    name = "embedded"

    def stream(self, *arguments: Any, **keywords: Any) -> Iterator[str | Answer]:
        keywords.pop("tools", None)
        yield from super().stream(*arguments, **keywords)


class MixedUp(Named):
    """Gives every answer to whoever asks next."""

    last = "nothing"

    def stream(self, *arguments: Any, **keywords: Any) -> Iterator[str | Answer]:
        *_, answer = super().stream(*arguments, **keywords)
        assert isinstance(answer, Answer)
        text, MixedUp.last = MixedUp.last, answer.text
        yield text
        yield replace(answer, text=text, best_guess=text)


def test_a_mixed_up_answer_is_seen_and_a_right_one_is_not() -> None:
    for kind, bad in ((Named, False), (MixedUp, True)):
        with serving(kind()) as address:
            load = asyncio.run(converse(address, os.getpid(), conversations=4, seconds=2.0))
        assert load.answers > 8
        assert (load.mixed > 0) is bad
        assert load.errors == []
        numbers = table(load, 4, 2.0)
        assert numbers["first_token_p99_s"] >= numbers["first_token_p50_s"]
        assert numbers["asked_again"] > 2
        assert (numbers["same_alone"] == numbers["asked_again"]) is not bad


@pytest.mark.parametrize(("samples", "fifths"), [(0, []), (2, [100, 101]), (10, [100, 102, 104, 106, 108])])
def test_memory_of_a_short_run_has_as_many_parts_as_samples(samples: int, fifths: list[int]) -> None:
    load = Load(memory=[(1.0 + at / 100, 100.0 + at) for at in range(samples)])
    assert table(load, 1, 1.0)["memory_fifths_mib"] == fifths


def test_attacks_and_files_repeat_and_none_gets_through() -> None:
    assert list(files(40, 1)) == list(files(40, 1))
    assert len(set(files(40, 1))) > 30
    judged = Judged()
    with serving(Named()) as address, httpx.Client(base_url=address, timeout=60) as client:
        for method, path, keywords in attacks(60):
            loads = any(word in path for word in ("/ground", "/embeddings", "/v1/tools/"))
            if not loads and b'"function"' not in keywords.get("content", b""):  # weights have no place in this test
                send(client, judged, lambda: True, method, path, **keywords)
        for index, data in enumerate(files(30)):
            method, path, keywords = file_request(data, 3 * index)
            send(client, judged, lambda: True, method, path, **keywords)
    assert judged.sent > 60
    assert (judged.crashes, judged.hangs, judged.internal, judged.strange) == (0, 0, 0, 0), judged.examples
    assert judged.status[400] > 10


def test_an_internal_error_is_counted() -> None:
    judged = Judged()
    body = {"model": "embedded", "messages": [{"role": "user", "content": "CRASH"}]}
    with serving(Named()) as address, httpx.Client(base_url=address) as client:
        send(client, judged, lambda: True, "POST", "/v1/chat/completions", json=body)
    assert (judged.internal, judged.crashes) == (1, 0)
    with httpx.Client(base_url="http://127.0.0.1:9") as client:
        send(client, judged, lambda: False, "GET", "/health")
    assert judged.crashes == 1


def test_hostile_files_are_refused_or_read_by_the_intake() -> None:
    read, messages = 0, []
    for data in files(150, 3):
        try:
            load_image(data)
            read += 1
        except PathAssistError as error:
            messages.append(str(error))
    assert not any("\n" in message for message in messages)
    assert 0 < read < 140


@pytest.mark.filterwarnings("ignore")
def test_schemathesis_makes_requests_from_our_document() -> None:
    pytest.importorskip("schemathesis")
    seen: list[tuple[str, str]] = []
    generated(60, lambda method, path, _: seen.append((method, path)))
    assert {path for _, path in seen} == set(openapi()["paths"])


def test_the_watch_sees_files_sockets_and_programs(tmp_path: Path) -> None:
    script = (
        "import sys, socket, subprocess\nfrom eval.serving_server import watch\nwatch(sys.argv[1])\n"
        "open('/etc/passwd').close()\nopen(sys.argv[0] if sys.argv[0] != '-c' else '/dev/null').close()\n"
        "s = socket.socket()\ns.settimeout(0.1)\n"
        "try:\n    s.connect(('192.0.2.1', 80))\nexcept OSError:\n    pass\n"
        "subprocess.run(['true'])\n"
    )
    watched = tmp_path / "watch.jsonl"
    subprocess.run([sys.executable, "-c", script, str(watched)], check=True, cwd=Path(__file__).parents[2])
    kinds = [json.loads(line)["kind"] for line in watched.read_text().splitlines()]
    assert kinds == ["open", "connect", "program"]


def test_the_report_leaves_out_what_did_not_run() -> None:
    page = markdown({"command": "python -m eval.serving", "revision": "abc", "network": {"namespace": False}})
    assert "not** run in a network namespace" in page
    assert "kill -9" not in page


def test_reports_killed_while_written_are_whole(tmp_path: Path) -> None:
    found = serving_kill.reports(tmp_path, 2)
    assert (found["reports_killed"], found["reports_read"], found["reports_broken"]) == (2, 10, 0)
    for ending, data in {
        "pdf": b"%PDF-1.7 cut",
        "docx": b"PK\x03\x04cut",
        "json": b'{"a": ',
        "html": b"<html><p>",
        "geojson": b'{"type": "FeatureCollection", "features": []}',
    }.items():
        (tmp_path / f"report.{ending}").write_bytes(data)
        assert not serving_kill.readable(tmp_path / f"report.{ending}")


def test_memory_that_grows_is_said() -> None:
    flat = _growth([(250 * n, 1500 + n % 2) for n in range(40)])
    grows = _growth([(250 * n, 1500 + 3 * n) for n in range(40)])
    assert "+12.0 MiB per 1,000 sent" in grows
    assert abs(float(flat.split("half: ")[1].split(" MiB")[0])) < 1
