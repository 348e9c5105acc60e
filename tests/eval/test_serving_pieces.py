"""Hostile requests in pieces: a stopped run goes on where it was, and a crash is counted and starts a new server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from eval import serving_pieces
from eval.serving_report import markdown
from tests.fakes import EchoAssistant
from tests.serving import serving


class Alive:
    """A process that never ends, or that is found dead after a number of looks."""

    pid = 1

    def __init__(self, looks: int = 10**9) -> None:
        self.looks = looks

    def poll(self) -> int | None:
        self.looks -= 1
        return None if self.looks > 0 else -9


def _run(run: Path, wanted: dict[str, int], minutes: float = 1.0, looks: int = 10**9, **given: Any) -> dict[str, Any]:
    @contextmanager
    def start(_: Path) -> Iterator[tuple[str, Alive]]:
        with serving(EchoAssistant()) as address:
            yield address, Alive(looks)

    keywords: dict[str, Any] = {"seed": 0, "revision": "abc", "memory": lambda _: 100.0, "seen": lambda _: []} | given
    return serving_pieces.go_on(run, wanted, minutes=minutes, start=start, **keywords)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_pieces, "PIECE", 4)

    def plain(kind: str, count: int, seed: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
        return iter([("GET", f"/health?{kind}{seed}{n}", {}) for n in range(count)])

    monkeypatch.setattr(serving_pieces, "requests_of", plain)


def test_a_stopped_run_goes_on_and_says_which_code_sent_what(tmp_path: Path) -> None:
    assert _run(tmp_path, {"files": 8, "attacks": 4}, minutes=0)["files"]["sent"] == 0
    assert _run(tmp_path, {"files": 4})["files"]["sent"] == 4
    before = (tmp_path / "files-0000.json").read_bytes()
    found = _run(tmp_path, {"files": 8, "attacks": 4}, revision="def")
    assert (found["files"]["sent"], found["attacks"]["sent"], found["files"]["pieces"]) == (8, 4, 2)
    assert found["pieces_of_revision"] == {"abc": 1, "def": 2}
    assert found["files"]["status"] == {"200": 8}
    assert (tmp_path / "files-0000.json").read_bytes() == before
    assert not list(tmp_path.glob(".*.part"))
    page = markdown({"hostile": found, "network": {}})
    assert "3 pieces" in page
    assert "1 of code abc, 2 of code def" in page


def test_a_half_written_piece_does_not_count_and_another_seed_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".files-0.part").write_text('{"kind": "fi')
    assert _run(tmp_path, {"files": 4})["files"]["sent"] == 4
    with pytest.raises(SystemExit, match="--run"):
        _run(tmp_path, {"files": 8}, seed=1)


def test_forbidden_events_are_counted_once_and_a_dead_server_is_replaced(tmp_path: Path) -> None:
    event = {"kind": "open", "what": "canary"}
    found = _run(tmp_path / "a", {"files": 12}, seen=lambda _: [event])
    assert found["violations"] == [event]
    found = _run(tmp_path / "b", {"files": 8}, looks=4)
    assert found["servers"] > 1
    assert found["files"]["sent"] >= 8
    assert found["files"]["crashes"] == found["servers"]
    pieces = [json.loads(file.read_text()) for file in (tmp_path / "b").glob("files-*.json")]
    assert len({piece["number"] for piece in pieces}) == len(pieces)
