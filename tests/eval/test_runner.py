"""The runner: controls, errors, resume, duplicates, provenance."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assistant.errors import BadInput, NotAvailable
from eval import runner
from eval.conditions import conditions, expanded
from eval.pathmmu import PathMMU
from eval.runner import read_run, run_task
from eval.task import Item, Response, measures, with_duplicates_marked
from tests.eval.fake_models import FakeModel
from training.data.records import DataError

COLOURS = ["red", "green", "blue", "purple", "orange", "pink"]


def question(number: int, **changes: Any) -> dict[str, Any]:
    options = ["A) red", "B) green", "C) blue", "D) other"]
    answer = options[min(number % len(COLOURS), 3)]
    return {
        "No": number,
        "img": f"{number}.png",
        "question": f"Colour {number}?",
        "options": options,
        "answer": answer,
    } | changes


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six coloured images of one subset, and one question of another."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number, colour in enumerate(COLOURS):
        Image.new("RGB", (20, 16), colour).save(folder / "images" / f"{number}.png")
    content = {"PubMed": {"val": [question(i) for i in range(6)]}, "Atlas": {"val": [question(0)], "test": []}}
    (folder / "data.json").write_text(json.dumps(content))
    return folder


def sees_colour(image: Image.Image | None, prompt: str) -> str:
    names = {(255, 0, 0): "(A)", (0, 128, 0): "(B)", (0, 0, 255): "(C)", (244, 240, 246): "no tissue"}
    return "(D)" if image is None else names.get(image.getpixel((0, 0)), "(D)")


def test_controls_tell_seeing_from_guessing(data: Path, tmp_path: Path) -> None:
    run = run_task(PathMMU(), FakeModel(sees_colour), root=data, out=tmp_path / "out")
    table = run.summary.set_index(["part", "metric", "condition"])["value"]
    strict = "accuracy (strict)"
    assert table["all", strict, "image"] == 1
    assert table["all", strict, "blank"] == 0
    assert table["all", strict, "text"] == pytest.approx(3 / 7)
    assert table["all", strict, "majority"] == pytest.approx(3 / 7)
    assert table["all", strict, "shuffled"] < 1
    assert table["PubMed", strict, "image"] == 1
    assert table["all", "parsed", "blank"] == 0
    assert set(run.summary["n"]) <= {7, 6, 1}
    info = run.info
    assert (info["n"], info["errors"], info["images_missing"], info["problems"]) == (7, 0, 0, 0)
    assert len(info["data_hash"]) == len(info["prompt_hash"]) == 16
    assert info["revision"] == "r1"
    assert info["versions"]["python"]
    assert info["seconds"] >= 0


def test_bad_items_are_errors_and_are_counted(data: Path, tmp_path: Path) -> None:
    rows = [question(i) for i in range(4)]
    rows += [
        question(1),
        question(4, answer="D) none of these"),
        question(5, img="gone.png"),
        question(7, options=["red"]),
    ]
    (data / "data.json").write_text(json.dumps({"PubMed": {"val": rows}}))

    def reply(image: Image.Image | None, prompt: str) -> str:
        if "Colour 2" in prompt:
            raise TimeoutError("no answer in 120 s")
        return "" if "Colour 3" in prompt else sees_colour(image, prompt)

    run = run_task(PathMMU(), FakeModel(reply), root=data, out=tmp_path / "out", shown=("image",))
    errors = run.rows[run.rows["status"] == "error"].set_index("id")["error"]
    assert len(errors) == run.info["errors"] == 6
    assert "no answer in 120 s" in errors["PubMed/val/2"]
    assert "empty" in errors["PubMed/val/3"]
    assert "occurs again" in errors["PubMed/val/1~2"]
    assert "not among the options" in errors["PubMed/val/4"]
    assert "gone.png" in errors["PubMed/val/5"]
    assert "has no ')'" in errors["PubMed/val/7"]
    assert run.rows["response"].isna().sum() == 6
    assert (run.info["images_missing"], run.info["problems"]) == (2, 3)
    table = run.summary.set_index(["metric", "condition"])
    assert table.loc[("accuracy (strict)", "image"), "n"] == 8
    assert table.loc[("accuracy (strict)", "image"), "value"] == pytest.approx(2 / 8)
    assert table.loc[("accuracy (official, random fallback)", "image"), "n"] == 2
    assert (table["errors"].loc[:, "image"] == 6).all()


def test_a_second_run_asks_nothing_and_failed_items_are_asked_again(data: Path, tmp_path: Path) -> None:
    failing = FakeModel(lambda image, prompt: 1 / 0 if "Colour 3" in prompt else "(A)")
    first = run_task(PathMMU(), failing, root=data, out=tmp_path / "out")
    assert first.info["errors"] == 4
    model = FakeModel(sees_colour)
    second = run_task(PathMMU(), model, root=data, out=tmp_path / "out")
    assert second.folder == first.folder
    assert len(model.calls) == 4
    assert second.info["errors"] == 0
    third = FakeModel(sees_colour)
    again = run_task(PathMMU(), third, root=data, out=tmp_path / "out")
    assert not third.calls
    pd.testing.assert_frame_equal(again.summary, second.summary)
    assert read_run(again.folder).info["fingerprint"] == again.info["fingerprint"]


def test_an_interrupt_loses_at_most_one_batch(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "BATCH", 3)
    calls = []

    def reply(image: Image.Image | None, prompt: str) -> str:
        calls.append(prompt)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return "(A)"

    with pytest.raises(KeyboardInterrupt):
        run_task(PathMMU(), FakeModel(reply), root=data, out=tmp_path / "out", shown=("image", "text"))
    folder = next((tmp_path / "out").iterdir())
    assert len(list((folder / "parts").glob("*.parquet"))) == 2
    (folder / "parts" / "9.tmp").write_bytes(b"half a batch")
    model = FakeModel(sees_colour)
    run = run_task(PathMMU(), model, root=data, out=tmp_path / "out", shown=("image", "text"))
    assert len(model.calls) == 14 - 6
    assert len(run.rows) == 14
    assert not (run.folder / "parts").exists()


def test_other_weights_data_or_prompts_are_another_run(data: Path, tmp_path: Path) -> None:
    def folder(revision: str = "r1", seed: int = 0) -> Path:
        model = FakeModel(sees_colour, revision)
        return run_task(PathMMU(), model, root=data, out=tmp_path / "out", shown=("text",), seed=seed).folder

    first = folder()
    assert folder() == first
    assert len({first, folder("r2"), folder(seed=1)}) == 3
    Image.new("RGB", (20, 16), "white").save(data / "images" / "0.png")
    assert folder() != first


def test_a_model_that_is_gone_ends_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GIVE_UP_AFTER", 5)
    with pytest.raises(NotAvailable, match=r"items in a row failed, last: ConnectionError: refused"):
        run_task(
            PathMMU(), FakeModel(lambda *_: (_ for _ in ()).throw(ConnectionError("refused"))), root=data, out=tmp_path
        )


def test_without_images_only_text_is_run(data: Path, tmp_path: Path) -> None:
    for path in (data / "images").iterdir():
        path.unlink()
    run = run_task(PathMMU(), FakeModel(sees_colour), root=data, out=tmp_path / "out")
    assert set(run.rows["condition"]) == {"text"}
    assert "text only" in run.info["note"]
    assert run.info["images_missing"] == 7
    assert run.info["errors"] == 0


def test_rotations_move_the_answer_and_measure_consistency(data: Path, tmp_path: Path) -> None:
    task = PathMMU(rotations=5)
    items = task.load(data, "val")
    assert len(items) == 35
    rotated = next(item for item in items if item.id == "PubMed/val/1#r1")
    assert rotated.fields["options"] == ["green", "blue", "other", "red"]
    assert rotated.answer == 0
    always_a = run_task(task, FakeModel(lambda *_: "(A)"), root=data, out=tmp_path / "a", shown=("text",))
    value = always_a.summary.set_index(["part", "metric", "condition"])["value"]
    assert value["all", "same answer in all rotations", "text"] == 0
    unread = run_task(task, FakeModel(lambda *_: "no idea"), root=data, out=tmp_path / "c", shown=("text",))
    value = unread.summary.set_index(["part", "metric", "condition"])["value"]
    assert value["all", "same answer in all rotations", "text"] == 0
    blue = FakeModel(lambda _, prompt: next(line for line in prompt.split("\n") if line.endswith("blue")))
    consistent = run_task(task, blue, root=data, out=tmp_path / "b", shown=("text",))
    value = consistent.summary.set_index(["part", "metric", "condition"])["value"]
    assert value["all", "same answer in all rotations", "text"] == 1


def test_errors_of_users(data: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="unknown condition 'jpg-9'; allowed: image, blank"):
        conditions(["jpg-9"])
    assert len(expanded(["controls", "robustness", "image"])) == 3 + 1 + 30
    with pytest.raises(BadInput, match="unknown split 'dev'; allowed: val"):
        PathMMU().load(data, "dev")
    with pytest.raises(NotAvailable, match="no finished run"):
        read_run(tmp_path)
    (data / "data.json").write_text("[1]")
    with pytest.raises(DataError, match=r"not PathMMU's data\.json"):
        PathMMU().load(data, "val")
    (data / "data.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        PathMMU().load(data, "val")


def test_parallel_models_keep_the_order(data: Path, tmp_path: Path) -> None:
    model = FakeModel(sees_colour)
    model.parallel = 4
    run = run_task(PathMMU(), model, root=data, out=tmp_path / "out")
    ids = [f"PubMed/val/{i}" for i in range(6)] + ["Atlas/val/0"]
    assert list(run.rows["id"]) == ids * 4


def test_measures_count_errors_as_told() -> None:
    rows = pd.DataFrame({
        "part": "p", "condition": "image", "group": list("abcd"), "status": ["ok", "ok", "ok", "error"],
        "hit": [1.0, 1.0, 0.0, np.nan],
    })  # fmt: skip
    lenient = measures(rows, {"hit": "hit"}).iloc[0]
    strict = measures(rows, {"hit": "hit"}, errors_wrong=("hit",)).iloc[0]
    assert (lenient["value"], lenient["n"], lenient["errors"]) == (pytest.approx(2 / 3), 3, 1)
    assert (strict["value"], strict["n"], strict["groups"]) == (0.5, 4, 4)


def test_small_parts() -> None:
    items = [Item("a", "g", "p", None, 0), Item("a", "g", "p", None, 0)]
    assert [i.id for i in with_duplicates_marked(items)] == ["a", "a~2"]
    assert Response("x").box is None


KILLED = """
import sys, time
from pathlib import Path
from eval import runner
from eval.pathmmu import PathMMU
from tests.eval.fake_models import FakeModel

runner.BATCH = 4

def reply(image, prompt):
    with open("asked.txt", "a") as file:
        file.write("x")
    time.sleep(0.02)
    return "(A)"

runner.run_task(PathMMU(), FakeModel(reply), root="data", out="out", shown=("text",), progress=lambda *_: None)
"""


@pytest.mark.slow
def test_kill_9_loses_at_most_one_batch(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").write_text(json.dumps({"PubMed": {"val": [question(i) for i in range(400)]}}))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    asked = tmp_path / "asked.txt"
    end = time.monotonic() + 200
    while not asked.is_file() or asked.stat().st_size < 30:
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = asked.stat().st_size
    assert before < 400
    model = FakeModel(lambda *_: "(A)")
    run = run_task(PathMMU(), model, root=tmp_path / "data", out=tmp_path / "out", shown=("text",))
    kept = 400 - len(model.calls)
    assert before - 4 <= kept <= before
    assert len(run.rows) == 400
