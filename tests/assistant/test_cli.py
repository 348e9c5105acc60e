"""The ``pathassist`` command: text and JSON output, exit codes, help without the heavy libraries."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import openai
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import assistant
from assistant.answer import DISCLAIMER
from assistant.cli import app
from assistant.errors import NotAvailable
from tests.fakes import EchoAssistant
from tests.serving import wait_for

COMMANDS = [
    "ask", "ui", "serve", "doctor", "train", "eval", "version", "report", "embed", "classify", "stain", "search",
    "ground", "draft",
]  # fmt: skip


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command with an assistant that echoes."""
    monkeypatch.setitem(vars(assistant), "Assistant", EchoAssistant)
    monkeypatch.delenv("PATHASSIST_API_KEY", raising=False)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red field.png"
    Image.new("RGB", (20, 20), "#ff0000").save(path)
    return path


def fake_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


def test_help_names_every_command_and_gives_examples(run: Callable[..., Result]) -> None:
    text = run("--help").stdout
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert 'pathassist ask field.png -q "Which tissue is shown?"' in text
    assert DISCLAIMER in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(run: Callable[..., Result], command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_help_and_version_need_no_heavy_library() -> None:
    code = (
        "import sys; from assistant.cli import app\n"
        "for words in (['--help'], ['version']):\n"
        "    try: app(words)\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'gradio', 'fastapi', 'numpy', 'PIL', 'ui', 'training', 'eval'}\n"
        "sys.exit(','.join(sorted(heavy & set(sys.modules))) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_python_dash_m_works() -> None:
    words = [sys.executable, "-m", "assistant", "version", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["pathassist"] == assistant.__version__
    assert found["torch"]


def test_ask_prints_the_answer_its_confidence_and_the_disclaimer(run: Callable[..., Result], red: Path) -> None:
    result = run("ask", red, "-q", "which tissue?")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["#ff0000 which tissue?", "confidence 0.90", DISCLAIMER]


def test_ask_about_a_region(run: Callable[..., Result], red: Path) -> None:
    result = run("ask", red, "-q", "which?", "--region", "2,2,14,14")
    assert result.stdout.splitlines()[0] == "#ff0000 which?"
    wrong = run("ask", red, red, "-q", "which?", "--region", "2,2,14,14")
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (2, 1)
    assert "--region needs one image, 2 were given" in wrong.stderr


def test_ask_takes_several_images_and_options(run: Callable[..., Result], red: Path) -> None:
    result = run("ask", red, red, "-q", "which?", "--options", "lung, colon")
    assert result.stdout.splitlines()[:3] == ["#ff0000 #ff0000 which?", "   50.0%  lung", "   50.0%  colon"]


def test_ask_says_when_it_declines(run: Callable[..., Result], red: Path) -> None:
    result = run("ask", red, "-q", "DOUBT it")
    assert result.stderr == "hint: no sub-model was asked; --tools auto lets it measure\n"
    lines = result.stdout.splitlines()
    assert lines[-3:] == [
        "Not enough evidence. Best guess: #ff0000 DOUBT it",
        "confidence 0.25 (declined)",
        DISCLAIMER,
    ]


def test_ask_as_json(run: Callable[..., Result], red: Path) -> None:
    result = run("ask", red, "-q", "a b c d", "--max-new-tokens", "3", "--json")
    data = json.loads(result.stdout)
    assert (data["text"], data["finish_reason"], data["model"]) == ("#ff0000 a b", "length", "echo")
    assert data["usage"] == {"prompt_tokens": 7, "completion_tokens": 3}
    assert data["pathology"]["disclaimer"] == DISCLAIMER


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["missing.png", "-q", "x"], "missing.png"),
        (["RED", "-q", "REFUSE"], "refused: say something else"),
        (["RED", "-q", "x", "--model", "nope"], "unknown preset 'nope'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    run: Callable[..., Result], red: Path, words: list[str], says: str
) -> None:
    words = [str(red) if word == "RED" else word for word in words]
    result = run("ask", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    as_json = run("ask", *words, "--json")
    assert (as_json.exit_code, as_json.stderr) == (2, "")
    error = json.loads(as_json.stdout)["error"]
    assert says in error["message"]
    assert error["code"] == "invalid_input"


@pytest.mark.parametrize(
    "words",
    [
        ["ask"],
        ["ask", "RED"],
        ["ask", "RED", "-q", "x", "--threshold", "1.5"],
        ["ask", "RED", "-q", "x", "--max-new-tokens", "0"],
        ["ask", "RED", "-q", "x", "--quantization", "3bit"],
        ["ask", "RED", "-q", "x", "--source", "ftp"],
        ["serve", "--port", "70000"],
        ["train", "tower"],
        ["fly"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Callable[..., Result], red: Path, words: list[str]) -> None:
    result = run(*[str(red) if word == "RED" else word for word in words])
    assert result.exit_code == 2
    assert result.stdout == ""


def test_what_is_not_available_is_exit_code_1(
    run: Callable[..., Result], red: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise NotAvailable("weights are missing; run: pathassist doctor --fix")

    monkeypatch.setattr(EchoAssistant, "load", load)
    result = run("ask", red, "-q", "x")
    assert (result.exit_code, result.stderr) == (1, "error: weights are missing; run: pathassist doctor --fix\n")


def test_an_interrupt_stops_the_generation_and_is_130(
    run: Callable[..., Result], red: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[threading.Event] = []

    def stream(*_: Any, stop: threading.Event, **__: Any) -> Any:
        events.append(stop)
        yield "word"
        raise KeyboardInterrupt

    monkeypatch.setattr(EchoAssistant, "stream", stream)
    result = run("ask", red, "-q", "x")
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert events[0].is_set()


@dataclass
class Check:
    name: str
    status: str
    detail: str
    fix: str = ""


def test_doctor_shows_fixes_and_fails_on_fail(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    checks = [Check("python", "PASS", "3.11"), Check("memory", "WARN", "3 GiB", "close programs")]

    def run_checks(*, fix: bool) -> list[Check]:
        asked.append(fix)
        return checks

    fake_module(monkeypatch, "assistant.doctor", run_checks=run_checks)
    result = run("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "PASS  python: 3.11",
        "WARN  memory: 3 GiB",
        "      fix: close programs",
    ]
    checks.append(Check("weights", "FAIL", "missing", "pathassist doctor --fix"))
    result = run("doctor", "--fix", "--json")
    assert result.exit_code == 1
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert data["checks"][2] == {
        "name": "weights",
        "status": "FAIL",
        "detail": "missing",
        "fix": "pathassist doctor --fix",
    }
    assert asked == [False, True]


def test_ui_hands_its_options_to_the_page(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    fake_module(monkeypatch, "ui.app", launch=lambda **keywords: calls.append(keywords))
    assert run("ui", "--port", "7999", "--no-open").exit_code == 0
    asked = {"host": "127.0.0.1", "port": 7999, "model": "embedded", "library": None, "notes": None}
    assert calls == [asked | {"open_browser": False}]


def test_a_missing_extra_is_named(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ui.app", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [name for name in sys.modules if name.startswith("assistant.api")]:
        monkeypatch.delitem(sys.modules, name)
    result = run("serve", "--port", "0")
    assert result.exit_code == 1
    assert "'fastapi'" in result.stderr
    assert "pathassist[serve]" in result.stderr


def test_train_reports_bad_data_as_bad_input(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("train", "tower", "--recipe", tmp_path / "none.yaml", "--out", tmp_path)
    assert result.exit_code == 2
    assert "none.yaml" in result.stderr
    result = run("train", "flying", "--recipe", tmp_path / "none.yaml", "--json")
    assert result.exit_code == 2
    assert "flying" in json.loads(result.stdout)["error"]["message"]


def test_eval_hands_its_options_on(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_module(monkeypatch, "eval.run", run=lambda **keywords: keywords)
    result = run("eval", "vqa", "--data", tmp_path, "--json")
    expected = {"task": "vqa", "model": "embedded", "data": str(tmp_path), "out": None}
    assert json.loads(result.stdout)["result"] == expected


def test_serve_refuses_other_machines_without_a_key(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EchoAssistant, "load", lambda *_, **__: pytest.fail("loaded although the host is refused"))
    for key in (None, ""):
        if key is not None:
            monkeypatch.setenv("PATHASSIST_API_KEY", key)
        result = run("serve", "--host", "0.0.0.0", "--port", "0")  # noqa: S104
        assert result.exit_code == 2
        assert "PATHASSIST_API_KEY" in result.stderr


def test_serve_in_its_own_process_until_interrupted(tmp_path: Path) -> None:
    code = (
        "import assistant; from tests.fakes import EchoAssistant; assistant.Assistant = EchoAssistant\n"
        "from assistant.cli import main; main()"
    )
    log = tmp_path / "audit.jsonl"
    words = [sys.executable, "-u", "-c", code, "serve", "--port", "0", "--json", "--audit-log", str(log)]
    environment = {"PATHASSIST_API_KEY": "secret", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[2])}
    with (
        (tmp_path / "stderr").open("w") as stderr,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(5)]
            said = json.loads("".join(lines))
            root = said["url"].removesuffix("/v1")
            wait_for(lambda: _answers(root))
            assert httpx.get(f"{said['url']}/models").status_code == 401
            with openai.OpenAI(base_url=said["url"], api_key="secret") as client:
                reply = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello"}])
            assert reply.choices[0].message.content == "hello"
            process.send_signal(2)
            assert process.wait(20) == 130
            assert process.stdout.read() == ""
        finally:
            process.kill()
    assert len(log.read_text().splitlines()) == 1
    assert "Traceback" not in (tmp_path / "stderr").read_text()


def _answers(root: str) -> bool:
    try:
        return httpx.get(f"{root}/health").status_code == 200
    except httpx.ConnectError:
        return False


@pytest.mark.parametrize("command", ["ask", "serve"])
def test_library_and_notes_reach_the_assistant(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, red: Path, command: str
) -> None:
    calls: list[dict[str, Any]] = []

    def load(model: str, **keywords: Any) -> Any:
        calls.append(keywords)
        raise NotAvailable("enough")

    monkeypatch.setattr(EchoAssistant, "load", load)
    words = [red, "-q", "Which organ?"] if command == "ask" else ["--port", "0"]
    run(command, *words, "--library", "faiss:cases", "--notes", "texts")
    assert (calls[0]["library"], calls[0]["notes"]) == ("faiss:cases", Path("texts"))
