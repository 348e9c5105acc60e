"""Referring phrases as conversations: both formats are read back, with boxes where the labels have them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from assistant.grounding.boxes_text import NOTHING, parse_boxes, to_pixels
from assistant.grounding.chat_boxes import grounding_prompt
from training.data.conversation import Conversation
from training.data.grounded_conversations import build, conversation, main
from training.data.objects import Field
from training.data.readers import read_conversations
from training.data.records import DataError
from training.data.referring import Phrase

BOXES = [("white blood cell", [20, 20, 90, 80]), ("platelet", [150, 30, 170, 52]), ("platelet", [30, 150, 60, 190])]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six smears, one of them of ``val``; the second has a name of ``val`` in its words only."""
    folder = tmp_path / "data" / "bccd_boxes"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "index.jsonl").open("w") as out:
        for number in range(6):
            Image.fromarray(rng.integers(60, 220, (240, 320, 3), np.uint8)).save(folder / "images" / f"{number}.png")
            boxes = [{"label": name, "xyxy": [v + number for v in box]} for name, box in BOXES]
            row = {"image": f"images/{number}.png", "split": "val" if number == 5 else "train", "boxes": boxes}
            out.write(json.dumps(row) + "\n")
    return tmp_path / "data"


def answers(rows: list[Conversation]) -> list[tuple[str, str]]:
    return [tuple(m["content"][-1]["text"] for m in row.messages) for row in rows]  # type: ignore[misc]


@pytest.mark.parametrize("form", ["trl", "llava"])
def test_both_formats_are_read_back(root: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "made" / ("t.jsonl" if form == "trl" else "t.json")
    counts = build(out, root=root, sets=("bccd_boxes",), per_field=6, form=form)
    rows = read_conversations(out)
    assert len(rows) == sum(counts.values()) >= 20
    assert counts["nothing"] >= 1
    assert counts["several boxes"] >= 1
    assert {row.group for row in rows} == {f"bccd_boxes/images/{i}.png" for i in range(5)}  # none of val
    true = [box for _, box in BOXES]
    for row, (asked, said) in zip(rows, answers(rows), strict=True):
        assert asked.splitlines()[0].startswith("Point at this in the image: ")
        assert asked == grounding_prompt(asked.splitlines()[0].partition(": ")[2])
        with Image.open(row.images[0]) as picture:
            assert picture.size == (320, 240)
        shift = int(row.images[0].stem.rpartition("-")[2])
        found = [to_pixels(box, (320, 240)) for box in parse_boxes(said)]
        assert bool(found) == (said != NOTHING)
        if len(found) == 1 and "group" in asked:
            continue
        for box in found:
            gaps = [max(abs(a - b - shift) for a, b in zip(box, t, strict=True)) for t in true]
            assert min(gaps) < 1 or len(found) == 1


def test_the_same_seed_writes_the_same(root: Path, tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        build(tmp_path / name / "t.jsonl", root=root, sets=("bccd_boxes",), per_field=3, form="trl", seed=4)
        texts.append((tmp_path / name / "t.jsonl").read_text())
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "val"}, "only 'train' becomes training data"),
        ({"sets": ("atlas",)}, "unknown set 'atlas'; allowed: bccd_boxes"),
        ({"form": "coco"}, "unknown format 'coco'; allowed: trl, llava"),
        ({"per_field": 0}, "per_field is 0"),
    ],
)
def test_what_is_refused(root: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    given = {"root": root, "sets": ("bccd_boxes",), "per_field": 2, "form": "trl"} | change
    with pytest.raises(DataError, match=message):
        build(tmp_path / "t.jsonl", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "t.jsonl").exists()


def test_a_box_outside_its_image_is_named(root: Path, tmp_path: Path) -> None:
    index = root / "bccd_boxes" / "index.jsonl"
    index.write_text(index.read_text().replace("[20, 20, 90, 80]", "[20, 20, 900, 80]"))
    with pytest.raises(DataError, match=r"index\.jsonl of bccd_boxes, line 1: the box .* 320 x 240"):
        build(tmp_path / "t.jsonl", root=root, sets=("bccd_boxes",), per_field=2, form="trl")
    field = Field("glas", Path("x.png"), "g", (), (10, 10))
    with pytest.raises(DataError, match=r"x\.png, 'the gland': the box .* lies outside"):
        conversation(Path("x.png"), field, Phrase("the gland", "one", ((20.0, 0.0, 30.0, 5.0),)))


def test_the_command_says_what_it_wrote_and_what_is_wrong(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t.jsonl"
    assert main(["--out", str(out), "--data", str(root), "--sets", "bccd_boxes", "--per-field", "2"]) == 0
    assert "openly licensed sets only" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(out), "--data", str(root), "--sets", "glas", "--open-only"])
    assert ended.value.code == 2
    assert "none of the sets is openly licensed" in capsys.readouterr().err


def test_more_boxes_than_can_be_written_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.data import grounded_conversations

    Image.new("RGB", (500, 500)).save(tmp_path / "x.png")
    field = Field("bccd_boxes", tmp_path / "x.png", "g", (), (500, 500))
    boxes = tuple((float(i), 0.0, i + 9.0, 9.0) for i in range(41))
    drawn = [(0, Phrase("all", "all", boxes)), (0, Phrase("forty", "all", boxes[:40]))]
    monkeypatch.setattr(grounded_conversations, "phrases", lambda *_: drawn)
    rows = list(grounded_conversations.conversations([field], tmp_path / "made", 2))
    assert [phrase.text for phrase, _ in rows] == ["forty"]
