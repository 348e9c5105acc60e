"""``pathassist eval`` and ``pathassist report`` through Typer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from assistant.cli_common import ErrorGroup
from assistant.cli_report import register

runner = CliRunner()


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False)
    register(made)
    return made


def test_tasks_are_run_in_order(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import eval.run as module

    calls: list[Any] = []

    def run_one(task: str, *words: Any, **keywords: Any) -> Any:
        calls.append((task, words, keywords))
        info = {"n": 5, "errors": 2, "seconds": 1.0, "note": "", "summary": []}
        return SimpleNamespace(folder=tmp_path / task, info=info)

    monkeypatch.setattr(module, "run_one", run_one)
    monkeypatch.setattr(module, "run", lambda **_: Path("vqa.md"))
    words = [
        "eval",
        "pathmmu",
        "vqa",
        "--model",
        "m",
        "--show",
        "image, jpeg-3",
        "--limit",
        "5",
        "--out",
        str(tmp_path),
    ]
    result = runner.invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "2 answers are errors" in result.output
    (task, positional, keywords) = calls[0]
    assert (task, positional) == ("pathmmu", ("m", None, tmp_path))
    assert keywords["shown"] == ["image", "jpeg-3"]
    assert (keywords["limit"], keywords["split"], keywords["seed"]) == (5, None, 0)
    result = runner.invoke(app, [*words, "--json"])
    found = json.loads(result.stdout)
    assert [entry["task"] for entry in found] == ["pathmmu", "vqa"]
    assert found[0]["errors"] == 2


def test_wrong_input_is_one_line(app: typer.Typer, tmp_path: Path) -> None:
    result = runner.invoke(app, ["eval", "nonsense"])
    assert result.exit_code == 2
    assert "unknown task 'nonsense'; allowed: vqa, free, local-vqa" in result.output
    result = runner.invoke(app, ["report", str(tmp_path), "--json"])
    assert result.exit_code == 1
    assert "no finished run" in json.loads(result.stdout)["error"]["message"]
