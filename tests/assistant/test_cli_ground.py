"""``pathassist ground``: outlines, slides, chat models and licences, as JSON, text and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from assistant import cli_ground
from assistant.answer import DISCLAIMER, Box
from assistant.cli_common import ErrorGroup
from assistant.errors import NotAvailable
from assistant.grounding import ground as grounding
from assistant.grounding import load_grounder
from assistant.regions.model import Instances
from assistant.tools import Context, ToolState, find_tools, run_call
from tests.ui.slides_page import write_slide

BOXES = [Box("glands", (10.0, 20.0, 50.0, 60.0), 0.9), Box("glands", (100.0, 20.0, 150.0, 60.0), 0.4)]


class FakeGrounder:
    """Two boxes on every image; the first is a nucleus of its region network."""

    def __init__(self) -> None:
        self.detector = self
        self.regions = self

    def ground(self, image: Image.Image, phrase: str, *, threshold: float | None = None) -> list[Box]:
        return [box for box in BOXES if box.score >= (threshold or 0)]

    def nuclei(self, pixels: np.ndarray) -> Instances:
        out = np.zeros(pixels.shape[:2], np.int32)
        out[20:60, 10:50] = 1
        return Instances(out)

    def glands(self, pixels: np.ndarray) -> Instances:
        return Instances(np.zeros(pixels.shape[:2], np.int32))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    fake = FakeGrounder()
    plain = load_grounder
    monkeypatch.setattr(
        "assistant.grounding.load_grounder", lambda *, research=True: fake if research else plain(research=False)
    )
    monkeypatch.setattr("assistant.grounding.detector.load_detector", lambda **_: fake)
    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    cli_ground.register(app)
    return lambda *words: CliRunner().invoke(app, ["ground", *map(str, words)])


@pytest.fixture
def picture(tmp_path: Path, field: Image.Image) -> Path:
    path = tmp_path / "field.png"
    field.save(path)
    return path


def test_boxes_outlines_and_files(run: Callable[..., Result], picture: Path, tmp_path: Path) -> None:
    overlay, shapes = tmp_path / "o.png", tmp_path / "o.geojson"
    result = run(picture, "glands", "--masks", "--overlay", overlay, "--geojson", shapes, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [b["xyxy"] for b in found["boxes"]] == [list(b.xyxy) for b in BOXES]
    assert [o["kind"] for o in found["outlines"]] == ["nucleus", "box"]
    assert "kept as a box" in found["outlines"][1]["note"]
    assert (found["licence"], found["model"]) == ("research-only weights", "embedded")
    rows = json.loads(shapes.read_text())["features"]
    assert [row["properties"].get("outline") for row in rows] == ["nucleus", None]
    assert "kept as a box" in rows[1]["properties"]["note"]
    with Image.open(overlay) as drawn, Image.open(picture) as given:
        assert drawn.size == given.size
        assert (np.asarray(drawn) != np.asarray(given)).any()
    told = run(picture, "glands", "--masks").stdout
    assert "nucleus outlined, IoU 1.00 with the box" in told
    assert DISCLAIMER in told


def test_without_masks_the_geojson_holds_boxes(run: Callable[..., Result], picture: Path, tmp_path: Path) -> None:
    result = run(picture, "glands", "--geojson", tmp_path / "o.geojson", "--threshold", "0.5", "--json")
    assert "outlines" not in json.loads(result.stdout)
    (row,) = json.loads((tmp_path / "o.geojson").read_text())["features"]
    assert row["geometry"]["coordinates"] == [[[10, 20], [50, 20], [50, 60], [10, 60], [10, 20]]]
    assert set(row["properties"]) == {"objectType", "name", "measurements"}


def test_on_a_slide_the_budget_and_the_time_are_said(run: Callable[..., Result], tmp_path: Path) -> None:
    pytest.importorskip("tifffile")
    pytest.importorskip("openslide")
    slide = write_slide(tmp_path / "s.tif")
    words = (slide, "glands", "--budget", "4")
    found = json.loads(run(*words, "--json").stdout)
    assert found["size"] == [2400, 1800]
    assert found["fields_looked_at"] == len(found["boxes"]) / 2 == 4
    assert found["seconds"] >= 0
    corners = {tuple(b["xyxy"][:2]) for b in found["boxes"]}
    assert {(10.0, 20.0), (1034.0, 20.0), (10.0, 1044.0)} <= corners
    assert "4 fields looked at in" in run(*words).stdout
    with pytest.MonkeyPatch.context() as patch:  # its pink squares are no stain
        patch.setattr("assistant.tools.fields.guess_stain", lambda image: ("H&E-like", {}))
        shapes = run(*words, "--masks", "--json").stdout
    assert len(json.loads(shapes)["outlines"]) == 8


def test_a_chat_model_points_through_the_same_command(
    run: Callable[..., Result], picture: Path, tiny_assistant: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(cli_ground, "load_assistant", lambda model, **k: asked.append(model) or tiny_assistant)
    result = run(picture, "the largest gland", "--model", "qwen-7b", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert asked == ["qwen-7b"]
    assert found["licence"] == "that of the preset qwen-7b"
    for box in found["boxes"]:
        assert set(box) == {"label", "xyxy", "score"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("glands", "--overlay", "o.txt"), "must end in .png"),
        (("glands", "--model", "nonsense"), "nonsense"),
        ((" ", "--model", "remote"), "PATHASSIST_REMOTE_URL"),
    ],
)
def test_what_is_refused(
    run: Callable[..., Result], picture: Path, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PATHASSIST_REMOTE_URL", raising=False)
    result = run(picture, *words)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_without_open_weights_the_licence_is_said(
    run: Callable[..., Result], picture: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grounding, "WEIGHTS", tmp_path)
    load_grounder.cache_clear()
    result = run(picture, "glands", "--open-only", "--json")
    assert result.exit_code == 1
    error = json.loads(result.stdout)["error"]
    assert error["code"] == "not_available"
    assert "for research only" in error["message"]
    assert "no open licence" in error["message"]


def test_the_tool_is_switched_off_where_research_parts_are(
    field: Image.Image, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(grounding, "WEIGHTS", tmp_path)
    load_grounder.cache_clear()
    tool = find_tools()["ground_phrase"]
    with pytest.raises(NotAvailable, match="for research only"):
        tool(field, "glands", context=Context(research=False))
    with ToolState([field], research=False) as state:
        call = run_call("ground_phrase", {"image": 1, "phrase": "glands"}, state)
    assert call.status != "ok"
    assert "research" in call.result.text
    assert tool.card.research_only
    assert tool.card.licence.startswith("research-only")


def test_tools_list_says_the_licence() -> None:
    from assistant import cli_tools

    app = typer.Typer(cls=ErrorGroup, pretty_exceptions_enable=False, rich_markup_mode=None)
    cli_tools.register(app)
    lines = CliRunner().invoke(app, ["tools", "list"]).stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("ground_phrase"))
    assert lines[at] == "ground_phrase  (research only)"
    assert "licence: research-only (some sources have no open licence)" in lines[at + 2]
