"""PMEB-style tasks on made-up records: nothing of the query's own group is ever found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from eval.pmeb import classification, composed, image_to_image, summarise, text_retrieval
from tests.eval.fake_models import FakeEncoder
from training.data.records import Record


def record(name: str, group: str, **facts: str) -> Record:
    return Record("atlas", Path(f"{name}.webp"), "val", f"atlas:{group}", facts)


def unit(rows: Any) -> Any:
    vectors = np.asarray(rows, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_image_to_image_leaves_the_own_group_out() -> None:
    facts = [("s1", "liver"), ("s1", "liver"), ("s2", "liver"), ("s3", "lung"), ("s4", "lung"), ("s5", "skin")]
    records = [record(str(i), group, organ=organ) for i, (group, organ) in enumerate(facts)]
    vectors = unit([[1, 0, 0], [1, 0.01, 0], [0.9, 0.3, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]])
    rows = pd.DataFrame(image_to_image(records, vectors, "organ", "image"))
    assert list(rows["hit1"].fillna(-1)) == [1, 1, 1, 1, 1, -1]  # no other skin: counts nowhere
    rows = pd.DataFrame(image_to_image(records[:2], vectors[:2], "organ", "image"))
    assert rows["hit1"].isna().all()
    assert image_to_image([], vectors[:0], "organ", "image") == []


def test_zero_shot_classification_takes_the_nearest_prompt() -> None:
    class Named(FakeEncoder):
        def embed_texts(self, texts: Any, batch_size: int = 64) -> Any:
            return unit(
                [[1, 0] if "normal lung" in t else [0, 1] if "adenocarcinoma" in t else [-1, -1] for t in texts]
            )

    records = [record("a", "1", lung="normal lung"), record("b", "2", lung="lung adenocarcinoma"),
               record("c", "3", lung="lung adenocarcinoma")]  # fmt: skip
    rows = pd.DataFrame(classification(Named(), records, unit([[1, 0.1], [0, 1], [1, 0]]), "lung", "image"))
    assert list(rows["said"]) == ["normal lung", "lung adenocarcinoma", "normal lung"]
    table = summarise(rows.assign(status="ok", error="")).set_index("condition")["value"]
    assert table["image"] == pytest.approx(0.75)
    assert table["majority"] == pytest.approx(0.5)


def test_text_retrieval_both_ways() -> None:
    class Named(FakeEncoder):
        def embed_texts(self, texts: Any, batch_size: int = 64) -> Any:
            return unit([[1, 0] if t.startswith("liver") else [0, 1] for t in texts])

    records = [record("a", "1", organ="liver"), record("b", "2", organ="lung"), record("c", "3", organ="lung")]
    rows = pd.DataFrame(text_retrieval(Named(), records, unit([[1, 0], [0, 1], [1, 0.1]]), "image"))
    found = rows.groupby("part")["hit1"].mean()
    assert found["image to text/atlas"] == pytest.approx(2 / 3)
    assert found["text to image/atlas"] == 1


def test_composed_needs_both_image_and_text() -> None:
    class Named(FakeEncoder):
        def embed_texts(self, texts: Any, batch_size: int = 64) -> Any:
            return unit([[0, 0, 1, 0] if t.endswith("PAS") else [0, 0, 0, 1] for t in texts])

    names = [("C1/HE", "H&E"), ("C1/PAS", "PAS"), ("C2/HE", "H&E"), ("C2/PAS", "PAS")]
    records = [record(g.replace("/", "_"), g, stain=s) for g, s in names]
    vectors = unit([[1, 0, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1], [0, 1, 1, 0]])
    rows = pd.DataFrame(composed(Named(), records, vectors))
    found = rows.groupby("condition")["hit1"].mean()
    assert found["image"] == 1
    assert found["text"] < 1
    assert set(found.index) == {"image", "image only", "text"}
    assert rows["id"].is_unique is False  # the same queries under three conditions
    assert rows.groupby("condition")["id"].apply(lambda ids: ids.is_unique).all()
