"""Fine-tuning on PathMMU-format data from its files to the table of what was won and forgotten, on a tiny model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from assistant.errors import NotAvailable
from eval import suite
from eval.pathmmu import PathMMU
from eval.pathvqa import PathVQA
from eval.trained import load_any
from tests.conftest import make_tiny_llava
from training.data import pathmmu
from training.run import run

RECIPE = Path(__file__).parents[2] / "training" / "recipes" / "pathmmu.yaml"
COLOURS = {"red": (200, 60, 60), "blue": (60, 60, 200)}


def write_pathmmu(folder: Path) -> Path:
    """``data.json`` and ``images/`` as published: 16 questions to train on and 8 of the split val, of two colours."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    for number in range(24):
        name = list(COLOURS)[number % 2]
        pixels = generator.normal(COLOURS[name], 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        options = ["A) red", "B) blue"]
        row = {"No": number, "img": f"{number}.png", "question": "Which colour is seen?", "options": options}
        splits["train" if number < 16 else "val"].append(row | {"answer": options[number % 2], "explanation": "Seen."})
    (folder / "data.json").write_text(json.dumps({"PubMed": splits}))
    return folder / "data.json"


def write_pathvqa(folder: Path) -> None:
    """Another task: six closed questions on the same pictures."""
    rows = {
        str(n): {"image": f"{n}.png", "question": f"Is this field {name}?", "answer": "yes", "answer_type": "yes/no"}
        for n, name in enumerate(["red", "blue"] * 3)
    }
    (folder / "test.json").write_text(json.dumps(rows))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every model that would be made of the shipped parts is the tiny one instead."""
    monkeypatch.setattr("assistant.model.build.build_from_preset", lambda *_: make_tiny_llava())
    monkeypatch.setattr("assistant.model.store.language_folder", lambda _: tmp_path)


def recipe(path: Path, **changes: Any) -> Path:
    """The shipped recipe with some settings changed."""
    settings = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump({k: v for k, v in (settings | changes).items() if v is not None}))
    return path


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def test_from_pathmmu_files_to_what_was_forgotten(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pathmmu(tmp_path / "data")
    write_pathvqa(tmp_path / "data")
    # 1. the file for training, as the recipe's comment says it
    monkeypatch.setattr(sys, "argv", ["pathmmu", "data/data.json", "--out", "pathmmu.jsonl"])
    pathmmu.main()
    assert "16 conversations" in capsys.readouterr().out
    # 2. a model to start from, standing for the shipped one, and the fine-tune with the shipped recipe
    small: dict[str, Any] = {
        "data": ["pathmmu.jsonl"], "batch_size": 4, "views": 1, "log_every": 1, "mixed_precision": "no",
        "connector_lr": 3e-3, "lora_lr": 3e-3,
    }  # fmt: skip
    run("instruct", recipe(tmp_path / "base.yaml", **small, steps=1, connector=None, adapter=None), "base")
    start = {"connector": "base/connector.safetensors", "adapter": "base/adapter"}
    run("instruct", recipe(tmp_path / "tune.yaml", **small, **start, steps=40, warmup=0.1), "tuned")
    assert losses(tmp_path / "tuned")[0] == pytest.approx(losses(tmp_path / "base")[0], rel=0.5)
    assert np.mean(losses(tmp_path / "tuned")[-5:]) < 0.6 * losses(tmp_path / "tuned")[0]
    # 3. the suite before and after, by the command
    plan = [suite.Step(PathMMU(), "val", ("image", "blank")), suite.Step(PathVQA(), "test", ("image",))]
    monkeypatch.setattr(suite, "steps", lambda: plan)
    command = ["suite", "--data", "data", "--out", "runs", "--results", "."]
    for more in (["--model", "trained:base"], ["--model", "trained:tuned", "--before", "trained:base"]):
        monkeypatch.setattr(sys, "argv", [*command, *more])
        suite.main()
    before = {r.info["task"]: r for r in suite.finished(tmp_path / "runs", "trained:base")}
    after = {r.info["task"]: r for r in suite.finished(tmp_path / "runs", "trained:tuned")}
    assert set(before) == set(after) == {"pathmmu", "pathvqa"}
    assert before["pathmmu"].info["revision"] != after["pathmmu"].info["revision"]
    assert {r.info["errors"] for r in (*before.values(), *after.values())} == {0}
    page = (tmp_path / "suite-trained-tuned.md").read_text(encoding="utf-8")
    assert "## From trained:base to trained:tuned" in page
    for task, column, n in (("pathmmu", "strict", 8), ("pathvqa", None, 6)):
        row = next(line for line in page.splitlines() if line.startswith(f"| {task} | ") and "[" in line and "–" not in
                   line and line.count("|") == 8)  # fmt: skip
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[2] == str(n)
        measured = column or cells[1]
        for cell, runs in ((cells[3], before), (cells[4], after)):
            rows = runs[task].rows
            assert float(cell) == pytest.approx(rows[rows["condition"] == "image"][measured].mean(), abs=6e-4)
    # What was trained for is won: it sees the two colours on pictures it was not trained on.
    assert after["pathmmu"].rows.query("condition == 'image'")["strict"].mean() >= 0.75


def test_a_folder_without_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"has no connector.safetensors: .* pathassist train instruct"):
        load_any(f"trained:{tmp_path}")
    for name in ("connector.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "recipe.json").write_text('{"preset": "pathasst-13b"}')
    with pytest.raises(NotAvailable, match="was trained for the preset 'pathasst-13b'"):
        load_any(f"trained:{tmp_path}")
