"""Accuracy under corruption: paired with the clean answers, errors wrong, written by the command alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from assistant.errors import NotAvailable
from eval.conditions import expanded
from eval.corruptions import CORRUPTIONS, STRENGTHS
from eval.robustness import SHOWN, markdown, means, remember_blanks, run_robustness, table, write_results
from tests.eval.fake_models import FakeModel


def rows(wrong: dict[str, set[int]], errors: dict[str, set[int]] | None = None, n: int = 10) -> pd.DataFrame:
    """Items of five groups under every condition; all right but those named."""
    out = []
    for condition in expanded(SHOWN):
        for i in range(n):
            error = i in (errors or {}).get(condition, set())
            hit = float("nan") if error else float(i not in wrong.get(condition, set()))
            out.append({"id": f"q{i}", "condition": condition, "group": f"g{i % 5}", "part": "p", "hit": hit,
                        "status": "error" if error else "ok"})  # fmt: skip
    return pd.DataFrame(out).sample(frac=1, random_state=1)  # their order means nothing


def test_every_corruption_and_strength_beside_clean_and_blank() -> None:
    found = {(r["corruption"], r["strength"]): r for r in table(rows({"blank": set(range(8)), "blur-5": {0, 5, 1}}))}
    assert len(found) == 2 + len(CORRUPTIONS) * len(STRENGTHS)
    assert found["clean", 0]["accuracy"] == [1.0, 1.0, 1.0]
    assert found["blank", 0]["accuracy"][0] == 0.2
    worst = found["blur", 5]
    assert (worst["accuracy"][0], worst["change"][0], worst["n"], worst["groups"]) == (0.7, -0.3, 10, 5)
    assert worst["change"][1] < -0.3 < worst["change"][2] <= 0
    assert worst["p"] == 0.5  # two of five groups differ: half of the sign changes are as large
    assert found["blur", 4]["change"] == [0.0, 0.0, 0.0]


def test_an_error_counts_as_wrong() -> None:
    found = {(r["corruption"], r["strength"]): r for r in table(rows({}, {"jpeg-2": {3, 4}, "image": {3}}))}
    assert (found["jpeg", 2]["accuracy"][0], found["jpeg", 2]["errors"]) == (0.8, 2)
    assert found["clean", 0]["accuracy"][0] == 0.9
    assert found["jpeg", 2]["change"][0] == pytest.approx(-0.1)


def test_means_over_strengths() -> None:
    found = {r["corruption"]: r for r in means(rows({f"noise-{s}": set(range(s)) for s in STRENGTHS}))}
    assert found["noise"]["accuracy"][0] == pytest.approx(1 - (1 + 2 + 3 + 4 + 5) / 50)
    assert found["jpeg"]["change"] == [0.0, 0.0, 0.0]
    assert found["all"]["accuracy"][0] == pytest.approx(1 - 0.3 / len(CORRUPTIONS))


def test_an_incomplete_run_is_said() -> None:
    some = rows({})
    with pytest.raises(NotAvailable, match="lacks stain-5"):
        table(some[some["condition"] != "stain-5"])


def test_blank_images_are_scored_once_and_others_always() -> None:
    asked: list[Any] = []

    def score(ids: list[int], images: Sequence[Image.Image], options: Sequence[str]) -> list[float]:
        asked.append((ids, len(images)))
        return [float(len(asked))] * len(options)

    assistant = SimpleNamespace(option_scores=score)
    remember_blanks(SimpleNamespace(assistant=assistant))  # type: ignore[arg-type]
    blank, field = Image.new("RGB", (8, 8), "white"), Image.linear_gradient("L").convert("RGB")
    first = assistant.option_scores([1], [blank], ["a", "b"])
    assert assistant.option_scores([1], [blank.copy()], ["a", "b"]) == first
    assert len(asked) == 1
    others = [([2], [blank], ["a", "b"]), ([1], [blank], ["a"]), ([1], [Image.new("RGB", (9, 8), "white")], ["a", "b"]),
              ([1], [Image.new("RGB", (8, 8), "black")], ["a", "b"]), ([1], [field], ["a"]), ([1], [field], ["a"]),
              ([1], [], ["a"]), ([1], [], ["a"])]  # fmt: skip
    for ids, images, options in others:
        assert assistant.option_scores(ids, images, options) != first
    assert len(asked) == 1 + len(others)
    remember_blanks(FakeModel(lambda *_: "x"))  # a model that is none of ours is left alone


@pytest.mark.data
def test_the_page_is_written_and_a_second_run_asks_nothing(data_root: Path, tmp_path: Path) -> None:
    def reply(image: Image.Image | None, _: str) -> str:
        assert image is not None
        return "(A)" if image.convert("L").getextrema() != (0, 0) else "(B)"

    model = FakeModel(reply)
    keywords: dict[str, Any] = {"per_part": 1, "root": data_root, "out": tmp_path / "runs", "progress": lambda *_: None}
    run = run_robustness(model, **keywords)
    asked = len(model.calls)
    assert asked == run.info["n"] * 32
    page = write_results(run, 1, tmp_path).read_text(encoding="utf-8")
    found = json.loads((tmp_path / "robustness.json").read_text())
    assert page == markdown(found)
    assert page.count("\n| ") >= 2 * len(CORRUPTIONS) + 1
    assert f"n = {run.info['n']} in " in page
    assert "Blank image (control): " in page
    assert found["command"] in page
    assert str(data_root) not in page + json.dumps(found)
    again = run_robustness(model, **keywords)
    assert len(model.calls) == asked
    assert again.folder == run.folder
