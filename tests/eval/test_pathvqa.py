"""PathVQA: the published file shapes, official and strict scores side by side."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from eval.pathvqa import PathVQA
from eval.runner import run_task
from tests.eval.fake_models import FakeModel
from training.data.records import DataError

QUESTIONS = [
    ("Is this liver?", "yes"),
    ("Is this lung?", "no"),
    ("What is shown?", "liver cells"),
    ("Where?", "the duct"),
]
REPLIES = {
    "Is this liver?": "It is normal.",
    "Is this lung?": "No.",
    "What is shown?": "Liver cells.",
    "Where?": "in a bile duct",
}


def pixels() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "purple").save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, shape: str) -> None:
    folder.mkdir()
    if shape == "parquet":
        rows = [{"image": {"bytes": pixels(), "path": f"{i}.png"}, "question": q, "answer": a}
                for i, (q, a) in enumerate(QUESTIONS)]  # fmt: skip
        pd.DataFrame(rows).to_parquet(folder / "test.parquet")
        return
    (folder / "images").mkdir()
    rows_out: Any = []
    for i, (q, a) in enumerate(QUESTIONS):
        (folder / "images" / f"{i}.png").write_bytes(pixels())
        kind = "CLOSED" if a in ("yes", "no") else "OPEN"
        turns = [{"from": "human", "value": f"<image>\n{q}"}, {"from": "gpt", "value": a}]
        key = "conversations" if i % 2 else "conversatons"
        rows_out.append({"id": str(i), "image": f"{i}.png", key: turns, "answer_type": kind})
    if shape == "pa-llava":
        rows_out = {str(i): {"image": f"{i}.png", "question": q, "answer": a,
                             "answer_type": "yes/no" if a in ("yes", "no") else "other"}
                    for i, (q, a) in enumerate(QUESTIONS)}  # fmt: skip
    (folder / "test.json").write_text(json.dumps(rows_out))


@pytest.mark.parametrize("shape", ["llava-med", "pa-llava", "parquet"])
def test_all_shapes_score_alike(tmp_path: Path, shape: str) -> None:
    write(tmp_path / "data", shape)
    model = FakeModel(lambda _, prompt: REPLIES[prompt])
    run = run_task(PathVQA(), model, root=tmp_path / "data", split="test", out=tmp_path / "o", shown=("image",))
    assert run.info["errors"] == 0
    table = run.summary.set_index(["part", "metric", "condition"])
    value = table["value"]
    assert value["closed", "closed accuracy (strict: first word)", "image"] == 0.5
    published = table.loc[("closed", "closed accuracy (LLaVA-Med: other answers left out)", "image")]
    assert (published["value"], published["n"]) == (1.0, 1)
    assert value["closed", "exact match (PA-LLaVA)", "image"] == 0.5
    assert value["open", "exact match (PA-LLaVA)", "image"] == 0.5
    assert value["open", "open recall (LLaVA-Med)", "image"] == 1
    assert value["open", "open 'exact match' (LLaVA-Med: share of words)", "image"] == pytest.approx((1 + 1 / 3) / 2)
    assert value["open", "open F1 (LLaVA-Med)", "image"] == pytest.approx((1 + 0.5) / 2)
    assert value["closed", "closed accuracy (strict: first word)", "majority"] == 0.5


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no PathVQA split 'test'"):
        PathVQA().load(tmp_path, "test")
    (tmp_path / "test.json").write_text(json.dumps([{"id": 1, "image": "a.png"}]))
    with pytest.raises(DataError, match="item 1: needs image, question and answer"):
        PathVQA().load(tmp_path, "test")
    (tmp_path / "val.json").write_text(json.dumps({"1": {"image": "a.png", "question": "Is it?", "answer": " "}}))
    assert PathVQA().load(tmp_path, "val")[0].problem == "the question or the answer is empty"
    pd.DataFrame({"question": ["a"]}).to_parquet(tmp_path / "dev.parquet")
    with pytest.raises(DataError, match="no column answer, image"):
        PathVQA().load(tmp_path, "dev")
