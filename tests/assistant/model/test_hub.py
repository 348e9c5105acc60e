"""The hub path of the weight store, against a hub that runs here and speaks the two calls a snapshot needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.serving import answering

ROOT = Path(__file__).resolve().parents[3]
REVISION = "0123456789abcdef0123456789abcdef01234567"
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": b"weights", "pickle.bin": b"never"}


class Hub(BaseHTTPRequestHandler):
    """Serves ``lab/model``; ``lab/gated`` needs a licence to be accepted."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if "gated" in path:
            self.reply(403, b"{}", {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
        elif path == f"/api/models/lab/model/tree/{REVISION}":
            files = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in FILES.items()]
            self.reply(200, json.dumps(files).encode())
        elif path.startswith(f"/lab/model/resolve/{REVISION}/") and (name := path.rsplit("/", 1)[1]) in FILES:
            self.reply(200, FILES[name], {"X-Repo-Commit": REVISION, "ETag": f'"{name}"'})
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with answering(Hub) as found:
        yield found


def run_hub(home: Path, address: str, *, allow: bool, repo: str = "lab/model", **env: str) -> tuple[str, str]:
    """Call ``store.hub`` in a new process (the hub's client reads its settings when imported); stdout and stderr."""
    code = f"""
import sys
from assistant.errors import NotAvailable
from assistant.model import store
try:
    print(store.hub({repo!r}, {REVISION!r}, "CC-BY-NC-4.0", allow={allow}))
except NotAvailable as error:
    print("refused:", error)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PATHASSIST_"))}
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    settings = {**kept, **quiet, "HF_HOME": str(home), "HF_ENDPOINT": address, **env}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=settings, capture_output=True, text=True, check=True
    )
    return done.stdout.strip(), done.stderr


def test_a_snapshot_is_downloaded_with_its_licence_shown_and_then_found_without_a_network(
    address: str, tmp_path: Path
) -> None:
    path, shown = run_hub(tmp_path, address, allow=True)
    assert sorted(os.listdir(path)) == ["config.json", "model.safetensors"]  # no pickle
    assert Path(path, "model.safetensors").read_bytes() == b"weights"
    assert f"lab/model at {REVISION[:12]}, licence: CC-BY-NC-4.0" in shown
    again, shown = run_hub(tmp_path, "http://127.0.0.1:9", allow=False)
    assert again == path
    assert "licence" not in shown


@pytest.mark.parametrize(
    ("allow", "env", "reason"),
    [(False, {}, "hub downloads are off"), (True, {"PATHASSIST_OFFLINE": "1"}, "PATHASSIST_OFFLINE is set")],
)
def test_nothing_is_downloaded_unless_asked(
    address: str, tmp_path: Path, allow: bool, env: dict[str, str], reason: str
) -> None:
    message, _ = run_hub(tmp_path, address, allow=allow, **env)
    assert message.startswith("refused: lab/model is not on this machine")
    assert reason in message
    assert "CC-BY-NC-4.0" in message
    assert "--source hub" in message
    assert not list(tmp_path.rglob("config.json"))


@pytest.mark.parametrize(
    ("repo", "words"), [("lab/gated", "accept its terms"), ("lab/none", "could not download lab/none")]
)
def test_what_the_hub_refuses_is_one_clear_line(address: str, tmp_path: Path, repo: str, words: str) -> None:
    message, shown = run_hub(tmp_path, address, allow=True, repo=repo)
    assert message.startswith("refused: ")
    assert words in message
    assert "\n" not in message
    assert "CC-BY-NC-4.0" in shown


@pytest.mark.slow  # its client tries five times
def test_an_unreachable_hub_is_one_clear_line(tmp_path: Path) -> None:
    message, shown = run_hub(tmp_path, "http://127.0.0.1:9", allow=True)
    assert message.startswith("refused: could not download lab/model")
    assert "network" in message
    assert "\n" not in message
    assert "CC-BY-NC-4.0" in shown
