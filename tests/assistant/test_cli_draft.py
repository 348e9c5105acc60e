"""``pathassist draft`` and ``pathassist export`` on the command line, over the tiny model and the real tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from assistant import DISCLAIMER, cli_draft, cli_export
from assistant.cli_common import ErrorGroup
from assistant.report import Report

app = typer.Typer(cls=ErrorGroup, no_args_is_help=True)
cli_draft.register(app)
cli_export.register(app)


@pytest.fixture
def image(field: Image.Image, tmp_path: Path) -> Path:
    field.save(tmp_path / "patient-doe.png")
    return tmp_path / "patient-doe.png"


@pytest.fixture(autouse=True)
def tiny(tiny_assistant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from assistant import Assistant

    monkeypatch.setattr(Assistant, "load", lambda *_, **__: tiny_assistant)


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_draft_from_image_to_every_format(image: Path, tmp_path: Path) -> None:
    done = run(
        "draft", image, "-q", "Is this a gland?", "--tools", "check_quality", "--out", tmp_path / "r.json", "--json"
    )
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["disclaimer"] == DISCLAIMER
    report = Report.from_json((tmp_path / "r.json").read_bytes())
    assert told["findings"] == len(report.findings)
    assert report.provenance.model == "tiny"
    assert report.provenance.revision == "test"
    assert report.provenance.tools == ["check_quality"]
    assert len(report.provenance.images) == 1
    assert "patient-doe" not in report.to_json()
    for kind, start in (("html", b"<!doctype html>"), ("pdf", b"%PDF"), ("docx", b"PK")):
        out = tmp_path / f"r.{kind}"
        done = run("draft", tmp_path / "r.json", "--out", out)
        assert done.exit_code == 0, done.output
        assert out.read_bytes().startswith(start)
        assert DISCLAIMER in done.stdout


def test_auto_takes_the_tools_that_fit_the_stain(image: Path, tmp_path: Path) -> None:
    from skimage.data import immunohistochemistry

    Image.fromarray(immunohistochemistry()).save(image)
    done = run("draft", image, "-q", "What?", "--out", tmp_path / "r.json")
    assert done.exit_code == 0, done.output
    report = Report.from_json((tmp_path / "r.json").read_bytes())
    assert {"check_quality", "score_ihc"} <= set(report.provenance.tools)
    assert "segment_nuclei" not in report.provenance.tools
    assert not any("gave no result" in text for text in report.limits)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "r.txt"), ".docx"),
        (("--out", "r.pdf", "--tools", "no_such"), "no_such"),
        (("--out", "r.pdf", "--tools", "none,check_quality"), "do not mix"),
        (("--out", "r.pdf", "--tools", "normalise_stain"), "2 images"),
        (("--out", "missing/r.pdf", "--tools", "none"), "cannot be written"),
    ],
)
def test_wrong_input_is_one_line(
    image: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("draft", image, "-q", "What?", *words)
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("r.*"))


def test_a_file_that_is_no_report(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}[")
    done = run("draft", tmp_path / "x.json", "--out", tmp_path / "r.pdf")
    assert done.exit_code == 2
    assert "not readable" in done.stderr
    done = run("draft", tmp_path / "none.json", "--out", tmp_path / "r.pdf")
    assert done.exit_code == 2
    assert "cannot be read" in done.stderr


def test_export_needs_a_preset_with_weights(tmp_path: Path) -> None:
    done = run("export", "gguf", "--model", "remote", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "no weights of its own" in done.stderr
    assert not (tmp_path / "out").exists()
    done = run("export", "gguf", "--type", "q2", "--out", tmp_path / "out")
    assert done.exit_code == 2
