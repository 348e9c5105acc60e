"""``pathassist tools``: list, run, files, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from assistant import cli_tools
from assistant.answer import DISCLAIMER
from assistant.cli_common import ErrorGroup


def run(*words: object) -> Result:
    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False, rich_markup_mode=None)
    cli_tools.register(app)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def picture(tmp_path: Path, field: Image.Image) -> Path:
    path = tmp_path / "field.png"
    field.save(path)
    return path


def test_list_shows_cards() -> None:
    result = run("tools", "list", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)["tools"]}
    assert rows["classify_cervical_cell"]["research_only"] is True
    assert rows["segment_nuclei"]["arguments"]["properties"]["mpp"]
    assert DISCLAIMER in run("tools", "list").stdout


def test_run_writes_overlay_and_geojson(picture: Path, tmp_path: Path) -> None:
    overlay, outlines = tmp_path / "o.png", tmp_path / "o.geojson"
    result = run("tools", "run", "segment_nuclei", picture, "--arg", "mpp=0.5", "--overlay", overlay, "--geojson",
                 outlines, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["status"], found["arguments"]["mpp"]) == ("ok", 0.5)
    with Image.open(overlay) as drawn, Image.open(picture) as given:
        assert drawn.size == given.size
    assert len(json.loads(outlines.read_text())["features"]) == found["result"]["numbers"]["count"]


@pytest.mark.parametrize(
    "words",
    [
        ("nothing",),
        ("segment_nuclei", "--arg", "mpp"),
        ("segment_nuclei", "--arg", "mpp=wide"),
        ("find_similar_cases",),
    ],
)
def test_bad_input_exits_with_2(picture: Path, words: tuple[str, ...]) -> None:
    name, *rest = words
    result = run("tools", "run", name, picture, *rest)
    assert result.exit_code == 2
    assert len(result.output.strip().splitlines()) == 1


def test_a_timeout_exits_with_1(picture: Path) -> None:
    result = run("tools", "run", "check_quality", picture, "--timeout", "0.1", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["status"] == "timeout"
