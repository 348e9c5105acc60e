"""PathMMU's own layout → conversations; what benchmarks report is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from assistant.chat.prompt import parse_question
from training.data.conversation import write_messages
from training.data.pathmmu import read_pathmmu
from training.data.readers import read_conversations
from training.data.records import DataError

ROW = {
    "No": 3, "img": "a.png", "question": "Which pattern?",
    "options": ["A) Palisading", "B) Rosettes", "C) Whorls (loose)"],
    "answer": "C) Whorls (loose)", "explanation": "Cells turn around a centre.",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8), "pink").save(tmp_path / "images" / "a.png")
    return tmp_path


def write(folder: Path, *rows: dict[str, Any], split: str = "train") -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps({"PubMed": {split: list(rows)}}))
    return path


def test_the_question_is_one_that_the_assistant_understands(folder: Path, tmp_path: Path) -> None:
    path = write(folder, ROW)
    (conversation,) = read_pathmmu(path, explain=True)
    asked = parse_question(conversation.messages[0]["content"][1]["text"])
    assert set(asked.options) == {"Palisading", "Rosettes", "Whorls (loose)"}
    assert conversation.messages[1]["content"][0]["text"] == "Whorls (loose)"
    assert conversation.messages[3]["content"][0]["text"] == ROW["explanation"]
    out = tmp_path / "out.jsonl"
    assert write_messages(out, [conversation]) == 1
    assert read_conversations(out, image_root="/")[0].messages == conversation.messages


def test_the_order_is_shuffled_and_repeatable(folder: Path) -> None:
    path = write(folder, *({**ROW, "No": n} for n in range(12)))
    orders = [c.messages[0]["content"][1]["text"] for c in read_pathmmu(path)]
    assert len(set(orders)) > 2
    assert [c.messages[0]["content"][1]["text"] for c in read_pathmmu(path)] == orders


@pytest.mark.parametrize("split", ["val", "test", "test_tiny"])
def test_reported_splits_are_refused(folder: Path, split: str) -> None:
    with pytest.raises(DataError, match="what benchmarks report"):
        read_pathmmu(write(folder, ROW, split=split), split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "D) Sheets"}, "PubMed/train/3: the answer 'Sheets'"),
        ({"img": "b.png"}, "PubMed/train/3: no image at"),
        ({"options": None}, "PubMed/train/3: no usable"),
    ],
)
def test_bad_items_are_named(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pathmmu(write(folder, {**ROW, **change}))


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1]")
    with pytest.raises(DataError, match="subset → split → list"):
        read_pathmmu(path)
