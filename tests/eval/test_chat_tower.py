"""The comparison of chat towers: what is better is called better, and a run that is not there is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assistant.errors import BadInput
from eval.chat_tower import markdown, row, run


def frame(right: float, seed: int = 0) -> pd.DataFrame:
    """Items of 40 groups whose likeliest option is the answer in a share of ``right``."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 4, 200)
    said = np.where(np.arange(200) < 200 * right, answers, (answers + 1) % 4)
    noise = rng.normal(0, 0.01, (200, 4))
    return pd.DataFrame({
        "scores": list(np.eye(4)[said] * 5), "prior": list(noise), "cosines": list(noise), "answer": answers,
        "group": [f"g{i % 40}" for i in range(200)], "dataset": "atlas", "kind": "organ",
    })  # fmt: skip


def test_the_better_tower_is_named_and_the_worse_is_not() -> None:
    first = frame(0.6)
    rows = [row("shipped", first, first), row("better", frame(0.8), first), row("worse", frame(0.3), first)]
    assert rows[0]["alone"][0] == pytest.approx(0.6)
    assert rows[1]["alone, difference"]["difference"] == pytest.approx(0.2)
    assert rows[2]["with second look, difference"]["high"] < 0
    result = {"rows": rows, "blank image": 0.25, "text only": 0.3, "command": "again", "shipped": "one"}
    page = markdown(result)
    assert "Better with the second look: better." in page
    assert "keeps its tower" in markdown({**result, "rows": [rows[0], rows[2]]})


def test_a_missing_run_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"embedded-pathclip\.yaml --out .*none"):
        run(tmp_path / "none", tmp_path)
