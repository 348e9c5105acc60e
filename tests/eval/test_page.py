"""The report: self-contained, escaped, with figures, errors, failures and a comparison."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from assistant.errors import NotAvailable
from eval.anchors import ANCHORS
from eval.figures import reliability, thumbnail
from eval.page import comparisons, tables, write_report
from eval.pathmmu import PathMMU
from eval.runner import Run, run_task, save_run
from eval.task import Response, measures
from tests.eval.fake_models import FakeModel


def make_runs(tmp_path: Path) -> list[Run]:
    """A sure and mostly wrong model, and a right one, on coloured images with hostile text."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    rows = []
    for number in range(12):
        Image.new("RGB", (300, 200), (20 * number, 0, 90)).save(folder / "images" / f"{number}.png")
        rows.append({
            "No": number, "img": f"{number}.png", "question": f"<script>alert({number})</script>",
            "options": ["A) liver", "B) <b>lung</b>", "C) skin"],
            "answer": "B) <b>lung</b>" if number % 2 else "A) liver",
        })  # fmt: skip
    rows[11]["img"] = "gone.png"
    (folder / "data.json").write_text(json.dumps({"PubMed": {"val": rows}}))

    def weak(image: Image.Image | None, prompt: str) -> Response:
        return Response("(A) liver", 0.95)

    def strong(image: Image.Image | None, prompt: str) -> Response:
        right = image is not None and image.getpixel((0, 0))[0] // 20 % 2  # type: ignore[index]
        return Response("(B)" if right else "(A)", 0.8)

    out = tmp_path / "runs"
    shown = ("image", "blank", "jpeg-1", "jpeg-5")
    first, second = FakeModel(weak), FakeModel(strong, "r2")
    second.name = "strong"
    return [run_task(PathMMU(), m, root=folder, out=out, shown=shown) for m in (first, second)]


def test_page(tmp_path: Path) -> None:
    runs = make_runs(tmp_path)
    path = write_report([tmp_path / "runs"], tmp_path / "out" / "report.html")
    page = path.read_text(encoding="utf-8")
    # Nothing is fetched, nothing runs.
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "<script" not in page
    assert "&lt;b&gt;lung&lt;/b&gt;" in page
    assert "<b>lung" not in page
    assert "data:image/jpeg;base64," in page
    assert page.count("not the same items") >= len(ANCHORS["pathmmu"])
    assert "Reliability diagram" in page
    assert "Accuracy under corruption" in page
    assert "gone.png" in page
    assert "4 of 48 answers are errors" in page
    assert runs[0].info["data_hash"] in page
    assert "pathassist eval pathmmu --model fake --split val --seed 0 --show image,blank,jpeg-1,jpeg-5" in page
    assert not list(path.parent.glob("*.tmp"))


def test_comparison_is_of_the_same_items(tmp_path: Path) -> None:
    found = {(c["first"], c["second"]): c for c in comparisons(make_runs(tmp_path))}
    models = found["fake (image)", "strong (image)"]
    assert models["result"].n == 12
    assert models["result"].difference == pytest.approx(5 / 12)
    assert models["result"].mcnemar == pytest.approx(2 * 0.5**5)
    assert models["same_data"]
    assert found["strong (blank)", "strong (image)"]["result"].difference > 0


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match=r"no finished run in .*; make one with: pathassist eval"):
        write_report([tmp_path], tmp_path / "report.html")


def test_a_run_of_other_metrics(tmp_path: Path) -> None:
    rows = pd.DataFrame({
        "id": ["a", "b"], "condition": "image", "group": ["a", "b"], "part": "glas", "image": None,
        "status": ["ok", "error"], "error": ["", "ValueError: x"], "pq": [0.25, np.nan],
    })  # fmt: skip
    summary = measures(rows, {"pq": "PQ"}, errors_wrong=("pq",))
    run = save_run("instances-glas", "1", "tool", "r", rows, summary, split="val", out=tmp_path)
    page = write_report([run.folder], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "0.125" in page
    assert "ValueError: x" in page


def test_table_cells() -> None:
    row = {"part": "all", "metric": "m", "low": 0.1, "high": 0.3, "n": 5, "errors": 1, "groups": 4}
    summary = pd.DataFrame([row | {"condition": "image", "value": 0.2}, row | {"condition": "blank", "value": np.nan}])
    (table,) = tables(summary)
    assert table["conditions"] == ["image", "blank"]
    assert table["rows"][0]["cells"] == ["0.200 [0.100, 0.300]", "–"]


def test_figures() -> None:
    svg = reliability([0.05, 0.95, 0.95, 1.0], [0, 1, 0, 1])
    assert svg.count("<rect") == 3  # the frame and two bins
    assert "confidence 0.9–1.0: accuracy 0.67, n 3" in svg
    assert thumbnail("/nowhere.png") is None
